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
    """An instance that runs beside what serves (`standby`), or no instance (`stopped`)."""
    builder = PlanBuilder(observed)
    require_release_id(release)
    if state == "standby":
        require_staged(observed, release, assume_staged)
        if observed.instance(release).unit != "active":
            builder.do("start", release)
        return builder.plan(f"{release} runs")
    if release == observed.activation.confirmed or (observed.open and observed.open.release == release):
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
    """A pending promotion whose release serves beside the confirmed one. `deadline` in seconds from now."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation, pending = builder.model.activation, builder.model.promoting
    if pending is not None and pending.release != release:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, so {release} has to wait."
        )
    if activation.confirmed == release:
        builder.serve(release)
        return builder.plan(f"{release} is confirmed and serves")
    if activation.is_bad(release) and not retry_bad:
        entry = activation.latest(release)
        why = f": {entry.reason}" if entry and entry.reason else ""
        raise MobiusError("release_bad", f"{release} was marked bad on this host{why.rstrip('.')}.")
    require_staged(builder.model, release, assume_staged)
    if builder.model.instance(release).unit != "active":
        builder.do("start", release)
    if pending is None or pending.run != actor.run:
        wanted = Pending(
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
        builder.do("write_pending", release, wanted)
        builder.do("start_guard")
    elif not builder.model.guarded:
        builder.do("start_guard")
    builder.serve(release)
    return builder.plan(f"{release} serves beside {activation.confirmed or 'nothing'}, until confirmed or reverted")


def plan_provisional(observed: Observation, release: str, actor: Actor, *, deadline: float) -> HostPlan:
    """The pending release serves alone. `deadline` in seconds from now."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    if builder.model.activation.confirmed == release and builder.model.promoting is None:
        builder.serve(release)
        return builder.plan(f"{release} is confirmed and serves")
    pending = require_pending(builder.model, release, actor)
    if not builder.model.guarded:
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
    """The promotion goes on, its deadline counted from now: `deadline` in seconds. One that is confirmed has none."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    if observed.activation.confirmed == release and observed.promoting is None:
        return builder.plan(f"{release} is confirmed and serves")
    pending = require_pending(observed, release, actor)
    builder.do("write_pending", release, dataclasses.replace(pending, deadline=observed.at + deadline))
    return builder.plan(f"{release} waits for its confirmation")


def plan_confirmed(observed: Observation, release: str | None, actor: Actor) -> HostPlan:
    """The pending release (None: whichever is) is the truth; of the others, only the previous one stays warm."""
    builder = PlanBuilder(observed)
    recover(builder, actor)
    if release is None:
        if builder.model.promoting is None:
            raise MobiusError("nothing_pending", "There is no promotion to confirm on this host.")
        release = builder.model.promoting.release
    require_release_id(release)
    activation = builder.model.activation
    if activation.confirmed == release and builder.model.promoting is None:
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
    truth = dataclasses.replace(
        activation, token=token, confirmed=release, history=(*activation.history, entry), last=line
    )
    if builder.model.window_seconds:
        # before the truth, which makes it count: a kill in between leaves nothing unwatched
        at = builder.model.at
        until = at + builder.model.window_seconds
        builder.do(
            "write_window",
            release,
            MonitoringWindow(release, activation.confirmed, at, until, builder.model.boot, token),
        )
    builder.do("write_activation", value=truth)
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
    """What served before serves, and the release does not run. One that is confirmed is left as it is."""
    require_release_id(release)
    builder = PlanBuilder(observed)
    pending = observed.pending
    is_own = pending is not None and pending.release == release
    if not is_own:
        recover(builder, actor)
        pending = builder.model.pending
    if builder.model.activation.confirmed == release:
        if is_own:
            recover(builder, actor)
        return builder.plan(f"{release} was confirmed before; there is nothing provisional to take back")
    if not is_own and pending is not None:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, not {release}."
        )
    if builder.model.live:
        require_pending(builder.model, release, actor)
    catch_up_journal(builder)
    revert(builder, release, actor, mark_bad=mark_bad)
    recover(builder, actor)
    return builder.plan(f"{builder.model.activation.confirmed or 'nothing'} serves; {release} was taken back")


@dataclass(frozen=True)
class Promotion:
    """What the module `promotion` is asked for.

    `predicted`: earlier tasks of the same check run have brought about the stages before, in prediction only; so they
    are taken as done. `deadline` in seconds from now.
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
        """The plan for this wish on a host that looks like `seen`."""
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
        """The host as the tasks before this one would have left it."""
        observed = plan_instance(observed, self.release, "standby", assume_staged=self.assume_staged).after
        if self.state == "canary":
            return observed
        # whether a release that was marked bad may be tried again is asked once, at the first stage
        observed = dataclasses.replace(self, retry_bad=True)._canary(observed).after
        if self.state == "provisional":
            return observed
        return plan_provisional(observed, self.release, self.actor, deadline=self.deadline).after


