# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP applications: the public one, and the admin socket's, which is the same and more."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from loguru import logger
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobius.errors import MobiusError
from mobius.service import openapi, web_page
from mobius.service.api import Api
from mobius.service.instance import Instance
from mobius.service.operations import Operations
from mobius.service.problems import Json, ProblemError, problem

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
Handler = Callable[[Request], Awaitable[Response]]
Access = Literal["free", "read", "write"]


@dataclass(frozen=True)
class Endpoint:
    """A route. `free` ones answer everybody at any time; the others have to be allowed, and count as work."""

    method: str
    path: str
    handler: Handler
    access: Access = "free"


def endpoints(instance: Instance, *, admin: bool) -> list[Endpoint]:
    """Every route of the public socket, or of the admin socket."""
    api, operations = Api(instance), Operations(instance)
    table = [
        Endpoint("POST", "/v1/hash", api.hash, "read"),
        Endpoint("POST", "/v1/images", api.add, "write"),
        Endpoint("GET", "/v1/images/{sha256}", api.get, "read"),
        Endpoint("DELETE", "/v1/images/{sha256}", api.remove, "write"),
        Endpoint("GET", "/v1/images/{sha256}/thumbnail", api.thumbnail, "read"),
        Endpoint("POST", "/v1/search", api.search, "read"),
        Endpoint("GET", "/v1/duplicates", api.duplicates, "read"),
        Endpoint("GET", "/v1/review", api.review, "read"),
        Endpoint("POST", "/v1/review/{id}", api.decide, "write"),
        Endpoint("GET", "/", web_page.answer),
        Endpoint("GET", "/openapi.json", _document),
        Endpoint("GET", "/health", operations.health),
        Endpoint("GET", "/livez", operations.livez),
        Endpoint("GET", "/readyz", operations.readyz if admin else operations.host_readyz),
        Endpoint("GET", "/metrics", operations.metrics if admin else operations.host_metrics),
        Endpoint("GET", "/metrics/dhash", operations.figures if admin else operations.host_figures),
    ]
    if admin:
        table += [
            Endpoint("GET", "/admin/state", operations.state),
            Endpoint("POST", "/admin/serve", operations.serve),
            Endpoint("POST", "/admin/standby", operations.standby),
        ]
    return table


def build(instance: Instance, *, admin: bool) -> ASGIApp:
    """The application of the public socket, or of the admin socket.

    The public one speaks for the host where a balancer or a scraper asks (`/readyz`, `/metrics`); the admin one always
    speaks for the instance itself, can switch it, and asks for no token: its file mode says who may.
    """
    guard = _Guard(instance, admin=admin)
    methods: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints(instance, admin=admin):
        methods.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    app = Starlette(
        routes=[Route(path, guard.around(of_path), methods=list(of_path)) for path, of_path in methods.items()],
        exception_handlers={ProblemError: _answer_problem, HTTPException: _answer_http_exception},
    )
    app.router.redirect_slashes = False
    return _Surroundings(app, instance, public=not admin)


class _Guard:
    """Who may, and whether there is room."""

    def __init__(self, instance: Instance, *, admin: bool) -> None:
        self.instance = instance
        self.settings = instance.settings
        self.admin = admin

    def around(self, methods: dict[str, Endpoint]) -> Handler:
        """The handler of a path: one endpoint for each method."""

        async def handle(request: Request) -> Response:
            endpoint = methods["GET" if request.method == "HEAD" else request.method]
            request.scope["mobius.route"] = endpoint.path
            if endpoint.access == "free":
                return await endpoint.handler(request)
            if request.scope["state"].get("surplus"):
                raise ProblemError(
                    503,
                    "Too many connections are open; try again.",
                    headers={"Retry-After": "1", "Connection": "close"},
                )
            request.scope["mobius.by"] = "admin" if self.admin else self._who(request, endpoint.access)
            self.instance.enter_request()
            try:
                return await endpoint.handler(request)
            finally:
                self.instance.leave_request()

        return handle

    def _who(self, request: Request, access: Access) -> str:
        """The name of the token that the request carries; `anybody` where none is asked for.

        Raises:
            ProblemError: 401 when it needs a token, 403 when another site's page sent it.
        """
        if access == "write":
            self._refuse_strangers(request)
        said, _, token = request.headers.get("authorization", "").partition(" ")
        if said.lower() == "bearer":
            try:
                name = self.instance.tokens.name_of(token.strip())
            except MobiusError as error:
                # the client is not told the path
                raise ProblemError(503, "The tokens cannot be read now.", headers={"Retry-After": "30"}) from error
            if name is not None:
                return name
        elif (self.settings.writes if access == "write" else self.settings.reads) == "open":
            return "anybody"
        raise ProblemError(
            401, "This needs a valid token: send `Authorization: Bearer TOKEN`.", headers={"WWW-Authenticate": "Bearer"}
        )

    def _refuse_strangers(self, request: Request) -> None:
        """A page of another site, open in a browser that reaches this service, must not write with its user's reach."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and not hmac.compare_digest(urlsplit(origin).netloc.encode(), host.encode()):
            raise ProblemError(403, "A page of another site may not write here.")
        if self.settings.writes == "open" and isinstance(self.settings.listen, tuple):
            # a name that somebody else made point to 127.0.0.1 is such a page as well
            local = self.settings.listen[0] in _LOOPBACK
            if local and urlsplit(f"//{host}").hostname not in _LOOPBACK:
                raise ProblemError(403, f"Writing is open for this machine only, not for {host[:100]!r}.")


async def _document(request: Request) -> Response:  # noqa: ARG001
    return Json(openapi.document())


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
        path, route = scope["path"], scope.get("mobius.route", "other")
        self.instance.metrics.request(route, scope["method"] if route != "other" else "any", status, seconds)
        fields = {
            "http.request.method": scope["method"],
            "url.path": path,
            "http.response.status_code": status,
            "http.server.request.duration": round(seconds, 6),
            "client.address": scope["client"][0] if scope.get("client") else "",
            "enduser.id": scope.get("mobius.by", ""),
        }
        level = (
            "ERROR" if status >= 500 and status not in (503, 507) else "INFO" if route.startswith("/v1/") else "DEBUG"
        )
        logger.bind(**fields).log(level, "{} {} {}", scope["method"], path, status)
