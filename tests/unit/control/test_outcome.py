"""From what hosts reported to one outcome and one decision."""

from __future__ import annotations

import pytest

from mobius.cli.render.outcome import outcome_lines
from mobius.cli.render.text import TextStyle
from mobius.control.run.account import RunAccount
from mobius.control.run.outcome import (
    HostReport,
    Observer,
    decide,
    failed_result,
    failure_from,
)
from mobius.errors import OUTCOMES, ExitCode, MobiusError


def failing(outcome: str, reason: str = "Because.") -> dict:
    return {"failed": True, "msg": reason, "mobius_failure": MobiusError(outcome, reason).as_dict()}


def end(observer: Observer, failures: dict | None = None, dark: dict | None = None, processed: tuple = ("lab1",)):
    return observer.end(failures or {}, dark or {}, processed)


def test_a_run_without_a_failure_is_a_success():
    ending = end(Observer())
    assert (ending.outcome, ending.code) == ("success", ExitCode.SUCCESS)
    assert outcome_lines(RunAccount("deploy", ending)) == ["✓ deploy done", "  took      exit 0"]


def test_a_rescued_failure_does_not_fail_a_run():
    observer = Observer()
    observer.failed("lab1", "Gate", failing("golden_mismatch"))
    assert end(observer, failures={"lab1": 0}).outcome == "success"


def test_the_last_failure_of_a_host_counts_and_not_the_rescued_ones_before_it():
    observer = Observer()
    observer.failed("lab1", "Gate", failing("rollback_failed"))
    observer.failed("lab1", "Say so", failing("rolled_back", "The gate saw wrong hashes."))
    ending = end(observer, failures={"lab1": 1})
    assert ending.outcome == "rolled_back"
    assert ending.reason == "The gate saw wrong hashes."
    assert [failure.task for failure in ending.failures] == ["Say so"]


def test_an_unreachable_host_is_the_environments_failure():
    observer = Observer()
    observer.unreachable("lab2", "Read", {"unreachable": True, "msg": "No route\nto host"})
    ending = end(observer, dark={"lab2": 1})
    assert (ending.outcome, ending.code) == ("unreachable", 3)
    assert ending.failures[0].reason == "No route to host"


def test_a_variable_of_the_wrong_type_is_the_inputs_failure():
    observer = Observer()
    result = {"failed": True, "argument_errors": ["argument 'host_port' is of type str."], "msg": "Validation failed."}
    observer.failed("lab1", "Validating arguments", result)
    ending = end(observer, failures={"lab1": 1})
    assert (ending.outcome, ending.code) == ("invalid_input", ExitCode.INPUT)
    assert "host_port" in ending.reason


def test_a_host_that_only_waited_does_not_hide_why():
    observer = Observer()
    observer.unreachable("lab1", "Read", {"unreachable": True, "msg": "No route to host"})
    observer.failed("lab2", "Wait", failing("held_back"))
    assert end(observer, failures={"lab2": 1}, dark={"lab1": 1}).outcome == "unreachable"


def test_a_host_whose_silence_was_ignored_does_not_fail_a_run():
    observer = Observer()
    observer.unreachable("lab2", "Read", {"unreachable": True})
    assert end(observer, dark={}).outcome == "success"


def test_a_failure_that_carries_its_outcome_wins_over_an_unreachable_host():
    observer = Observer()
    observer.unreachable("lab2", "Read", {"unreachable": True})
    observer.failed("lab1", "Say so", failing("rolled_back"))
    ending = end(observer, failures={"lab1": 1}, dark={"lab2": 1})
    assert ending.outcome == "rolled_back"
    assert [failure.host for failure in ending.failures] == ["lab1", "lab2"]


def test_an_unreachable_host_wins_over_a_bare_failure_of_another():
    observer = Observer()
    observer.failed("lab1", "Copy", {"failed": True, "msg": "no"})
    observer.unreachable("lab2", "Read", {"unreachable": True})
    assert end(observer, failures={"lab1": 1}, dark={"lab2": 1}).outcome == "unreachable"


def test_a_bare_failure_is_a_failed_task_with_its_message():
    observer = Observer()
    observer.failed("lab1", "Copy", {"failed": True, "msg": "Source  is\nmissing."})
    ending = end(observer, failures={"lab1": 1})
    assert (ending.outcome, ending.code, ending.reason) == ("task_failed", 2, "Source is missing.")


def test_a_task_that_ran_into_its_time_limit_is_a_time_out():
    assert failed_result("lab1", "Wait", {"failed": True, "msg": "Timed out", "timedout": {"period": 5}}).outcome == (
        "timeout"
    )


def test_a_loop_fails_with_the_worst_failure_of_its_items():
    result = {
        "failed": True,
        "msg": "One or more items failed",
        "results": [{"failed": False}, failing("invalid_input"), failing("disk_full", "No space on /var.")],
    }
    failure = failed_result("lab1", "Loop", result)
    assert (failure.outcome, failure.reason) == ("disk_full", "No space on /var.")


