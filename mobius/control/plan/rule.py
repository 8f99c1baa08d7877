# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a run may begin by its inventory's rule for plans: planned, approved, fresh, in the window, proven elsewhere.

The same for `mobius apply` and a plain `ansible-playbook -e mobius_plan=FILE`: the plugin `run` comes here on every
host before anything changes. A reason to break the glass waives what people and clocks decide, never what the plan is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mobius.control.checklist.boxes import boxes_of
from mobius.control.checklist.session import open_boxes, read_answers
from mobius.control.history import verifier as form
from mobius.control.history.query import read_runs
from mobius.control.plan import plan as plans
from mobius.control.plan.approvals import VARIABLES, Rule, Tally, require_inventory_data, tally
from mobius.control.plan.window import refusal
from mobius.errors import MobiusError
from mobius.manifest import release_of

_AHEAD = 300.0  # seconds by which clocks may differ
_EMERGENCY = "In an emergency give -e mobius_break_glass=REASON, which is recorded. A rollback needs no plan."


@dataclass(frozen=True)
class ChangeRequest:
    """The change that a run makes, and the rule for it.

    `plan` is the plan's file or None, `intent` the data of the run's intent as the history has it, `window` and
    `break_glass` are texts or empty, `release` is the staged release to promote or empty, `extra_variables` are
    their names, `history` is the history's folder.
    """

    rule: Rule
    plan: Path | None
    intent: Mapping[str, Any]
    window: str
    break_glass: str
    release: str
    extra_variables: frozenset[str]
    history: Path
    now: datetime


@dataclass(frozen=True)
class RuleVerdict:
    """Why a run is refused: `refused` is the first reason, `waived` what break glass has overridden."""

    refused: MobiusError | None
    waived: tuple[MobiusError, ...] = ()
    plan: plans.ChangePlan | None = None
    counted: Tally | None = None
    proven_by: str | None = None

    def record(self, request: ChangeRequest) -> dict[str, Any]:
        """What the history keeps of it; empty where there is no rule, no plan and no broken glass."""
        if not (request.rule.wants_plan or self.plan or request.break_glass):
            return {}
        return {
            "plan": self.plan.digest if self.plan else None,
            "author": self.counted.author if self.counted else None,
            "approvals": [item.as_dict() for item in self.counted.approvals] if self.counted else [],
            "required": request.rule.required,
            "proven_by": self.proven_by,
            "break_glass": request.break_glass or None,
            "waived": [error.outcome for error in self.waived],
            "refused": self.refused.outcome if self.refused else None,
        }


def examine(request: ChangeRequest) -> RuleVerdict:
    """Check a run against its inventory's rule. No host is needed for it."""
    try:
        require_inventory_data(request.extra_variables, VARIABLES)
    except MobiusError as error:
        return RuleVerdict(error)
    if request.plan is None:
        try:
            missing = [_without_plan(request)] if request.rule.wants_plan else []
            return _waive(request, RuleVerdict(None), [*missing, *_open_checklist(request)])
        except MobiusError as error:
            return RuleVerdict(error)
    counted = None
    try:
        plan = plans.ChangePlan.read(request.plan)
        counted = tally(request.plan, plan.digest, request.rule)
        changed = plans.differences(plan, request.intent)
        if changed:
            reason = f"Since the plan was made, these have changed: {'; '.join(changed)}."
            return RuleVerdict(MobiusError("plan_stale", reason), (), plan, counted)
        proven_by = _proven_by(request, plan)
        reasons = [_too_old(request, plan), refusal(request.window, "", request.now)]
    except MobiusError as error:
        return RuleVerdict(error)
    if counted.missing:
        reason = f"The plan lacks {'; '.join(counted.missing)}."
        reasons.append(MobiusError("plan_unapproved", reason))
    if request.rule.proven_on and plan.touches_releases and proven_by is None:
        reason = f"The history has no successful release of this bundle on {request.rule.proven_on}."
        reasons.append(MobiusError("bundle_unproven", reason))
    try:
        reasons += _open_checklist(request)
    except MobiusError as error:
        return RuleVerdict(error)
    return _waive(request, RuleVerdict(None, (), plan, counted, proven_by), [error for error in reasons if error])


