# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans the rollback to an earlier release: by command, and by a trigger of the watch."""

from __future__ import annotations

import dataclasses

from ...errors import MobiusError
from ..clock import utc_now
from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import (
    catch_up_journal,
    find_revision,
    find_target,
    make_journal_line,
    recover,
    require_release_id,
    require_staged,
)
from ..state import ActivationEntry, MonitoringWindow

_STANDBY_WORDS = ("standby", "draining", "stopping", "stopped")  # of an instance that is not being promoted


def plan_rollback(
    observed: Observation, to: str | None, actor: Actor, *, leaves: str | None = None, since: str | None = None
) -> HostPlan:
    """The present release is marked bad, and the previous one (or `to`, any kept one) serves and is confirmed.

    A pending promotion is reverted first. A rollback that was killed after it had written the activation record is
    completed, and does not count as another step; one that was done and only lacks its line in the journal does.

    Args:
        leaves: the release to roll back from. When it does not serve any more, nothing is done: of two rollbacks at
            once, the second one would leave the release that the first one went to.
        since: when this rollback was requested, by the clock of the host. Without `leaves` and `to`, what served then
            is what it leaves.
    """
    builder = PlanBuilder(observed)
    to = find_target(observed, to) if to is not None else None
    leaves = find_revision(observed, leaves) if leaves is not None else None
    activation, pending = observed.activation, observed.open_promotion
    promoted = pending.release if pending else None
    is_pending_lost = observed.pending_problem is not None and leaves not in (None, activation.confirmed)
    if is_pending_lost and observed.instance(str(leaves)).word not in _STANDBY_WORDS:
        promoted = leaves  # a damaged pending.json no longer names it
    expected = (activation.confirmed, promoted)
    last = activation.last or {}
    if leaves is not None:
        require_release_id(leaves)
    elif (
        to is None
        and since is not None
        and last.get("event") == "rollback"
        and since < str(last.get("at")) <= utc_now()
    ):
        leaves = last.get("from")  # a time to come is of a clock that was ahead, and says nothing
    # Ansible repeats a module whose connection broke: one run rolls back one step, however often it repeats
    is_repeated = actor.run is not None and last.get("run") == actor.run
    is_interrupted = last.get("event") == "rollback" and (
        is_repeated
        or (observed.is_journal_readable and last in observed.unjournaled and last not in activation.unjournaled)
        or (observed.pending is not None and pending is None)
        or observed.current != activation.confirmed
        or any(item.state == "serving" and name not in expected for name, item in observed.instances.items())
    )
    has_left = leaves is not None and leaves not in expected
    if leaves is not None and has_left and not (is_interrupted and leaves == last.get("from")):
        return _plan_nothing_left(observed, leaves, to)
    catch_up_journal(builder)
    if is_interrupted and to in (None, activation.confirmed) and (leaves is None or has_left):
        recover(builder, actor)
        if activation.confirmed is not None:
            builder.serve(activation.confirmed)
        elif last.get("from"):
            builder.stop(last["from"])
        builder.finish()
        builder.stop_listening_if_unused()
        verb = "completed" if builder.actions else "has done"
        return builder.plan(f"{verb} the rollback to {activation.confirmed or 'nothing'}")

    target = to
    if target is None:
        # with a pending promotion, the step is from it to the confirmed release
        target = activation.confirmed if promoted is not None else activation.previous(observed.staged)
    if target is None and promoted is not None:
        _roll_back_to_nothing(builder, promoted, actor)
        return builder.plan(f"nothing serves: {promoted} was the first release, and was rolled back")
    if target is None:
        raise MobiusError(
            "nothing_to_roll_back",
            f"{activation.confirmed} has no earlier healthy release to roll back to."
            if activation.confirmed
            else "Nothing was ever confirmed on this host, so there is nothing to roll back to.",
        )
    require_release_id(target)
    require_staged(observed, target, False)
    if not any(entry.release == target and entry.confirmed for entry in activation.history):
        raise MobiusError(
            "invalid_input",
            f"{target} was never confirmed on this host, so this host does not roll back to it.",
            do_next="Release it with its probes and its gate instead: `mobius release`.",
        )
    if target == activation.confirmed and promoted is None:
        recover(builder, actor)
        builder.serve(target)
        builder.finish()
        return builder.plan(f"{target} is confirmed and serves")

    replaced = [release for release in (promoted, activation.confirmed) if release]
    replaced = [release for release in replaced if release != target]
    builder.serve(target)
    token = activation.token + 1
    line = make_journal_line("rollback", replaced[0] if replaced else None, target, token, actor)
    updated = activation
    for release in replaced:
        updated = updated.marked(release, True, actor.reason or "rolled back", actor.run)
    if target != activation.confirmed:
        entry = ActivationEntry(
            target, line["at"], line["at"], False, f"rolled back from {replaced[0]}" if replaced else None, actor.run
        )
        updated = dataclasses.replace(updated, history=(*updated.history, entry))
    builder.do("write_activation", value=dataclasses.replace(updated, token=token, confirmed=target, last=line))
    if observed.pending is not None:
        builder.do("remove_pending")
    for release in replaced:
        is_silent = builder.model.instance(release).word == "silent"
        builder.stand_by(release)
        if is_silent:
            builder.do("stop", release)
    builder.do("append_journal", value=line)
    builder.finish()
    recover(builder, actor)
    return builder.plan(f"rolled back from {replaced[0] if replaced else 'nothing'} to {target}")


