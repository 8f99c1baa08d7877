"""What the watch takes for a trigger, and what it does not: builds that break slowly, and good ones that have a bad minute.

The clock is played; the pages are in the form that an instance gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from ansible_collections.mobius.dhash.plugins.module_utils.comparison import Tally
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import triggers

CHECKOUT = Path(__file__).parents[4]
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/host/defaults/main.yml").read_text(encoding="utf-8"))
ERRORS, FAILURES, P95, RESPONSE = (signal["name"] for signal in DEFAULTS["host_watch_signals"])
BASELINE = {
    ERRORS: Tally(0.0, 600, 0),
    FAILURES: Tally(0.01, 600, 6),
    P95: Tally(0.05, 600, None, {0.05: 12, 0.25: 0}),  # two in a hundred hashes are slow
    RESPONSE: Tally(0.06, 600, None, {0.1: 6, 1.0: 0}),
}
MEGABYTE = 1e6


def described(**changes: Any) -> dict[str, Any]:
    """What the role writes into the host's description by default."""
    return {
        "seconds": DEFAULTS["host_watch_seconds"],
        "interval": DEFAULTS["host_watch_interval"],
        "unhealthy_seconds": DEFAULTS["host_watch_unhealthy_seconds"],
        "restarts": DEFAULTS["host_watch_restarts"],
        "metrics_path": DEFAULTS["host_metrics_path"],
        "signals": DEFAULTS["host_watch_signals"],
        "memory": DEFAULTS["host_watch_memory"],
        **changes,
    }


class Build:
    """An instance with ten requests a second, and its counters so far."""

    def __init__(self, rate: float = 10.0) -> None:
        self.rate = rate
        self.requests = self.errors = self.failures = self.quick = self.slow = self.late = 0
        self.errors_due = 0.0
        self.memory = 200 * MEGABYTE

    def work(
        self, seconds: float, errors: float, failures: float, slow: float, growth: float, late: float = 0.0
    ) -> None:
        count = int(seconds * self.rate)
        self.requests += count
        self.errors_due += count * errors
        self.errors = int(self.errors_due)
        self.failures += round(count * failures)
        self.slow += round(count * slow)
        self.quick += count - round(count * slow)
        self.late += round(count * late)
        self.memory += growth * MEGABYTE * seconds / 3600

    def page(self) -> str:
        hashes = self.quick + self.slow
        return (
            f'mobius_http_requests_total{{route="/v1/hash",method="POST",status="200"}} {self.requests - self.errors}\n'
            f'mobius_http_requests_total{{route="/v1/hash",method="POST",status="500"}} {self.errors}\n'
            f'mobius_extraction_failures_total{{reason="Broken"}} {self.failures}\n'
            f'mobius_hash_duration_seconds_bucket{{le="0.05"}} {self.quick}\n'
            f'mobius_hash_duration_seconds_bucket{{le="0.25"}} {hashes}\n'
            f'mobius_hash_duration_seconds_bucket{{le="+Inf"}} {hashes}\n'
            f"mobius_hash_duration_seconds_count {hashes}\n"
            f'mobius_http_request_duration_seconds_bucket{{route="/v1/hash",le="0.1"}} {self.requests - self.late}\n'
            f'mobius_http_request_duration_seconds_bucket{{route="/v1/hash",le="1.0"}} {self.requests - self.late}\n'
            f'mobius_http_request_duration_seconds_bucket{{route="/v1/hash",le="1.6"}} {self.requests}\n'
            f'mobius_http_request_duration_seconds_bucket{{route="/v1/hash",le="+Inf"}} {self.requests}\n'
            f"process_resident_memory_bytes {self.memory:.0f}\n"
        )


def watched(
    behaviour: Callable[[float], dict[str, float]],
    problem: Callable[[float], str | None] = lambda at: None,
    seconds: float = 3600,
    count_restarts: Callable[[float], int | None] = lambda at: None,
    rate: float = 10.0,
    **changes: Any,
) -> tuple[float, str] | None:
    """When the watch had enough of a build, and why; None when it never had."""
    watcher, build = triggers.Watcher(triggers.WatchSettings.parse(described(**changes)), BASELINE), Build(rate)
    for step in range(int(seconds / 5)):
        at = step * 5.0
        usual = {"errors": 0.0, "failures": 0.01, "slow": 0.02, "growth": 0.0}
        build.work(5, **{**usual, **behaviour(at)})
        if why := watcher.add_sample(1000 + at, problem(at), build.page(), count_restarts(at)):
            return at, why
    return None


@pytest.mark.slow
def test_a_good_build_is_left_alone() -> None:
    assert watched(lambda at: {}) is None


@pytest.mark.parametrize(
    ("behaviour", "why", "earliest", "latest"),
    [
        ({"errors": 0.1}, "had an error rate", 120, 130),
        ({"errors": 0.05}, "had an error rate", 120, 250),
        ({"failures": 0.2}, "had an extraction failure rate", 300, 310),
        ({"slow": 0.5}, "had a p95 hash time", 300, 310),
        ({"late": 1.0}, "had a p95 response time", 180, 190),
        ({"growth": 200}, "grew by 200 MB an hour", 1500, 1510),
    ],
)
def test_a_build_that_stays_worse_goes_for_the_reason_that_it_gives(
    behaviour: dict[str, float], why: str, earliest: float, latest: float
) -> None:
    found = watched(lambda at: behaviour)
    assert found is not None
    at, reason = found
    assert why in reason
    assert earliest <= at <= latest, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "behaviour",
    [
        lambda at: {"errors": 1.0} if 600 <= at < 650 else {},  # a burst, over 5 % of two minutes
        lambda at: {"errors": 0.02},
        lambda at: {"failures": 0.025},
        lambda at: {"slow": 1.0} if 600 <= at < 740 else {},
        lambda at: {"growth": 50_000} if at < 60 else {},  # caches that fill after the start
        lambda at: {"growth": 50_000} if 1000 <= at < 1020 else {},  # one large step, which is no leak
        lambda at: {"growth": 80},
    ],
    ids=["burst", "few errors", "few failures", "slow for a while", "warm-up", "step", "grows slowly"],
)
def test_a_build_that_has_a_bad_moment_or_stays_within_bounds_may_stay(
    behaviour: Callable[[float], dict[str, float]],
) -> None:
    assert watched(behaviour) is None


