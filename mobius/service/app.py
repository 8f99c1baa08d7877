# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP applications: the public one, and the admin socket's, which is the same and more."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, get_args

from loguru import logger
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobius.dhash import (
    CONTENT_TYPES,
    BrokenPictureError,
    MislabelledError,
    Mode,
    NotAPictureError,
    TooManyPixelsError,
)
from mobius.errors import MobiusError
from mobius.service import neighbours
from mobius.service.instance import Instance
from mobius.service.metrics import CONTENT_TYPE, merged
from mobius.service.problems import ProblemError, problem

_STATUS: Final[dict[type[MobiusError], int]] = {
    BrokenPictureError: 422,
    NotAPictureError: 415,
    MislabelledError: 415,
    TooManyPixelsError: 413,
}
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ANY_PICTURE: Final = ("", "application/octet-stream")
Handler = Callable[[Request], Awaitable[Response]]


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def build(instance: Instance, *, admin: bool) -> ASGIApp:
    """The application of the public socket, or of the admin socket.

    The public one speaks for the host where a balancer or a scraper asks (`/readyz`, `/metrics`); the admin one always
    speaks for the instance itself, and can switch it.
    """
    routes = _Routes(instance)
    table: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/hash", routes.hash),
        ("GET", "/health", routes.health),
        ("GET", "/livez", routes.livez),
        ("GET", "/readyz", routes.readyz if admin else routes.host_readyz),
        ("GET", "/metrics", routes.metrics if admin else routes.host_metrics),
        ("GET", "/metrics/dhash", routes.figures if admin else routes.host_figures),
    ]
    if admin:
        table += [
            ("GET", "/admin/state", routes.state),
            ("POST", "/admin/serve", routes.serve),
            ("POST", "/admin/standby", routes.standby),
        ]
    app = Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in table],
        exception_handlers={
            ProblemError: _answer_problem,
            HTTPException: _answer_http_exception,
        },
    )
    return _Surroundings(app, instance, public=not admin)


