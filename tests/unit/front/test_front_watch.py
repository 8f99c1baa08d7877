"""The watch of a service behind a front: users' requests as the front counts them, each figure only while it is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mobius.dhash.plugins.module_utils.comparison import Tally
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import triggers

CHECKOUT = Path(__file__).parents[3]
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/host/defaults/main.yml").read_text(encoding="utf-8"))
ERRORS, P50, P95 = (f"users' {one['name']}" for one in DEFAULTS["host_watch_front_signals"])
BASELINE = {
    ERRORS: Tally(0.0, 600, 0),
    P50: Tally(0.03, 600, None, {0.02: 600, 0.03: 290, 0.04: 0}),
    P95: Tally(0.04, 600, None, {0.02: 600, 0.03: 290, 0.04: 0}),
}


def described(**changes: Any) -> dict[str, Any]:
    """What the role writes into the description of a service behind a front."""
    return {
        "seconds": 3600,
        "interval": 5,
        "unhealthy_seconds": 300,
        "restarts": 3,
        "metrics_path": "/metrics",
        "signals": [],
        "front_signals": DEFAULTS["host_watch_front_signals"],
        "memory": {},
        **changes,
    }


Counts = dict[str, Any]


def watched(
    counts_of: Callable[[int], Counts | None],
    seconds: int = 1800,
    page: str | None = None,
    baseline: dict[str, Tally] = BASELINE,
) -> tuple[int, str] | None:
    """When the watch had enough, and why; None when it never had."""
    watcher = triggers.Watcher(triggers.WatchSettings.parse(described()), baseline)
    for at in range(0, seconds, 5):
        if why := watcher.add_sample(1000.0 + at, None, page, 0, counts_of(at)):
            return at, why
    return None


def serving(errors: float = 0.0, slow: float = 0.0, rate: float = 10.0) -> Callable[[int], Counts]:
    """So many requests a second, of which a share fails and a share takes a second longer."""

    def counts(at: int) -> Counts:
        total = at * rate
        quick = round(total * (1 - slow))
        latency = {0.04: quick, 1.0: quick, 1.2: total, float("inf"): total}
        return {ERRORS: {"part": round(total * errors), "whole": total}, P50: latency, P95: latency}

    return counts


def test_a_good_build_is_left_alone_with_a_page_of_its_own_or_without_one() -> None:
    assert watched(serving()) is None
    assert watched(serving(), page="other_total 3\n") is None


def test_one_failing_user_in_twenty_rolls_back() -> None:
    at, why = watched(serving(errors=0.05)) or (0, "")
    assert why.startswith("had a users' error share of 0.05")
    assert 120 <= at <= 250


@pytest.mark.parametrize(("slow", "name", "latest"), [(1.0, P95, 185), (0.2, P95, 185), (0.7, P50, 305)])
def test_users_who_wait_a_second_longer_roll_back(slow: float, name: str, latest: int) -> None:
    counts_of = serving(slow=slow)

    def alone(at: int) -> Counts:
        counts = counts_of(at)
        return counts if name == P95 else {**counts, P95: None}

    at, why = watched(alone) or (0, "")
    assert f"had a {name} of 1." in why
    assert at <= latest


@pytest.mark.parametrize(
    ("errors_before", "errors", "rolls_back"),
    [(6, 0.03, False), (6, 0.08, True), (2, 0.03, True), (0, 0.03, True)],
    ids=["as before", "much more than before", "two failures are chance", "none before"],
)
def test_a_service_that_always_fails_some_requests_is_compared_with_the_release_before(
    errors_before: int, errors: float, rolls_back: bool
) -> None:
    baseline = {**BASELINE, ERRORS: Tally(errors_before / 200, 200, errors_before)}
    assert (watched(serving(errors=errors), baseline=baseline) is not None) == rolls_back


def test_latency_that_is_not_known_rolls_nothing_back_and_errors_still_do() -> None:
    def unknown(at: int) -> Counts:
        return {**serving(errors=0.05, slow=1.0)(at), P50: None, P95: None}

    assert "users' error share" in (watched(unknown) or (0, ""))[1]
    assert watched(lambda at: {**serving(slow=1.0)(at), P50: None, P95: None}) is None


def test_latency_that_is_known_now_and_then_rolls_nothing_back() -> None:
    def interrupted(at: int) -> Counts:
        counts = serving(slow=1.0)(at)
        return counts if at % 100 else {**counts, P50: None, P95: None}

    assert watched(interrupted) is None


def test_counters_that_begin_again_roll_nothing_back() -> None:
    assert watched(lambda at: serving(errors=0.1)(at % 100)) is None


def test_a_front_that_does_not_answer_rolls_nothing_back() -> None:
    assert watched(lambda _: None) is None


@pytest.mark.parametrize("wrong", [5, ["x"], [{"name": "x"}], [{"name": "x", "histogram": [], "lasting": 120}]])
def test_front_signals_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(MobiusError) as caught:
        triggers.WatchSettings.parse(described(front_signals=wrong))
    assert caught.value.outcome == "invalid_input"


def test_a_description_of_an_earlier_version_has_no_front_signals() -> None:
    older = {name: value for name, value in described().items() if name != "front_signals"}
    assert triggers.WatchSettings.parse(older).front_signals == ()
