# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What clients hear while a host exchanges its data and no instance runs: 503 with `Retry-After`, on the public socket.

systemd hands it that socket, and it goes on for as long as somebody holds the host's lock. So it ends when whoever
exchanges the data is done, and when they were killed: what the truth names is then started by its unit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import socket
import threading
import time
from pathlib import Path

from ..errors import MobiusError

FIRST_DESCRIPTOR = 3
"""Of those that systemd hands over (sd_listen_fds(3))."""

RETRY_AFTER = 5
"""Seconds that clients are asked to wait."""

_AT_ONCE = 256  # clients; the rest wait in the socket's own queue
_PATIENCE = 3.0  # seconds that a client may take to ask, and again to hear the answer
_HEAD_BYTES = 16 << 10
_POLL = 0.1  # seconds between two looks at the lock
_PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The data of this host is being exchanged. Try again shortly.",
    }
).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nRetry-After: %d\r\nConnection: close\r\n\r\n%b" % (len(_PROBLEM), RETRY_AFTER, _PROBLEM)
)


def serve(lock: Path, user: str | None) -> None:
    """Answer until nobody holds `lock` any more; after SIGUSR1 take no new client, but wait all the same.

    Args:
        user: who to be once the lock's file is open; None stays who it is.

    Raises:
        MobiusError: not_provisioned, when systemd handed no socket over.
    """
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(os.environ.get("LISTEN_FDS", "0")))
    if not descriptors or os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise MobiusError("not_provisioned", "systemd handed no socket over; this command is for its unit alone.")
    listeners = [socket.socket(fileno=number) for number in descriptors]
    lock_descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    if user is not None:
        _become(user)
    closing = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: closing.set())
    free = threading.BoundedSemaphore(_AT_ONCE)
    for listener in listeners:
        # a poll, not a wait: the others that hold this socket need it as it is
        listener.setblocking(False)
        threading.Thread(target=_accept, args=(listener, closing, free), daemon=True).start()
    _tell_ready()
    while _is_leased(lock_descriptor):
        time.sleep(_POLL)
    closing.set()
    # whoever was let in gets the answer
    until = time.monotonic() + 2 * _PATIENCE
    for _ in range(_AT_ONCE):
        free.acquire(timeout=max(0.0, until - time.monotonic()))


def _tell_ready() -> None:
    """Tell systemd that clients are answered from now on (sd_notify(3))."""
    if place := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", "\0" + place[1:] if place.startswith("@") else place)


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _is_leased(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _accept(listener: socket.socket, closing: threading.Event, free: threading.BoundedSemaphore) -> None:
    while not closing.is_set():
        free.acquire()
        try:
            client = listener.accept()[0]
        except OSError:  # nobody waits, or another one took them
            free.release()
            closing.wait(0.01)
            continue
        threading.Thread(target=_answer, args=(client, free), daemon=True).start()


def _answer(client: socket.socket, free: threading.BoundedSemaphore) -> None:
    """Answer one client, whatever it asks, and take what it still sends: closing on it would lose it the answer."""
    with contextlib.ExitStack() as held:
        held.callback(free.release)
        held.enter_context(contextlib.suppress(OSError))
        held.enter_context(client)
        until = time.monotonic() + _PATIENCE
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
            client.settimeout(max(0.01, until - time.monotonic()))
            if not (chunk := client.recv(_HEAD_BYTES)):
                return
            head += chunk
        client.sendall(_ANSWER)
        client.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            client.settimeout(max(0.01, until - time.monotonic()))
            if not client.recv(1 << 16):
                return
