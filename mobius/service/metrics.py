# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The metrics of an instance, for Prometheus and for `/metrics/dhash`."""

from __future__ import annotations

import collections
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric

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
        self._release = settings.release_id
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
        self.connections = Gauge("mobius_connections", "Open connections.", registry=registry)
        self.serving = Gauge("mobius_serving", "1 while its state is serving.", registry=registry)
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

    def page(self) -> bytes:
        """The series in Prometheus' text form, each with the release as a label."""
        return generate_latest(_Labelled(self.registry, self._release))


def memory_bytes(pid: int | Literal["self"] = "self") -> int:
    """Resident memory of a process, by default this one; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


class _Labelled:
    """A collector that adds the release to every series of another one."""

    def __init__(self, registry: CollectorRegistry, release: str) -> None:
        self._registry = registry
        self._release = release

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "release": self._release}) for sample in family.samples
            ]
            yield family
