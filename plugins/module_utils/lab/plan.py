# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decides what to do with each host of the lab: a pure function of the request, the containers and the free ports.

Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils.durable import json_bytes
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import CONFINEMENT, SPEC_LABEL
from ansible_collections.mobius.dhash.plugins.module_utils.lab.ports import PortAllocator

SSH_PORT = 22
HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def lab_id(root: Path) -> str:
    """The first 8 hex of the sha256 of the real path of the folder that the lab belongs to."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]


@dataclass(frozen=True)
class LabContainer:
    """One container of the lab as podman knows it; `ports` maps ports inside to ports on 127.0.0.1."""

    name: str
    status: str
    spec: str
    image: str
    ports: Mapping[int, int]

    @classmethod
    def from_inspect(cls, row: Mapping[str, Any]) -> LabContainer:
        """Read one object of `podman container inspect`."""
        bindings = row["HostConfig"].get("PortBindings") or {}
        ports = {int(key.partition("/")[0]): int(value[0]["HostPort"]) for key, value in bindings.items() if value}
        labels = row["Config"].get("Labels") or {}
        return cls(row["Name"], row["State"]["Status"], labels.get(SPEC_LABEL, ""), row["ImageName"], ports)


@dataclass(frozen=True)
class HostAction:
    """What is to be done with one host, and why."""

    name: str
    container: str
    verb: str
    why: str
    ports: Mapping[int, int] = field(default_factory=dict)
    spec: str = ""


@dataclass(frozen=True)
class ExpectedLab:
    """The lab as it was requested."""

    lab: str
    hosts: tuple[str, ...]
    image: str
    debian: str
    inner_ports: tuple[int, ...]

    def container(self, name: str) -> str:
        """The container's name of a host."""
        return f"mobius-{self.lab}-{name}"


def validate_request(params: Mapping[str, Any], root: Path) -> ExpectedLab:
    """The requested lab, from the arguments of the module `lab_host`.

    Raises:
        MobiusError: `invalid_input`, naming the first value that is not possible.
    """
    hosts: list[str] = params["hosts"]
    inner = [SSH_PORT, params["service_port"], *params["extra_ports"]]
    if not root.is_dir():
        raise MobiusError("invalid_input", f"root is {root}, which is not a folder.")
    if params["state"] == "present" and not hosts:
        raise MobiusError("invalid_input", "hosts is empty; the lab needs one host at least.")
    if params["state"] == "present" and not params["image"]:
        raise MobiusError("invalid_input", "image is missing.")
    for name in hosts:
        if not HOST_NAME.fullmatch(name):
            raise MobiusError(
                "invalid_input", f"{name!r} is not a host name: use small letters, digits and hyphens, a letter first."
            )
    if len(set(hosts)) != len(hosts):
        raise MobiusError("invalid_input", "hosts contains a name twice.")
    if len(set(inner)) != len(inner) or not all(0 < port < 65536 for port in inner):
        raise MobiusError("invalid_input", f"The ports {inner} must differ from each other and lie in 1 to 65535.")
    return ExpectedLab(lab_id(root), tuple(hosts), params["image"] or "", params["debian"], tuple(inner))


def spec_digest(expected: ExpectedLab, ports: Mapping[int, int], keys: Mapping[str, str]) -> str:
    """The digest of all that a container is made from; empty while a key is missing.

    Args:
        keys: public parts, of the client and of the host.
    """
    if not all(keys.values()):
        return ""
    value = {
        "image": expected.image,
        "ports": {str(k): v for k, v in ports.items()},
        "keys": dict(keys),
        "confinement": CONFINEMENT,
    }
    return hashlib.sha256(json_bytes(value)).hexdigest()[:16]


def plan(
    expected: ExpectedLab,
    containers: Mapping[str, LabContainer],
    recorded: Mapping[str, Mapping[int, int]],
    keys: Mapping[str, Mapping[str, str]],
    ports: PortAllocator,
) -> list[HostAction]:
    """Decide what to do with each host; changes nothing.

    Args:
        containers: the lab's containers by name.
        recorded: the ports that each host had, for one whose container is gone.
        keys: for each host the public keys, empty strings for missing ones.
        ports: where new ports come from.

    Returns:
        the removals, then one action for each expected host, in the order of the request.
    """
    names = {expected.container(name): name for name in expected.hosts}
    actions = [
        HostAction(container.rpartition("-")[2], container, "remove", "it is not in the list of hosts")
        for container in sorted(containers)
        if container not in names
    ]
    earlier: dict[str, Mapping[int, int]] = {}
    kept: dict[str, dict[int, int]] = {}
    # All old ports are claimed before any new one is chosen.
    for container, name in names.items():
        actual = containers.get(container)
        earlier[name] = actual.ports if actual is not None else recorded.get(name, {})
        held = actual is not None and actual.status in ("running", "paused")
        kept[name] = {
            inner: earlier[name][inner]
            for inner in expected.inner_ports
            if inner in earlier[name] and ports.keep(earlier[name][inner], held=held)
        }
    for container, name in names.items():
        published = {inner: kept[name].get(inner) or ports.pick() for inner in expected.inner_ports}
        spec = spec_digest(expected, published, keys[name])
        verb, why = choose_action(containers.get(container), expected, published, spec)
        actions.append(HostAction(name, container, verb, why, published, spec))
    return actions


def choose_action(
    actual: LabContainer | None, expected: ExpectedLab, ports: Mapping[int, int], spec: str
) -> tuple[str, str]:
    """The action for one expected host, and its reason."""
    if actual is None:
        return "create", "it does not exist"
    if actual.image != expected.image:
        return "recreate", f"it was made from {actual.image}"
    if dict(actual.ports) != dict(ports):
        return "recreate", "its ports are in use or differ from the requested ones"
    if not spec or actual.spec != spec:
        return "recreate", "its keys differ from those in .lab, or it was made with other powers"
    verb = {"running": "keep", "exited": "start", "stopped": "start", "paused": "resume"}.get(actual.status)
    if verb is None:
        return "recreate", f"its creation was interrupted ({actual.status})"
    return verb, f"it is {actual.status}"
