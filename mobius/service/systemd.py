# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What systemd hands down and wants to hear: the listening descriptor, readiness, the watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from mobius.errors import MobiusError

FIRST_DESCRIPTOR: Final = 3


def inherited_socket(environment: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that systemd passed to this very process, or None. Its variables are taken away.

    The family is read from the descriptor, so TCP_NODELAY and peer addresses work (uvicorn's own `--fd` takes every
    descriptor for AF_UNIX).

    Raises:
        MobiusError: what was passed is not exactly one listening stream socket.
    """
    process, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise MobiusError("environment_failed", f"systemd handed down {count} descriptors; the service takes one.")
    try:
        listener = socket.socket(fileno=FIRST_DESCRIPTOR)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise MobiusError("environment_failed", f"Descriptor 3 is no socket: {error.strerror}.") from error
    if not listening:
        raise MobiusError("environment_failed", "The socket handed down as descriptor 3 does not listen.")
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


class Notifier:
    """Speaks sd_notify(3). Without NOTIFY_SOCKET every message goes nowhere, and that is right."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds = environment.pop("WATCHDOG_USEC", "")
        mine = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds: float | None = int(microseconds) / 1e6 if microseconds.isdigit() and mine else None

    def send(self, message: str) -> None:
        """Send one message, for example `READY=1`."""
        if not self._address:
            return
        # a full queue or a manager that restarts must not take the service down
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)
