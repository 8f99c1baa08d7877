# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius lab`: start, stop and look at the lab's hosts.

`up` and `down` run `playbooks/lab.yml`; `status` compares the lab's record `.lab/lab.json` with what podman says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mobius.cli.options import format_option
from mobius.cli.render.progress import showing
from mobius.control.run.project import find_checkout, find_inventory
from mobius.control.run.runner import RunRequest, run_playbook
from mobius.errors import ExitCode, MobiusError

_UP_TIMEOUT = 1200.0
_NO_MEMORY_LIMITS = "Memory limits (MemoryMax=) of units are not enforced on this machine: its cgroups are v1."


@dataclass(frozen=True)
class HostStatus:
    """One host of the lab. `state` is podman's word, or `missing`; ports are on 127.0.0.1."""

    name: str
    state: str
    ssh_port: int
    http_port: int
    debian: str
    container: str


@dataclass(frozen=True)
class LabStatus:
    """The lab of one checkout; no hosts when it is down."""

    lab: str | None
    hosts: tuple[HostStatus, ...]
    memory_limits_enforced: bool | None

    @property
    def running(self) -> bool:
        """Whether there are hosts and all of them run."""
        return bool(self.hosts) and all(host.state == "running" for host in self.hosts)

    @property
    def notes(self) -> list[str]:
        """What a person should know about this lab."""
        return [_NO_MEMORY_LIMITS] if self.memory_limits_enforced is False else []


def read_status(root: Path) -> LabStatus:
    """The lab of the checkout `root`, by its record and podman.

    Raises:
        MobiusError: `missing_dependency` without podman; `environment_failed` when podman does not answer, or when the
            record is damaged or another checkout's.
    """
    place = root / ".lab" / "lab.json"
    try:
        record = json.loads(place.read_bytes())
        lab, enforced, rows = str(record["lab"]), bool(record["memory_limits_enforced"]), list(record["hosts"])
        own = record["root"] == str(root.resolve())
        hosts = [{key: row[key] for key in HostStatus.__dataclass_fields__ if key != "state"} for row in rows]
    except FileNotFoundError:
        return LabStatus(None, (), None)
    except (ValueError, KeyError, TypeError) as error:
        raise MobiusError(
            "environment_failed", f"{place} cannot be understood ({error}).", do_next="Run `mobius lab up`."
        ) from error
    if not own:
        # .lab was copied along with its checkout: those hosts are not ours.
        return LabStatus(None, (), None)
    states = _container_states(lab)
    found = tuple(HostStatus(state=states.get(host["container"], "missing"), **host) for host in hosts)
    return LabStatus(lab, found, enforced)


def _container_states(lab: str) -> dict[str, str]:
    """podman's state of each container of a lab, by container name."""
    podman = shutil.which("podman")
    if podman is None:
        raise MobiusError(
            "missing_dependency",
            "podman is not installed.",
            do_next="Run `apt-get install podman`, or `make setup` in a checkout of MOBIUS.",
        )
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*sudo, podman, "ps", "--all", "--format", "json", "--filter", f"label=org.mobius.lab.id={lab}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise MobiusError("timeout", "podman did not answer in 30 seconds.") from error
    except FileNotFoundError as error:
        raise MobiusError("environment_failed", "The lab's hosts belong to root, and there is no sudo.") from error
    if done.returncode != 0:
        raise MobiusError("environment_failed", f"podman does not answer: {' '.join(done.stderr.split())}")
    rows: list[dict[str, Any]] = json.loads(done.stdout or "null") or []
    return {row["Names"][0]: str(row["State"]) for row in rows}


def _run(variables: dict[str, Any], *, root: str | None, check: bool, form: str) -> int:
    """Run the lab's playbook and say how it ended; the result is an exit code."""
    checkout = find_checkout()
    if root is not None:
        variables["lab_root"] = str(Path(root).resolve())
    request = RunRequest(
        playbook=checkout / "playbooks" / "lab.yml",
        inventory=find_inventory("inventories/local", checkout),
        checkout=checkout,
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
    help="The checkout whose lab is meant.  [default: this one]",
)
_check = click.option("--check", is_flag=True, help="Change nothing; show what would change.")


@click.group()
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
    help="Debian 12 or 13; changing it makes the hosts anew.",
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
        _show(read_status(_place(root)))
    return code


@lab.command()
@click.option("--images", is_flag=True, help="Remove the base images, too, unless another checkout's hosts use them.")
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
    found = read_status(_place(root))
    if form == "json":
        rows = [asdict(host) for host in found.hosts]
        click.echo(
            json.dumps({"lab": found.lab, "running": found.running, "hosts": rows, "notes": found.notes}, indent=2)
        )
    else:
        _show(found)
    return 0 if found.running else int(ExitCode.ENVIRONMENT)


def _place(root: str | None) -> Path:
    return find_checkout() if root is None else Path(root)


def _show(found: LabStatus) -> None:
    if not found.hosts:
        click.echo("The lab is down; `mobius lab up` starts it.")
        return
    head = ("NAME", "STATE", "SSH", "HTTP", "DEBIAN", "CONTAINER")
    rows = [
        (host.name, host.state, str(host.ssh_port), str(host.http_port), host.debian, host.container)
        for host in found.hosts
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for note in found.notes:
        click.echo(note)