def plan_rollback(observed: Observation, to: str | None, actor: Actor) -> HostPlan:
    """The release that was left is marked bad, and the one before (or `to`, any kept one) serves as the truth.

    A promotion that is pending is what is taken back first. A rollback that was killed after it had written the truth
    is completed, and not counted as another step.
    """
    builder = PlanBuilder(observed)
    activation, pending = observed.activation, observed.open
    expected = (activation.confirmed, pending.release if pending else None)
    last = activation.last or {}
    # Ansible repeats a module whose connection broke: one run takes one step, however often it asks
    repeated = actor.run is not None and last.get("run") == actor.run
    interrupted = last.get("event") == "rollback" and (
        repeated
        or not observed.written
        or (observed.pending is not None and pending is None)
        or observed.current != activation.confirmed
        or any(item.state == "serving" and name not in expected for name, item in observed.instances.items())
    )
    catch_up_journal(builder)
    if interrupted and to in (None, activation.confirmed):
        recover(builder, actor)
        if activation.confirmed is not None:
            builder.serve(activation.confirmed)
        elif last.get("from"):
            builder.stop(last["from"])
        builder.finish()
        builder.stop_listening_if_unused()
        word = "completed" if builder.actions else "has done"
        return builder.plan(f"{word} the rollback to {activation.confirmed or 'nothing'}")

    target = to
    if target is None:
        # a promotion is taken back to what it was to replace; only then does a step count
        target = activation.confirmed if pending is not None else activation.previous(observed.staged)
    if target is None and pending is not None:
        _roll_back_to_nothing(builder, pending.release, actor)
        return builder.plan(f"nothing serves: {pending.release} was the first release, and was taken back")
    if target is None:
        raise MobiusError(
            "nothing_to_roll_back",
            f"{activation.confirmed} has no earlier healthy release to go back to."
            if activation.confirmed
            else "Nothing was ever confirmed on this host, so there is nothing to go back to.",
        )
    require_release_id(target)
    require_staged(observed, target, False)
    if not any(entry.release == target and entry.confirmed for entry in activation.history):
        raise MobiusError(
            "invalid_input",
            f"{target} was never confirmed on this host, so there is no going back to it.",
            do_next="Release it with its probes and its gate instead: `mobius release`.",
        )
    if target == activation.confirmed and pending is None:
        recover(builder, actor)
        builder.serve(target)
        builder.finish()
        return builder.plan(f"{target} is confirmed and serves")

    left = [release for release in (pending.release if pending else None, activation.confirmed) if release]
    left = [release for release in left if release != target]
    builder.serve(target)
    token = activation.token + 1
    line = make_journal_line("rollback", left[0] if left else None, target, token, actor)
    truth = activation
    for release in left:
        truth = truth.marked(release, True, actor.reason or "rolled back", actor.run)
    if target != activation.confirmed:
        entry = ActivationEntry(
            target, line["at"], line["at"], False, f"rolled back from {left[0]}" if left else None, actor.run
        )
        truth = dataclasses.replace(truth, history=(*truth.history, entry))
    builder.do("write_activation", value=dataclasses.replace(truth, token=token, confirmed=target, last=line))
    if observed.pending is not None:
        builder.do("remove_pending")
    for release in left:
        silent = builder.model.instance(release).word == "silent"
        builder.stand_by(release)
        if silent:
            builder.do("stop", release)
    builder.do("append_journal", value=line)
    builder.finish()
    recover(builder, actor)
    return builder.plan(f"rolled back from {left[0] if left else 'nothing'} to {target}")


