#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the lab's hosts to the state asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_host
short_description: Bring the lab's hosts to the state asked for
version_added: "1.0.0"
description:
  - The lab is a set of systemd containers that Ansible reaches over SSH on 127.0.0.1. Each checkout has its own, named
    after the folder O(root), and knows its containers by their label.
  - Keys, known hosts and the ports are kept in the folder C(.lab) of O(root).
  - A host that was stopped is started; one that was half made, or made from something else than what is asked for now,
    is made anew. Ports are kept as long as nobody else has taken them.
options:
  root:
    description: The checkout whose lab it is.
    type: path
    required: true
  hosts:
    description: The names of all hosts of the lab; others of the same lab are removed.
    type: list
    elements: str
    default: []
  image:
    description: The image to make hosts from, from M(mobius.dhash.lab_image).
    type: str
  debian:
    description: The Debian release of O(image), to be recorded.
    type: str
    default: bookworm
  service_port:
    description: The port inside a host on which its service answers.
    type: int
    default: 8080
  extra_ports:
    description: Further ports inside a host to publish on 127.0.0.1.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds in which all hosts have to boot and to answer over SSH.
    type: int
    default: 90
  state:
    description:
      - V(present) brings the lab to exactly O(hosts).
      - V(absent) removes every container of this lab, leftovers of killed runs too, and its folder C(.lab).
    type: str
    choices: [present, absent]
    default: present
requirements:
  - podman and ssh on the control node, and root
attributes:
  check_mode:
    support: full
    description: Says what would be made, started or removed, and changes nothing.
  diff_mode:
    support: full
    description: Shows each host before and after.
author: MOBIUS contributors (@mobius)
"""

EXAMPLES = r"""
- name: Bring up three hosts
  mobius.dhash.lab_host:
    root: /home/me/mobius
    hosts: [lab1, lab2, lab3]
    image: localhost/mobius-lab:bookworm-3f2a9c41d07e
  delegate_to: localhost

- name: Remove the lab
  mobius.dhash.lab_host:
    root: /home/me/mobius
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
lab:
  description: The lab's id, made from the real path of O(root).
  returned: success
  type: str
  sample: 1f0c92ab
hosts:
  description: What was done with each host, and where it is reached.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The host's name.
      type: str
    action:
      description: One of keep, start, resume, create, recreate, remove.
      type: str
    why:
      description: The reason for the action.
      type: str
    ssh_port:
      description: The port on 127.0.0.1 that leads to its SSH server.
      type: int
    http_port:
      description: The port on 127.0.0.1 that leads to its service.
      type: int
    failed_units:
      description: The systemd units that failed at boot.
      type: list
      elements: str
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils.durable import json_bytes, locked, write_bytes
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.podman import (
    LAB_LABEL,
    SPEC_LABEL,
    Podman,
    PodmanError,
    cgroup_version,
    create_arguments,
    find_program,
)

SCHEMA = 1
SSH = 22
# Below what Linux gives to outgoing connections (32768 and up), which could otherwise take a stopped host's port.
FIRST_PORT = 20000
PORT_BLOCK = 24
PORT_BLOCKS = 500
# Another program may take a port between our look and podman's start.
START_ATTEMPTS = 5
HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def lab_id(root: Path) -> str:
    """The first 8 hex of the sha256 of the checkout's real path."""
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]


# What is, and what shall be


@dataclass(frozen=True)
class Container:
    """One container of the lab as podman knows it; `ports` maps ports inside to ports on 127.0.0.1."""

    name: str
    status: str
    spec: str
    image: str
    ports: Mapping[int, int]

    @classmethod
    def from_inspect(cls, row: Mapping[str, Any]) -> Container:
        """Take what matters from one object of `podman container inspect`."""
        bindings = row["HostConfig"].get("PortBindings") or {}
        ports = {int(key.partition("/")[0]): int(value[0]["HostPort"]) for key, value in bindings.items() if value}
        labels = row["Config"].get("Labels") or {}
        return cls(row["Name"], row["State"]["Status"], labels.get(SPEC_LABEL, ""), row["ImageName"], ports)


