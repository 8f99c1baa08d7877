# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings the lab's hosts up and removes them. Standard library only."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils.durable import locked
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab.folder import LabFolder
from ansible_collections.mobius.dhash.plugins.module_utils.lab.plan import (
    SSH_PORT,
    ExpectedLab,
    HostAction,
    LabContainer,
    plan,
    spec_digest,
)
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import (
    LAB_LABEL,
    SPEC_LABEL,
    Podman,
    PodmanError,
    create_arguments,
    find_program,
)
from ansible_collections.mobius.dhash.plugins.module_utils.lab.ports import PortAllocator, port_is_free

# Another program may take a port between the check and podman's start.
START_ATTEMPTS = 5


def pack_identity(folder: LabFolder, name: str) -> bytes:
    """A tar of a host's identity: its host key and the client key that may log in."""
    members = {
        "etc/ssh/ssh_host_ed25519_key": (folder.host_key(name).read_bytes(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (folder.host_key(name).with_suffix(".pub").read_bytes(), 0o644),
        "root/.ssh/authorized_keys": (folder.client_key.with_suffix(".pub").read_bytes(), 0o600),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, mode) in members.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def create(podman: Podman, folder: LabFolder, expected: ExpectedLab, action: HostAction) -> None:
    """Create and start one host; a container of the same name is replaced.

    A kill in the middle leaves a container that never ran, which the next run replaces.
    """
    podman.remove(action.container)
    # A killed run's podman may live on and create the container only now, hence --replace.
    arguments = [f"--name={action.container}", f"--hostname={action.name}", "--replace", "--http-proxy=false"]
    arguments += ["--stop-timeout=20"]
    arguments += [f"--label={LAB_LABEL}={expected.lab}", f"--label={SPEC_LABEL}={action.spec}"]
    arguments += [f"--publish=127.0.0.1:{outer}:{inner}" for inner, outer in action.ports.items()]
    podman.run(*create_arguments(podman, [*arguments, expected.image]))
    podman.run("cp", "-", f"{action.container}:/", data=pack_identity(folder, action.name))
    podman.run("start", action.container)


def apply(
    podman: Podman, folder: LabFolder, expected: ExpectedLab, actions: list[HostAction], ports: PortAllocator
) -> list[HostAction]:
    """Perform the planned actions.

    Returns:
        the actions as they were performed, with the ports that were free in the end.
    """
    folder.make_folder()
    folder.remove_leftovers(expected)
    for key in (folder.client_key, *(folder.host_key(name) for name in expected.hosts)):
        folder.make_key(key)
    done = [replace(action, spec=spec_digest(expected, action.ports, folder.keys(action.name))) for action in actions]
    # Before the first container: the next run finds the ports and keys of a killed one.
    folder.write(folder.files(expected, done))
    for index, action in enumerate(done):
        if action.verb == "remove":
            podman.remove(action.container)
        elif action.verb == "resume":
            podman.run("unpause", action.container)
        elif action.verb == "start":
            try:
                podman.run("start", action.container)
            except PodmanError:
                # Damaged, or its port is in use: a host that cannot be started is recreated.
                done[index] = create_on_free_ports(podman, folder, expected, replace(action, verb="recreate"), ports)
        elif action.verb in ("create", "recreate"):
            done[index] = create_on_free_ports(podman, folder, expected, action, ports)
    folder.write(folder.files(expected, done))
    return done


def create_on_free_ports(
    podman: Podman, folder: LabFolder, expected: ExpectedLab, action: HostAction, ports: PortAllocator
) -> HostAction:
    """`create`; on other ports when another program uses one of them."""
    for attempt in range(START_ATTEMPTS):
        try:
            create(podman, folder, expected, action)
            return action
        except PodmanError as error:
            podman.remove(action.container)
            if "address already in use" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise
        published = {inner: ports.pick() for inner in action.ports}
        action = replace(action, ports=published, spec=spec_digest(expected, published, folder.keys(action.name)))
    raise AssertionError("unreachable")


def wait_until_booted(folder: LabFolder, action: HostAction, deadline: float) -> list[str]:
    """Wait until a host has booted and accepts a login.

    Returns:
        the systemd units that failed at boot.

    Raises:
        MobiusError: `timeout`, with the host's last answer.
    """
    command = [
        *folder.ssh(action.ports[SSH_PORT]),
        "systemctl is-system-running --wait; systemctl --failed --plain --no-legend",
    ]
    last_answer = "none"
    while (left := deadline - time.monotonic()) > 0:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            break
        lines = done.stdout.decode(errors="replace").splitlines()
        if lines and lines[0] in ("running", "degraded"):
            return [line.split()[0] for line in lines[1:] if line.split()]
        last_answer = " ".join((done.stderr.decode(errors="replace").strip() or " ".join(lines) or last_answer).split())
        time.sleep(0.1)
    raise MobiusError(
        "timeout",
        f"Host {action.name} did not boot and answer over SSH in time. Its last answer: {last_answer}",
        do_next=f"Read `podman logs {action.container}`. `mobius lab down` and `mobius lab up` recreate the host.",
    )


def describe(container: LabContainer) -> dict[str, Any]:
    """One host as the diff shows it."""
    return {
        "container": container.name,
        "state": container.status,
        "image": container.image,
        "ports": {str(inner): outer for inner, outer in sorted(container.ports.items())},
        "made_of": container.spec,
    }


def describe_after(expected: ExpectedLab, action: HostAction) -> dict[str, Any]:
    """What `describe` will show of a host after its action."""
    new = action.verb in ("create", "recreate")
    spec = "new" if new else action.spec
    return describe(LabContainer(action.container, "running", spec, expected.image, action.ports))


def bring_up(folder: LabFolder, expected: ExpectedLab, *, timeout: float, check_mode: bool) -> dict[str, Any]:
    """Bring the lab to the expected hosts; in check mode only report what that would change.

    Args:
        timeout: seconds in which all hosts have to boot.

    Returns:
        the result of the module `lab_host`.
    """
    podman = Podman()
    find_program("ssh")
    rows = podman.lab_containers()
    containers = {
        row["Name"]: LabContainer.from_inspect(row)
        for row in rows
        if row["Config"]["Labels"][LAB_LABEL] == expected.lab
    }
    other_labs = [LabContainer.from_inspect(row) for row in rows if row["Name"] not in containers]
    ports = PortAllocator(expected.lab, (port for other in other_labs for port in other.ports.values()), port_is_free)
    keys = {name: folder.keys(name) for name in expected.hosts}
    actions = plan(expected, containers, folder.recorded_ports(expected.lab), keys, ports)
    changed = any(action.verb != "keep" for action in actions) or folder.differs(folder.files(expected, actions))
    failed_units: dict[str, list[str]] = {}
    if not check_mode:
        if changed:
            actions = apply(podman, folder, expected, actions, ports)
        deadline = time.monotonic() + timeout
        failed_units = {
            action.name: wait_until_booted(folder, action, deadline) for action in actions if action.verb != "remove"
        }
    return {
        "changed": changed,
        "lab": expected.lab,
        "hosts": [_result(expected, action, failed_units.get(action.name, [])) for action in actions],
        "diff": {
            "before": {container.name: describe(container) for container in containers.values()},
            "after": {
                action.container: describe_after(expected, action) for action in actions if action.verb != "remove"
            },
        },
    }


def _result(expected: ExpectedLab, action: HostAction, failed_units: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": action.name, "action": action.verb, "why": action.why}
    if action.verb != "remove":
        row["ssh_port"] = action.ports[SSH_PORT]
        row["http_port"] = action.ports[expected.inner_ports[1]]
        row["failed_units"] = failed_units
    return row


def remove_all(folder: LabFolder, lab: str, *, check_mode: bool) -> dict[str, Any]:
    """Remove every container of the lab and its folder; in check mode only report what would be removed.

    Returns:
        the result of the module `lab_host`.
    """
    podman: Podman | None = None
    # Without podman there is no container; the folder can still be removed.
    with contextlib.suppress(MobiusError):
        podman = Podman()
    rows = podman.lab_containers(lab) if podman is not None else []
    containers = [LabContainer.from_inspect(row) for row in rows]
    folder_exists = folder.folder.exists()
    if not check_mode:
        for container in containers:
            if podman is not None:
                podman.remove(container.name)
        if folder_exists:
            shutil.rmtree(folder.folder)
    hosts = [
        {"name": container.name.rpartition("-")[2], "action": "remove", "why": "the whole lab is removed"}
        for container in containers
    ]
    before: dict[str, Any] = {container.name: describe(container) for container in containers}
    if folder_exists:
        before["folder"] = str(folder.folder)
    return {"changed": bool(before), "lab": lab, "hosts": hosts, "diff": {"before": before, "after": {}}}


@contextlib.contextmanager
def exclusive(folder: LabFolder, *, timeout: float, check_mode: bool) -> Iterator[None]:
    """Let one run at a time change a lab. The lock also waits for what a killed ansible-playbook left running.

    Raises:
        MobiusError: `timeout`, when another run held the lock all the time.
    """
    if check_mode:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.lock_file(), timeout=timeout))
        except TimeoutError as error:
            raise MobiusError("timeout", f"Another run was changing this lab all the time: {error}.") from error
        yield
