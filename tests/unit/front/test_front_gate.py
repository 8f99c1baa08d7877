"""The gate behind a front: users' requests and probes of one signal, each tested by themselves, and what passes with few."""

from __future__ import annotations

import http.client
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mobius.dhash.plugins.module_utils import front_signals
from ansible_collections.mobius.dhash.plugins.module_utils.comparison import MetricSignal, Tally
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.front_signals import (
    Stratum,
    compare_strata,
    parse_front_signal,
)
from ansible_collections.mobius.dhash.plugins.module_utils.gate.checks import FALSE_FAILURES, SignalChecks
from ansible_collections.mobius.dhash.plugins.module_utils.gate.front_traffic import FrontTraffic
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import health_probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings
from ansible_collections.mobius.dhash.plugins.module_utils.gate.verdict import (
    GateVerdict,
    are_users_awaited,
    reach_verdict,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.figures import FrontFigures, Outcomes, Recorded

from mobius.cli.render.history import gate_lines

NEW, OLD = "1.1.0-0123456789ab", "1.0.0-0123456789ab"
CHECKOUT = Path(__file__).parents[3]
DEFAULTS = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))
BLANK = {"times": 1.0, "floor": 0.0}
SAMPLES = 600


def signals(samples: int = SAMPLES) -> list[MetricSignal]:
    """The role's own."""
    return [parse_front_signal({**BLANK, **one, "samples": samples}) for one in DEFAULTS["promote_front_signals"]]


ERRORS, P50, P95, P99 = signals()


def rate(samples: int, failed: int) -> Tally:
    return Tally(failed / samples if samples else None, samples, failed)


def errors(users: tuple[int, int], users_old: tuple[int, int], probes: tuple[int, int] = (600, 0)) -> Any:
    """The comparisons of the error share: samples and failures of users of both releases, and of probes."""
    return compare_strata(ERRORS, Stratum(rate(*users), rate(*users_old)), Stratum(rate(*probes), rate(probes[0], 0)))


def test_one_in_twenty_of_many_users_is_proven_however_many_probes_succeed() -> None:
    users, probes = errors((200, 10), (1800, 0), (100_000, 0))
    assert users.p_value < FALSE_FAILURES / len(signals()) / 2
    assert probes.p_value == 1.0
    assert (users.source, users.signal.name, probes.source) == ("users", "users' error share", "probes")


def test_one_failure_of_few_users_does_not_pass_and_is_not_proven() -> None:
    users, _ = errors((17, 1), (153, 0))
    assert users.is_over
    assert not SignalChecks([], signals(), 200).check_last([users])[0].is_proven


def test_one_failure_of_many_users_passes() -> None:
    assert not errors((600, 1), (5400, 5))[0].is_over


def test_the_samples_of_users_and_probes_are_counted_together() -> None:
    assert [one.missing_samples for one in errors((50, 0), (450, 0), (550, 0))] == [0, 0]
    assert [one.missing_samples for one in errors((50, 0), (450, 0), (549, 0))] == [1, 1]
    assert errors((600, 0), (20, 0), (0, 0))[0].missing_samples == 580


def test_users_and_probes_share_the_alpha_of_their_signal() -> None:
    checks = SignalChecks([], signals(), 200)
    compared = [one for signal in signals() for one in _without_difference(signal)]
    spent = sum(one.alpha for _ in range(3) for one in checks.check(compared))
    assert spent + sum(one.alpha for one in checks.check_last(compared)) == pytest.approx(FALSE_FAILURES)


def _without_difference(signal: MetricSignal) -> Any:
    tally = Tally(0.1, 600, 0, {0.1: 0} if signal.may_recover else {})
    return compare_strata(signal, Stratum(tally, tally), Stratum(tally, tally))


def test_a_second_later_for_a_few_users_is_proven_however_quick_the_probes_are() -> None:
    slow, quick = Tally(1.0, 17, None, {0.05: 17, 1.0: 0}), Tally(0.04, 153, None, {0.05: 0, 1.0: 0})
    probes = Tally(0.04, 600, None, {0.05: 0, 1.0: 0})
    for signal in (P50, P95):
        users, others = compare_strata(signal, Stratum(slow, quick), Stratum(probes, probes))
        assert users.p_value < FALSE_FAILURES / 8
        assert others.p_value == 1.0


def test_a_first_install_is_held_to_its_limits() -> None:
    users, probes = compare_strata(ERRORS, Stratum(rate(200, 10), None), Stratum(rate(600, 0), None))
    assert (users.is_over, probes.is_over) == (True, False)
    slow = Tally(1.2, 100, None, {0.5: 100, 1.0: 100, 2.0: 0})
    users, _ = compare_strata(P95, Stratum(slow, None), Stratum(Tally(), None))
    assert users.is_over


