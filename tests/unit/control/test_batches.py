# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Batches of hosts, a decision for all of them, and who is named in it."""

from __future__ import annotations

from typing import Any

import pytest

from mobius.control.run.batches import batches, failed_hosts, host_reports, needs_promotion
from mobius.control.run.outcome import HostReport, decide, noted_failure
from mobius.errors import MobiusError

TEN = [f"web{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("hosts", "sizes", "counts"),
    [
        (TEN, [1, "25%", "100%"], [1, 2, 7]),
        (TEN[:4], [1, "25%", "100%"], [1, 1, 2]),
        (TEN[:1], [1, "25%", "100%"], [1]),
        (TEN, ["100%"], [10]),
        (TEN, [4], [4, 4, 2]),
        (TEN, ["1", "1%"], [1] * 10),
        ([], [1], []),
    ],
)
def test_hosts_are_put_into_batches_in_their_order(hosts: list[str], sizes: list[Any], counts: list[int]) -> None:
    results = batches(hosts, sizes)
    assert [len(batch) for batch in results] == counts
    assert [host for batch in results for host in batch] == hosts


@pytest.mark.parametrize("sizes", [[], [0], ["0%"], ["101%"], [-1], [True], ["few"], [1.5], [None], [[1]]])
def test_a_size_that_is_none_is_refused(sizes: list[Any]) -> None:
    with pytest.raises(MobiusError) as refused:
        batches(TEN, sizes)
    assert refused.value.outcome == "invalid_input"
    assert "promote_batches" in refused.value.reason


def test_a_decision_that_cannot_be_recorded_turns_into_a_revert() -> None:
    confirm = decide([HostReport("a", True, {"verdict": "pass"})], check_mode=False)
    back = confirm.reverted_for(MobiusError("history_failed", "It cannot be written."))
    assert (back.decision, back.failure["outcome"], back.mark_bad) == ("revert", "history_failed", False)
    assert (confirm.verdicts, back.verdicts) == ({"a": "pass"}, {"a": "pass"})
    assert back.reverted_for(MobiusError("disk_full", "Full.")) is back


def test_a_host_that_was_only_held_back_does_not_hide_the_one_that_failed() -> None:
    held = {"verdict": "error", "failure": MobiusError("held_back", "a failed before.").as_dict()}
    decision = decide(
        [HostReport("a", True, {"verdict": "fail", "reason": "wrong hash"}), HostReport("b", True, held)],
        check_mode=False,
    )
    assert (decision.failure["outcome"], list(decision.reasons), decision.mark_bad) == ("rolled_back", ["a"], True)
    assert decide([HostReport("b", True, held)], check_mode=False).failure["outcome"] == "held_back"


SERVES = {"confirmed": "1.0.0-a", "pending": None, "serving": ["1.0.0-a"]}


@pytest.mark.parametrize(
    ("changes", "alive", "needed"),
    [
        ({}, True, False),
        ({"confirmed": "0.9.0-b"}, True, True),
        ({"pending": {"release": "1.0.0-a"}}, True, True),
        ({"serving": []}, True, True),
        ({"serving": None}, True, True),
        ({}, False, True),
    ],
)
def test_a_host_needs_a_promotion_unless_it_serves_the_release_confirmed(
    changes: dict[str, Any], alive: bool, needed: bool
) -> None:
    assert needs_promotion(HostReport("lab1", alive, {**SERVES, **changes}), "1.0.0-a") is needed


def test_a_host_that_reported_nothing_needs_a_promotion() -> None:
    assert needs_promotion(HostReport("lab1", True, None), "1.0.0-a")


def test_the_failed_hosts_are_the_lost_ones_and_those_with_a_bad_verdict() -> None:
    reports = [
        HostReport("lab1", True, {"verdict": "pass"}),
        HostReport("lab2", True, {"verdict": "inconclusive"}),
        HostReport("lab3", True, {"verdict": "unknown"}),
        HostReport("lab4", False, {"verdict": "pass"}),
        HostReport("lab5", True, {}),
        HostReport("lab6", True, None),
        HostReport("lab7", True, {"verdict": "error"}),
    ]
    assert failed_hosts(reports) == ["lab4", "lab2", "lab7"]


def test_the_report_of_a_host_is_the_value_of_one_variable() -> None:
    task_vars = {
        "ansible_play_hosts": ["lab1", "lab2"],
        "ansible_play_hosts_all": ["lab1", "lab2", "lab3"],
        "hostvars": {"lab1": {"result": {"verdict": "pass"}}, "lab2": {"result": "text"}, "lab3": {}},
    }
    assert host_reports("result", task_vars) == [
        HostReport("lab1", True, {"verdict": "pass"}),
        HostReport("lab2", True, None),
        HostReport("lab3", False, None),
    ]
    assert [report.result for report in host_reports(None, task_vars)] == [None, None, None]


def test_a_noted_failure_carries_its_outcome_unless_it_gets_another_meaning() -> None:
    failure = MobiusError("disk_full", "No space.").as_dict()
    assert noted_failure({"msg": "x", "mobius_failure": failure}) == {
        "verdict": "error",
        "reason": "No space.",
        "failure": failure,
    }
    assert noted_failure({"msg": "It broke."}) == {"verdict": "error", "reason": "It broke.", "failure": {}}
    assert noted_failure({})["reason"] == "A task failed."
    assert noted_failure({"mobius_failure": failure}, "The promotion ended") == {
        "verdict": "error",
        "reason": "The promotion ended: No space.",
    }