@dataclass(frozen=True)
class Action:
    """What is to be done with one host, and why."""

    name: str
    container: str
    verb: str
    why: str
    ports: Mapping[int, int] = field(default_factory=dict)
    spec: str = ""


@dataclass(frozen=True)
class Wanted:
    """The lab as it was asked for."""

    lab: str
    hosts: tuple[str, ...]
    image: str
    debian: str
    inner_ports: tuple[int, ...]

    def container(self, name: str) -> str:
        """The container's name of a host."""
        return f"mobius-{self.lab}-{name}"


class Ports:
    """Chooses free ports on 127.0.0.1, always the same ones while nothing else takes them.

    Args:
        lab: where to begin, so that the labs of two checkouts seldom meet.
        taken: ports that are never given: those of other labs' hosts, which may be stopped just now.
        is_free: asks the machine.
    """

    def __init__(self, lab: str, taken: Iterable[int], is_free: Callable[[int], bool]) -> None:
        self._next = FIRST_PORT + int(lab, 16) % PORT_BLOCKS * PORT_BLOCK
        self._taken = set(taken)
        self._is_free = is_free

    def keep(self, port: int, *, held: bool) -> bool:
        """Claim a port that a host had; False when it is now somebody else's. `held`: the host is using it itself."""
        if port in self._taken or not (held or self._is_free(port)):
            return False
        self._taken.add(port)
        return True

    def pick(self) -> int:
        """Claim the next free port."""
        last = FIRST_PORT + PORT_BLOCKS * PORT_BLOCK
        for step in range(PORT_BLOCKS * PORT_BLOCK):
            port = self._next + step
            port = port if port < last else port - PORT_BLOCKS * PORT_BLOCK
            if self.keep(port, held=False):
                return port
        raise MobiusError("environment_failed", f"No port from {FIRST_PORT} to {last - 1} is free on 127.0.0.1.")