@pytest.mark.slow
def test_five_unhealthy_minutes_in_a_row_are_too_many_and_interrupted_ones_are_not() -> None:
    assert watched(lambda at: {}, lambda at: "it hangs" if at >= 100 else None) == (
        400.0,
        "was unhealthy for 300 s: it hangs",
    )
    assert watched(lambda at: {}, lambda at: "it hangs" if at % 300 else None) is None


def test_little_traffic_takes_longer_to_prove_the_same() -> None:
    found = watched(lambda at: {"errors": 0.05}, rate=1.0)
    assert found is not None
    assert 900 <= found[0] <= 3600
    assert "had an error rate" in found[1]


def test_a_process_that_ends_again_and_again_is_too_many_restarts() -> None:
    found = watched(lambda at: {}, count_restarts=lambda at: 1 + int(at / 75))
    assert found == (225.0, "was restarted 3 times, since its process ended")


def test_a_restart_by_a_person_begins_the_count_again() -> None:
    found = watched(lambda at: {}, count_restarts=lambda at: 2 if at < 300 else int((at - 300) / 75))
    assert found is not None and found[0] == 525.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count_restarts", "changes"),
    [
        (lambda at: 7, {}),  # before the watch
        (lambda at: 7 + (at > 600) + (at > 1200), {}),
        (lambda at: 2 if at < 600 else min(2, int((at - 600) / 600)), {}),  # a person restarted the unit
        (lambda at: int(at / 75), {"restarts": 0}),
        (lambda at: None, {}),
    ],
    ids=["earlier ones", "two", "by a person", "any number", "not known"],
)
def test_restarts_that_are_no_trigger(count_restarts: Callable[[float], int | None], changes: dict[str, Any]) -> None:
    assert watched(lambda at: {}, count_restarts=count_restarts, **changes) is None


@pytest.mark.slow
def test_a_build_at_the_limit_is_left_alone_however_often_is_tested() -> None:
    for seed in range(10):
        draw = Random(seed).random
        assert watched(lambda at, draw=draw: {"errors": sum(draw() < 0.02 for _ in range(50)) / 50}) is None


def test_without_a_baseline_only_limits_count() -> None:
    watcher, build = triggers.Watcher(triggers.WatchSettings.parse(described())), Build()
    for step in range(200):
        build.work(5, errors=0.0, failures=0.3, slow=1.0, growth=0.0)
        assert watcher.add_sample(step * 5.0, None, build.page()) is None
    for step in range(200, 300):
        build.work(5, errors=0.5, failures=0.3, slow=1.0, growth=0.0)
        if watcher.add_sample(step * 5.0, None, build.page()):
            return
    pytest.fail("one request in two failed")


def test_the_counters_of_a_restarted_process_begin_again() -> None:
    watcher = triggers.Watcher(triggers.WatchSettings.parse(described()), BASELINE)
    build = Build()
    for step in range(100):
        if step % 20 == 0:
            build = Build()
        build.work(5, errors=0.0, failures=0.01, slow=0.02, growth=0.0)
        assert watcher.add_sample(step * 5.0, None, build.page()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"interval": 0},
        {"interval": 40},
        {"seconds": "long"},
        {"signals": [{"name": "x"}]},
        {"signals": [{**DEFAULTS["host_watch_signals"][0], "lasting": None}]},
        {"memory": {"metric": "m"}},
    ],
)
def test_a_watch_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MobiusError) as caught:
        triggers.WatchSettings.parse(described(**changes))
    assert caught.value.outcome == "invalid_input"


def test_the_baseline_is_what_the_gate_counted_of_the_release_before_or_else_of_the_new_one() -> None:
    signals = [
        {"name": "a", "old": 0.5, "new": 1.0, "old_samples": 10, "new_samples": 20, "old_above": None},
        {"name": "b", "old": None, "new": 2, "old_samples": 0, "new_samples": 20, "new_above": {"0.5": 20, "2.5": 0}},
        {"name": "c", "old": None, "new": None, "old_samples": 0, "new_samples": 0},
        {"name": "of an earlier version", "old": 0.1, "new": 0.2, "old_samples": 30, "new_samples": 30},
    ]
    assert triggers.baseline_of({"evidence": {"values": {"signals": signals}}}) == {
        "a": Tally(0.5, 10, 5),
        "b": Tally(2.0, 20, None, {0.5: 20, 2.5: 0}),
        "of an earlier version": Tally(0.1, 30, 3),
    }
    assert triggers.baseline_of({"evidence": {}}) == {}
    assert triggers.baseline_of({"evidence": {"values": {"signals": [{"name": "a", "old": 0.5, "new": 1.0}]}}}) == {}
