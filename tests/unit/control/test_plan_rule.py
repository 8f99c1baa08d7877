# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a run may begin: by its plan, its approvals, the clock, and what another inventory has proven."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mobius.control.history.writer import History, Holder
from mobius.control.plan.approvals import Rule
from mobius.control.plan.changes import Change, HostChanges
from mobius.control.plan.plan import MADE_FROM, ChangePlan, fingerprint
from mobius.control.plan.rule import ChangeRequest, examine, host_refusal

MADE = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SHA = "0123456789ab" + "0" * 52
RELEASE = f"1.0.0-{SHA[:12]}"
STATE = {"provisioned": True, "confirmed": "1", "token": 3, "pending": None, "releases": {"1": "kept"}}
FIELDS: dict[str, Any] = {
    **dict.fromkeys(MADE_FROM, "x"),
    "bundle_sha256": SHA,
    "tags": [],
    "skip_tags": [],
    "variables": {"size": "hmac-sha256:1"},
}


@pytest.fixture
def change(tmp_path: Path) -> ChangeRequest:
    change = Change("Stage the release", "mobius.dhash.release")
    hosts = {"h1": HostChanges(STATE, [change])}
    plan = ChangePlan("20260131T120000Z-9f3a61c2", MADE.isoformat(), "ada@control", FIELDS, {}, (), hosts)
    plan.write(tmp_path / "a.plan.json")
    variables = {**FIELDS["variables"], "mobius_plan": "hmac-sha256:2", "mobius_bundle": "hmac-sha256:3"}
    intent = {**FIELDS, "variables": variables, "inventory": "x"}
    return ChangeRequest(
        rule=Rule(),
        plan=tmp_path / "a.plan.json",
        intent=intent,
        window="",
        break_glass="",
        release="",
        extra_variables=frozenset(variables),
        history=tmp_path / "history",
        now=MADE + timedelta(hours=1),
    )


def outcome(change: ChangeRequest, **changes: Any) -> str | None:
    refused = examine(dataclasses.replace(change, **changes)).refused
    return refused.outcome if refused else None


def test_a_plan_that_holds_may_run_where_the_inventory_requires_no_more(change: ChangeRequest) -> None:
    assert outcome(change) is None
    assert outcome(change, plan=None) is None


@pytest.mark.parametrize("name", ["playbook_sha256", "inventory_sha256", "inventory", "code_sha256", "bundle_sha256"])
@pytest.mark.parametrize("glass", ["", "it burns"])
def test_whatever_has_changed_makes_a_plan_stale_and_no_broken_glass_helps(
    change: ChangeRequest, name: str, glass: str
) -> None:
    assert outcome(change, intent={**change.intent, name: "y"}, break_glass=glass) == "plan_stale"


@pytest.mark.parametrize(
    ("variables", "word"),
    [({}, "give it again"), ({"size": "hmac-sha256:9"}, "size"), ({"size": "hmac-sha256:1", "b": "x"}, "not in the")],
)
def test_variables_are_what_they_were(change: ChangeRequest, variables: dict[str, str], word: str) -> None:
    refused = examine(dataclasses.replace(change, intent={**change.intent, "variables": variables})).refused
    assert refused is not None
    assert word in refused.reason


def test_limit_and_tags_are_what_they_were(change: ChangeRequest) -> None:
    for name, value in (("limit", "h1"), ("tags", ["deploy"]), ("skip_tags", ["x"])):
        assert outcome(change, intent={**change.intent, name: value}) == "plan_stale"


@pytest.mark.parametrize(
    ("rule", "more", "expected"),
    [
        (Rule(required=1), {"plan": None}, "plan_missing"),
        (Rule(proven_on="inventories/staging"), {"plan": None}, "plan_missing"),
        (Rule(required=1), {}, "plan_unapproved"),
        (Rule(roles=("ops_sre",)), {}, "plan_unapproved"),
        (Rule(), {"now": MADE + timedelta(hours=25)}, "plan_stale"),
        (Rule(), {"now": MADE - timedelta(hours=1)}, "plan_stale"),
        (Rule(max_hours=1), {"now": MADE + timedelta(hours=2)}, "plan_stale"),
        (Rule(), {"window": "23:00-00:00"}, "outside_window"),
        (Rule(proven_on="inventories/staging"), {}, "bundle_unproven"),
    ],
)
def test_what_people_and_clocks_decide_is_refused_and_waived_by_a_reason(
    change: ChangeRequest, rule: Rule, more: dict[str, Any], expected: str
) -> None:
    assert outcome(change, rule=rule, **more) == expected
    broken = dataclasses.replace(change, rule=rule, break_glass="it burns", **more)
    verdict = examine(broken)
    assert verdict.refused is None
    assert verdict.record(broken)["waived"] == [expected]
    assert verdict.record(broken)["break_glass"] == "it burns"