def test_a_loop_without_outcomes_shows_the_message_of_the_item_that_failed():
    result = {
        "failed": True,
        "msg": "One or more items failed",
        "results": [{"msg": "ok"}, {"failed": True, "msg": "x"}],
    }
    assert failed_result("lab1", "Loop", result).reason == "x"


@pytest.mark.parametrize(
    ("several", "worst"),
    [
        (("rolled_back", "rollback_failed", "disk_full"), "rollback_failed"),
        (("diverged", "timeout", "disk_full"), "diverged"),
        (("rolled_back", "disk_full", "timeout"), "disk_full"),
        (("rolled_back", "unreachable"), "unreachable"),
        (("invalid_input", "golden_mismatch"), "golden_mismatch"),
    ],
)
def test_the_worst_of_several_failures_is_the_outcome(several, worst):
    observer = Observer()
    for number, outcome in enumerate(several):
        observer.failed(f"lab{number}", "Say so", failing(outcome))
    assert end(observer, failures={f"lab{number}": 1 for number in range(len(several))}).outcome == worst


def test_a_play_without_a_host_is_a_wrong_inventory():
    observer = Observer()
    observer.no_hosts_matched("Deploy")
    ending = end(observer, processed=("localhost",))
    assert (ending.outcome, ending.code) == ("unknown_inventory", 1)
    assert "'Deploy'" in ending.reason


def test_a_run_in_which_no_host_took_part_is_a_wrong_inventory():
    assert end(Observer(), processed=()).code == ExitCode.INPUT


def test_a_code_that_contradicts_the_table_is_corrected_by_it():
    wrong = {"failed": True, "mobius_failure": {"outcome": "disk_full", "code": 0, "reason": "No space."}}
    assert failed_result("lab1", "Write", wrong).as_dict()["code"] == 5


def test_an_outcome_that_the_table_does_not_know_is_a_failed_task():
    wrong = {"failed": True, "msg": "Odd.", "mobius_failure": {"outcome": "odd", "code": 9, "reason": "Odd."}}
    assert failed_result("lab1", "Write", wrong).outcome == "task_failed"


def test_a_failure_that_claims_success_is_a_failed_task():
    wrong = {"failed": True, "msg": "Odd.", "mobius_failure": {"outcome": "success", "reason": "Odd."}}
    assert failed_result("lab1", "Write", wrong).outcome == "task_failed"


def test_the_block_at_the_end_names_outcome_code_team_hosts_and_what_to_do_next():
    observer = Observer()
    observer.failed("lab1", "Write", failing("disk_full", "No space on /var."))
    ended = end(observer, failures={"lab1": 1})
    lines = outcome_lines(RunAccount("deploy", ended, run="20260131T230501Z-9f3a61c2", seconds=41), TextStyle(120))
    assert lines == [
        "✗ deploy refused",
        "  why       No space on /var (lab1)",
        f"  next      {OUTCOMES['disk_full'].do_next}",
        "  took      41 s, run 20260131T230501Z-9f3a61c2, exit 5 (Infrastructure, disk_full)",
    ]


def test_a_failure_that_was_never_shown_still_fails_the_run():
    assert end(Observer(), failures={"lab1": 1}).outcome == "task_failed"


# failure


def test_an_earlier_failure_is_passed_on_as_it_is():
    earlier = MobiusError("disk_full", "No space.", do_next="Buy a disk.").as_dict()
    assert failure_from(outcome="task_failed", reason="x", failure=earlier) == earlier


def test_without_an_earlier_failure_the_named_outcome_is_used():
    made = failure_from(outcome="release_bad", reason="Marked bad.", do_next="Build another.", failure={})
    assert made == {"code": 1, "outcome": "release_bad", "reason": "Marked bad.", "do_next": "Build another."}


@pytest.mark.parametrize(
    ("host", "serves", "sentence"),
    [
        ({"serving": ["1.1.0-0123456789ab"]}, ["1.1.0-0123456789ab"], "What serves there now: 1.1.0-0123456789ab."),
        ({"serving": []}, [], "What serves there now: nothing."),
        ({"failed": True, "msg": "No answer."}, None, "What serves there now is not known."),
        ({"unreachable": True, "serving": "odd"}, None, "What serves there now is not known."),
    ],
)
def test_a_failed_rollback_says_what_serves_in_its_data_and_in_its_sentence(host, serves, sentence):
    made = failure_from(outcome="rollback_failed", reason="It failed.", host=host)
    assert made["reason"] == f"It failed. {sentence}" and made.get("serves") == serves
    assert failure_from(failure=made) == made
    shown = failed_result("lab1", "Report", {"failed": True, "mobius_failure": made}).as_dict()
    assert shown["reason"] == made["reason"] and shown.get("serves") == serves


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"outcome": "disk_full"},
        {"reason": "x"},
        {"outcome": "odd", "reason": "x"},
        {"outcome": "success", "reason": "x"},
    ],
)
def test_a_failure_without_a_known_outcome_and_a_reason_is_refused(arguments):
    with pytest.raises(MobiusError) as caught:
        failure_from(**arguments)
    assert caught.value.outcome == "invalid_input"


