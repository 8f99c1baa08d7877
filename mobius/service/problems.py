# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Responses: JSON, and errors as RFC 9457 problem documents with title, status and one sentence."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"


class Json(JSONResponse):
    """JSON on one line."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


class ProblemError(Exception):
    """Ends a request with a problem document.

    Args:
        status: the HTTP status.
        detail: one sentence for the person who sent the request.
    """

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> Response:
        return problem(self.status, self.detail, self.headers, **self.more)


def document(status: int, detail: str, **more: Any) -> bytes:
    """The body of a problem."""
    title = http.HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, **more}).encode()


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """The whole response."""
    return Response(document(status, detail, **more), status, dict(headers or {}), MEDIA_TYPE)
