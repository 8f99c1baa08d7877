# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The response while a host exchanges its data and no instance runs: 503 with `Retry-After`, on the public socket.

systemd hands it that socket, and it answers for as long as another command holds the lock of the host. So it ends when
the restore is done, and when it was killed: the confirmed release is then started by its unit.
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

FIRST_DESCRIPTOR = 3  # of the sockets that systemd hands over (sd_listen_fds(3))
RETRY_AFTER_SECONDS = 5

_MAX_CLIENTS = 256  # at once; others wait in the accept queue of the socket
_CLIENT_TIMEOUT_SECONDS = 3.0  # for the request, and again for the response
_REQUEST_HEAD_MAX_BYTES = 16 << 10
_LOCK_POLL_SECONDS = 0.1
_PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The data of this host is being exchanged. Try again shortly.",
    }
).encode()
_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nRetry-After: %d\r\nConnection: close\r\n\r\n%b"
    % (len(_PROBLEM), RETRY_AFTER_SECONDS, _PROBLEM)
)


def serve(lock: Path, user: str | None) -> None:
    """Answer until no process holds `lock` any more; after SIGUSR1 accept no new client, but still wait for the lock.

    Args:
        user: the user to become once the lock file is open; None keeps the present one.

    Raises:
        MobiusError: not_provisioned, when systemd handed no socket over.
    """
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(os.environ.get("LISTEN_FDS", "0")))
    if not descriptors or os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise MobiusError("not_provisioned", "systemd handed over no socket; only its unit may run this command.")
    listeners = [socket.socket(fileno=number) for number in descriptors]
    lock_descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    if user is not None:
        _switch_user(user)
    closing = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: closing.set())
    free = threading.BoundedSemaphore(_MAX_CLIENTS)
    for listener in listeners:
        # non-blocking and polled: other processes share this socket, so its mode must suit them too
        listener.setblocking(False)
        threading.Thread(target=_accept, args=(listener, closing, free), daemon=True).start()
    _notify_ready()
    while _is_locked(lock_descriptor):
        time.sleep(_LOCK_POLL_SECONDS)
    closing.set()
    # clients that were accepted get their response
    until = time.monotonic() + 2 * _CLIENT_TIMEOUT_SECONDS
    for _ in range(_MAX_CLIENTS):
        free.acquire(timeout=max(0.0, until - time.monotonic()))


def wait_for_lock(lock: Path) -> None:
    """Wait until no process holds `lock` any more: behind a front, requests wait there for an instance."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    _notify_ready()
    while _is_locked(descriptor):
        time.sleep(_LOCK_POLL_SECONDS)


def _notify_ready() -> None:
    """Notify systemd that clients are answered from now on (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def _switch_user(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _is_locked(descriptor: int) -> bool:
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
        except OSError:  # no client waits, or another process accepted it
            free.release()
            closing.wait(0.01)
            continue
        threading.Thread(target=_respond, args=(client, free), daemon=True).start()


def _respond(client: socket.socket, free: threading.BoundedSemaphore) -> None:
    """Send one client the 503, and read what it still sends: closing at once could lose the response."""
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(free.release)
        cleanup.enter_context(contextlib.suppress(OSError))
        cleanup.enter_context(client)
        until = time.monotonic() + _CLIENT_TIMEOUT_SECONDS
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _REQUEST_HEAD_MAX_BYTES:
            client.settimeout(max(0.01, until - time.monotonic()))
            if not (chunk := client.recv(_REQUEST_HEAD_MAX_BYTES)):
                return
            head += chunk
        client.sendall(_RESPONSE)
        client.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _CLIENT_TIMEOUT_SECONDS
        while time.monotonic() < until:
            client.settimeout(max(0.01, until - time.monotonic()))
            if not client.recv(1 << 16):
                return
