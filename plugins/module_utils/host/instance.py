# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests to the instances of a service, over their admin sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from pathlib import Path

from .config import Host

STATE_TIMEOUT_SECONDS = 1.0  # for an instance to report its state
RESPONSE_MAX_BYTES = 8 << 20  # no response of an instance is longer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self.timed_out = False

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def shut_down(self) -> None:
        """End the connection from another thread; a pending read then ends."""
        self.timed_out = True
        channel = self.sock
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)


def admin_request(
    host: Host,
    release: str,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str | None = None,
    timeout: float = 5.0,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request to the instance of a release; returns `(status, headers with lower-case names, body)`.

    Args:
        timeout: seconds for the whole response; a release that responds byte by byte must not delay its rollback.

    Raises:
        OSError: there is no response, not in time, or one that is not HTTP or longer than RESPONSE_MAX_BYTES.
    """
    connection = _UnixConnection(host.admin_socket(release), timeout)
    timer = threading.Timer(timeout, connection.shut_down)
    timer.daemon = True
    try:
        connection.connect()
        timer.start()
        connection.request(method, path, body=body, headers={"Content-Type": content_type} if content_type else {})
        response = connection.getresponse()
        content = response.read(RESPONSE_MAX_BYTES + 1)
        if len(content) > RESPONSE_MAX_BYTES:
            raise ConnectionError(f"the instance of {release} responded with more than {RESPONSE_MAX_BYTES} bytes")
        if connection.timed_out:
            raise TimeoutError(f"the instance of {release} had not responded after {timeout:g} s")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content
    except http.client.HTTPException as error:
        raise ConnectionError(f"the instance of {release} gave no HTTP response ({error!r})") from error
    finally:
        timer.cancel()
        connection.close()


def request_state(host: Host, release: str) -> str | None:
    """The state that an instance reports: "standby", "serving" or "draining"; None when it reports none."""
    try:
        status, _, body = admin_request(host, release, "GET", "/admin/state", timeout=STATE_TIMEOUT_SECONDS)
        state = json.loads(body)["state"] if status == 200 else None
    except PermissionError:
        raise  # this user may not use the socket, which says nothing about the instance
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if state in ("standby", "serving", "draining") else None
