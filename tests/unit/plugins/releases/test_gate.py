"""The gate, against instances that are well, hang, crash, flap and lie."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.gate import run as gate_run
from ansible_collections.mobius.dhash.plugins.module_utils.gate.requests import RESPONSE_TIMEOUT_SECONDS

RELEASE = "1.2.0-0123456789ab"
OLD = "1.1.0-0123456789ab"
HASH = {"name": "three bytes", "method": "POST", "path": "/v1/hash", "body_base64": base64.b64encode(b"abc").decode()}
GOOD = {**HASH, "json": {"dhash": f"{3:032x}"}}


@pytest.fixture(autouse=True)
def gate_time(clock: Any) -> Any:
    """Every gate here runs by the clock of the test."""
    return clock


def gate(host: Any, clock: Any, deadline: float = 1.2, **arguments: Any) -> dict[str, Any]:
    """A verdict on RELEASE within a short deadline, which the gate may pass by no more than three answers."""
    started = clock.now
    settings = {"healthy_seconds": 0.6, "deadline": deadline, "interval": 0.05, **arguments}
    result: dict[str, Any] = host.run("gate", release=RELEASE, **settings)
    assert clock.now - started < deadline + 3 * RESPONSE_TIMEOUT_SECONDS
    assert not result.get("failed") and result["changed"] is False
    assert result["reason"].endswith(".") and "\n" not in result["reason"]
    return result


@pytest.mark.parametrize("behaviour", ["well", "warning", "no_json"])
def test_a_healthy_instance_passes(host: Any, clock: Any, behaviour: str) -> None:
    host.start(RELEASE, behaviour)
    result = gate(host, clock)
    assert result["verdict"] == "pass", result
    evidence = result["evidence"]
    assert evidence["healthy_seconds"] >= 0.6
    assert evidence["samples"] >= 6
    assert evidence["values"]["state"] == "active"
    assert evidence["values"]["pid"] == host.processes[0].pid
    assert evidence["values"]["errors"] == 0


def test_it_takes_as_long_as_it_must_be_healthy_and_no_longer(host: Any, clock: Any) -> None:
    host.start(RELEASE)
    started = clock.now
    assert gate(host, clock, deadline=30.0, healthy_seconds=1.0)["verdict"] == "pass"
    assert 1.0 <= clock.now - started < 1.1


@pytest.mark.slow
def test_its_figures_can_be_read_while_it_runs(host: Any, clock: Any, tmp_path: Path) -> None:
    host.start(RELEASE)
    path = tmp_path / "progress.json"
    figures: list[dict[str, Any]] = []
    clock.between.append(lambda: figures.append(json.loads(path.read_text())))
    result = gate(host, clock, deadline=30.0, progress_file=str(path))
    assert result["verdict"] == "pass"
    assert len({sample["samples"] for sample in figures}) > 1, "it was not written at the end only"
    assert [sample["elapsed"] for sample in figures] == sorted(sample["elapsed"] for sample in figures)
    assert (figures[0]["deadline"], figures[0]["wanted"]) == (30.0, 0.6)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("progress")] == ["progress.json"]


def test_a_progress_file_that_cannot_be_written_does_not_affect_the_verdict(
    host: Any, clock: Any, tmp_path: Path
) -> None:
    host.start(RELEASE)
    assert gate(host, clock, progress_file=str(tmp_path / "missing/progress.json"))["verdict"] == "pass"


@pytest.mark.parametrize(
    ("behaviour", "verdict", "why"),
    [
        ("failing", "fail", "database is locked"),
        ("failing_now_and_then", "fail", "is not healthy"),
        ("another_release", "fail", "9.9.9-ffffffffffff"),
        ("crashing", "fail", "is gone"),
        ("crashing_and_started_again", "fail", ""),
        ("internal_error", "fail", "never healthy"),
        ("hanging", "error", "no whole response"),
        ("hanging_later", "error", "no whole response"),
        ("dripping", "error", "no whole response"),
        ("no_http", "error", "no HTTP response"),
        ("internal_error_now_and_then", "inconclusive", "in a row"),
        ("slow", "inconclusive", "in a row"),
    ],
)
def test_an_unhealthy_instance_does_not_pass(host: Any, clock: Any, behaviour: str, verdict: str, why: str) -> None:
    host.start(RELEASE, behaviour)
    result = gate(host, clock)
    assert (result["verdict"], why in result["reason"]) == (verdict, True), result


def test_an_instance_that_hangs_now_and_then_is_never_healthy_long_enough(host: Any, clock: Any) -> None:
    host.start(RELEASE, "hanging_now_and_then")
    result = gate(host, clock, deadline=5.0)
    assert result["verdict"] in ("inconclusive", "error"), result
    assert 0 < result["evidence"]["healthy_seconds"] < 0.6
    assert result["evidence"]["values"]["errors"] >= 2


def test_a_hang_at_first_is_forgiven_when_it_is_healthy_long_enough_afterwards(host: Any, clock: Any) -> None:
    host.start(RELEASE, "hanging_at_first")
    result = gate(host, clock, deadline=5.0)
    assert (result["verdict"], result["evidence"]["values"]["errors"]) == ("pass", 1)


def test_an_instance_that_listens_late_passes(host: Any, clock: Any) -> None:
    clock.after(0.4, lambda: host.start(RELEASE))
    result = gate(host, clock, deadline=5.0)
    assert result["verdict"] == "pass", result
    assert result["evidence"]["values"]["errors"] > 0


def test_a_gate_that_could_not_measure_runs_again_and_the_last_attempt_counts(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, attempts = gate_run.reach_verdict, []

    def reach_verdict(*arguments: Any, **more: Any) -> Any:
        attempts.append(arguments)
        if len(attempts) == 4:
            host.start(RELEASE)
        return real(*arguments, **more)

    monkeypatch.setattr(gate_run, "reach_verdict", reach_verdict)
    parameters = {"release": RELEASE, "healthy_seconds": 0.3, "deadline": 5.0, "interval": 0.05}
    assert host.run("gate", **{**parameters, "deadline": 0.5}, attempts=2)["verdict"] == "error"
    assert len(attempts) == 2
    assert host.run("gate", **{**parameters, "deadline": 3.0}, attempts=20)["verdict"] == "pass"
    assert len(attempts) == 4
    host.fails("gate", "invalid_input", release=RELEASE, attempts=0)


def test_a_release_that_proved_itself_bad_is_not_given_another_chance(host: Any) -> None:
    host.start(RELEASE, "failing")
    assert host.run("gate", release=RELEASE, healthy_seconds=0.3, deadline=60.0, attempts=5)["verdict"] == "fail"


def test_no_instance_at_all_is_an_error_and_no_pass(host: Any, clock: Any) -> None:
    result = gate(host, clock)
    assert (result["verdict"], result["evidence"]["healthy_seconds"]) == ("error", 0.0)


@pytest.mark.slow
def test_a_killed_instance_fails_though_the_old_one_is_healthy(host: Any, clock: Any) -> None:
    host.truth(OLD)
    host.start(OLD)
    process = host.start(RELEASE)
    clock.after(0.3, lambda: host.kill(process))
    assert gate(host, clock)["verdict"] == "fail"


@pytest.mark.slow
def test_a_process_that_was_started_again_between_two_samples_fails(host: Any, clock: Any) -> None:
    process = host.start(RELEASE)

    def start_again() -> None:
        host.kill(process)
        host.start(RELEASE)

    clock.after(0.3, start_again)
    result = gate(host, clock)
    assert result["verdict"] == "fail", result
    assert result["reason"].startswith(f"The process of {RELEASE} died: ")


@pytest.mark.parametrize(
    "revert_promotion",
    [
        lambda host: host.pending(RELEASE, OLD, deadline=0.0),  # the guard, before it stops the instance
        lambda host: host.host.pending_path.unlink(),  # the guard, when it is done
        lambda host: host.pending("1.3.0-0123456789ab", OLD),  # and another promotion has begun
    ],
)
def test_an_instance_that_was_stopped_because_its_promotion_was_reverted_has_not_failed(
    host: Any, clock: Any, revert_promotion: Callable[[Any], None]
) -> None:
    host.truth(OLD)
    host.pending(RELEASE, OLD)
    process = host.start(RELEASE)

    def guard() -> None:
        revert_promotion(host)
        host.kill(process)

    clock.after(0.3, guard)
    result = gate(host, clock)
    assert (result["verdict"], result["reason"]) == ("error", "The promotion was reverted while the gate ran.")


def test_an_instance_that_dies_while_its_promotion_goes_on_fails(host: Any, clock: Any) -> None:
    host.truth(OLD)
    host.pending(RELEASE, OLD)
    process = host.start(RELEASE)
    clock.after(0.3, lambda: host.kill(process))
    result = gate(host, clock)
    assert (result["verdict"], "is gone" in result["reason"]) == ("fail", True), result


def test_an_instance_that_dies_after_another_run_confirmed_it_fails(host: Any, clock: Any) -> None:
    host.truth(OLD)
    host.pending(RELEASE, OLD)
    process = host.start(RELEASE)

    def confirm() -> None:
        host.truth(RELEASE, OLD)
        host.host.pending_path.unlink()
        host.kill(process)

    clock.after(0.3, confirm)
    result = gate(host, clock)
    assert (result["verdict"], "is gone" in result["reason"]) == ("fail", True), result


@pytest.mark.slow
def test_the_health_of_the_confirmed_release_is_in_the_evidence(host: Any, clock: Any) -> None:
    host.truth(OLD)
    host.start(OLD, "warning")
    host.start(RELEASE)
    reference = gate(host, clock)["evidence"]["values"]["reference"]
    assert reference["before"] == reference["after"] == {"release": OLD, "http": 200, "status": "warn"}


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [None, "hanging", "failing", "no_http"])
def test_an_unhealthy_confirmed_release_does_not_count_against_the_new_one(
    host: Any, clock: Any, behaviour: str | None
) -> None:
    host.truth(OLD)
    if behaviour:
        host.start(OLD, behaviour)
    host.start(RELEASE)
    started = clock.now
    result = host.run("gate", release=RELEASE, healthy_seconds=0.5, deadline=2.0, interval=0.05)
    assert result["verdict"] == "pass", result
    assert clock.now - started < 4.0


# --- With probes ------------------------------------------------------------------------------------------------------


def test_probes_are_sent_while_the_gate_runs(host: Any, clock: Any) -> None:
    host.start(RELEASE)
    result = gate(host, clock, probes=[GOOD, {"name": "not there", "path": "/nothing", "status": 404}])
    assert result["verdict"] == "pass", result
    assert result["evidence"]["values"]["probes"] == result["evidence"]["samples"]


@pytest.mark.parametrize("behaviour", ["hashing_wrongly", "hashing_wrongly_later", "refusing_to_hash"])
def test_a_wrong_answer_to_a_probe_fails_though_health_says_pass(host: Any, clock: Any, behaviour: str) -> None:
    host.start(RELEASE, behaviour)
    result = gate(host, clock, probes=[GOOD])
    assert result["verdict"] == "fail", result
    assert "three bytes" in result["reason"]
    assert result["evidence"]["values"]["statuses"]["pass"] > 0


@pytest.mark.slow
def test_a_probe_that_is_never_answered_is_no_pass(host: Any, clock: Any) -> None:
    host.start(RELEASE, "breaking_off_hashes")
    assert gate(host, clock, probes=[GOOD])["verdict"] == "error"


# --- Arguments and check mode -----------------------------------------------------------------------------------------


def test_check_mode_asks_nothing_and_knows_nothing(host: Any) -> None:
    result = host.run("gate", check=True, release=RELEASE)
    assert (result["verdict"], result["predicted"], result["changed"]) == ("unknown", "unknown", False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"healthy_seconds": 0},
        {"interval": 0},
        {"healthy_seconds": 10, "deadline": 10},
        {"probes": [{"name": "x", "path": "no-slash"}]},
        {"probes": [{"name": "x", "path": "/", "body_base64": "%"}]},
    ],
)
def test_a_gate_that_could_not_fail_or_could_not_pass_is_refused(host: Any, arguments: dict[str, Any]) -> None:
    host.fails("gate", "invalid_input", release=RELEASE, **arguments)


def test_a_host_that_is_not_provisioned_is_refused(host: Any) -> None:
    host.fails("gate", "not_provisioned", release=RELEASE, service="other")
    (host.root / "command").write_text('DIGEST = "000000000000"\n')
    host.fails("gate", "host_tool_mismatch", release=RELEASE)
