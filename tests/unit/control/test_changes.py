# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run changes, and predicted against actual."""

from __future__ import annotations

from typing import Any

import pytest

from mobius.control.plan.changes import Collector, HostChanges, check_fidelity, compare
from mobius.control.run.outcome import SUCCESS, ending
from mobius.errors import OUTCOMES

COPY, PROMOTION = "ansible.builtin.copy", "mobius.dhash.promotion"


def collected(*results: tuple[str, str, dict[str, Any]], host: str = "h1") -> dict[str, HostChanges]:
    collector = Collector()
    for module, task, result in results:
        collector.result(host, module, task, result, skipped=bool(result.get("skipped")))
    return collector.hosts


def wrote(before: str, after: str) -> dict[str, Any]:
    return {"changed": True, "diff": [{"before_header": "/etc/x", "before": before, "after": after}]}


def switched(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {"changed": True, "diff": {"before": before, "after": after}}


def test_what_is_the_same_has_nothing_missing_and_nothing_extra() -> None:
    run = collected((COPY, "Write", wrote("a\n", "b\n")))
    assert compare(run, run).record() == {"missing": 0, "extra": 0, "missing_at": [], "extra_at": []}


@pytest.mark.parametrize(
    ("actual", "missing", "extra"),
    [
        ([], 2, 0),
        ([(COPY, "Write", wrote("a", "b")), (COPY, "More", {"changed": True})], 0, 1),
        ([(COPY, "Write", wrote("a", "c"))], 1, 1),
        ([(COPY, "Write", wrote("0", "b"))], 1, 1),
        ([(COPY, "Write", {"changed": False})], 2, 0),
        ([(COPY, "Write", wrote("a", "b")), (COPY, "Write", wrote("a", "b"))], 0, 2),
    ],
)
def test_every_other_task_or_value_is_missing_or_extra(actual: list[Any], missing: int, extra: int) -> None:
    matches = compare(collected((COPY, "Write", wrote("a", "b"))), collected(*actual))
    assert (len(matches.missing), len(matches.extra)) == (missing, extra)
    assert matches.applied_to(SUCCESS).outcome == "plan_mismatch"
    assert matches.applied_to(SUCCESS).code == 2


def test_a_host_that_was_not_planned_is_extra_and_one_that_was_not_reached_is_missing() -> None:
    one, two = (collected((COPY, "Write", wrote("a", "b")), host=host) for host in ("h1", "h2"))
    assert {item.host for item in compare(one, two).missing} == {"h1"}
    assert {item.host for item in compare(one, two).extra} == {"h2"}


def test_without_diff_only_the_collections_modules_are_compared_by_value() -> None:
    planned = collected((COPY, "Write", wrote("a", "b")), ("mobius.dhash.retention", "Remove", wrote("a", "b")))
    plain = collected((COPY, "Write", {"changed": True}), ("mobius.dhash.retention", "Remove", wrote("a", "c")))
    matches = compare(planned, plain, diffs=False)
    assert [item.resource for item in matches.extra] == ["Remove: /etc/x"]


def test_the_releases_of_a_host_are_compared_from_first_to_last() -> None:
    """Each task of a check run starts from the host as it is, each task of a run from what the one before has left."""
    a, both, b = ({"confirmed": "a", "token": 1}, {"confirmed": "a", "pending": "b"}, {"confirmed": "b", "token": 2})
    check = collected((PROMOTION, "Begin", switched(a, both)), (PROMOTION, "Confirm", switched(a, b)))
    run = collected((PROMOTION, "Begin", switched(a, both)), (PROMOTION, "Confirm", switched(both, b)))
    assert compare(check, run).record()["missing"] == 0
    other = collected((PROMOTION, "Begin", switched(a, both)), (PROMOTION, "Confirm", switched(both, a)))
    assert [item.resource for item in compare(check, other).missing] == ["releases: confirmed", "releases: token"]
    assert compare(check, other).extra == ()


def test_a_monitoring_window_that_ends_between_plan_and_run_is_no_difference() -> None:
    before = {"watched": "b", "instances": {"a": "standby", "b": "serving"}}
    later = {"watched": None, "instances": {"b": "serving"}}
    after = {"watched": "c", "instances": {"b": "standby", "c": "serving"}}
    planned, run = (collected((PROMOTION, "Confirm", switched(state, after))) for state in (before, later))
    assert compare(planned, run) == compare(planned, planned)
    unwatched = {**after, "watched": None}
    matches = compare(planned, collected((PROMOTION, "Confirm", switched(later, unwatched))))
    assert [item.resource for item in matches.missing] == ["releases: watched"]
    gone = {**after, "instances": {"c": "serving"}}
    matches = compare(planned, collected((PROMOTION, "Confirm", switched(later, gone))))
    assert [item.resource for item in matches.missing] == ["releases: instances.b"]


def test_a_list_is_compared_by_what_comes_and_goes() -> None:
    module = "mobius.dhash.retention"
    planned = collected((module, "Remove", switched({"staged": ["1", "2"]}, {"staged": ["2"]})))
    # by then the run has staged another one
    actual = collected((module, "Remove", switched({"staged": ["1", "2", "3"]}, {"staged": ["3", "2"]})))
    assert compare(planned, actual).record()["extra"] == 0
    assert planned["h1"].changes[0].diff[0].as_dict() == {"path": "staged[1]", "before": "present", "after": None}


def test_what_cannot_be_known_is_marked_and_neither_missing_nor_extra() -> None:
    planned = collected(
        ("mobius.dhash.gate", "Ask", {"changed": False, "predicted": "unknown"}),
        ("ansible.builtin.command", "Call", {"skipped": True, "msg": "Command would have run if not in check mode"}),
        ("ansible.builtin.command", "Not now", {"skipped": True, "skip_reason": "Conditional result was False"}),
        ("mobius.dhash.backup", "Back up", {"changed": True}),
    )
    marks = {change.task: change.as_dict()["predicted"] for change in planned["h1"].changes}
    assert marks == {"Ask": "unknown", "Call": "unknown", "Back up": "unknown"}
    actual = collected(("ansible.builtin.command", "Call", {"changed": True}), ("x", "Not now", {"changed": True}))
    assert [item.resource for item in compare(planned, actual).extra] == ["Not now"]


def test_each_item_of_a_loop_counts() -> None:
    loop = {"changed": True, "results": [wrote("a", "b"), {"changed": False}, wrote("c", "d")]}
    assert len(collected((COPY, "Write", loop))["h1"].changes) == 2


def test_what_is_kept_reads_back_the_same() -> None:
    state = {"confirmed": "a", "token": 3}
    (host,) = collected(
        ("mobius.dhash.run", "Open", {"state": state}), (PROMOTION, "Begin", switched({"a": 1.5}, {"a": "x" * 50_000}))
    ).values()
    assert HostChanges.read(host.as_dict()).as_dict() == host.as_dict()
    assert host.as_dict()["state"] == state
    assert host.net[0].before == "1.5"
    assert str(host.net[0].after).startswith("sha256:")


def test_a_run_that_failed_stays_what_it_was() -> None:
    failed = ending("rolled_back", "The gate failed.")
    assert check_fidelity(failed, 3, 0) is failed
    assert check_fidelity(SUCCESS, 0, 0) is SUCCESS
    assert OUTCOMES["plan_mismatch"].code == 2
