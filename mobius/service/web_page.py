# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The web page at `/` for the media engineer, made of the three files in `page/`.

It is sent as one document, so that the markup of one release never loads the script of another while both serve.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response


async def answer(request: Request) -> Response:  # noqa: ARG001
    """The page. Its headers restrict it to its own content and to requests to this service."""
    body, policy = _document()
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
    }
    return Response(body, headers=headers, media_type="text/html")


@functools.cache
def _document() -> tuple[bytes, str]:
    """The document and its Content-Security-Policy."""
    files = resources.files("mobius.service") / "page"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = (files / "index.html").read_text(encoding="utf-8")
    page = page.replace("/*page.css*/", style, 1).replace("/*page.js*/", script, 1)
    policy = {
        "default-src": "'none'",
        "script-src": _hash_source(script),
        "style-src": _hash_source(style),
        "connect-src": "'self'",
        "img-src": "blob: data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page.encode(), "; ".join(f"{name} {value}" for name, value in policy.items())


def _hash_source(text: str) -> str:
    """The source expression of the policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
