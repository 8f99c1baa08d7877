# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The public socket, shared by every release on the host, and the connections taken from it.

Nothing here ever closes the listening socket: it belongs to systemd, its accept queue outlives every process. Serving
is watching it and accepting; standby is no longer watching it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any, Final

import uvicorn
from loguru import logger
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mobius.service import problems

HEAD_BYTES: Final = 65_536
"""A request line and its headers may be as long as this; the parser itself has no limit."""
HEAD_SECONDS: Final = 30.0
"""A request whose head has begun must have it complete after this time."""
PAUSE_SECONDS: Final = 1.0
"""Accepting pauses so long when the process has no descriptor left."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits on a request's head and on silence."""

    _in_head = False
    _head_bytes = 0
    _head_deadline = 0.0  # of the loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_after(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431, f"The request's head is longer than {HEAD_BYTES} bytes.")
        elif self._in_head:
            self._close_after(self._head_deadline - self.loop.time())
        elif self.idle:
            # the rest of a body whose answer is already out
            self._close_after(self.timeout_keep_alive)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_deadline = self.loop.time() + HEAD_SECONDS
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"{msg.rstrip('.')}.")

    def _refuse(self, status: int, detail: str) -> None:
        body = problems.document(status, detail)
        head = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"), *self.server_state.default_headers]  # fmt: skip
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        self.transport.write(f"HTTP/1.1 {status} Refused\r\n".encode() + lines + b"\r\n" + body)
        self.transport.close()

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


class Endpoint:
    """One application and the connections that speak to it."""

    def __init__(self, app: Any, *, idle_timeout: float, headers: list[tuple[str, str]]) -> None:
        self.config = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, headers=headers, timeout_keep_alive=int(idle_timeout),
        )  # fmt: skip
        self.config.load()
        self.state = ServerState()
        self.set_date(b"")

    def connection(self) -> Connection:
        """A protocol for one more connection."""
        return Connection(config=self.config, server_state=self.state, app_state={})

    @property
    def connections(self) -> set[Connection]:
        return self.state.connections  # type: ignore[return-value]

    def set_date(self, date: bytes) -> None:
        """The Date header of the answers to come."""
        self.state.default_headers = [*([(b"date", date)] if date else []), *self.config.encoded_headers]

    def close_all(self, *, busy_too: bool) -> None:
        """Close idle connections; cut the others as well when told."""
        for connection in list(self.connections):
            if connection.idle:
                connection.transport.close()
            elif busy_too:
                connection.transport.abort()


class PublicSocket:
    """Accepts from a listening socket while watching it.

    One connection per wake-up: the socket is shared with other processes, and each must get its part.
    """

    def __init__(self, listener: socket.socket, endpoint: Endpoint) -> None:
        self.listener = listener
        self.endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._accepting: set[asyncio.Task[None]] = set()
        self._watching = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """Connections taken and not yet gone, those still being set up included."""
        return len(self.endpoint.connections) + len(self._accepting)

    def watch(self) -> None:
        """Accept from now on. Watching twice is watching once."""
        self._watching = True
        if self._pause is None:
            self._loop.add_reader(self.listener.fileno(), self._accept)

    def leave(self) -> None:
        """Accept no more; what waits in the queue is for the other processes, or for later."""
        self._watching = False
        self._loop.remove_reader(self.listener.fileno())

    def _accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was quicker, or the client has already gone
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            logger.error("Accepting pauses: {}", error.strerror)
            self._loop.remove_reader(self.listener.fileno())
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)
            return
        client.setblocking(False)  # asyncio sets TCP_NODELAY, since the listener's own protocol is known
        task = self._loop.create_task(self._connect(client))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _resume(self) -> None:
        self._pause = None
        if self._watching:
            self.watch()

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self.endpoint.connection, client)
        except OSError as error:
            logger.info("A connection was gone before it was set up: {}", error.strerror)
            client.close()
