# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Health, readiness, metrics, and the switching of the instance: what operators, load balancers and scrapers call."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mobius.service import neighbours
from mobius.service.instance import Instance
from mobius.service.metrics import CONTENT_TYPE, merged
from mobius.service.problems import Json


class Operations:
    """The request handlers. Those named `host_` report on every instance of the host."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.settings = instance.settings

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        health = await self.instance.health()
        return Json(health.body, health.code, {"Cache-Control": "no-store"}, "application/health+json")

    async def livez(self, request: Request) -> Response:  # noqa: ARG002
        return Json({"alive": True})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        ready = self.instance.takes_requests and (await self.instance.health()).status != "fail"
        return Json({"ready": ready, "state": self.instance.state}, 200 if ready else 503)

    async def host_readyz(self, request: Request) -> Response:
        """Whether any instance of the host takes traffic: a host must stay in the balancer while it switches."""
        if (own := await self.readyz(request)).status_code == 200:
            return own
        replies = await self._neighbours("/readyz")
        ready = sorted(release for release, reply in replies.items() if reply is not None and reply.status == 200)
        return Json({"ready": bool(ready), "state": "serving" if ready else self.instance.state}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        return Response(merged({self.settings.release_id: self._page()}), media_type=CONTENT_TYPE)

    async def host_metrics(self, request: Request) -> Response:  # noqa: ARG002
        pages: dict[str, str | None] = {self.settings.release_id: self._page()}
        for release, reply in (await self._neighbours("/metrics")).items():
            pages[release] = reply.body.decode(errors="replace") if reply is not None and reply.status == 200 else None
        return Response(merged(pages), media_type=CONTENT_TYPE)

    def _page(self) -> str:
        self.instance.measure()
        return self.instance.metrics.page()

    async def figures(self, request: Request) -> Response:  # noqa: ARG002
        return Json(await self.instance.figures())

    async def host_figures(self, request: Request) -> Response:  # noqa: ARG002
        figures = await self.instance.figures()
        if self.settings.address is not None:
            return Json({**figures, "instances": [figures]})
        entries = [figures]
        for release, reply in (await self._neighbours("/metrics/dhash")).items():
            entries.append(_figures_of(release, reply))
        return Json({"instances": sorted(entries, key=lambda entry: str(entry["release"]))})

    async def _neighbours(self, target: str) -> dict[str, neighbours.Reply | None]:
        return await neighbours.request_all(self.settings.run_dir, self.settings.admin_socket, target)

    # -- switching (admin socket only) -----------------------------------------------------------------------------

    async def state(self, request: Request) -> Response:  # noqa: ARG002
        return Json(self.instance.describe())

    async def serve(self, request: Request) -> Response:  # noqa: ARG002
        self.instance.serve()
        return Json(self.instance.describe())

    async def standby(self, request: Request) -> Response:  # noqa: ARG002
        self.instance.stand_by()
        return Json(self.instance.describe())


def _figures_of(release: str, reply: neighbours.Reply | None) -> dict[str, Any]:
    """The figures of a neighbour; one whose answer is not valid counts as down."""
    try:
        figures = json.loads(reply.body) if reply is not None and reply.status == 200 else None
    except ValueError:
        figures = None
    return figures if isinstance(figures, dict) and figures.get("release") == release else {"release": release, "up": 0}
