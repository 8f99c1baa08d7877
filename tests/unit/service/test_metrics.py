# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counters, and their page."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mobius.service import app
from mobius.service.metrics import HASH_BOUNDS_SECONDS, REQUEST_BOUNDS_SECONDS, Metrics
from mobius.service.settings import ServiceSettings


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def metrics(release: str = ServiceSettings.release_id) -> Metrics:
    return Metrics(CollectorRegistry(), ServiceSettings(release_id=release))


def test_two_instances_live_in_one_process_because_each_has_its_registry() -> None:
    one, other = metrics(), metrics()
    one.request("/v1/hash", "POST", 200, 0.01)
    assert b"/v1/hash" in one.page()
    assert b"/v1/hash" not in other.page()


def test_a_page_has_every_series_of_its_registry_with_the_release() -> None:
    counted = metrics("1.0.0-aaaaaaaaaaaa")
    for seconds in (0.001, 0.02, 3.0):
        counted.hashed("fast-2", seconds)
    counted.failed("NotAPicture")
    for text in (counted.page(), counted.page()):  # the second page has the label once, too
        page = samples(text)
        for (name, labels), value in samples(generate_latest(counted.registry)).items():
            series = page.pop((name, tuple(sorted((*labels, ("release", "1.0.0-aaaaaaaaaaaa"))))))
            assert series == value or name.startswith("process_")
        assert page == {}
        types = [line for line in text.splitlines() if line.startswith(b"# TYPE")]
        assert len(types) == len(set(types)), "a family must be announced once"


def test_only_5xx_answers_under_v1_count_as_errors() -> None:
    counted = metrics()
    for route, status in (("/v1/hash", 200), ("/v1/hash", 415), ("/v1/hash", 503), ("/health", 503), ("other", 404)):
        counted.request(route, "POST", status, 0.01)
    assert (counted.totals.requests, counted.totals.errors) == (3, 1)


def test_percentiles_are_of_the_recent_hashes() -> None:
    counted = metrics()
    assert counted.percentiles() == {"p50": None, "p95": None, "p99": None, "count": 0}
    for number in range(2000):
        counted.hashed("fast-2", 9.0 if number < 1000 else (number - 999) / 1000)
    assert counted.percentiles() == {"p50": 0.5005, "p95": 0.95005, "p99": 0.99001, "count": 1000}


def test_the_bounds_of_the_histograms_are_close_enough_to_compare_builds_by() -> None:
    for bounds, step in ((HASH_BOUNDS_SECONDS, 1.3), (REQUEST_BOUNDS_SECONDS, 1.7)):
        assert all(1 < after / before < step for before, after in itertools.pairwise(bounds))
    assert set(REQUEST_BOUNDS_SECONDS) < set(HASH_BOUNDS_SECONDS)


def test_the_wait_for_a_body_is_no_time_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes five seconds for each half of its body, and a service that takes one."""
    now = 100.0
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: now))
    parts = iter([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal now
        now += 5.0
        return next(parts)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def service(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now
        while (await receive()).get("more_body", False):
            pass
        now += 1.0
        scope["mobius.route"] = "/v1/hash"
        await send({"type": "http.response.start", "status": 200, "headers": []})

    counted = metrics()
    middleware = app._RequestMiddleware(
        service, SimpleNamespace(stopping=False, settings=ServiceSettings(), metrics=counted)
    )
    scope = {"type": "http", "method": "POST", "path": "/v1/hash", "headers": []}
    asyncio.run(middleware(scope, receive, send))
    assert [message["status"] for message in sent] == [200]
    page = samples(counted.page())
    assert (
        page[
            "mobius_http_request_duration_seconds_sum", (("release", ServiceSettings.release_id), ("route", "/v1/hash"))
        ]
        == 1.0
    )
