# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate compares the new release with the old one, by the signals that the role promote gives it."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mobius.dhash.plugins.module_utils import comparison
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import request_instance
from ansible_collections.mobius.dhash.plugins.module_utils.prometheus_text import UnreadableError

CHECKOUT = Path(__file__).parents[4]
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))
pytestmark = pytest.mark.slow

NEW, OLD = "1.2.0-0123456789ab", "1.1.0-0123456789ab"
SAMPLES = 60
PROBE = {
    "name": "three bytes",
    "method": "POST",
    "path": "/v1/hash",
    "body_base64": base64.b64encode(b"abc").decode(),
    "json": {"dhash": f"{3:032x}"},
}


def signals(samples: int = SAMPLES) -> list[dict[str, Any]]:
    """The role's own, with fewer samples."""
    return [{**signal, "samples": samples} for signal in DEFAULTS["promote_signals"]]


def gate(host: Any, **arguments: Any) -> dict[str, Any]:
    parameters = {"healthy_seconds": 0.8, "deadline": 3.0, "interval": 0.05, "signals": signals(), "probes": [PROBE]}
    result: dict[str, Any] = host.run("gate", release=NEW, **{**parameters, **arguments})
    assert not result.get("failed"), result
    assert result["reason"].endswith(".")
    return result