def _plan_nothing_left(observed: Observation, leaves: str, to: str | None) -> HostPlan:
    """What a rollback does that names a release which does not serve: nothing."""
    activation = observed.activation
    serves = activation.confirmed or "nothing"
    entry = activation.latest(leaves)
    if entry is None and leaves not in observed.staged:
        raise MobiusError("invalid_input", f"{leaves} is not known on this host, so it is not rolled back from it.")
    if entry is not None and entry.confirmed and not entry.bad:
        raise MobiusError(
            "invalid_input",
            f"{leaves} no longer serves on this host: {serves} has replaced it, and was not rolled back.",
            do_next=f"To roll back from {serves}, name that release as the one to leave (--from {serves}).",
        )
    if to not in (None, activation.confirmed):
        raise MobiusError(
            "invalid_input",
            f"{leaves} no longer serves on this host: it was rolled back to {serves} already, not to {to}.",
            do_next=f"To go on to {to} all the same, name {serves} as the release to leave (--from {serves}).",
        )
    way_on = f"; to roll back from {serves}: --from {serves}" if activation.confirmed else ""
    return PlanBuilder(observed).plan(f"already rolled back to {serves}; {leaves} no longer serves{way_on}")


def _roll_back_to_nothing(builder: PlanBuilder, release: str, actor: Actor) -> None:
    activation = builder.model.activation
    line = make_journal_line("rollback", release, None, activation.token + 1, actor)
    updated = activation.marked(release, True, actor.reason or "rolled back", actor.run)
    builder.do("write_activation", value=dataclasses.replace(updated, token=activation.token + 1, last=line))
    builder.do("set_pending_aside" if builder.model.pending_problem is not None else "remove_pending")
    builder.stop(release)
    builder.stop_listening_if_unused()
    builder.do("append_journal", value=line)


def plan_watched_rollback(observed: Observation, window: MonitoringWindow, actor: Actor) -> HostPlan:
    """The rollback that a trigger of the watch causes; the release is then stopped.

    Nothing when another switch came first, and nothing while a promotion is open: it either replaces the release, or a
    rollback would revert and blame the promotion instead.
    """
    if not window.is_of(observed.activation, observed.boot) or observed.open_promotion is not None:
        return PlanBuilder(observed).plan(f"{window.release} is left alone")
    plan = plan_rollback(observed, None, actor)
    builder = PlanBuilder(plan.after)
    builder.stop(window.release)  # it may leak or spin in standby as well
    if builder.model.window is not None:
        builder.do("remove_window")
    return HostPlan(observed, builder.model, (*plan.actions, *builder.actions), plan.note)