@pytest.mark.parametrize("wrong", [{"quantile": 1.5}, {"times": 0.5}, {"samples": 0}, {"histogram": []}, {"where": {}}])
def test_a_signal_of_the_front_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MobiusError) as caught:
        parse_front_signal({**BLANK, "name": "p50", "quantile": 0.5, "samples": 1, **wrong})
    assert caught.value.outcome == "invalid_input"


def test_the_specification_has_what_the_role_sets() -> None:
    assert {name for one in DEFAULTS["promote_front_signals"] for name in one} <= set(front_signals.FRONT_SIGNAL_SPEC)


@pytest.mark.parametrize(
    ("requests", "elapsed", "is_awaited"),
    [(None, 10, False), (0, 10, False), (3, 10, False), (4, 10, True), (199, 10, True), (200, 10, False)],
)
def test_users_are_awaited_where_enough_of_them_would_come(
    requests: int | None, elapsed: float, is_awaited: bool
) -> None:
    settings = GateSettings(10, 60, 0.5, user_samples=200)
    assert are_users_awaited(settings, requests, elapsed) is is_awaited


class Gate:
    """A gate by a clock of its own, on a front whose counters the test moves on with each wait."""

    def __init__(self, front: Any) -> None:
        self.front, self.now, self.waits = front, 0.0, 0
        self.between: Callable[[int], None] = lambda _: None
        self.status = 200

    def sleep(self, seconds: float) -> None:
        self.now += max(0.5, seconds)
        self.waits += 1
        self.between(self.waits)

    def request(self, *_: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"ok"

    def probe_of(self, release: str) -> Any:
        def request(*_: Any) -> tuple[int, dict[str, str], bytes]:
            self.now += 0.001
            self.front.log(release, 3, 1, "probes")
            return self.status, {}, b"ok"

        return request

    def run(
        self, request_old: Any = None, probe_old: Any = None, recorded: Recorded | None = None, **changes: Any
    ) -> GateVerdict:
        """A gate; with what is `recorded` of it, the old release does not run."""
        values = {"healthy_seconds": 5.0, "deadline": 30.0, "interval": 0.5, "user_samples": 60, **changes}
        settings = GateSettings(probes=[health_probe("/healthz")], front_signals=signals(100), **values)
        front = FrontTraffic(
            FrontFigures(self.front.runtime, self.front.page_path, {NEW: 1, OLD: 2}),
            NEW,
            None if recorded else OLD,
            self.probe_of(NEW),
            None if recorded else probe_old or self.probe_of(OLD),
            settings.front_signals,
            "/healthz",
            recorded,
            lambda: self.now,
        )
        return reach_verdict(
            self.request,
            NEW,
            "/healthz",
            settings,
            request_old=None if recorded else request_old or self.request,
            front=front,
            read_process=lambda: {"pid": 1},
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def serve(self, count: int, failed: int = 0, milliseconds: int = 3) -> None:
        """Users' requests: so many to the new release, nine times as many to the old one."""
        self.front.add(1, hrsp_2xx=count - failed, hrsp_5xx=failed)
        self.front.add(2, hrsp_2xx=9 * count)
        self.front.log(NEW, milliseconds, count)
        self.front.log(OLD, 3, 9 * count)


@pytest.fixture
def gate(counting_front: Any) -> Gate:
    return Gate(counting_front)


@pytest.mark.slow
def test_without_users_probes_decide_and_the_pass_says_so(gate: Gate) -> None:
    verdict = gate.run()
    assert verdict.verdict == "pass", verdict.reason
    assert "with 0 requests of users: fewer than 60" in verdict.reason
    sources = {one["source"]: one["new_samples"] for one in verdict.evidence["values"]["signals"]}
    assert sources["users"] == 0
    assert sources["probes"] >= 100


@pytest.mark.slow
def test_the_gate_waits_for_users_where_they_come_and_no_longer_than_it_needs(gate: Gate) -> None:
    gate.between = lambda _: gate.serve(2)
    verdict = gate.run()
    assert verdict.verdict == "pass", verdict.reason
    assert 60 <= verdict.evidence["values"]["user_requests"] <= 64
    assert 14 < gate.now < 18
    assert "fewer" not in verdict.reason


@pytest.mark.slow
def test_at_the_deadline_fewer_users_are_enough_and_the_pass_says_so(gate: Gate) -> None:
    gate.between = lambda wait: gate.serve(1) if wait % 2 else None
    verdict = gate.run()
    assert verdict.verdict == "pass", verdict.reason
    assert gate.now >= 30
    assert "requests of users: fewer than 60" in verdict.reason


@pytest.mark.slow
def test_one_in_twenty_failing_users_among_probes_that_succeed_fail_the_gate(gate: Gate) -> None:
    gate.between = lambda wait: gate.serve(10, int(wait % 2 == 0))
    verdict = gate.run(user_samples=400)
    assert (verdict.verdict, "users' error share" in verdict.reason) == ("fail", True), verdict.reason
    recorded = {"verdict": verdict.verdict, "reason": verdict.reason, "evidence": verdict.evidence}
    shown = gate_lines({"host": "lab1", "fields": recorded})
    assert shown[0] == f"lab1: fail: {verdict.reason}"
    assert any(
        re.fullmatch(r"  users' error share: new 0\.0[45]\d*, old 0(\.0)?(, limit .*)?", line) for line in shown
    ), shown


ALWAYS_FAILING = Recorded(Outcomes(10_000, 300), {0.004: 9_000.0, 0.5: 9_900.0, 1.0: 10_000.0, math.inf: 10_000.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failed", "milliseconds", "verdict"), [(0.03, 3, "pass"), (0.15, 3, "fail"), (0.03, 1003, "fail")]
)
def test_a_release_that_runs_alone_is_compared_with_what_is_recorded_of_the_one_before(
    gate: Gate, failed: float, milliseconds: int, verdict: str
) -> None:
    gate.between = lambda wait: gate.serve(20, int(wait * 20 * failed) - int((wait - 1) * 20 * failed), milliseconds)
    result = gate.run(recorded=ALWAYS_FAILING, user_samples=400)
    assert result.verdict == verdict, result.reason


@pytest.mark.slow
def test_a_failing_user_among_few_is_inconclusive(gate: Gate) -> None:
    gate.between = lambda wait: gate.serve(1, int(wait == 3)) if wait % 4 == 3 else None
    verdict = gate.run()
    assert (verdict.verdict, "may be worse" in verdict.reason) == ("inconclusive", True), verdict.reason


@pytest.mark.slow
def test_users_that_wait_a_second_longer_fail_the_gate_though_no_probe_does(gate: Gate) -> None:
    gate.between = lambda _: gate.serve(2, milliseconds=1003)
    verdict = gate.run()
    assert (verdict.verdict, "users' p50" in verdict.reason) == ("fail", True), verdict.reason


@pytest.mark.slow
def test_lines_that_are_lost_all_the_while_are_inconclusive(gate: Gate) -> None:
    def lose(_: int) -> None:
        gate.serve(5)
        gate.front.dropped += 1

    gate.between = lose
    verdict = gate.run(deadline=7.0)
    assert (verdict.verdict, "HAProxy lost lines of its log (1)" in verdict.reason) == ("inconclusive", True), (
        verdict.reason
    )


@pytest.mark.slow
def test_a_receiver_that_stops_writing_is_inconclusive(gate: Gate) -> None:
    def stop(wait: int) -> None:
        gate.serve(20)  # so that all samples are there when it stops
        if wait == 8:
            gate.front.write_page = lambda: None
            os.utime(gate.front.page_path, (1, 1))

    gate.between = stop
    verdict = gate.run(deadline=7.0)
    assert (verdict.verdict, "has not written" in verdict.reason) == ("inconclusive", True), verdict.reason


def test_a_front_that_does_not_answer_is_an_error(gate: Gate) -> None:
    gate.front.close()
    gate.front.runtime.path.unlink()
    verdict = gate.run(deadline=6.0)
    assert (verdict.verdict, "front's figures could not be read" in verdict.reason) == ("error", True), verdict.reason
    gate.front.__init__(gate.front.page_path.parent, 1.0)


@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError, http.client.BadStatusLine, FileNotFoundError])
def test_a_release_before_that_does_not_answer_cannot_keep_its_own_mend_out(gate: Gate, error: type[Exception]) -> None:
    """The front answers 503 for it, and logs no time of a response."""

    def refuse(*_: Any) -> Any:
        raise error("refused")

    verdict = gate.run(request_old=refuse, probe_old=lambda *_: (503, {}, b"no server"))
    assert verdict.verdict == "pass", verdict.reason
    assert error.__name__ in verdict.evidence["values"]["reference_lost"]


@pytest.mark.slow
def test_a_front_that_is_started_again_loses_no_release_to_compare_with(gate: Gate) -> None:
    probe_old, sent = gate.probe_of(OLD), iter(range(10_000))

    def interrupted(*arguments: Any) -> Any:
        if next(sent) == 5:
            raise ConnectionError("the front accepts no probe")
        return probe_old(*arguments)

    verdict = gate.run(probe_old=interrupted)
    assert verdict.verdict == "pass", verdict.reason
    assert verdict.evidence["values"]["reference_lost"] is None


def test_probes_that_fail_are_the_probes_own(gate: Gate) -> None:
    gate.between = lambda wait: setattr(gate, "status", 500 if wait == 4 else 200)
    verdict = gate.run()
    assert verdict.verdict == "fail", "the same probe failed three times in a row"
    figures = {one["name"]: one for one in verdict.evidence["values"]["signals"]}
    assert figures["users' error share"]["new_samples"] == 0