def figures(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {signal["name"]: signal for signal in result["evidence"]["values"]["signals"]}


@pytest.fixture(autouse=True)
def gate_time(clock: Any) -> Any:
    """Every gate here runs by the clock of the test."""
    return clock


@contextlib.contextmanager
def traffic(host: Any, clock: Any, *releases: str) -> Iterator[None]:
    """Clients that post between any two samples of the gate, to each release the same."""

    def post() -> None:
        for release in releases:
            for _ in range(15):
                request_instance(host.host, release, "POST", "/v1/hash", b"abcd", None, 60.0)

    clock.between.append(post)
    yield
    clock.between.remove(post)


def start_both(host: Any, new: str = "well", old: str = "well") -> None:
    host.truth(OLD)
    host.start(OLD, old)
    host.start(NEW, new)


def test_a_release_that_is_as_good_passes_on_the_probes_own_traffic(host: Any) -> None:
    start_both(host)
    result = gate(host, run="20260101T000000Z-00000001")
    assert result["verdict"] == "pass", result
    for signal in figures(result).values():
        assert signal["new_samples"] >= SAMPLES
        assert signal["old_samples"] >= SAMPLES
        assert not signal["over"]
        assert signal["p_value"] == 1.0
        assert signal["new_events"] == signal["old_events"]
    kept = json.loads(Path(result["evidence_file"]).read_text())
    assert (kept["verdict"], kept["release"], kept["run"]) == ("pass", NEW, "20260101T000000Z-00000001")
    assert kept["evidence"] == result["evidence"]
    assert len(kept["evidence"]["series"]) == result["evidence"]["samples"]
    above = figures(kept)["p95 hash time in seconds"]["new_above"]
    assert above == {"0.0016": 0}, "every hash took a millisecond"
    assert set(kept["evidence"]["series"][-1]["signals"]) == {signal["name"] for signal in signals()}


@pytest.mark.parametrize(
    ("behaviour", "name"),
    [
        ("failing_one_in_ten", "error rate"),
        ("failing_one_in_twenty", "error rate"),
        ("calling_one_in_ten_broken", "extraction failure rate"),
        ("hashing_slowly", "p95 hash time in seconds"),
    ],
)
def test_a_release_that_is_worse_under_traffic_fails_by_the_signal_that_is(
    host: Any, clock: Any, behaviour: str, name: str
) -> None:
    start_both(host, behaviour)
    with traffic(host, clock, OLD, NEW):
        result = gate(host, probes=[], deadline=2.0)
    assert result["verdict"] == "fail", result
    assert result["reason"].startswith(f"The {name} of {NEW} is ")
    assert "of the release before" in result["reason"]
    assert [one["name"] for one in figures(result).values() if one["over"]] == [name]


def test_what_both_do_does_not_count_against_the_new_one(host: Any) -> None:
    start_both(host, "hashing_slowly", "hashing_slowly")
    assert gate(host, deadline=20.0)["verdict"] == "pass"


@pytest.mark.slow
def test_three_times_nothing_is_still_nothing(host: Any, clock: Any) -> None:
    start_both(host, "failing_one_in_two_hundred")
    with traffic(host, clock, OLD, NEW):
        result = gate(host, probes=[], signals=signals(250), deadline=20.0)
    assert result["verdict"] == "pass", result
    assert 0 < figures(result)["error rate"]["new"] < 0.01


@pytest.mark.parametrize(
    ("behaviour", "name"),
    [("failing_one_in_twenty", "error rate"), ("hashing_a_second_later", "p95 hash time in seconds")],
)
def test_a_first_release_has_limits_of_its_own(host: Any, clock: Any, behaviour: str, name: str) -> None:
    host.start(NEW, behaviour)
    with traffic(host, clock, NEW):
        result = gate(host, probes=[], signals=signals(300))
    assert result["verdict"] == "fail", result
    assert result["reason"].startswith(f"The {name} of {NEW} is ")
    assert "of the release before" not in result["reason"]
    assert figures(result)["error rate"]["limit"] == 0.01


def test_one_and_a_half_times_as_slow_is_too_slow(host: Any, clock: Any) -> None:
    start_both(host, "hashing_one_in_ten_in_fifteen_milliseconds", "hashing_one_in_ten_in_ten_milliseconds")
    with traffic(host, clock, OLD, NEW):
        result = gate(host, probes=[], signals=signals(300), deadline=4.0)
    assert result["verdict"] == "fail", result
    found = figures(result)["p95 hash time in seconds"]
    assert found["bound"] == 0.01
    assert found["new_events"] == pytest.approx(found["new_samples"] / 10, abs=1)
    assert found["old_events"] == 0
    assert found["p_value"] < found["alpha"]


def test_a_quantile_may_recover_until_the_deadline_and_a_rate_fails_at_once(host: Any, clock: Any) -> None:
    start_both(host, "hashing_slowly")
    with traffic(host, clock, OLD, NEW):
        result = gate(host, probes=[], deadline=2.0)
    assert clock.now - 1000.0 >= 2.0
    assert result["verdict"] == "fail"
    host.kill(host.processes[-1])
    host.start(NEW, "failing_one_in_ten")
    began = clock.now
    with traffic(host, clock, OLD, NEW):
        assert gate(host, probes=[], deadline=2.0)["verdict"] == "fail"
    assert clock.now - began < 1.0


def test_what_may_be_worse_and_is_not_proven_neither_passes_nor_fails(host: Any, clock: Any) -> None:
    start_both(host, "failing_one_in_ten")
    with contextlib.ExitStack() as clients:
        clients.enter_context(traffic(host, clock, OLD, NEW))
        clock.after(0.23, clients.close)
        result = gate(host, probes=[])
    assert result["verdict"] == "inconclusive", result
    assert "that may be worse, and is not proven" in result["reason"]
    found = figures(result)["error rate"]
    assert found["over"] and not found["proven"]
    assert found["new_samples"] > SAMPLES
    assert found["alpha"] < found["p_value"] < comparison.SUSPICION


def test_probes_go_on_while_a_signal_may_be_worse(host: Any, clock: Any) -> None:
    start_both(host, "failing_one_in_ten")
    result = gate(host, deadline=20.0)
    assert result["verdict"] == "fail", result
    assert "error rate" in result["reason"]
    assert figures(result)["error rate"]["new_samples"] > SAMPLES
    assert clock.now - 1000.0 < 2.0, "a probe with each sample would take longer"
    assert result["evidence"]["values"]["probe_errors"] > 6, "and none of them decided by itself"


def test_a_probe_that_the_server_always_fails_proves_the_release_bad(host: Any) -> None:
    start_both(host, "refusing_to_hash")
    result = gate(host)
    assert result["verdict"] == "fail", result
    assert "three bytes" in result["reason"]
    assert result["evidence"]["values"]["probe_errors"] == 3


def test_a_wrong_answer_to_a_probe_needs_no_statistics(host: Any) -> None:
    start_both(host, "hashing_wrongly_once")
    result = gate(host)
    assert result["verdict"] == "fail", result
    assert "three bytes" in result["reason"]
    assert result["evidence"]["values"]["probe_errors"] == 0


def test_slow_probes_do_not_make_the_gate_longer(host: Any, clock: Any) -> None:
    host.start(NEW, "hashing_a_second_later")
    result = gate(host, signals=signals(600), healthy_seconds=10, interval=0.5, deadline=60.0)
    assert result["verdict"] == "fail", result
    assert clock.now - 1000.0 <= 63.0


def test_a_healthy_first_release_passes_without_a_reference(host: Any) -> None:
    host.start(NEW)
    result = gate(host)
    assert result["verdict"] == "pass", result
    assert all(signal["old"] is None for signal in figures(result).values())


@pytest.mark.parametrize("behaviour", [None, "hanging", "no_http", "telling_no_metrics"])
def test_a_release_before_that_does_not_answer_cannot_keep_its_own_mend_out(host: Any, behaviour: str | None) -> None:
    host.truth(OLD)
    if behaviour:
        host.start(OLD, behaviour)
    host.start(NEW)
    result = gate(host, deadline=8.0)
    assert result["verdict"] == "pass", result
    assert result["evidence"]["values"]["reference_lost"]


def test_without_traffic_and_probes_nothing_is_proven(host: Any) -> None:
    start_both(host)
    result = gate(host, probes=[], deadline=1.5)
    assert result["verdict"] == "inconclusive", result
    assert "has too few samples for its error rate" in result["reason"]


def test_a_release_whose_metrics_cannot_be_read_is_an_error(host: Any) -> None:
    start_both(host, "telling_no_metrics")
    result = gate(host, deadline=1.5)
    assert result["verdict"] == "error", result
    assert "/metrics answered 404" in result["reason"]


def test_only_the_newest_verdicts_are_kept(host: Any) -> None:
    host.start(NEW)
    folder = host.host.root / "gates"
    folder.mkdir()
    for number in range(30):
        (folder / f"20250101T0000{number:02d}Z-{OLD}.json").write_text("{}")
    result = gate(host, signals=[])
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == 20
    assert left[-1] == Path(result["evidence_file"]).name
    assert left[0] == f"20250101T000011Z-{OLD}.json"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "nothing"},
        {"name": "both", "histogram": [{"metric": "a"}], "part": [{"metric": "a"}], "whole": [{"metric": "b"}]},
        {"name": "half", "part": [{"metric": "a"}]},
        {"name": "pattern", "histogram": [{"metric": "a", "where": {"route": "("}}]},
        {"name": "times", "histogram": [{"metric": "a"}], "times": 0.5},
        {"name": "quantile", "histogram": [{"metric": "a"}], "quantile": 95},
        {"name": "samples", "histogram": [{"metric": "a"}], "samples": 0},
    ],
    ids=lambda wrong: wrong["name"],
)
def test_a_signal_that_makes_no_sense_is_refused(host: Any, wrong: dict[str, Any]) -> None:
    assert repr(wrong["name"]) in host.fails("gate", "invalid_input", release=NEW, signals=[wrong])


