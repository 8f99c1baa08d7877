# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Linux tells of processes: which belong to an instance, where they listen, and which files they write."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"  # include/net/tcp_states.h
_NEVER_ON_DISK = ("/proc/", "/dev/", "/sys/", "/memfd:", "/run/")


@dataclass(frozen=True)
class Listener:
    """A TCP socket that a process listens on."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot reach it."""
        mapped = getattr(self.address, "ipv4_mapped", None)
        return (mapped or self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def is_known() -> bool:
    """Whether this machine tells of its processes at all; macOS does not in this way."""
    return (_PROC / "self/fd").is_dir() and (_PROC / "net/tcp").exists()


def find_processes(leader: int, marker: str) -> set[int]:
    """The processes of an instance: of the leader's session, with the marker in their environment, and their children.

    A process that went to the background has another session and another parent, but the same environment.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    wanted = marker.encode()
    for pid in _pids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
            if fields[0] in (b"Z", b"X"):
                continue  # it has ended
            parents[pid] = int(fields[1])
            is_of_session = pid == leader or int(fields[3]) == leader
            if is_of_session or wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def find_trials(parent: Path) -> dict[Path, set[int]]:
    """The processes of this user's trials, by the folder of each trial below `parent`."""
    folder = re.compile(rb"(?:MOBIUS_STATE_FILE|MOBIUS_TRIAL)=(%s/[^/]+)/.*" % re.escape(os.fsencode(parent)))
    trials: dict[Path, set[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            process = _PROC / str(pid)
            if process.stat().st_uid != os.getuid():
                continue
            for entry in (process / "environ").read_bytes().split(b"\0"):
                if match := folder.fullmatch(entry):
                    trials.setdefault(Path(os.fsdecode(match[1])), set()).add(pid)
    return trials


def _pids() -> Iterator[int]:
    for name in os.listdir(_PROC):
        if name.isdigit():
            yield int(name)


def find_listeners(pids: Collection[int]) -> list[Listener]:
    """Where processes listen."""
    inodes = {
        match[1]
        for pid in pids
        for target in _links(pid)
        if (match := re.fullmatch(r"socket:\[(\d+)\]", target)) is not None
    }
    listeners = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and fields[9] in inodes:
                    address, _, port = fields[1].partition(":")
                    listeners.append(Listener(_address(address), int(port, 16)))
    return sorted(set(listeners), key=lambda one: (one.address.version, one.port, str(one.address)))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc/net/tcp has it: words of 32 bits, each in the order of this machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return ipaddress.ip_address(socket.inet_ntop(family, packed))


def _links(pid: int) -> list[str]:
    links = []
    with contextlib.suppress(OSError):
        for item in os.scandir(_PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(item.path))
    return links


def find_written_files(pids: Collection[int]) -> set[str]:
    """The files on disks that processes have open for writing."""
    written = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for item in os.scandir(_PROC / str(pid) / "fd"):
                with contextlib.suppress(OSError, StopIteration, ValueError):
                    target = os.readlink(item.path)
                    lines = (_PROC / str(pid) / "fdinfo" / item.name).read_text().splitlines()
                    flags = int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
                    is_file = target.startswith("/") and not target.startswith(_NEVER_ON_DISK)
                    if flags & os.O_ACCMODE and is_file and os.path.isfile(target.removesuffix(" (deleted)")):
                        written.add(target)
    return written


def find_programs(pids: Collection[int]) -> set[str]:
    """The names of the programs that processes run."""
    names = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            names.add(Path(os.readlink(_PROC / str(pid) / "exe")).name)
    return names


def has_written_code(pids: Collection[int]) -> bool:
    """Whether a process has memory that it both writes and executes."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text().splitlines():
                if line.split()[1].startswith("rwx"):
                    return True
    return False
