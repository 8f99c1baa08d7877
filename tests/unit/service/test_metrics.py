# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counters, and the merged page of several instances."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mobius.service.metrics import Metrics, merged
from mobius.service.settings import ServiceSettings


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), ServiceSettings())


def test_two_instances_live_in_one_process_because_each_has_its_registry() -> None:
    one, other = metrics(), metrics()
    one.request("/v1/hash", "POST", 200, 0.01)
    assert "/v1/hash" in one.page()
    assert "/v1/hash" not in other.page()


def test_a_merged_page_keeps_every_series_with_its_release() -> None:
    one, other = metrics(), metrics()
    for seconds in (0.001, 0.02, 3.0):
        one.hashed("fast-2", seconds)
        other.hashed("exact-1", seconds)
    other.failed("NotAPicture")
    pages = {"1.0.0-aaaaaaaaaaaa": one.page(), "1.1.0-bbbbbbbbbbbb": other.page()}
    text = merged({**pages, "1.2.0-cccccccccccc": None}).decode()
    merged_samples = samples(text)
    for release, page in pages.items():
        for (name, labels), value in samples(page).items():
            assert merged_samples[name, tuple(sorted((*labels, ("release", release))))] == value
    up = {dict(labels)["release"]: value for (name, labels), value in merged_samples.items() if name == "mobius_up"}
    assert up == {"1.0.0-aaaaaaaaaaaa": 1.0, "1.1.0-bbbbbbbbbbbb": 1.0, "1.2.0-cccccccccccc": 0.0}
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
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
