# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The HTTP application: its routes, who may use them, and what every request gets."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
import time
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
from mobius.service.api import Api, cancelled_when_gone
from mobius.service.instance import Instance
from mobius.service.listening import GONE, new_request_id
from mobius.service.operations import Operations
from mobius.service.problems import Json, ProblemError, problem

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
Handler = Callable[[Request], Awaitable[Response]]
Access = Literal["free", "read", "write"]


@dataclass(frozen=True)
class HttpEndpoint:
    """A route. A `free` one answers everybody at any time; the others need access and count as in flight,
    one with a body from when that is here."""

    method: str
    path: str
    handler: Handler
    access: Access = "free"


def endpoints(instance: Instance) -> list[HttpEndpoint]:
    """Every route."""
    api, operations = Api(instance), Operations(instance)
    return [
        HttpEndpoint("POST", "/v1/hash", api.hash, "read"),
        HttpEndpoint("POST", "/v1/images", api.add, "write"),
        HttpEndpoint("GET", "/v1/images/{sha256}", api.get, "read"),
        HttpEndpoint("DELETE", "/v1/images/{sha256}", api.remove, "write"),
        HttpEndpoint("GET", "/v1/images/{sha256}/thumbnail", api.thumbnail, "read"),
        HttpEndpoint("POST", "/v1/search", api.search, "read"),
        HttpEndpoint("GET", "/v1/duplicates", api.duplicates, "read"),
        HttpEndpoint("GET", "/v1/review", api.review, "read"),
        HttpEndpoint("POST", "/v1/review/{id}", api.decide, "write"),
        HttpEndpoint("GET", "/", web_page.answer),
        HttpEndpoint("GET", "/openapi.json", _document),
        HttpEndpoint("GET", "/health", operations.health),
        HttpEndpoint("GET", "/livez", operations.livez),
        HttpEndpoint("GET", "/readyz", operations.readyz),
        HttpEndpoint("GET", "/metrics", operations.metrics),
        HttpEndpoint("GET", "/metrics/dhash", operations.figures),
    ]


def build(instance: Instance) -> ASGIApp:
    """The application of an instance."""
    access_control = _AccessControl(instance)
    methods: dict[str, dict[str, HttpEndpoint]] = {}
    for endpoint in endpoints(instance):
        methods.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    app = Starlette(
        routes=[
            Route(path, access_control.handler_for(of_path), methods=list(of_path)) for path, of_path in methods.items()
        ],
        exception_handlers={ProblemError: _answer_problem, HTTPException: _answer_http_exception},
    )
    app.router.redirect_slashes = False
    return _RequestMiddleware(app, instance)


