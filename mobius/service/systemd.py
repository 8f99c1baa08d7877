# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The systemd protocols: readiness notification and the watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class SystemdNotifier:
    """Sends sd_notify(3) messages. Without NOTIFY_SOCKET they are dropped."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_addressed = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds: float | None = None
        if microseconds.isdigit() and is_addressed:
            self.watchdog_seconds = int(microseconds) / 1e6

    def send(self, message: str) -> None:
        """Send one message, for example `READY=1`."""
        if not self._address:
            return
        # a full queue or a restarting manager must not stop the service
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)