# --- Counting ---------------------------------------------------------------------------------------------------------


def counting(*pages: str, **signal: Any) -> comparison.Counters:
    """An instance that gave these pages, one after the other."""
    blank = {"part": None, "whole": None, "histogram": None, "quantile": 0.95, "times": 1.0, "floor": 0.0, "samples": 1}
    parsed = comparison.MetricSignal.parse({"name": "s", **blank, **signal})
    left = iter(pages)
    made = comparison.Counters(lambda: next(left), [parsed])
    for _ in pages:
        made.read()
    return made


def histogram(*cumulated: int) -> str:
    bounds = ("0.1", "0.2", "+Inf")
    return "".join(f'h_bucket{{le="{bound}"}} {count}\n' for bound, count in zip(bounds, cumulated, strict=True))


def test_a_quantile_is_linear_within_its_bucket_and_of_what_came_since_the_first_look() -> None:
    made = counting(
        histogram(1000, 1000, 1000), histogram(1050, 1100, 1100), histogram=[{"metric": "h_bucket", "where": {}}],
        quantile=0.75,
    )  # fmt: skip
    assert [(one.figure, one.samples) for one in made.tallies()] == [(pytest.approx(0.15), 100)]
    assert made.tallies()[0].above == {0.1: 50, 0.2: 0}
    beyond = counting(histogram(0, 0, 0), histogram(0, 10, 100), histogram=[{"metric": "h_bucket", "where": {}}])
    assert beyond.tallies()[0].figure == 0.2, "a time over the last bound counts as the last bound"


def test_a_label_must_match_as_a_whole_and_escapes_do_not_confuse() -> None:
    page = 'r{route="/v1/hash",x="a\\"},b"} 5\nr{route="/v1/hash/more"} 7 1700000000000\nr 9\nrr{route="/v1/hash"} 11\n'
    made = counting(
        "r 0\n", page,
        part=[{"metric": "r", "where": {"route": "/v1/hash"}}], whole=[{"metric": "r", "where": {}}],
    )  # fmt: skip
    assert made.tallies() == [comparison.Tally(pytest.approx(5 / 21), 21, 5)]


def test_an_error_before_a_request_has_found_its_route_is_an_error_too() -> None:
    """The service counts such a request under the route `other` (mobius/service/app.py)."""
    (signal,) = (item for item in DEFAULTS["promote_signals"] if item["name"] == "error rate")
    page = (
        'mobius_http_requests_total{route="/v1/hash",method="POST",status="200"} 90\n'
        'mobius_http_requests_total{route="/v1/hash",method="POST",status="500"} 4\n'
        'mobius_http_requests_total{route="other",method="any",status="500"} 6\n'
        'mobius_http_requests_total{route="/health",method="GET",status="503"} 50\n'
    )
    made = counting("", page, **{key: signal[key] for key in ("part", "whole")})
    assert made.tallies() == [comparison.Tally(0.1, 100, 10)]


def test_counters_that_decreased_give_no_figures() -> None:
    made = counting("r 5\n", "r 3\n", part=[{"metric": "r", "where": {}}], whole=[{"metric": "r", "where": {}}])
    with pytest.raises(UnreadableError, match="restarted"):
        made.tallies()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e300"])
def test_a_counter_that_counts_no_events_is_not_readable(value: str) -> None:
    selectors = {"part": [{"metric": "r", "where": {}}], "whole": [{"metric": "r", "where": {}}]}
    with pytest.raises(UnreadableError, match=r"its counter r is .*, which is no number of events"):
        counting("r 0\n", f"r {value}\n", **selectors).tallies()


@pytest.mark.parametrize("labels", ["", '{le="much"}', '{le="NaN"}'])
def test_a_bucket_without_a_bound_is_not_readable(labels: str) -> None:
    with pytest.raises(UnreadableError, match="has a bucket whose bound, le, is no number"):
        counting(f"h_bucket{labels} 1\n", histogram=[{"metric": "h_bucket", "where": {}}])
