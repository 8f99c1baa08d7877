# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab of a folder: which hosts it has, by its record `.lab/lab.json` and by podman."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius.errors import MobiusError

_NO_MEMORY_LIMITS = "Memory limits (MemoryMax=) of units are not enforced on this machine: its cgroups are v1."


@dataclass(frozen=True)
class LabHostStatus:
    """One host of the lab. `state` is podman's word, or `missing`; ports are on 127.0.0.1."""

    name: str
    state: str
    ssh_port: int
    http_port: int
    debian: str
    container: str


@dataclass(frozen=True)
class LabStatus:
    """The lab of one folder; no hosts when it is down."""

    lab: str | None
    hosts: tuple[LabHostStatus, ...]
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
    """The lab of the folder `root`, by its record and podman.

    Raises:
        MobiusError: `missing_dependency` without podman; `environment_failed` when podman does not answer, or when the
            record is damaged.
    """
    path = root / ".lab" / "lab.json"
    try:
        record = json.loads(path.read_bytes())
        lab, enforced, rows = str(record["lab"]), bool(record["memory_limits_enforced"]), list(record["hosts"])
        is_ours = record["root"] == str(root.resolve())
        hosts = [{key: row[key] for key in LabHostStatus.__dataclass_fields__ if key != "state"} for row in rows]
    except FileNotFoundError:
        return LabStatus(None, (), None)
    except (ValueError, KeyError, TypeError) as error:
        raise MobiusError(
            "environment_failed", f"{path} cannot be read ({error}).", do_next="Run `mobius lab up`."
        ) from error
    if not is_ours:
        # .lab was copied with its folder: its hosts belong to the other one.
        return LabStatus(None, (), None)
    states = _container_states(lab)
    statuses = tuple(LabHostStatus(state=states.get(host["container"], "missing"), **host) for host in hosts)
    return LabStatus(lab, statuses, enforced)


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