def host_refusal(host: str, plan: plans.ChangePlan, state: Mapping[str, Any] | None) -> MobiusError | None:
    """Why a plan no longer fits a host, by the host's fingerprint now; None when it does."""
    if host not in plan.hosts:
        return MobiusError("plan_stale", f"{host} is not in the plan.")
    changed = plans.host_differences(plan.hosts[host].state, state)
    if not changed:
        return None
    return MobiusError("plan_stale", f"{host} has changed since the plan was made: {'; '.join(changed)}.")


def _waive(request: ChangeRequest, verdict: RuleVerdict, reasons: list[MobiusError]) -> RuleVerdict:
    waived = bool(request.break_glass.strip())
    return RuleVerdict(
        None if waived or not reasons else reasons[0],
        tuple(reasons) if waived else (),
        verdict.plan,
        verdict.counted,
        verdict.proven_by,
    )


def _without_plan(request: ChangeRequest) -> MobiusError:
    return MobiusError(
        "plan_missing",
        f"{request.intent.get('inventory')} is changed by a plan only, and the run has none.",
        do_next="Make one with `mobius plan`, have it approved, and run `mobius apply` "
        f"(or give -e mobius_plan=FILE). {_EMERGENCY}",
    )


def _too_old(request: ChangeRequest, plan: plans.ChangePlan) -> MobiusError | None:
    age = plan.age(request.now)
    if -_AHEAD <= age <= request.rule.max_hours * 3600:
        return None
    reason = f"The plan was made {age / 3600:.1f} hours ago; {request.rule.max_hours:g} are allowed."
    if age < 0:
        reason = f"The plan says that it was made at {plan.created}, which is yet to come."
    return MobiusError("plan_stale", reason)


def _open_checklist(request: ChangeRequest) -> list[MobiusError]:
    """Why the checklist keeps a release from beginning: an empty list, or the one failure."""
    releases = Path(str(request.intent.get("playbook"))).stem in ("release", "deploy", "promote")
    if not request.rule.checklist or not releases:
        return []
    digest = release_of(request.release).rpartition("-")[2] or str(request.intent.get("bundle_sha256") or "")
    path = request.history / form.FILE_NAME
    answers = {}
    if digest and path.exists():
        answers = read_answers(read_runs(request.history), digest, str(request.intent.get("inventory")))
    remaining = open_boxes(boxes_of("before"), answers, request.now)
    if not remaining:
        return []
    reason = f"Open in the checklist of this bundle: {', '.join(box.name for box in remaining)}."
    return [MobiusError("checklist_open", reason)]


def _proven_by(request: ChangeRequest, plan: plans.ChangePlan) -> str | None:
    """The run that has released the same bundle with success on the inventory that must go before; None for none.

    Raises:
        MobiusError: history_damaged, when the history that would say so is not what was written.
    """
    path = request.history / form.FILE_NAME
    if not request.rule.proven_on or not plan.touches_releases or not path.exists():
        return None
    chain = form.verify_chain(path.read_bytes(), form.read_head(request.history))
    if chain.problems:
        raise MobiusError("history_damaged", f"The history cannot prove anything: {chain.problems[0].text}")
    digest = release_of(request.release).rpartition("-")[2] or str(plan.made_from["bundle_sha256"] or "")
    proof = None
    for run in read_runs(request.history):
        if run["check"] or run["outcome"] != "success" or run["inventory"] != request.rule.proven_on:
            continue
        after, before = _ends(run, "to_release"), _ends(run, "from_release")
        if str(run["intent"].get("bundle_sha256")).startswith(digest) and digest and digest[:12] in after:
            proof = str(run["run"])
        elif digest[:12] in before - after:
            proof = None  # it was reverted there, or replaced by a rollback
    return proof


def _ends(run: Mapping[str, Any], name: str) -> set[str]:
    """The digests in the release ids that the hosts of a run had before or after it."""
    ids = {str(facts.get(name) or "") for facts in run["hosts"].values()}
    return {release_of(text).rpartition("-")[2] for text in ids if text}
