# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Batches of hosts, a decision for all of them, and who is named in it."""

from __future__ import annotations

from typing import Any

import pytest

from mobius.control.run.batches import batches
from mobius.control.run.outcome import HostReport, decide
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
    found = batches(hosts, sizes)
    assert [len(batch) for batch in found] == counts
    assert [host for batch in found for host in batch] == hosts


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
