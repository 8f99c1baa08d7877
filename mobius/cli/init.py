# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius init`: begin a project in a folder of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from mobius.control.service_file.example import init_project
from mobius.errors import ExitCode


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    metavar="DIR",
    help="The folder to write into, made when missing.  [default: the current one]",
)
def init(name: str, project: Path) -> int:
    """Write mobius.yml for the service NAME, with every key explained, an example inventory and a folder for hooks.

    Nothing that is there is overwritten; a folder with a mobius.yml is refused (exit code 1).

    \b
    Examples:
      mobius init shop
      mobius init shop --project ~/shop
    """
    written, kept = init_project(project, name)
    for path in written:
        click.echo(f"wrote    {path}")
    for path in kept:
        click.echo(f"kept     {path}")
    click.echo("next     set exec, listen and health in mobius.yml; `mobius try DIR` then runs your folder here")
    return int(ExitCode.SUCCESS)