# decide


def passed(host: str = "lab1") -> HostReport:
    return HostReport(host, True, {"verdict": "pass", "reason": "healthy"})


def test_a_fleet_is_confirmed_when_every_host_passed():
    decision = decide([passed("lab1"), passed("lab2")], check_mode=False)
    assert decision.as_dict() == {
        "decision": "confirm",
        "verdict": "pass",
        "verdicts": {"lab1": "pass", "lab2": "pass"},
        "reason": "",
        "reasons": {},
        "mark_bad": False,
        "failure": {},
    }


@pytest.mark.parametrize(
    ("report", "verdict", "outcome", "mark_bad"),
    [
        (HostReport("lab2", True, None), "error", "environment_failed", False),
        (HostReport("lab2", True, {"skipped": True}), "error", "environment_failed", False),
        (HostReport("lab2", False, None), "error", "unreachable", False),
        (HostReport("lab2", False, {"verdict": "pass"}), "error", "unreachable", False),
        (HostReport("lab2", True, {"unreachable": True, "msg": "gone"}), "error", "unreachable", False),
        (HostReport("lab2", True, {"failed": True, "msg": "broke"}), "error", "task_failed", False),
        (HostReport("lab2", True, {"verdict": "fail", "reason": "wrong"}), "fail", "rolled_back", True),
        (HostReport("lab2", False, {"verdict": "fail", "reason": "wrong"}), "fail", "rolled_back", True),
        (HostReport("lab2", True, {"verdict": "inconclusive"}), "inconclusive", "gate_inconclusive", False),
        (HostReport("lab2", True, {"verdict": "error", "reason": "no"}), "error", "environment_failed", False),
        (HostReport("lab2", True, {"verdict": "unknown"}), "unknown", "gate_inconclusive", False),
        (HostReport("lab2", True, {"verdict": "fine"}), "error", "environment_failed", False),
        (HostReport("lab2", True, failing("disk_full")), "error", "disk_full", False),
        (HostReport("lab2", True, failing("golden_mismatch")), "fail", "golden_mismatch", True),
        (
            HostReport("lab2", True, {"verdict": "error", "failure": MobiusError("instance_failed", "x").as_dict()}),
            "fail",
            "instance_failed",
            True,
        ),
        (HostReport("lab2", True, {"verdict": "error", "failure": {}}), "error", "environment_failed", False),
    ],
)
def test_one_host_that_did_not_pass_reverts_every_host(report, verdict, outcome, mark_bad):
    decision = decide([passed(), report], check_mode=False)
    assert decision.decision == "revert"
    assert decision.verdict == verdict
    assert list(decision.reasons) == ["lab2"]
    assert decision.reasons["lab2"]
    assert decision.mark_bad is mark_bad
    assert decision.failure["outcome"] == outcome
    assert decision.failure["reason"].startswith("lab2: ")


def test_an_unknown_verdict_is_predicted_to_pass_in_check_mode_only():
    reports = [HostReport("lab1", True, {"verdict": "unknown"}), passed("lab2")]
    assert decide(reports, check_mode=True).decision == "confirm"
    assert decide(reports, check_mode=False).decision == "revert"


def test_a_missing_host_is_not_predicted_away_in_check_mode():
    assert decide([passed(), HostReport("lab2", False, None)], check_mode=True).decision == "revert"


def test_the_reasons_of_all_hosts_are_kept_and_the_worst_gives_the_outcome():
    decision = decide(
        [
            HostReport("lab1", True, {"verdict": "inconclusive", "reason": "3 samples"}),
            HostReport("lab2", True, {"verdict": "fail", "reason": "wrong hash"}),
            HostReport("lab3", True, failing("disk_full", "no space")),
        ],
        check_mode=False,
    )
    assert decision.reasons == {"lab1": "3 samples", "lab2": "wrong hash", "lab3": "no space"}
    assert decision.failure["outcome"] == "disk_full"
    assert decision.reason == "lab1: 3 samples; lab2: wrong hash; lab3: no space"
    assert (decision.verdict, decision.mark_bad) == ("fail", True)


def test_a_decision_about_nobody_is_never_to_confirm():
    decision = decide([], check_mode=False)
    assert (decision.decision, decision.failure["code"]) == ("revert", 1)


def test_the_outcomes_that_prove_a_release_bad_are_wrong_answers_and_failed_gates():
    assert {name for name, outcome in OUTCOMES.items() if outcome.proves_bad} == {
        "golden_mismatch",
        "instance_failed",
        "rolled_back",
    }
