# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""podman and the limits of the machine it runs on, for the lab's modules.

The lab also works on restricted machines: this module detects what differs between machines. Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

IMAGE_REPOSITORY = "localhost/mobius-lab"
# An image carries the first (its containers inherit it), a host the other two.
IMAGE_LABEL = "org.mobius.lab"
LAB_LABEL = "org.mobius.lab.id"
SPEC_LABEL = "org.mobius.lab.spec"
# Only root may write here, unlike /tmp and /run/lock, so nobody can replace the lock file.
LOCK_FOLDER = Path("/run/mobius-lab")

# Above the first, a process may not ask for more than its own hard limit; above the second, conmon refuses.
NOFILE_LIMIT = 65536
NPROC_LIMIT = 32768

# All that root may do in a host. The first row is what programs do with the host's own files, users and processes.
# Of the second, systemd needs SYS_ADMIN to mount the name spaces of its sandbox, and SYS_PTRACE for PrivateUsers=
# together with ProtectProc= (processes outside of the host are not seen); a unit that keeps only DAC_READ_SEARCH reads
# files of others; sshd reports log-ins and puts its child into an empty root folder. Left out is what would reach the
# machine: its clock, modules, disks, reboot, log and network devices.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETPCAP", "SETUID"),
    *("NET_BIND_SERVICE", "SETFCAP", "AUDIT_WRITE", "DAC_READ_SEARCH", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"),
)
CONFINEMENT = (
    "--cap-drop=all",
    f"--cap-add={','.join(CAPABILITIES)}",
    # where the machine has them, their profiles for containers deny what SYS_ADMIN is for: mounting
    "--security-opt=apparmor=unconfined",
    "--security-opt=label=disable",
    "--systemd=always",
)
"""What `podman create` is told of a host's powers: part of what a host is made of, so a change recreates hosts."""


def find_program(name: str) -> str:
    """The path of a program, also where sudo or a user's PATH leaves out the sbin folders.

    Raises:
        MobiusError: `missing_dependency`, when it is not installed.
    """
    folders = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    program = shutil.which(name, path=folders)
    if program is None:
        package = "openssh-client" if name.startswith("ssh") else name
        raise MobiusError(
            "missing_dependency",
            f"{name} is not installed.",
            do_next=f"Run `apt-get install {package}`, or `make setup` in a checkout of MOBIUS.",
        )
    return program


def image_lock_file() -> Path:
    """The file to lock while images change; its folder is made when missing.

    Raises:
        MobiusError: `environment_failed`, when this is not run as root.
    """
    try:
        LOCK_FOLDER.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise MobiusError(
            "environment_failed",
            f"The folder {LOCK_FOLDER} for the lock on the lab's images cannot be made: {error.strerror}.",
            do_next="Run as root, or as a user who may use sudo.",
        ) from error
    return LOCK_FOLDER / "image.lock"


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> int:
    """2 on a machine with unified cgroups; 1 on v1 and hybrid ones, where the controllers belong to v1."""
    return 2 if (root / "cgroup.controllers").exists() else 1


def limits() -> dict[str, int]:
    """The RLIMITs to give a host: high enough for a host, not higher than this machine allows."""

    def at_most(kind: int, expected: int) -> int:
        hard = resource.getrlimit(kind)[1]
        return expected if hard == resource.RLIM_INFINITY else min(hard, expected)

    return {
        "nofile": at_most(resource.RLIMIT_NOFILE, NOFILE_LIMIT),
        "nproc": at_most(resource.RLIMIT_NPROC, NPROC_LIMIT),
    }


class PodmanError(Exception):
    """A podman command failed; the text is its error output."""


class Podman:
    """podman on this machine, as root.

    Raises:
        MobiusError: `missing_dependency`, when podman is not installed.
    """

    def __init__(self) -> None:
        self._command = [find_program("podman")]
        # crun, podman's first choice, refuses to work on cgroup v1.
        self.runtime: str | None = find_program("runc") if cgroup_version() == 1 else None

    def run(self, *arguments: str, data: bytes | None = None, timeout: float = 120) -> str:
        """The standard output of one podman command.

        Raises:
            PodmanError: it ended with another code than 0.
            MobiusError: `timeout`, when it did not end in `timeout` seconds.
        """
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MobiusError("timeout", f"podman {arguments[0]} did not end in {timeout:.0f} seconds.") from error
        if done.returncode != 0:
            message = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise PodmanError(f"podman {arguments[0]}: {message}")
        return done.stdout.decode(errors="replace")

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """The rows of a podman command that prints JSON (`null`, or nothing, means no rows)."""
        rows = json.loads(self.run(*arguments) or "null") or []
        if not isinstance(rows, list):
            raise PodmanError(f"podman {arguments[0]}: unexpected output")
        return rows

    def image_exists(self, reference: str) -> bool:
        """Whether the image is in the local store."""
        return bool(self.json("image", "ls", "--format", "json", "--filter", f"reference={reference}"))

    def lab_containers(self, lab: str | None = None) -> list[dict[str, Any]]:
        """`podman inspect` of every container of one lab, or of all labs, whatever state it is in."""
        label = LAB_LABEL if lab is None else f"{LAB_LABEL}={lab}"
        ids = self.run("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}").split()
        rows: list[dict[str, Any]] = []
        for identity in ids:
            try:
                rows += self.json("container", "inspect", identity)
            except PodmanError:
                # Another lab may remove its container between the two commands.
                if self._exists(identity):
                    raise
        return rows

    def _exists(self, identity: str) -> bool:
        return identity in self.run("ps", "--all", "--quiet", "--no-trunc").split()

    def remove(self, identity: str) -> None:
        """Remove a container and its volumes at once, in any state; one that does not exist is no error."""
        self.run("rm", "--force", "--volumes", "--ignore", "--time", "0", identity)


def create_arguments(podman: Podman, extra: Sequence[str]) -> list[str]:
    """The arguments of `podman create` that make systemd work inside a host."""
    bounds = limits()
    runtime = [] if podman.runtime is None else ["--runtime", podman.runtime]
    return [
        *runtime,
        "create",
        *CONFINEMENT,
        "--pull=never",
        f"--ulimit=nofile={bounds['nofile']}:{bounds['nofile']}",
        f"--ulimit=nproc={bounds['nproc']}:{bounds['nproc']}",
        *extra,
    ]
