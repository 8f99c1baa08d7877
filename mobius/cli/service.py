# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash serve`, the service on a laptop, and `mobius dhash token`, which creates tokens for writing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from mobius.errors import MobiusError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port; 0 chooses a free one."
)
@click.option(
    "--index", type=click.Path(dir_okay=False, path_type=Path), default="dhash.sqlite", show_default=True,
    envvar="MOBIUS_INDEX", show_envvar=True, help="The index, an SQLite file; created when it is missing.",
)  # fmt: skip
def serve(host: str, port: int, index: Path) -> int:
    """Serve an index to this machine: a web page, and an API under /v1 (docs/service.md). Ctrl-C ends it.

    Everybody who can reach 127.0.0.1 may write; on another address, writing needs a token (MOBIUS_TOKENS). MOBIUS_
    variables set every setting of the service.

    \b
    mobius dhash serve
    mobius dhash serve --port 0 --index photos.sqlite
    MOBIUS_TOKENS=$PWD/tokens mobius dhash serve --host 0.0.0.0
    """
    # imported late, so that `mobius dhash --help` needs no server
    try:
        from mobius.service.__main__ import run
    except ModuleNotFoundError as error:
        raise MobiusError(
            "missing_dependency",
            f"The service needs the Python package {error.name}, which is not installed.",
            do_next="Install mobius-dhash[service].",
        ) from error

    address = f"[{host}]" if ":" in host else host
    local = host in ("127.0.0.1", "::1", "localhost")
    environment = {
        "MOBIUS_LOG_LEVEL": "WARNING",
        "MOBIUS_DRAIN_DEADLINE": "2",  # no other release takes over, and a browser keeps its connections open
        "MOBIUS_WRITES": "open" if local else "token",
        **os.environ,
        "MOBIUS_ENVIRONMENT": "development",
        "MOBIUS_ADDRESS": f"{address}:{port}",
        "MOBIUS_INDEX": str(index.absolute()),
    }
    if not index.absolute().parent.is_dir():
        raise MobiusError("invalid_input", f"There is no folder {index.absolute().parent} for the index.")
    return run(environment, sys.stderr, _announce(str(index)))


@click.command()
@click.argument("name")
def token(name: str) -> None:
    """Create a token for NAME, who may then write to the service.

    The token is printed to standard output once and not stored. Standard error shows the line to add to the service's
    tokens file, which holds only the hash. Two lines may have the same name, so that a token can be rotated; a running
    service reads the file again when it changes.

    \b
    mobius dhash token ada
    mobius dhash token ada 2>> tokens
    """
    from mobius.service.tokens import line_for, new_token

    secret = new_token()
    line = line_for(name, secret)
    click.echo(secret)
    click.echo(line, err=True)


def _announce(index: str) -> Callable[[str, int], None]:
    """A callback that prints the address of the service once it is ready."""

    def announce(host: str, port: int) -> None:
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (shown as what a browser here can open)
        shown = wildcards.get(host, host)
        shown = f"[{shown}]" if ":" in shown else shown
        click.echo(f"http://{shown}:{port}/")
        click.echo(f"The index is {index}. Ctrl-C ends it.", err=True)

    return announce