def port_is_free(port: int) -> bool:
    """Whether a program could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def spec_digest(wanted: Wanted, ports: Mapping[int, int], keys: Mapping[str, str]) -> str:
    """The digest of all that a container is made from; empty while a key is missing.

    Args:
        keys: public parts, of the client and of the host.
    """
    if not all(keys.values()):
        return ""
    value = {"image": wanted.image, "ports": {str(k): v for k, v in ports.items()}, "keys": dict(keys)}
    return hashlib.sha256(json_bytes(value)).hexdigest()[:16]


def plan(
    wanted: Wanted,
    containers: Mapping[str, Container],
    recorded: Mapping[str, Mapping[int, int]],
    keys: Mapping[str, Mapping[str, str]],
    ports: Ports,
) -> list[Action]:
    """Decide what to do with each host; changes nothing.

    Args:
        containers: the lab's containers by name.
        recorded: the ports that each host had, for one whose container is gone.
        keys: for each host the public keys, empty strings for missing ones.
        ports: where new ports come from.

    Returns:
        first the removals, then one action for each wanted host, in the order asked for.
    """
    names = {wanted.container(name): name for name in wanted.hosts}
    actions = [
        Action(container.rpartition("-")[2], container, "remove", "it is not asked for")
        for container in sorted(containers)
        if container not in names
    ]
    had: dict[str, Mapping[int, int]] = {}
    kept: dict[str, dict[int, int]] = {}
    # All old ports are claimed before any new one is chosen.
    for container, name in names.items():
        actual = containers.get(container)
        had[name] = actual.ports if actual is not None else recorded.get(name, {})
        held = actual is not None and actual.status in ("running", "paused")
        kept[name] = {
            inner: had[name][inner]
            for inner in wanted.inner_ports
            if inner in had[name] and ports.keep(had[name][inner], held=held)
        }
    for container, name in names.items():
        published = {inner: kept[name].get(inner) or ports.pick() for inner in wanted.inner_ports}
        spec = spec_digest(wanted, published, keys[name])
        verb, why = decide(containers.get(container), wanted, published, spec)
        actions.append(Action(name, container, verb, why, published, spec))
    return actions


def decide(actual: Container | None, wanted: Wanted, ports: Mapping[int, int], spec: str) -> tuple[str, str]:
    """The verb for one wanted host, and its reason."""
    if actual is None:
        return "create", "there is none"
    if actual.image != wanted.image:
        return "recreate", f"it was made from {actual.image}"
    if dict(actual.ports) != dict(ports):
        return "recreate", "its ports are taken or not the ones asked for"
    if not spec or actual.spec != spec:
        return "recreate", "its keys are not the ones in .lab"
    verb = {"running": "keep", "exited": "start", "stopped": "start", "paused": "resume"}.get(actual.status)
    if verb is None:
        return "recreate", f"it was left half made ({actual.status})"
    return verb, f"it is {actual.status}"


# The folder .lab


class State:
    """The folder `.lab` of a checkout: keys, known hosts and `lab.json`.

    Everything in it belongs to whom the checkout belongs, also when root writes it for him.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folder = self.root / ".lab"
        stat = self.root.stat()
        self._owner = (stat.st_uid, stat.st_gid)
        self.client_key = self.folder / "id_ed25519"
        self.known_hosts = self.folder / "known_hosts"
        self.file = self.folder / "lab.json"

    def host_key(self, name: str) -> Path:
        """The private key with which a host proves who it is."""
        return self.folder / f"{name}_host_ed25519"

    def public(self, key: Path) -> str:
        """The public part of a key pair, `ssh-ed25519 <base64>`; empty when the pair is not whole."""
        try:
            if not key.read_bytes():
                return ""
            return " ".join(key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def keys(self, name: str) -> dict[str, str]:
        """The public keys that a host is made with."""
        return {"client": self.public(self.client_key), "host": self.public(self.host_key(name))}

    def recorded_ports(self, lab: str) -> dict[str, dict[int, int]]:
        """The ports each host had; empty when there is no record, or a damaged one, or a copied checkout's."""
        try:
            record = json.loads(self.file.read_bytes())
            if record["schema"] != SCHEMA or record["lab"] != lab:
                return {}
            return {row["name"]: {int(k): int(v) for k, v in row["ports"].items()} for row in record["hosts"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def lock_file(self) -> Path:
        """The file to lock while the lab changes. It outlives `.lab`, which goes with the lab."""
        folder = self.root / ".cache"
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            os.chown(folder, *self._owner)
        return folder / "lab.lock"

    def make_folder(self) -> None:
        """Make the folder, readable for its owner only."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.folder, *self._owner)

    def make_key(self, key: Path) -> None:
        """Make a key pair unless it is there whole."""
        if self.public(key):
            return
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as place:
            made = Path(place) / "key"
            command = [find_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "mobius-lab", "-f", str(made)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode != 0:
                raise MobiusError("environment_failed", f"ssh-keygen failed: {done.stderr.decode(errors='replace')}")
            # The private part last: a pair is whole when both are there.
            key.unlink(missing_ok=True)
            self._write(key.with_suffix(".pub"), made.with_suffix(".pub").read_bytes(), 0o644)
            self._write(key, made.read_bytes(), 0o600)

    def files(self, wanted: Wanted, actions: Iterable[Action]) -> dict[Path, bytes]:
        """What `lab.json` and `known_hosts` shall hold."""
        hosts = [action for action in actions if action.verb != "remove"]
        lines = [f"[127.0.0.1]:{host.ports[SSH]} {self.public(self.host_key(host.name))}\n" for host in hosts]
        service_port = wanted.inner_ports[1]
        record = {
            "schema": SCHEMA,
            "lab": wanted.lab,
            "root": str(self.root),
            "image": wanted.image,
            "service_port": service_port,
            "memory_limits_enforced": cgroup_version() == 2,
            "hosts": [
                {
                    "name": host.name,
                    "container": host.container,
                    "debian": wanted.debian,
                    "ssh_port": host.ports[SSH],
                    "http_port": host.ports[service_port],
                    "ports": {str(inner): outer for inner, outer in host.ports.items()},
                }
                for host in hosts
            ],
        }
        return {self.known_hosts: "".join(lines).encode(), self.file: json_bytes(record)}

    def differs(self, files: Mapping[Path, bytes]) -> bool:
        """Whether a file holds something else."""
        return any(not path.exists() or path.read_bytes() != data for path, data in files.items())

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write the files that differ, each in one step."""
        for path, data in files.items():
            if self.differs({path: data}):
                self._write(path, data, 0o644)

    def tidy(self, wanted: Wanted) -> None:
        """Remove keys of hosts that are gone, and what a killed run left."""
        wanted_keys = {self.host_key(name).name for name in wanted.hosts}
        for path in self.folder.iterdir():
            if path.name.startswith((".new-", ".mobius-tmp-")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif "_host_ed25519" in path.name and path.name.removesuffix(".pub") not in wanted_keys:
                path.unlink()

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        write_bytes(path, data, mode=mode, owner=self._owner)

    def ssh(self, port: int) -> list[str]:
        """The command that logs in exactly as Ansible will."""
        return [
            *(find_program("ssh"), "-F", "none", "-i", str(self.client_key), "-p", str(port), "-l", "root"),
            *("-o", f'UserKnownHostsFile="{self.known_hosts}"', "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *("-o", "ConnectTimeout=5", "127.0.0.1"),
        ]


# Doing it


def identity_archive(state: State, name: str) -> bytes:
    """A tar of what makes a container this host: its host key, and whom it lets in."""
    members = {
        "etc/ssh/ssh_host_ed25519_key": (state.host_key(name).read_bytes(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (state.host_key(name).with_suffix(".pub").read_bytes(), 0o644),
        "root/.ssh/authorized_keys": (state.client_key.with_suffix(".pub").read_bytes(), 0o600),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, mode) in members.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def create(podman: Podman, state: State, wanted: Wanted, action: Action) -> None:
    """Make and start one host, in place of whatever container has its name.

    A kill in the middle leaves a container that never ran, which the next run makes anew.
    """
    podman.remove(action.container)
    # A killed run's podman may live on and make the container only now, hence --replace.
    arguments = [f"--name={action.container}", f"--hostname={action.name}", "--replace", "--http-proxy=false"]
    arguments += ["--stop-timeout=20"]
    arguments += [f"--label={LAB_LABEL}={wanted.lab}", f"--label={SPEC_LABEL}={action.spec}"]
    arguments += [f"--publish=127.0.0.1:{outer}:{inner}" for inner, outer in action.ports.items()]
    podman.run(*create_arguments(podman, [*arguments, wanted.image]))
    podman.run("cp", "-", f"{action.container}:/", data=identity_archive(state, action.name))
    podman.run("start", action.container)


def apply(podman: Podman, state: State, wanted: Wanted, actions: list[Action], ports: Ports) -> list[Action]:
    """Do what was planned.

    Returns:
        the actions as they were done: with the ports that were free in the end.
    """
    state.make_folder()
    state.tidy(wanted)
    for key in (state.client_key, *(state.host_key(name) for name in wanted.hosts)):
        state.make_key(key)
    done = [replace(action, spec=spec_digest(wanted, action.ports, state.keys(action.name))) for action in actions]
    # Before the first container: a killed run's ports and keys are found again.
    state.write(state.files(wanted, done))
    for index, action in enumerate(done):
        if action.verb == "remove":
            podman.remove(action.container)
        elif action.verb == "resume":
            podman.run("unpause", action.container)
        elif action.verb == "start":
            try:
                podman.run("start", action.container)
            except PodmanError:
                # Damaged, or its port was taken just now: a host that cannot be started is made anew.
                done[index] = create_somewhere(podman, state, wanted, replace(action, verb="recreate"), ports)
        elif action.verb in ("create", "recreate"):
            done[index] = create_somewhere(podman, state, wanted, action, ports)
    state.write(state.files(wanted, done))
    return done


def create_somewhere(podman: Podman, state: State, wanted: Wanted, action: Action, ports: Ports) -> Action:
    """`create`, on other ports when somebody took one of them just now."""
    for attempt in range(START_ATTEMPTS):
        try:
            create(podman, state, wanted, action)
            return action
        except PodmanError as error:
            podman.remove(action.container)
            if "address already in use" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise
        published = {inner: ports.pick() for inner in action.ports}
        action = replace(action, ports=published, spec=spec_digest(wanted, published, state.keys(action.name)))
    raise AssertionError("unreachable")


def wait_for(state: State, action: Action, deadline: float) -> list[str]:
    """Wait until a host can be logged in to and has booted.

    Returns:
        the systemd units that failed at boot.

    Raises:
        MobiusError: `timeout`, with what the host said last.
    """
    command = [
        *state.ssh(action.ports[SSH]),
        "systemctl is-system-running --wait; systemctl --failed --plain --no-legend",
    ]
    said = "nothing"
    while (left := deadline - time.monotonic()) > 0:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            break
        lines = done.stdout.decode(errors="replace").splitlines()
        if lines and lines[0] in ("running", "degraded"):
            return [line.split()[0] for line in lines[1:] if line.split()]
        said = " ".join((done.stderr.decode(errors="replace").strip() or " ".join(lines) or said).split())
        time.sleep(0.1)
    raise MobiusError(
        "timeout",
        f"Host {action.name} did not boot and answer over SSH in time; last it said: {said}",
        do_next=f"Look at `podman logs {action.container}`; `mobius lab down` and `mobius lab up` make it anew.",
    )


# The module


def portrait(container: Container) -> dict[str, Any]:
    """One host for people who compare before with after."""
    return {
        "container": container.name,
        "state": container.status,
        "image": container.image,
        "ports": {str(inner): outer for inner, outer in sorted(container.ports.items())},
        "made_of": container.spec,
    }


def after_image(wanted: Wanted, action: Action) -> dict[str, Any]:
    """What `portrait` will show of a host when its action is done."""
    new = action.verb in ("create", "recreate")
    spec = "new" if new else action.spec
    return portrait(Container(action.container, "running", spec, wanted.image, action.ports))


def present(module: AnsibleModule, state: State, wanted: Wanted) -> dict[str, Any]:
    """Bring the lab up; in check mode say what that would change."""
    podman = Podman()
    find_program("ssh")
    every = podman.lab_containers()
    own = {
        row["Name"]: Container.from_inspect(row) for row in every if row["Config"]["Labels"][LAB_LABEL] == wanted.lab
    }
    foreign = [port for row in every if row["Name"] not in own for port in Container.from_inspect(row).ports.values()]
    keys = {name: state.keys(name) for name in wanted.hosts}
    ports = Ports(wanted.lab, foreign, port_is_free)
    actions = plan(wanted, own, state.recorded_ports(wanted.lab), keys, ports)
    changed = any(action.verb != "keep" for action in actions) or state.differs(state.files(wanted, actions))
    failed: dict[str, list[str]] = {}
    if not module.check_mode:
        if changed:
            actions = apply(podman, state, wanted, actions, ports)
        deadline = time.monotonic() + module.params["timeout"]
        failed = {action.name: wait_for(state, action, deadline) for action in actions if action.verb != "remove"}
    rows = []
    for action in actions:
        row: dict[str, Any] = {"name": action.name, "action": action.verb, "why": action.why}
        if action.verb != "remove":
            row["ssh_port"], row["http_port"] = action.ports[SSH], action.ports[wanted.inner_ports[1]]
            row["failed_units"] = failed.get(action.name, [])
        rows.append(row)
    return {
        "changed": changed,
        "lab": wanted.lab,
        "hosts": rows,
        "diff": {
            "before": {container.name: portrait(container) for container in own.values()},
            "after": {act.container: after_image(wanted, act) for act in actions if act.verb != "remove"},
        },
    }


def absent(module: AnsibleModule, state: State, lab: str) -> dict[str, Any]:
    """Remove the lab; in check mode say what that would remove."""
    podman: Podman | None = None
    # Without podman there is no container; the folder can still go.
    with contextlib.suppress(MobiusError):
        podman = Podman()
    own = [Container.from_inspect(row) for row in podman.lab_containers(lab)] if podman is not None else []
    folder = state.folder.exists()
    if not module.check_mode:
        for container in own:
            if podman is not None:
                podman.remove(container.name)
        if folder:
            shutil.rmtree(state.folder)
    hosts = [
        {"name": one.name.rpartition("-")[2], "action": "remove", "why": "the lab is not asked for"} for one in own
    ]
    before: dict[str, Any] = {container.name: portrait(container) for container in own}
    if folder:
        before["folder"] = str(state.folder)
    return {"changed": bool(own) or folder, "lab": lab, "hosts": hosts, "diff": {"before": before, "after": {}}}


def checked(params: Mapping[str, Any], root: Path) -> Wanted:
    """The lab asked for.

    Raises:
        MobiusError: `invalid_input`, naming the first value that cannot be.
    """
    hosts: list[str] = params["hosts"]
    inner = [SSH, params["service_port"], *params["extra_ports"]]
    if not root.is_dir():
        raise MobiusError("invalid_input", f"root is {root}, which is no folder.")
    if params["state"] == "present" and not hosts:
        raise MobiusError("invalid_input", "hosts is empty; the lab needs one host at least.")
    if params["state"] == "present" and not params["image"]:
        raise MobiusError("invalid_input", "image is missing.")
    for name in hosts:
        if not HOST_NAME.fullmatch(name):
            raise MobiusError("invalid_input", f"{name!r} is no host name of small letters, digits and hyphens.")
    if len(set(hosts)) != len(hosts):
        raise MobiusError("invalid_input", "hosts names a host twice.")
    if len(set(inner)) != len(inner) or not all(0 < port < 65536 for port in inner):
        raise MobiusError("invalid_input", f"The ports {inner} must differ from each other and lie in 1 to 65535.")
    return Wanted(lab_id(root), tuple(hosts), params["image"] or "", params["debian"], tuple(inner))


@contextlib.contextmanager
def alone(module: AnsibleModule, state: State) -> Iterator[None]:
    """Let one run at a time change a lab, also one that was left behind by a killed ansible-playbook."""
    if module.check_mode:
        yield
        return
    with locked(state.lock_file(), timeout=module.params["timeout"]):
        yield


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "image": {"type": "str"},
            "debian": {"type": "str", "default": "bookworm"},
            "service_port": {"type": "int", "default": 8080},
            "extra_ports": {"type": "list", "elements": "int", "default": []},
            "timeout": {"type": "int", "default": 90},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        root = Path(module.params["root"])
        wanted = checked(module.params, root)
        state = State(root)
        with alone(module, state):
            if module.params["state"] == "present":
                result = present(module, state, wanted)
            else:
                result = absent(module, state, wanted.lab)
    except MobiusError as error:
        module.fail_json(msg=error.reason, mobius_failure=error.as_dict())
    except TimeoutError as error:
        failure = MobiusError("timeout", f"Another run was changing this lab all the time: {error}.")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    except (PodmanError, OSError) as error:
        failure = MobiusError("environment_failed", f"The lab could not be changed: {error}")
        module.fail_json(msg=failure.reason, mobius_failure=failure.as_dict())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