def test_the_rule_is_never_an_extra_variable(change: ChangeRequest) -> None:
    arguments = frozenset({"mobius_approvals_required"})
    assert outcome(change, extra_variables=arguments, break_glass="it burns") == "invalid_input"


def test_a_touched_plan_is_refused_whatever_the_reason(change: ChangeRequest) -> None:
    assert change.plan is not None
    change.plan.write_text(change.plan.read_text().replace("h1", "h2"))
    assert outcome(change, break_glass="it burns") == "plan_invalid"


def released(folder: Path, run: str, **changes: Any) -> None:
    """A run in a history: a release on staging unless `changes` says otherwise."""
    about = {"inventory": "inventories/staging", "check": False, "playbook": "playbooks/release.yml"}
    about |= {"bundle_sha256": SHA, "outcome": "success", "before": None, "after": RELEASE, **changes}
    history = History(folder)
    history.open(run, Holder.of(os.getpid()), {name: about[name] for name in ("inventory", "check", "bundle_sha256")})
    hosts = {"s1": {"from_release": about["before"], "to_release": about["after"]}}
    history.close(run, str(about["outcome"]), {"hosts": hosts})


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "rolled_back"},
        {"check": True},
        {"inventory": "inventories/local"},
        {"bundle_sha256": "f" * 64},
        {"after": "1.0.0-ffffffffffff"},
    ],
)
def test_only_a_success_of_the_same_bundle_there_proves_it(change: ChangeRequest, changes: dict[str, Any]) -> None:
    rule = Rule(proven_on="inventories/staging")
    released(change.history, "20260131T010000Z-00000001", **changes)
    assert outcome(change, rule=rule) == "bundle_unproven"
    released(change.history, "20260131T020000Z-00000002")
    assert outcome(change, rule=rule) is None
    assert outcome(change, rule=rule, release=RELEASE) is None
    assert outcome(change, rule=rule, release="1.0.0-ffffffffffff") == "bundle_unproven"


def test_what_was_reverted_there_is_no_longer_proven_and_a_damaged_history_proves_nothing(
    change: ChangeRequest,
) -> None:
    rule = Rule(proven_on="inventories/staging")
    released(change.history, "20260131T010000Z-00000001")
    assert examine(dataclasses.replace(change, rule=rule)).proven_by == "20260131T010000Z-00000001"
    released(change.history, "20260131T020000Z-00000002", before=RELEASE, after=None, bundle_sha256=None)
    assert outcome(change, rule=rule) == "bundle_unproven"
    path = change.history / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(b"staging", b"elsewhe"))
    assert outcome(change, rule=rule) == "history_damaged"


def test_a_host_must_be_as_it_was_planned(change: ChangeRequest) -> None:
    assert change.plan is not None
    plan = ChangePlan.read(change.plan)
    assert host_refusal("h1", plan, STATE) is None
    for name, value in (("token", 4), ("confirmed", "2"), ("pending", "2"), ("releases", {}), ("provisioned", False)):
        refused = host_refusal("h1", plan, {**STATE, name: value})
        assert refused is not None
        assert refused.reason.startswith(f"h1 has changed since the plan was made: {name} was ")
    assert host_refusal("h1", plan, None) is not None
    assert host_refusal("h2", plan, STATE) is not None


def test_a_fingerprint_leaves_out_what_changes_by_itself() -> None:
    release = {"release": "1", "staged": True, "bad": False, "state": "serving"}
    facts = {"provisioned": True, "confirmed": "1", "token": 3, "releases": [release], "pending": None}
    pending = {**facts, "pending": {"release": "2", "remaining": 17.5}, "watch": {"remaining": 3}}
    assert fingerprint(facts) == STATE
    assert fingerprint(pending) == {**STATE, "pending": "2"}
