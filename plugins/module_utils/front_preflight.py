# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host can run the front of a service: HAProxy, its version, its configuration, and the ports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import MobiusError
from .haproxy_check import HAPROXY, check_configuration
from .host.config import CONFIG_DIR
from .host.front import configuration
from .host.front.certificate import read_certificate
from .host.front.settings import SLOT_COUNT, FrontSettings
from .host.front.slots import HOST, Slot
from .host.systemd import Systemd

PACKAGE = "haproxy"
VERSION_MIN = (2, 4)
COMMAND_TIMEOUT_SECONDS = 30.0
_LISTEN_STATE = "0A"  # of /proc/net/tcp
_UNCHANGED = "Nothing was changed."


@dataclass(frozen=True)
class Listener:
    """A socket of this host that listens; the address is packed."""

    address: bytes
    port: int
    inode: str

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens on all addresses."""
        return not any(self.address)


@dataclass(frozen=True)
class FrontPreflight:
    """The checks of one host, without changing it."""

    settings: FrontSettings
    config_dir: Path = Path(CONFIG_DIR)
    proc: Path = Path("/proc")
    haproxy: str = HAPROXY
    systemd: Systemd = field(default_factory=Systemd)

    def require(self) -> tuple[str | None, tuple[str, ...]]:
        """The version of HAProxy (None: it is not installed yet), and warnings.

        Raises:
            MobiusError: `missing_dependency` without a HAProxy that is new enough, `environment_failed` when a port is
                taken, `invalid_input` when another service has it, when the certificate cannot be used, or when HAProxy
                refuses the configuration.
        """
        version = self._installed_version()
        shown = version if version is not None else self._installable_version()
        numbers = re.match(r"(?:\d+:)?(\d+)\.(\d+)", shown)
        if numbers is None or (int(numbers[1]), int(numbers[2])) < VERSION_MIN:
            minimum = ".".join(map(str, VERSION_MIN))
            raise MobiusError(
                "missing_dependency",
                f"HAProxy {shown} is too old for the front of {self.settings.service}: {minimum} or newer is needed. "
                f"{_UNCHANGED}",
                do_next="Use a host with Debian 12 or newer.",
            )
        self._require_ports()
        warnings = (*self.settings.warnings(), *self._require_certificate())
        if version is not None:
            slots = [Slot(number, port) for number, port in enumerate(self.settings.slot_ports, start=1)]
            text = configuration.render(self.settings, slots, {})
            warnings = (*warnings, *check_configuration(self.settings, text, haproxy=self.haproxy))
        return version, warnings

    def _installed_version(self) -> str | None:
        try:
            output = _run(self.haproxy, "-v")
        except FileNotFoundError:
            return None
        match = re.search(r"version (\S+)", output)
        return match[1] if match else "of an unknown version"

    def _installable_version(self) -> str:
        try:
            output = _run("apt-cache", "policy", PACKAGE)
        except FileNotFoundError:
            output = ""
        match = re.search(r"^\s*Candidate: (\S+)$", output, re.MULTILINE)
        if match is None or match[1] == "(none)":
            raise MobiusError(
                "missing_dependency",
                f"HAProxy is not installed, and this host's apt has no package {PACKAGE} to install. {_UNCHANGED}",
                do_next=f"Run `apt-get update` on the host and repair its sources, or install {PACKAGE} there.",
            )
        return match[1]

    def _require_certificate(self) -> tuple[str, ...]:
        """Warnings of a certificate that can be used."""
        path = self.settings.certificate
        if path is None:
            return ()
        now = time.time()
        try:
            return read_certificate(path, now).warnings(now)
        except MobiusError as error:
            raise MobiusError(error.outcome, f"{error.reason} {_UNCHANGED}", do_next=error.do_next) from None

    def _require_ports(self) -> None:
        service, settings = self.settings.service, self.settings
        names = {settings.port: "host_port", settings.internal_port: "host_front_internal_port"}
        if settings.redirect_port:
            names[settings.redirect_port] = "host_front_redirect_port"
        names |= dict.fromkeys(settings.slot_ports, "host_front_first_port")
        for other, ports in self._ports_of_others():
            if taken := sorted(ports & set(names)):
                raise MobiusError(
                    "invalid_input",
                    f"The port {taken[0]} of {service} ({names[taken[0]]}) is one of the service {other} on this host. "
                    f"{_UNCHANGED}",
                    do_next=f"Give {service} another {names[taken[0]]}; the front takes {SLOT_COUNT} ports from "
                    "host_front_first_port on.",
                )
        for listener in self._listeners():
            if listener.port not in names or not self._overlaps(listener):
                continue
            holders = self._holders(listener.inode)
            if not holders & self._own_units():
                who = ", ".join(sorted(holders)) or "another process"
                raise MobiusError(
                    "environment_failed",
                    f"The port {listener.port} ({names[listener.port]}) is taken by {who} on this host. {_UNCHANGED}",
                    do_next=f"Stop that, or give {service} another {names[listener.port]}.",
                )

    def _ports_of_others(self) -> Iterator[tuple[str, set[int]]]:
        for path in sorted(self.config_dir.glob("*.json")):
            if path.stem == self.settings.service:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                front = json.loads(path.read_bytes())["front"]
                first = int(front["first_port"])
                public = {int(front["port"]), int(front.get("redirect_port") or front["port"])}
                yield path.stem, {*public, int(front["internal_port"]), *range(first, first + SLOT_COUNT)}

    def _overlaps(self, listener: Listener) -> bool:
        """Whether the front could not listen because of it."""
        is_public = listener.port in (self.settings.port, self.settings.redirect_port)
        address = self.settings.address if is_public else HOST
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        return listener.is_everywhere or not any(packed) or listener.address == packed

    def _listeners(self) -> Iterator[Listener]:
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(FileNotFoundError):
                for line in (self.proc / "net" / name).read_text().splitlines()[1:]:
                    fields = line.split()
                    address, _, port = fields[1].partition(":")
                    if fields[3] == _LISTEN_STATE:
                        yield Listener(_unpack_address(address), int(port, 16), fields[9])

    def _holders(self, inode: str) -> set[str]:
        """The units whose processes have the socket open; that of systemd itself is the socket unit that it is of."""
        holders = set()
        for process in self.proc.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(os.readlink(path) == f"socket:[{inode}]" for path in (process / "fd").iterdir()):
                    unit = (process / "cgroup").read_text().strip().rpartition("/")[2]
                    holders.add(self._socket_unit() if process.name == "1" else unit or process.name)
        return holders

    def _socket_unit(self) -> str:
        unit = f"{self.settings.service}.socket"
        shown = self.systemd.units(unit).get(unit)
        return unit if shown is not None and shown.active == "active" else "a socket unit of systemd"

    def _own_units(self) -> set[str]:
        service = self.settings.service
        return {f"{service}.socket", f"{service}-front.service", *self.systemd.units(f"{service}@*.service")}


def _unpack_address(text: str) -> bytes:
    """An address of /proc/net/tcp: words of four bytes, each in the byte order of this machine."""
    raw = bytes.fromhex(text)
    packed = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    # an IPv4 address that a socket of IPv6 has
    return packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed


def _run(*command: str) -> str:
    """The output of a command; raises FileNotFoundError without it."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MobiusError("timeout", f"`{' '.join(command)}` took longer than {COMMAND_TIMEOUT_SECONDS:g} s.") from None
    return done.stdout