class _AccessControl:
    """Authorizes a request and limits the number of requests in flight."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.settings = instance.settings

    def handler_for(self, methods: dict[str, HttpEndpoint]) -> Handler:
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
            request.scope["mobius.by"] = self._authorize(request, endpoint.access)
            if endpoint.method == "POST":
                return await endpoint.handler(request)  # in flight once its body is here
            with self.instance.in_flight(), cancelled_when_gone(request):
                return await endpoint.handler(request)

        return handle

    def _authorize(self, request: Request, access: Access) -> str:
        """The name of the request's token; `anybody` where none is needed.

        Raises:
            ProblemError: 401 when it needs a token, 403 when it comes from another site, 503 when the tokens cannot be
                read.
        """
        self._reject_cross_site(request, access)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            try:
                name = self.instance.tokens.name_of(token.strip())
            except MobiusError as error:
                # the client must not learn the path
                raise ProblemError(503, "The tokens cannot be read now.", headers={"Retry-After": "30"}) from error
            if name is not None:
                return name
        elif (self.settings.writes if access == "write" else self.settings.reads) == "open":
            return "anybody"
        raise ProblemError(
            401, "This needs a valid token: send `Authorization: Bearer TOKEN`.", headers={"WWW-Authenticate": "Bearer"}
        )

    def _reject_cross_site(self, request: Request, access: Access) -> None:
        """Reject what a page of another site sends from the browser of a user who can reach this service."""
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        is_limited = self.settings.hosts == "local"
        is_checked = origin is not None and (is_limited or access == "write")
        if is_checked and not hmac.compare_digest(_netloc_of(origin or "").encode(), host.encode()):
            raise ProblemError(403, "A page of another site may not use this.")
        # DNS rebinding: a foreign name that resolves to 127.0.0.1
        if is_limited and _hostname_of(host) not in _LOOPBACK:
            raise ProblemError(403, f"This service answers requests to this machine only, not to {host[:100]!r}.")


def _netloc_of(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _hostname_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _document(request: Request) -> Response:  # noqa: ARG001
    return Json(openapi.document())


async def _answer_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ProblemError)
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: f"There is nothing at {request.url.path[:100]}.",
        405: f"{request.method} is not allowed at {request.url.path[:100]}.",
    }
    return problem(error.status_code, details.get(error.status_code, f"{error.detail}."), error.headers)


class _RequestMiddleware:
    """Gives every request an id, counts and logs it, and turns an unexpected exception into a 500.

    While the instance stops, answers carry `Connection: close`, so that a kept-alive client connects to another one.
    """

    def __init__(self, app: Starlette, instance: Instance) -> None:
        self.app = app
        self.instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.monotonic()
        client_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else new_request_id()
        status = 0
        body_is_complete = False
        seconds_for_body = 0.0  # a slow client is not a slow service

        async def receive_and_track() -> Message:
            nonlocal body_is_complete, seconds_for_body
            before = time.monotonic()
            message = await receive()
            seconds_for_body += 0.0 if body_is_complete else time.monotonic() - before
            if not message.get("more_body", False):
                body_is_complete = True
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if self.instance.stopping:
                    # Closing while the client still sends would reset the connection and lose the answer.
                    if not body_is_complete:
                        await self._discard_body(receive_and_track)
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        with logger.contextualize(**{"mobius.request_id": request_id}):
            try:
                await self.app(scope, receive_and_track, send_with_headers)
            except ClientDisconnect:
                status = 499
            except asyncio.CancelledError:
                if not scope.get(GONE):
                    raise
                status = 499
            except Exception:  # noqa: BLE001 (logged with its trace; the client gets a clean answer)
                logger.exception("Unexpected exception while answering a request")
                if status == 0:
                    await problem(500, "The service failed; its log has the details under the request id.")(
                        scope, receive, send_with_headers
                    )
            self._record(scope, status, time.monotonic() - started, seconds_for_body)

    def _client_address(self, scope: Scope) -> str:
        if self.instance.settings.client_address == "forwarded":
            forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            with contextlib.suppress(IndexError, ValueError):
                return str(ipaddress.ip_address(forwarded[-1].decode("latin-1").rpartition(",")[2].strip()))
        return str(scope["client"][0]) if scope.get("client") else ""

    async def _discard_body(self, receive: Receive) -> None:
        remaining = self.instance.settings.max_body_bytes
        try:
            async with asyncio.timeout(5):
                while remaining > 0:
                    message = await receive()
                    remaining -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _record(self, scope: Scope, status: int, seconds: float, seconds_for_body: float) -> None:
        path, route = scope["path"], scope.get("mobius.route", "other")
        method = scope["method"] if route != "other" else "any"
        self.instance.metrics.request(route, method, status, seconds - seconds_for_body)
        fields = {
            "http.request.method": scope["method"],
            "url.path": path,
            "http.response.status_code": status,
            "http.server.request.duration": round(seconds, 6),
            "client.address": self._client_address(scope),
            "enduser.id": scope.get("mobius.by", ""),
        }
        level = (
            "ERROR" if status >= 500 and status not in (503, 507) else "INFO" if route.startswith("/v1/") else "DEBUG"
        )
        logger.bind(**fields).log(level, "{} {} {}", scope["method"], path, status)