class _Routes:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.settings = instance.settings

    # -- the work --------------------------------------------------------------------------------------------------

    async def hash(self, request: Request) -> Response:
        mode = request.query_params.get("mode", "fast")
        if mode not in get_args(Mode):
            raise ProblemError(400, f"mode must be one of {', '.join(get_args(Mode))}, not {mode[:40]!r}.")
        label = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if label not in CONTENT_TYPES and label not in _ANY_PICTURE:
            raise ProblemError(
                415, f"Content-Type {label[:60]!r} is not read here.",
                headers={"Accept": ", ".join(sorted(CONTENT_TYPES))},
            )  # fmt: skip
        self.instance.enter_request()
        try:
            data = await self._body(request)
            fingerprint = await self.instance.hash(data, mode, CONTENT_TYPES.get(label))  # type: ignore[arg-type]
        except MobiusError as error:
            status = _STATUS.get(type(error))
            if status is None:
                raise ProblemError(503, error.reason, headers={"Retry-After": "5"}) from error
            raise ProblemError(status, error.reason) from error
        finally:
            self.instance.leave_request()
        return _Json(fingerprint.as_dict())

    async def _body(self, request: Request) -> bytes:
        most = self.settings.max_body_bytes
        too_long = ProblemError(413, f"The body is longer than {most} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise too_long
        data = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise too_long
        except TimeoutError:
            raise ProblemError(
                408, f"The body did not arrive within {self.settings.body_timeout:g} seconds.",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        return bytes(data)

    # -- operations ------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        health = await self.instance.health()
        return _Json(health.body, health.code, {"Cache-Control": "no-store"}, "application/health+json")

    async def livez(self, request: Request) -> Response:  # noqa: ARG002
        return _Json({"alive": True})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        ready = self.instance.state == "serving" and (await self.instance.health()).status != "fail"
        return _Json({"ready": ready, "state": self.instance.state}, 200 if ready else 503)

    async def host_readyz(self, request: Request) -> Response:
        """Whether any instance of the host takes traffic: a balancer must not drop a host that is only switching."""
        if (own := await self.readyz(request)).status_code == 200:
            return own
        replies = await self._neighbours("/readyz")
        ready = sorted(release for release, reply in replies.items() if reply is not None and reply.status == 200)
        return _Json(
            {"ready": bool(ready), "state": "serving" if ready else self.instance.state}, 200 if ready else 503
        )

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(merged({self.settings.release_id: self._page()}), media_type=CONTENT_TYPE)

    async def host_metrics(self, request: Request) -> Response:  # noqa: ARG002
        pages: dict[str, str | None] = {self.settings.release_id: self._page()}
        for release, reply in (await self._neighbours("/metrics")).items():
            pages[release] = reply.body.decode(errors="replace") if reply is not None and reply.status == 200 else None
        return Response(merged(pages), media_type=CONTENT_TYPE)

    def _page(self) -> str:
        connections = self.instance.describe()["connections"]
        self.instance.metrics.connections.set(connections)
        return self.instance.metrics.page()

    async def figures(self, request: Request) -> Response:  # noqa: ARG002
        return _Json(await self.instance.figures())

    async def host_figures(self, request: Request) -> Response:  # noqa: ARG002
        found = [await self.instance.figures()]
        for release, reply in (await self._neighbours("/metrics/dhash")).items():
            found.append(_figures_of(release, reply))
        return _Json({"instances": sorted(found, key=lambda entry: str(entry["release"]))})

    async def _neighbours(self, target: str) -> dict[str, neighbours.Reply | None]:
        return await neighbours.ask_all(self.settings.run_dir, self.settings.admin_socket, target)

    # -- switching (admin socket only) -----------------------------------------------------------------------------

    async def state(self, request: Request) -> Response:  # noqa: ARG002
        return _Json(self.instance.describe())

    async def serve(self, request: Request) -> Response:  # noqa: ARG002
        self.instance.serve()
        return _Json(self.instance.describe())

    async def standby(self, request: Request) -> Response:  # noqa: ARG002
        self.instance.stand_by()
        return _Json(self.instance.describe())


def _figures_of(release: str, reply: neighbours.Reply | None) -> dict[str, Any]:
    """A neighbour's figures; one that answers nonsense counts as down, and does not take the page with it."""
    try:
        said = json.loads(reply.body) if reply is not None and reply.status == 200 else None
    except ValueError:
        said = None
    return said if isinstance(said, dict) and said.get("release") == release else {"release": release, "up": 0}


async def _answer_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ProblemError)
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {
        404: f"There is nothing at {request.url.path[:100]}.",
        405: f"{request.method} is not allowed at {request.url.path[:100]}.",
    }
    return problem(error.status_code, said.get(error.status_code, f"{error.detail}."), error.headers)


class _Surroundings:
    """What every request gets: an id, a count, a log line, a last net for faults, and `Connection: close` when the
    instance is not serving, so that a kept-alive client comes back through the public socket."""

    def __init__(self, app: Starlette, instance: Instance, *, public: bool) -> None:
        self.app = app
        self.instance = instance
        self.public = public
        self.paths = {route.path for route in app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = time.monotonic()
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0
        body_is_in = False

        async def receive_noting() -> Message:
            nonlocal body_is_in
            message = await receive()
            if not message.get("more_body", False):
                body_is_in = True
            return message

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if self.public and self.instance.state != "serving":
                    # Closing while the client still sends would reset the connection and lose the answer.
                    if not body_is_in:
                        await self._swallow(receive_noting)
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with logger.contextualize(**{"mobius.request_id": request_id}):
            try:
                await self.app(scope, receive_noting, send_more)
            except ClientDisconnect:
                status = 499
            except Exception:  # noqa: BLE001 (logged with its trace; the client gets a clean answer)
                logger.exception("A request failed by a fault of the program")
                if status == 0:
                    await problem(500, "The service failed; the log has the request id.")(scope, receive, send_more)
            self._note(scope, status, time.monotonic() - begun)

    async def _swallow(self, receive: Receive) -> None:
        left = self.instance.settings.max_body_bytes
        try:
            async with asyncio.timeout(5):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        route = path if path in self.paths else "other"
        self.instance.metrics.request(route, scope["method"] if route != "other" else "any", status, seconds)
        fields = {
            "http.request.method": scope["method"],
            "url.path": path,
            "http.response.status_code": status,
            "http.server.request.duration": round(seconds, 6),
            "client.address": scope["client"][0] if scope.get("client") else "",
        }
        level = "ERROR" if status >= 500 and status != 503 else "INFO" if route.startswith("/v1/") else "DEBUG"
        logger.bind(**fields).log(level, "{} {} {}", scope["method"], path, status)
