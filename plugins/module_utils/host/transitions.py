# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The transitions of a service: from an observation to the plan that brings the host to another state.

Each plan begins with what an interrupted command left undone (`recover`), and a switch always goes in the same order:
the target serves, the activation record is written, the others stand by. A kill between any two actions therefore
leaves an instance that serves, and the next command finishes or undoes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import MobiusError
from .plan import Actor, HostPlan, Observation, PlanBuilder
from .recovery import (
    catch_up_journal,
    make_journal_line,
    recover,
    require_pending,
    require_release_id,
    require_staged,
    revert,
    stop_unneeded,
    utc_now,
)
from .state import ActivationEntry, MonitoringWindow, Pending


def plan_instance(observed: Observation, release: str, state: str, *, assume_staged: bool = False) -> HostPlan:
    """The release runs beside what serves (`standby`), or does not run (`stopped`)."""
    builder = PlanBuilder(observed)
    require_release_id(release)
    if state == "standby":
        require_staged(observed, release, assume_staged)
        if observed.instance(release).unit != "active":
            builder.do("start", release)
        return builder.plan(f"{release} runs")
    if release == observed.activation.confirmed or (
        observed.open_promotion and observed.open_promotion.release == release
    ):
        raise MobiusError("release_in_use", f"{release} is what this host serves, so its instance is not stopped.")
    builder.stop(release)
    builder.stop_listening_if_unused()
    return builder.plan(f"{release} does not run")


def plan_canary(
    observed: Observation,
    release: str,
    actor: Actor,
    *,
    deadline: float,
    retry_bad: bool = False,
    assume_staged: bool = False,
) -> HostPlan:
    """The release serves beside the confirmed one, as a pending promotion. `deadline` in seconds from now."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation, pending = builder.model.activation, builder.model.live_promotion
    if pending is not None and pending.release != release:
        raise MobiusError(
            "fenced",
            f"{release} has to wait: {pending.release} is being promoted by {pending.run or 'another command'}.",
        )
    if activation.confirmed == release:
        builder.serve(release)
        return builder.plan(f"{release} is confirmed and serves")
    if activation.is_bad(release) and not retry_bad:
        entry = activation.latest(release)
        reason = f": {entry.reason}" if entry and entry.reason else ""
        raise MobiusError("release_bad", f"{release} was marked bad on this host{reason.rstrip('.')}.")
    require_staged(builder.model, release, assume_staged)
    if builder.model.instance(release).unit != "active":
        builder.do("start", release)
    if pending is None or pending.run != actor.run:
        promotion = Pending(
            release=release,
            previous=activation.confirmed,
            stage=pending.stage if pending else "canary",
            deadline=builder.model.at + deadline,
            boot_id=builder.model.boot,
            run=actor.run,
            token=activation.token,
            activated=pending.activated if pending else utc_now(),
        )
        builder.do(
            "append_journal", value=make_journal_line("canary", activation.confirmed, release, activation.token, actor)
        )
        builder.do("write_pending", release, promotion)
        builder.do("start_guard")
    elif not builder.model.is_guarded:
        builder.do("start_guard")
    builder.serve(release)
    return builder.plan(f"{release} serves beside {activation.confirmed or 'nothing'}, until confirmed or reverted")


def plan_provisional(observed: Observation, release: str, actor: Actor, *, deadline: float) -> HostPlan:
    """The pending release serves alone. `deadline` in seconds from now."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    if builder.model.activation.confirmed == release and builder.model.live_promotion is None:
        builder.serve(release)
        return builder.plan(f"{release} is confirmed and serves")
    pending = require_pending(builder.model, release, actor)
    if not builder.model.is_guarded:
        builder.do("start_guard")
    builder.serve(release)
    if pending.stage == "canary":
        line = make_journal_line("provisional", pending.previous, release, pending.token, actor)
        builder.do("append_journal", value=line)
        renewed = dataclasses.replace(pending, stage="serving", deadline=builder.model.at + deadline)
        builder.do("write_pending", release, renewed)
    if pending.previous is not None:
        builder.stand_by(pending.previous)
    return builder.plan(f"{release} serves alone, until confirmed or reverted")


