# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The socket of an instance, and the connections accepted from it."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from loguru import logger
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mobius.service import problems
from mobius.service.transport import CoalescingTransport

HEAD_BYTES: Final = 32_768
"""Limit of a request line and its headers; the parser itself has none."""
URL_BYTES: Final = 8192
"""Limit of a request's path and parameters."""
ARRIVING_MIN_SECONDS: Final = 5.0
"""A connection whose request has been arriving for so long gives way to a new one, if no idle one can."""
BODY_HIGH_WATER_BYTES: Final = 262_144
"""Bytes of a body that wait for the application before reading pauses: as much as one read of the loop returns."""
ON_DISCONNECT: Final = "mobius.on_disconnect"
"""Key of a request's scope: called when its client disconnects before the response is complete."""
GONE: Final = "mobius.gone"
"""Key of a request's scope: whether its client has disconnected before the response was complete."""
RESERVE_CONNECTIONS: Final = 256
"""Connections accepted above the limit, only to be answered 503; above these, accepting pauses."""
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
NO_DESCRIPTOR_PAUSE_SECONDS: Final = 1.0
"""How long accepting pauses when the process has no descriptor left."""
FULL_PAUSE_SECONDS: Final = 0.05
"""How long accepting pauses when the reserve is used up."""


@dataclass(frozen=True)
class ConnectionTimeouts:
    """Timeouts of a connection, in seconds.

    Attributes:
        head: for a request's head to arrive, once it has begun.
        body: for the client to read an answer.
        idle: between requests.
    """

    head: float
    body: float
    idle: float


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on the request head, on idle time, and on clients that do not read."""

    def __init__(self, endpoint: Endpoint, *, surplus: bool) -> None:
        super().__init__(config=endpoint.config, server_state=endpoint.state, app_state={"surplus": surplus})
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        # a surplus connection gets an answer, but may not stay idle
        self._idle_seconds = self._timeouts.head if surplus else self._timeouts.idle
        self.timeout_keep_alive = self._idle_seconds  # type: ignore[assignment]
        self._idle_deadline = 0.0  # of the loop's clock, like all deadlines here
        self._in_head = False
        self._head_bytes = 0
        self._head_size = 0  # of the parsed parts of a head, which may have come in one piece
        self._refused = False
        self._head_deadline = 0.0
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._endpoint.note_idle(self)
        self._idle_deadline = self.loop.time() + self._idle_seconds
        self._close_at(self._idle_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle:
            scope: Any = self.cycle.scope
            scope[GONE] = True
            scope.get(ON_DISCONNECT, lambda: None)()
        super().connection_lost(exc)
        self._endpoint.forget(self)
        self._unset_keepalive_if_required()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431, f"The request's head is longer than {HEAD_BYTES} bytes.")
        elif self._in_head:
            self._close_at(self._head_deadline)
        elif self.idle:
            # the rest of a body that was answered already, or empty lines: neither extends the deadline
            self._close_at(self._idle_deadline)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_size = 0
        self._head_deadline = self.loop.time() + self._timeouts.head
        if self.idle:
            self._endpoint.note_arriving(self, self.loop.time())
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + len(": \r\n")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused:
            return
        if len(self.url) > URL_BYTES:
            self._refuse(414, f"The request's path and parameters are longer than {URL_BYTES} bytes.")
        elif self._head_size > HEAD_BYTES:
            self._refuse(431, f"The request's head is longer than {HEAD_BYTES} bytes.")
        elif problem := _problem_of_head(self.headers, self.parser.get_http_version()):
            self._refuse(400, problem)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refused or self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > BODY_HIGH_WATER_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._endpoint.forget(self)
        if not self._refused:
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # or the end of the connection would not be noticed

    def on_response_complete(self) -> None:
        self._idle_deadline = self.loop.time() + self._idle_seconds
        super().on_response_complete()
        if self.idle and not self.transport.is_closing():
            self._endpoint.note_idle(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._timeouts.body, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        if self._in_head and self.idle and not self.transport.is_closing():
            self._refuse(408, f"The request's head did not arrive within {self._timeouts.head:g} seconds.")
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:  # what follows a refused head is no request
            self._refuse(400, f"{msg.rstrip('.')}.")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close a connection whose data never became a request."""
        self._refused = True
        body, request_id = problems.document(status, detail), new_request_id()
        head = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"), (b"x-request-id", request_id.encode()),
                *self.server_state.default_headers]  # fmt: skip
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        self.transport.write(f"HTTP/1.1 {status} Refused\r\n".encode() + lines + b"\r\n" + body)
        self.transport.close()
        client = self.client[0] if self.client else ""
        fields = {"mobius.request_id": request_id, "http.response.status_code": status, "client.address": client}
        logger.bind(**fields).info("{}", detail)

    def _close_at(self, deadline: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(deadline, self.timeout_keep_alive_handler)


def new_request_id() -> str:
    """32 hexadecimal digits, no secret: the system's generator costs a call."""
    return f"{random.getrandbits(128):032x}"


def _problem_of_head(headers: list[tuple[bytes, bytes]], version: str) -> str:
    """Why a head is refused that the parser accepts (RFC 9112, 3.2 and 6.1); "" when it is not."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version != "1.0"):
        return "A request needs one Host header."
    if any(not _HOST.fullmatch(host) for host in hosts):
        return "The Host header is not a name or an address."
    encodings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if encodings not in ([], [b"chunked"]):
        return "Of the transfer encodings, only chunked alone is read."
    return ""


class Endpoint:
    """One application and its connections."""

    def __init__(
        self, app: Any, *, timeouts: ConnectionTimeouts, max_connections: int, headers: list[tuple[str, str]]
    ) -> None:
        self.timeouts = timeouts
        self.max_connections = max_connections
        self.config = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, headers=headers,
        )  # fmt: skip
        self.config.load()
        self.state = ServerState()
        # both in the order in which they became so
        self._idle: dict[Connection, None] = {}
        self._arriving: dict[Connection, float] = {}
        self.set_date(b"")

    def connection(self) -> Connection:
        """The protocol of a new connection. At the limit, one on which nothing is being answered gives way to it."""
        return Connection(self, surplus=len(self.connections) >= self.max_connections and not self._make_room())

    def note_idle(self, connection: Connection) -> None:
        """It waits for a request."""
        self.forget(connection)
        self._idle[connection] = None

    def note_arriving(self, connection: Connection, now: float) -> None:
        """A request has begun to arrive on it."""
        self.forget(connection)
        self._arriving[connection] = now

    def forget(self, connection: Connection) -> None:
        """A request of it is being answered, or it is closed."""
        self._idle.pop(connection, None)
        self._arriving.pop(connection, None)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; else the one whose request has been arriving longest."""
        victim = next(iter(self._idle), None)
        if victim is not None:
            self.forget(victim)
            victim.transport.close()
            return True
        victim, since = next(iter(self._arriving.items()), (None, 0.0))
        if victim is None or victim.loop.time() - since < ARRIVING_MIN_SECONDS:
            return False
        self.forget(victim)
        victim.transport.abort()
        return True

    @property
    def full(self) -> bool:
        """Whether the limit and the reserve are used up."""
        return len(self.connections) >= self.max_connections + RESERVE_CONNECTIONS

    @property
    def connections(self) -> set[Connection]:
        return self.state.connections  # type: ignore[return-value]

    def set_date(self, date: bytes) -> None:
        """The Date header of the answers to come."""
        self.state.default_headers = [*([(b"date", date)] if date else []), *self.config.encoded_headers]

    def close_kept_alive(self) -> None:
        """Close the connections that wait for another request; one that waits for its first still gets its answer."""
        for connection in list(self.connections):
            if connection.idle and connection.cycle is not None:
                connection.transport.close()

    def close_all(self) -> None:
        """Close idle connections, and abort the others."""
        for connection in list(self.connections):
            if connection.idle:
                connection.transport.close()
            else:
                connection.transport.abort()


class Acceptor:
    """Accepts connections from a listening socket."""

    def __init__(self, listener: socket.socket, endpoint: Endpoint) -> None:
        self.listener = listener
        self.endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._accepting: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """Accepted connections that are not closed yet, those still being set up included."""
        return len(self.endpoint.connections) + len(self._accepting)

    def watch(self) -> None:
        """Start accepting."""
        self._loop.add_reader(self.listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting for good: what waits in the queue is accepted, then the socket is closed."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self.listener.fileno())
        while not self.endpoint.full:
            try:
                client, _ = self.listener.accept()
            except (InterruptedError, ConnectionAbortedError):
                continue
            except OSError:
                break
            self._begin(client)
        self.listener.close()

    def _accept(self) -> None:
        if self.endpoint.full:
            self._pause_for(FULL_PAUSE_SECONDS)
            return
        try:
            client, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the client has disconnected
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            logger.error("Accepting pauses: {}", error.strerror)
            self._pause_for(NO_DESCRIPTOR_PAUSE_SECONDS)
            return
        self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        client.setblocking(False)  # asyncio sets TCP_NODELAY, since the listener's own protocol is known
        task = self._loop.create_task(self._connect(client))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _pause_for(self, seconds: float) -> None:
        self._loop.remove_reader(self.listener.fileno())
        self._pause = self._loop.call_later(seconds, self.watch)

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self.endpoint.connection, client)
        except OSError as error:
            logger.info("A connection was closed before it was set up: {}", error.strerror)
            client.close()
