# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests to the instances of a service, and the slots on whose addresses they listen."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import MobiusError
from ..manifest import REVISION
from .config import Host, revision_name
from .front.settings import HTTP, WORKER
from .front.slots import HOST, Slot, Slots
from .revision import health_path_of
from .worker import request_health

STATE_TIMEOUT_SECONDS = 1.0  # for an instance to report its state
RESPONSE_MAX_BYTES = 8 << 20  # no response of an instance is longer


class _InstanceConnection(http.client.HTTPConnection):
    """HTTP to one instance, on a Unix socket or on a port of this host."""

    def __init__(self, address: Path | int, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address
        self.timed_out = False

    def connect(self) -> None:
        is_unix = isinstance(self._address, Path)
        self.sock = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._address) if is_unix else (HOST, self._address))

    def shut_down(self) -> None:
        """End the connection from another thread; a pending read then ends."""
        self.timed_out = True
        channel = self.sock
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)


def request_instance(
    host: Host,
    release: str,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str | None = None,
    timeout: float = 5.0,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request to the instance of a release; returns `(status, headers with lower-case names, body)`.

    Of a service that speaks no HTTP, a connection that is accepted stands for an empty response of 200, and of a
    worker its health does.

    Args:
        timeout: seconds for the whole response; a release that responds byte by byte must not delay its rollback.

    Raises:
        OSError: there is no response, not in time, or one that is not HTTP or longer than RESPONSE_MAX_BYTES.
    """
    if host.front.kind == WORKER:
        code, body = request_health(host, release, timeout)
        return code, {}, body
    slot = find_slot(host, release)
    if slot is None:
        raise ConnectionRefusedError(f"{release} holds no slot, so it does not run")
    if host.front.kind != HTTP:
        socket.create_connection((HOST, slot.port), timeout).close()
        return 200, {}, b""
    return send_request(slot.port, method, path, body, {"Content-Type": content_type}, timeout)


def send_request(
    address: Path | int,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str | None],
    timeout: float,
) -> tuple[int, dict[str, str], bytes]:
    """As `request_instance`, to a Unix socket or a port of this host; a header that is None is left out."""
    connection = _InstanceConnection(address, timeout)
    timer = threading.Timer(timeout, connection.shut_down)
    timer.daemon = True
    try:
        connection.connect()
        timer.start()
        connection.request(method, path, body=body, headers={name: value for name, value in headers.items() if value})
        response = connection.getresponse()
        content = response.read(RESPONSE_MAX_BYTES + 1)
        if len(content) > RESPONSE_MAX_BYTES:
            raise ConnectionError(f"the instance responded with more than {RESPONSE_MAX_BYTES} bytes")
        if connection.timed_out:
            raise TimeoutError(f"the instance had not responded after {timeout:g} s")
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content
    except http.client.HTTPException as error:
        raise ConnectionError(f"the instance gave no HTTP response ({error!r})") from error
    finally:
        timer.cancel()
        connection.close()


def slot_table(host: Host) -> Slots:
    """The file of the slots of a service."""
    return Slots(host.front.slots_path, host.front.slot_ports)


def find_slot(host: Host, release: str) -> Slot | None:
    """The slot that a release holds; None when it holds none."""
    return next((slot for slot in read_slots(host) if slot.release == release), None)


def read_slots(host: Host) -> tuple[Slot, ...]:
    """All slots; of a damaged file, what the instances that run were started with."""
    table = slot_table(host)
    try:
        return table.read()
    except MobiusError:
        held = dict(started_with(host))
        return tuple(Slot(number, port, held.get(number)) for number, port in enumerate(table.ports, start=1))


def started_with(host: Host) -> Iterator[tuple[int, str]]:
    """The numbers of the slots, with the releases whose instances were started on their addresses and run."""
    ports = slot_table(host).ports
    for path in sorted(host.run_dir.glob("*/role.env")):
        release = revision_name(path.parent.name)
        if not REVISION.fullmatch(release):
            continue
        with contextlib.suppress(OSError, ValueError):
            values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
            yield ports.index(int(values.get("PORT", ""))) + 1, release


def is_silent(host: Host, release: str, timeout: float) -> bool:
    """Whether an instance gives no response at all on its health path, as one that hangs. A worker never does."""
    if host.front.kind == WORKER:
        return False
    try:
        request_instance(host, release, "GET", health_path_of(host, release), timeout=timeout)
    except OSError:
        return True
    return False


def is_answering(host: Host, release: str, timeout: float) -> bool:
    """Whether the health path of an instance answers with 2xx."""
    try:
        status, _, _ = request_instance(host, release, "GET", health_path_of(host, release), timeout=timeout)
    except OSError:
        return False
    return 200 <= status < 300