def plan_renewed(observed: Observation, release: str, actor: Actor, *, deadline: float) -> HostPlan:
    """The deadline of the pending promotion is `deadline` seconds from now. A confirmed release has none."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    if observed.activation.confirmed == release and observed.live_promotion is None:
        return builder.plan(f"{release} is confirmed and serves")
    pending = require_pending(observed, release, actor)
    builder.do("write_pending", release, dataclasses.replace(pending, deadline=observed.at + deadline))
    return builder.plan(f"{release} waits for its confirmation")


def plan_confirmed(observed: Observation, release: str | None, actor: Actor) -> HostPlan:
    """The pending release (None: whichever is) is confirmed; of the others, only the previous one stays warm."""
    builder = PlanBuilder(observed)
    recover(builder, actor)
    if release is None:
        if builder.model.live_promotion is None:
            raise MobiusError("nothing_pending", "There is no promotion to confirm on this host.")
        release = builder.model.live_promotion.release
    require_release_id(release)
    activation = builder.model.activation
    if activation.confirmed == release and builder.model.live_promotion is None:
        builder.serve(release)
        builder.finish()
        if (activation.last or {}).get("event") == "confirmed":
            stop_unneeded(builder)
        return builder.plan(f"{release} is confirmed and serves")
    pending = require_pending(builder.model, release, actor)
    builder.serve(release)
    token = activation.token + 1
    line = make_journal_line("confirmed", activation.confirmed, release, token, actor)
    entry = ActivationEntry(release, pending.activated, line["at"], False, actor.reason, pending.run)
    confirmed = dataclasses.replace(
        activation, token=token, confirmed=release, history=(*activation.history, entry), last=line
    )
    if builder.model.window_seconds:
        # before the activation record, which opens it: a kill in between leaves no release unwatched
        at = builder.model.at
        until = at + builder.model.window_seconds
        builder.do(
            "write_window",
            release,
            MonitoringWindow(release, activation.confirmed, at, until, builder.model.boot, token),
        )
    builder.do("write_activation", value=confirmed)
    if activation.confirmed is not None:
        builder.stand_by(activation.confirmed)
    builder.do("remove_pending")
    builder.do("append_journal", value=line)
    builder.finish()
    stop_unneeded(builder)
    if builder.model.open_window is not None:
        builder.do("start_watch")
    return builder.plan(f"{release} is confirmed and serves")


def plan_reverted(observed: Observation, release: str, actor: Actor, *, mark_bad: bool = False) -> HostPlan:
    """The confirmed release serves, and the pending one does not run. A release that is confirmed is left alone."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    pending = observed.pending
    is_pending = pending is not None and pending.release == release
    if not is_pending:
        recover(builder, actor)
        pending = builder.model.pending
    if builder.model.activation.confirmed == release:
        if is_pending:
            recover(builder, actor)
        return builder.plan(f"{release} was confirmed before, so there is no promotion to revert")
    if not is_pending and pending is not None:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'another command'}, not {release}."
        )
    if builder.model.is_live:
        require_pending(builder.model, release, actor)
    catch_up_journal(builder)
    revert(builder, release, actor, mark_bad=mark_bad)
    recover(builder, actor)
    return builder.plan(f"{builder.model.activation.confirmed or 'nothing'} serves; {release} was reverted")


@dataclass(frozen=True)
class Promotion:
    """The arguments of the module `promotion`.

    `predicted`: earlier tasks of the same check run have predicted the earlier stages, so these count as done.
    `deadline` in seconds from now.
    """

    release: str
    state: str
    actor: Actor
    deadline: float = 300.0
    mark_bad: bool = False
    retry_bad: bool = False
    predicted: bool = False
    assume_staged: bool = False

    def plan(self, observed: Observation) -> HostPlan:
        """The plan for an observed host."""
        if self.state == "reverted":
            return plan_reverted(observed, self.release, self.actor, mark_bad=self.mark_bad)
        if self.predicted:
            observed = self._as_predicted(observed)
        if self.state == "canary":
            return self._canary(observed)
        if self.state == "provisional":
            return plan_provisional(observed, self.release, self.actor, deadline=self.deadline)
        if self.state == "renewed":
            return plan_renewed(observed, self.release, self.actor, deadline=self.deadline)
        return plan_confirmed(observed, self.release, self.actor)

    def _canary(self, observed: Observation) -> HostPlan:
        return plan_canary(
            observed,
            self.release,
            self.actor,
            deadline=self.deadline,
            retry_bad=self.retry_bad,
            assume_staged=self.assume_staged,
        )

    def _as_predicted(self, observed: Observation) -> Observation:
        """The host as the earlier tasks of the run would have left it."""
        observed = plan_instance(observed, self.release, "standby", assume_staged=self.assume_staged).after
        if self.state == "canary":
            return observed
        # only the first stage refuses a release that is marked bad
        observed = dataclasses.replace(self, retry_bad=True)._canary(observed).after
        if self.state == "provisional":
            return observed
        return plan_provisional(observed, self.release, self.actor, deadline=self.deadline).after