def _roll_back_to_nothing(builder: PlanBuilder, release: str, actor: Actor) -> None:
    activation = builder.model.activation
    line = make_journal_line("rollback", release, None, activation.token + 1, actor)
    truth = activation.marked(release, True, actor.reason or "rolled back", actor.run)
    builder.do("write_activation", value=dataclasses.replace(truth, token=activation.token + 1, last=line))
    builder.do("remove_pending")
    builder.stop(release)
    builder.stop_listening_if_unused()
    builder.do("append_journal", value=line)


def plan_mark(observed: Observation, release: str, bad: bool, actor: Actor) -> HostPlan:
    """The release is refused on this host, or no longer."""
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
    if bad and builder.model.open is not None and builder.model.open.release == release:
        # what is bad must not be confirmed by the run that promotes it
        revert(builder, release, actor, mark_bad=True)
        return builder.plan(f"{release} is marked bad and was taken back; {activation.confirmed or 'nothing'} serves")
    line = make_journal_line("marked_bad" if bad else "marked_good", release, release, activation.token, actor)
    truth = activation.marked(release, bad, actor.reason, actor.run)
    builder.do("write_activation", value=dataclasses.replace(truth, last=line))
    builder.do("append_journal", value=line)
    return builder.plan(f"{release} is {'' if bad else 'no longer '}marked bad")


def plan_boot(observed: Observation, actor: Actor) -> HostPlan:
    """What the truth names runs."""
    builder = PlanBuilder(observed)
    confirmed = observed.activation.confirmed
    if confirmed is not None and observed.instance(confirmed).unit != "active":
        builder.do("start", confirmed)
    recover(builder, actor)
    return builder.plan(f"{builder.model.activation.confirmed or 'nothing'} serves")


def plan_guard(observed: Observation, actor: Actor) -> HostPlan:
    """A promotion past its deadline is taken back, and what a kill left undone is done; before that, nothing."""
    builder = PlanBuilder(observed)
    if not observed.live:
        recover(builder, actor)
    serving = builder.model.activation.confirmed or "nothing"
    return builder.plan(
        f"{observed.open.release} was taken back; {serving} serves" if observed.open else "nothing is overdue"
    )


def plan_watched_rollback(observed: Observation, window: MonitoringWindow, actor: Actor) -> HostPlan:
    """The rollback that the watch asks for, and the release that gave cause for it stopped.

    Nothing when another switch came first, nor while a promotion awaits its end: that one replaces the release, or is
    taken back without having been to blame.
    """
    if not window.is_of(observed.activation, observed.boot) or observed.open is not None:
        return PlanBuilder(observed).plan(f"{window.release} is left alone")
    plan = plan_rollback(observed, None, actor)
    builder = PlanBuilder(plan.after)
    builder.stop(window.release)  # it may leak or spin in standby, too
    if builder.model.window is not None:
        builder.do("remove_window")
    return HostPlan(observed, builder.model, (*plan.actions, *builder.actions), plan.note)


def plan_unwatched(observed: Observation, actor: Actor) -> HostPlan:
    """After the monitoring window, nothing is warm but what a promotion needs; before its end, nothing is done."""
    builder = PlanBuilder(observed)
    window = observed.open_window
    if window is not None and observed.at < window.until:
        return builder.plan(f"{window.release} is watched for {window.until - observed.at:.0f} s more")
    if observed.overtime:
        return builder.plan("the host is held by a run, so nothing that is warm is stopped")
    recover(builder, actor)
    pending = builder.model.open
    needed = (builder.model.activation.confirmed, *((pending.release, pending.previous) if pending else ()))
    if window is not None and window.previous not in (None, *needed):
        builder.stop(str(window.previous))
    if observed.window is not None:
        builder.do("remove_window")
    return builder.plan(f"{window.release} was watched to the end" if window else "nothing is to be watched")
