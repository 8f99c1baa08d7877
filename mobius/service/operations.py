# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Health, readiness and metrics of the instance: what operators, load balancers and scrapers call."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.responses import Response

from mobius.errors import MobiusError
from mobius.service.instance import Instance
from mobius.service.metrics import CONTENT_TYPE
from mobius.service.problems import Json


class Operations:
    """The request handlers."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    async def health(self, request: Request) -> Response:
        health = await self.instance.health(shows_paths=self._has_token(request))
        return Json(health.body, health.code, {"Cache-Control": "no-store"}, "application/health+json")

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        with contextlib.suppress(MobiusError):
            return self.instance.tokens.name_of(token.strip()) is not None
        return False

    async def livez(self, request: Request) -> Response:  # noqa: ARG002
        return Json({"alive": True})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        ready = not self.instance.stopping and (await self.instance.health()).status != "fail"
        return Json({"ready": ready, "state": self.instance.state}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        self.instance.measure()
        return Response(self.instance.metrics.page(), media_type=CONTENT_TYPE)

    async def figures(self, request: Request) -> Response:  # noqa: ARG002
        return Json(await self.instance.figures())
