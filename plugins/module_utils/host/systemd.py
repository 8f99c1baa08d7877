# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The few requests made of systemd, through systemctl and journalctl."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass

from ..errors import MobiusError

NO_SUCH_UNIT_EXIT_CODE = 5  # of systemctl, when there is no such unit


_PROPERTIES = (
    *("Id", "ActiveState", "SubState", "UnitFileState", "Result", "TimeoutStartUSec"),
    *("MainPID", "NRestarts"),
)
_SECONDS_BY_UNIT = {"d": 86_400.0, "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def parse_time_span(text: str) -> float | None:
    """The seconds of a time span as systemd writes it (systemd.time(7)), such as "1min 30s"; None for another text."""
    parts = [re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z]+)", part) for part in text.split()]
    if not parts or not all(part and part[2] in _SECONDS_BY_UNIT for part in parts):
        return None
    return sum(float(part[1]) * _SECONDS_BY_UNIT[part[2]] for part in parts if part)


@dataclass(frozen=True)
class Unit:
    """The state of a unit, as systemd reports it."""

    name: str
    active: str  # active, activating, deactivating, inactive, failed
    sub: str
    file_state: str
    result: str
    start_timeout: float | None = None  # seconds; None when it is not known, or infinite
    main_pid: int | None = None  # None while it has no process
    restarts: int = 0  # how often systemd has started it again by itself


def notify_ready() -> None:
    """Notify systemd that this process, the one of a unit of the type `notify`, is ready (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


class Systemd:
    """The requests made of systemd."""

    def _run(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        try:
            return subprocess.run(
                arguments,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MobiusError("timeout", f"`{' '.join(arguments)}` took longer than {timeout:g} s.") from None
        except FileNotFoundError:
            raise MobiusError("missing_dependency", f"{arguments[0]} is not installed on this host.") from None

    def run_checked(self, *arguments: str, timeout: float = 30.0) -> str:
        """The output of a command that has to succeed."""
        done = self._run(*arguments, timeout=timeout)
        if done.returncode != 0:
            error = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise MobiusError("environment_failed", f"`{' '.join(arguments)}` failed: {error}")
        return done.stdout

    def units(self, *patterns: str) -> dict[str, Unit]:
        """The loaded units that these names and globs match, by name."""
        shown = self.run_checked("systemctl", "show", f"--property={','.join(_PROPERTIES)}", *patterns)
        units = {}
        for block in shown.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if values:
                unit = Unit(
                    values["Id"],
                    values.get("ActiveState", "inactive"),
                    values.get("SubState", ""),
                    values.get("UnitFileState", ""),
                    values.get("Result", ""),
                    parse_time_span(values.get("TimeoutStartUSec", "")),
                    int(values.get("MainPID", "0")) or None,
                    int(values.get("NRestarts") or 0),  # a socket has none
                )
                units[unit.name] = unit
        return units

    def start(self, unit: str, timeout: float) -> bool:
        """Start a unit and wait until it is ready; False when it failed.

        Raises:
            MobiusError: `timeout` when it is neither after `timeout` seconds, `not_provisioned` without a unit file.
        """
        done = self._run("systemctl", "start", unit, timeout=timeout)
        if done.returncode == NO_SUCH_UNIT_EXIT_CODE:
            raise MobiusError("not_provisioned", f"systemd does not know {unit}.")
        return done.returncode == 0

    def restart(self, unit: str) -> None:
        """Restart a unit, or start it when it does not run."""
        self.run_checked("systemctl", "restart", unit)

    def stop(self, *units: str) -> None:
        """Ask units to stop, without waiting: an instance drains first."""
        self.run_checked("systemctl", "stop", "--no-block", *units)

    def kill(self, unit: str, name: str = "KILL") -> None:
        """Send a unit's processes a signal. One that is killed starts again as its Restart= says."""
        self.run_checked("systemctl", "kill", f"--signal={name}", unit)

    def enable(self, *units: str) -> None:
        """Have units start at boot."""
        self.run_checked("systemctl", "enable", *units)

    def log(self, unit: str, lines: int = 20) -> list[str]:
        """The last lines that a unit's own processes wrote to the journal; none when journalctl fails."""
        done = self._run("journalctl", f"_SYSTEMD_UNIT={unit}", "--lines", str(lines), "--output", "cat", "--no-pager")
        return done.stdout.splitlines() if done.returncode == 0 else []
