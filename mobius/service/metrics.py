# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The metrics of an instance, for Prometheus and for `/metrics/dhash`; and the page that merges those of several."""

from __future__ import annotations

import collections
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from mobius.service.settings import ServiceSettings

PERCENTILE_WINDOW_HASHES: Final = 1000
"""Percentiles are those of this many last hashes."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# From 0.5 ms to 32 s, in the steps of Renard's series R10 and R5 (ISO 3), each a quarter and six tenths above the one
# before: a gate that compares two builds by a histogram cannot see what stays within one step.
HASH_BOUNDS_SECONDS: Final = tuple(
    round(step * 10.0**power, 6)
    for power in range(-4, 2)
    for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
    if 0.0005 <= step * 10.0**power <= 32
)
REQUEST_BOUNDS_SECONDS: Final = HASH_BOUNDS_SECONDS[1::2]


@dataclass
class Totals:
    """Counts since the start, for `/metrics/dhash`."""

    requests: int = 0
    errors: int = 0
    pictures: int = 0
    failures: int = 0


class Metrics:
    """The counters of one instance, in its own registry."""

    def __init__(self, registry: CollectorRegistry, settings: ServiceSettings) -> None:
        self.registry = registry
        self.totals = Totals()
        self._recent: collections.deque[float] = collections.deque(maxlen=PERCENTILE_WINDOW_HASHES)
        self._requests = Counter(
            "mobius_http_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "mobius_http_request_duration_seconds",
            "From the request's head to the answer, without the wait for its body.", ["route"],
            registry=registry, buckets=REQUEST_BOUNDS_SECONDS,
        )  # fmt: skip
        self._hash_seconds = Histogram(
            "mobius_hash_duration_seconds", "Decoding and hashing one picture.", ["algorithm"], registry=registry,
            buckets=HASH_BOUNDS_SECONDS,
        )  # fmt: skip
        self._failures = Counter(
            "mobius_extraction_failures", "Pictures that could not be hashed.", ["reason"], registry=registry
        )
        self.in_flight = Gauge("mobius_requests_in_flight", "Requests under /v1 being worked on.", registry=registry)
        self.bodies = Gauge("mobius_bodies_held_bytes", "Request bodies in memory.", registry=registry)
        self.pictures = Gauge("mobius_index_pictures", "Pictures in the index.", registry=registry)
        self.doubtful = Gauge("mobius_review_queue_pairs", "Doubtful matches waiting for a person.", registry=registry)
        self._lost = Counter("mobius_log_lines_lost", "Lines of the log that could not be written.", registry=registry)
        self._lost_so_far = 0
        self.connections = Gauge("mobius_connections", "Open connections from the public socket.", registry=registry)
        self.serving = Gauge("mobius_serving", "1 while accepting from the public socket.", registry=registry)
        build = Info("mobius_build", "What runs here.", registry=registry)
        build.info({"version": settings.version, "service": settings.service})
        ProcessCollector(registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer. `route` is the path's pattern, so that clients cannot make new series."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)
        if route.startswith("/v1/"):
            self.totals.requests += 1
            self.totals.errors += status >= 500

    def hashed(self, algorithm: str, seconds: float) -> None:
        self.totals.pictures += 1
        self._hash_seconds.labels(algorithm).observe(seconds)
        self._recent.append(seconds)

    def failed(self, reason: str) -> None:
        self.totals.pictures += 1
        self.totals.failures += 1
        self._failures.labels(reason).inc()

    def lost_lines(self, so_far: int) -> None:
        """Lines of the log lost since the start."""
        self._lost.inc(so_far - self._lost_so_far)
        self._lost_so_far = so_far

    def percentiles(self) -> dict[str, float | int | None]:
        """Seconds of the recent hashes: p50, p95, p99 (None without any) and how many there were."""
        if not self._recent:
            return {"p50": None, "p95": None, "p99": None, "count": 0}
        values = numpy.percentile(numpy.fromiter(self._recent, float), (50, 95, 99))
        percentiles = dict(zip(("p50", "p95", "p99"), (round(float(value), 6) for value in values), strict=True))
        return {**percentiles, "count": len(self._recent)}

    def page(self) -> str:
        """This instance's series in Prometheus' text form, without the release."""
        return generate_latest(self.registry).decode()


def memory_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def merged(pages: Mapping[str, str | None]) -> bytes:
    """Merge the pages of several instances; each series gets its release as a label.

    Args:
        pages: release id to the page of its instance, None when it did not answer. `mobius_up` is 0 for that one, and
            for a page that cannot be parsed.
    """
    up = GaugeMetricFamily("mobius_up", "1 when the release's instance answered.", labels=["release"])
    families: dict[str, Metric] = {up.name: up}
    for release, page in sorted(pages.items()):
        parsed = None if page is None else _parse(page)
        up.add_metric([release], 0.0 if parsed is None else 1.0)
        for family in parsed or ():
            if family.name == up.name:
                continue  # a neighbour's own `mobius_up` does not count
            target = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            for sample in family.samples:
                labels = {**sample.labels, "release": release}
                target.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


def _parse(page: str) -> list[Metric] | None:
    """The metric families of a page; None when it cannot be parsed, as from a broken neighbour."""
    try:
        return list(text_string_to_metric_families(page))
    except (ValueError, LookupError, AttributeError):
        return None


class _Families:
    """A collector of given families, so that prometheus-client can write them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
