# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius try`: run a bundle or a folder on this machine as a host would, and report what it keeps."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mobius.cli.options import format_option
from mobius.cli.output import print_json
from mobius.cli.playbook import print_ending
from mobius.cli.render.outcome import ending_dict
from mobius.cli.render.trial import trial_lines
from mobius.control.run.account import RunAccount
from mobius.control.run.outcome import SUCCESS, ending
from mobius.control.run.project import find_project
from mobius.control.service_file.keys import FILE_NAME
from mobius.control.service_file.parse import read_service_file
from mobius.control.trial import try_service


@click.command("try")
@click.argument("source", metavar="BUNDLE|DIR", type=click.Path(path_type=Path))
@click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder with mobius.yml.  [default: the current one]",
)
@format_option
def try_command(source: Path, project: Path | None, form: str) -> int:
    """Run a bundle, or the folder that would be packed, on this machine as a host would, without root.

    It is started on the address of a slot, behind a real HAProxy where one is installed, and its health is probed; a
    second one is started beside it, and replaces it under load; it is stopped by SIGTERM. In less than 30 seconds a
    report says what the service keeps of what a release needs, and for all else the key of mobius.yml or the change
    that helps.

    \b
    Not tried are the limits of the sandbox and of memory, which need a host. Where environment and exec name
    /var/lib/NAME, a folder of the trial is used.

    Exit codes: 0 everything is kept; 1 mobius.yml or the bundle is wrong; 2 something is broken.

    \b
    Examples:
      mobius try .
      mobius try dist/shop-1.4.0.tar.gz --format json
    """
    began = time.monotonic()
    found = find_project(named=project or Path())
    file = read_service_file(found.folder / FILE_NAME)
    report = try_service(source, file, found)
    broken = [check for check in report["checks"] if check["result"] == "broken"]
    names = ", ".join(str(check["name"]) for check in broken)
    end = ending("trial_failed", f"Broken: {names}.") if broken else SUCCESS
    account = RunAccount("try", end, seconds=time.monotonic() - began)
    if form == "json":
        print_json({**ending_dict(account), "service": file.service, **report})
    else:
        click.echo("\n".join(trial_lines(file.service, report)))
        print_ending(account)
    return int(end.code)
