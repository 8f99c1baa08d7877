# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius lab`: start, stop and show the lab's hosts.

`up` and `down` run `playbooks/lab.yml`; `status` compares the lab's record `.lab/lab.json` with what podman says.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mobius.cli.groups import CommandGroup
from mobius.cli.options import format_option
from mobius.cli.render.lab import lab_lines
from mobius.cli.render.progress import showing
from mobius.control.lab import read_status
from mobius.control.run.project import DEFAULT_INVENTORY, find_inventory, find_project
from mobius.control.run.runner import RunRequest, run_playbook
from mobius.errors import ExitCode, MobiusError

_UP_TIMEOUT = 1200.0


def _run(variables: dict[str, Any], *, root: str | None, check: bool, form: str) -> int:
    """Run the lab's playbook to its end; the result is an exit code."""
    project = find_project()
    variables["lab_root"] = str(_lab_root(root).resolve())
    request = RunRequest(
        playbook=project.playbooks / "lab.yml",
        inventory=find_inventory(DEFAULT_INVENTORY, project),
        project=project,
        variables=variables,
        check=check,
        diff=check,
        timeout=_UP_TIMEOUT,
    )
    with showing(lambda line: click.echo(line, err=True), verbose=False) as show:
        summary = run_playbook(request, show)
    if summary.ending.code != ExitCode.SUCCESS:
        raise MobiusError(summary.ending.outcome, summary.ending.reason, do_next=summary.ending.do_next)
    if form == "json":
        click.echo(json.dumps(summary.as_dict(), indent=2))
    return 0


_root = click.option(
    "--root",
    type=click.Path(file_okay=False, exists=True),
    help="The folder that the lab belongs to.  [default: the checkout, else the current folder]",
)
_check = click.option("--check", is_flag=True, help="Change nothing; show what would change.")


@click.group(cls=CommandGroup)
def lab() -> None:
    """Start and stop the lab's hosts: systemd containers on this machine, reached over SSH.

    \b
    Examples:
      mobius lab up
      mobius lab up --hosts 1 --debian trixie
      mobius lab status --format json
      mobius lab down
    """


@lab.command()
@click.option("--hosts", type=click.IntRange(1, 12), default=3, show_default=True, help="How many hosts.")
@click.option(
    "--debian",
    type=click.Choice(["bookworm", "trixie"]),
    default="bookworm",
    show_default=True,
    help="Debian 12 or 13; changing it makes the hosts again.",
)
@click.option("--publish", type=click.IntRange(1, 65535), multiple=True, help="Publish this port of the hosts, too.")
@_check
@_root
@format_option
def up(*, hosts: int, debian: str, publish: tuple[int, ...], check: bool, root: str | None, form: str) -> int:
    """Bring the lab to this many running hosts.

    What runs already is left alone. The first time, the base image is made from Debian packages, which takes a minute.
    """
    variables: dict[str, Any] = {"lab_hosts": hosts, "lab_debian": debian, "lab_extra_ports": list(publish)}
    code = _run(variables, root=root, check=check, form=form)
    if form == "text" and not check:
        click.echo("\n".join(lab_lines(read_status(_lab_root(root)))))
    return code


@lab.command()
@click.option("--images", is_flag=True, help="Remove the base images, too, unless another lab's hosts use them.")
@_check
@_root
@format_option
def down(*, images: bool, check: bool, root: str | None, form: str) -> int:
    """Remove the lab's hosts, what killed runs left of them, and their state in .lab."""
    variables = {"lab_state": "absent", "lab_images": "absent" if images else "present"}
    return _run(variables, root=root, check=check, form=form)


@lab.command()
@_root
@format_option
def status(*, root: str | None, form: str) -> int:
    """Show the lab's hosts. The exit code is 0 when there are some and all run, else 3."""
    lab_status = read_status(_lab_root(root))
    if form == "json":
        rows = [asdict(host) for host in lab_status.hosts]
        click.echo(
            json.dumps(
                {"lab": lab_status.lab, "running": lab_status.running, "hosts": rows, "notes": lab_status.notes},
                indent=2,
            )
        )
    else:
        click.echo("\n".join(lab_lines(lab_status)))
    return 0 if lab_status.running else int(ExitCode.ENVIRONMENT)


def _lab_root(root: str | None) -> Path:
    return find_project().folder if root is None else Path(root)
