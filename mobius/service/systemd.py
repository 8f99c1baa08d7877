# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The systemd protocols: socket activation, readiness notification and the watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from mobius.errors import MobiusError

FIRST_DESCRIPTOR: Final = 3


def inherited_socket(environment: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that systemd passed to this process, or None. Removes its variables from `environment`.

    The family is read from the descriptor, so TCP_NODELAY and peer addresses work (uvicorn's own `--fd` treats every
    descriptor as AF_UNIX).

    Raises:
        MobiusError: it passed something else than one listening socket.
    """
    process, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise MobiusError(
            "environment_failed", f"systemd passed {count} descriptors, but the service needs exactly one."
        )
    try:
        listener = socket.socket(fileno=FIRST_DESCRIPTOR)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise MobiusError(
            "environment_failed", f"Descriptor 3 from systemd is not a socket: {error.strerror}."
        ) from error
    if not listening:
        raise MobiusError("environment_failed", "The socket that systemd passed as descriptor 3 does not listen.")
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


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