def plan_mark(observed: Observation, release: str, bad: bool, actor: Actor) -> HostPlan:
    """The release is marked bad on this host, or no longer."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation = builder.model.activation
    if activation.is_bad(release) == bad:
        return builder.plan(f"{release} is {'' if bad else 'not '}marked bad")
    if bad and activation.confirmed == release:
        raise MobiusError(
            "release_in_use",
            f"{release} is what this host serves, so it is not marked bad.",
            do_next="Roll back: that marks it bad and serves the release before.",
        )
    if bad and builder.model.open_promotion is not None and builder.model.open_promotion.release == release:
        # the run that promotes it must not confirm it any more
        revert(builder, release, actor, mark_bad=True)
        return builder.plan(f"{release} is marked bad and was reverted; {activation.confirmed or 'nothing'} serves")
    line = make_journal_line("marked_bad" if bad else "marked_good", release, release, activation.token, actor)
    marked = activation.marked(release, bad, actor.reason, actor.run)
    builder.do("write_activation", value=dataclasses.replace(marked, last=line))
    builder.do("append_journal", value=line)
    return builder.plan(f"{release} is {'' if bad else 'no longer '}marked bad")


def plan_pin(observed: Observation, release: str, is_pinned: bool, actor: Actor) -> HostPlan:
    """The release is pinned on this host, so that retention keeps it, or no longer."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation = builder.model.activation
    if (release in activation.pinned) == is_pinned:
        return builder.plan(f"{release} is {'' if is_pinned else 'not '}pinned")
    if is_pinned:
        require_staged(builder.model, release, False)
    line = make_journal_line("pinned" if is_pinned else "unpinned", release, release, activation.token, actor)
    builder.do("write_activation", value=dataclasses.replace(activation.with_pin(release, is_pinned), last=line))
    builder.do("append_journal", value=line)
    return builder.plan(f"{release} is {'' if is_pinned else 'no longer '}pinned")


def plan_boot(observed: Observation, actor: Actor) -> HostPlan:
    """The confirmed release runs."""
    builder = PlanBuilder(observed)
    confirmed = observed.activation.confirmed
    if confirmed is not None and observed.instance(confirmed).unit != "active":
        builder.do("start", confirmed)
    recover(builder, actor)
    return builder.plan(f"{builder.model.activation.confirmed or 'nothing'} serves")


def plan_guard(observed: Observation, actor: Actor) -> HostPlan:
    """A promotion past its deadline is reverted, and what a killed command left is finished; nothing before that."""
    builder = PlanBuilder(observed)
    if not observed.is_live:
        recover(builder, actor)
    serving = builder.model.activation.confirmed or "nothing"
    return builder.plan(
        f"{observed.open_promotion.release} was reverted; {serving} serves"
        if observed.open_promotion
        else "nothing is overdue"
    )


def plan_unwatched(observed: Observation, actor: Actor) -> HostPlan:
    """After the monitoring window, only what a promotion needs stays warm; before its end, nothing is done."""
    builder = PlanBuilder(observed)
    window = observed.open_window
    if window is not None and observed.at < window.until:
        return builder.plan(f"{window.release} is watched for {window.until - observed.at:.0f} s more")
    if observed.is_held_open:
        return builder.plan("a run holds the host, so the warm release is not stopped")
    recover(builder, actor)
    pending = builder.model.open_promotion
    needed = (builder.model.activation.confirmed, *((pending.release, pending.previous) if pending else ()))
    if window is not None and window.previous not in (None, *needed):
        builder.stop(str(window.previous))
    if observed.window is not None:
        builder.do("remove_window")
    return builder.plan(f"{window.release} was watched to the end" if window else "nothing is to be watched")
