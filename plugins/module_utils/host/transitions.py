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
from .plan import Observation, Plan, Who, _Draft
from .recovery import _keep_warm, _line, _must_be_id, _must_be_staged, _now, _own_pending, _revert, _settle, _write_down
from .state import Entry, Pending, Window


def plan_instance(seen: Observation, release: str, state: str, *, assume_staged: bool = False) -> Plan:
    """An instance that runs beside what serves (`standby`), or no instance (`stopped`)."""
    draft = _Draft(seen)
    _must_be_id(release)
    if state == "standby":
        _must_be_staged(seen, release, assume_staged)
        if seen.instance(release).unit != "active":
            draft.do("start", release)
        return draft.plan(f"{release} runs")
    if release == seen.activation.confirmed or (seen.open and seen.open.release == release):
        raise MobiusError("release_in_use", f"{release} is what this host serves, so its instance is not stopped.")
    draft.stop(release)
    draft.close_if_bare()
    return draft.plan(f"{release} does not run")


def plan_canary(
    seen: Observation,
    release: str,
    who: Who,
    *,
    deadline: float,
    retry_bad: bool = False,
    assume_staged: bool = False,
) -> Plan:
    """A pending promotion whose release serves beside the confirmed one. `deadline` in seconds from now."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    activation, pending = draft.now.activation, draft.now.promoting
    if pending is not None and pending.release != release:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, so {release} has to wait."
        )
    if activation.confirmed == release:
        draft.serve(release)
        return draft.plan(f"{release} is confirmed and serves")
    if activation.is_bad(release) and not retry_bad:
        entry = activation.latest(release)
        why = f": {entry.reason}" if entry and entry.reason else ""
        raise MobiusError("release_bad", f"{release} was marked bad on this host{why.rstrip('.')}.")
    _must_be_staged(draft.now, release, assume_staged)
    if draft.now.instance(release).unit != "active":
        draft.do("start", release)
    if pending is None or pending.run != who.run:
        wanted = Pending(
            release=release,
            previous=activation.confirmed,
            stage=pending.stage if pending else "canary",
            deadline=draft.now.at + deadline,
            boot_id=draft.now.boot,
            run=who.run,
            token=activation.token,
            activated=pending.activated if pending else _now(),
        )
        draft.do("log", value=_line("canary", activation.confirmed, release, activation.token, who))
        draft.do("pending", release, wanted)
        draft.do("guard")
    elif not draft.now.guarded:
        draft.do("guard")
    draft.serve(release)
    return draft.plan(f"{release} serves beside {activation.confirmed or 'nothing'}, until confirmed or reverted")


def plan_provisional(seen: Observation, release: str, who: Who, *, deadline: float) -> Plan:
    """The pending release serves alone. `deadline` in seconds from now."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    if draft.now.activation.confirmed == release and draft.now.promoting is None:
        draft.serve(release)
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(draft.now, release, who)
    if not draft.now.guarded:
        draft.do("guard")
    draft.serve(release)
    if pending.stage == "canary":
        line = _line("provisional", pending.previous, release, pending.token, who)
        draft.do("log", value=line)
        renewed = dataclasses.replace(pending, stage="serving", deadline=draft.now.at + deadline)
        draft.do("pending", release, renewed)
    if pending.previous is not None:
        draft.rest(pending.previous)
    return draft.plan(f"{release} serves alone, until confirmed or reverted")


def plan_renewed(seen: Observation, release: str, who: Who, *, deadline: float) -> Plan:
    """The promotion goes on, its deadline counted from now: `deadline` in seconds. One that is confirmed has none."""
    _must_be_id(release)
    draft = _Draft(seen)
    if seen.activation.confirmed == release and seen.promoting is None:
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(seen, release, who)
    draft.do("pending", release, dataclasses.replace(pending, deadline=seen.at + deadline))
    return draft.plan(f"{release} waits for its confirmation")


def plan_confirmed(seen: Observation, release: str | None, who: Who) -> Plan:
    """The pending release (None: whichever is) is the truth; of the others, only the previous one stays warm."""
    draft = _Draft(seen)
    _settle(draft, who)
    if release is None:
        if draft.now.promoting is None:
            raise MobiusError("nothing_pending", "There is no promotion to confirm on this host.")
        release = draft.now.promoting.release
    _must_be_id(release)
    activation = draft.now.activation
    if activation.confirmed == release and draft.now.promoting is None:
        draft.serve(release)
        draft.finish()
        if (activation.last or {}).get("event") == "confirmed":
            _keep_warm(draft)
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(draft.now, release, who)
    draft.serve(release)
    token = activation.token + 1
    line = _line("confirmed", activation.confirmed, release, token, who)
    entry = Entry(release, pending.activated, line["at"], False, who.reason, pending.run)
    truth = dataclasses.replace(
        activation, token=token, confirmed=release, history=(*activation.history, entry), last=line
    )
    if draft.now.window_seconds:
        # before the truth, which makes it count: a kill in between leaves nothing unwatched
        at = draft.now.at
        until = at + draft.now.window_seconds
        draft.do("window", release, Window(release, activation.confirmed, at, until, draft.now.boot, token))
    draft.do("truth", value=truth)
    if activation.confirmed is not None:
        draft.rest(activation.confirmed)
    draft.do("forget")
    draft.do("log", value=line)
    draft.finish()
    _keep_warm(draft)
    if draft.now.open_window is not None:
        draft.do("watch")
    return draft.plan(f"{release} is confirmed and serves")


def plan_reverted(seen: Observation, release: str, who: Who, *, mark_bad: bool = False) -> Plan:
    """What served before serves, and the release does not run. One that is confirmed is left as it is."""
    _must_be_id(release)
    draft = _Draft(seen)
    pending = seen.pending
    mine = pending is not None and pending.release == release
    if not mine:
        _settle(draft, who)
        pending = draft.now.pending
    if draft.now.activation.confirmed == release:
        if mine:
            _settle(draft, who)
        return draft.plan(f"{release} was confirmed before; there is nothing provisional to take back")
    if not mine and pending is not None:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, not {release}."
        )
    if draft.now.live:
        _own_pending(draft.now, release, who)
    _write_down(draft)
    _revert(draft, release, who, mark_bad=mark_bad)
    _settle(draft, who)
    return draft.plan(f"{draft.now.activation.confirmed or 'nothing'} serves; {release} was taken back")


@dataclass(frozen=True)
class Promotion:
    """What the module `promotion` is asked for.

    `predicted`: earlier tasks of the same check run have brought about the stages before, in prediction only; so they
    are taken as done. `deadline` in seconds from now.
    """

    release: str
    state: str
    who: Who
    deadline: float = 300.0
    mark_bad: bool = False
    retry_bad: bool = False
    predicted: bool = False
    assume_staged: bool = False

    def plan(self, seen: Observation) -> Plan:
        """The plan for this wish on a host that looks like `seen`."""
        if self.state == "reverted":
            return plan_reverted(seen, self.release, self.who, mark_bad=self.mark_bad)
        if self.predicted:
            seen = self._as_predicted(seen)
        if self.state == "canary":
            return self._canary(seen)
        if self.state == "provisional":
            return plan_provisional(seen, self.release, self.who, deadline=self.deadline)
        if self.state == "renewed":
            return plan_renewed(seen, self.release, self.who, deadline=self.deadline)
        return plan_confirmed(seen, self.release, self.who)

    def _canary(self, seen: Observation) -> Plan:
        return plan_canary(
            seen,
            self.release,
            self.who,
            deadline=self.deadline,
            retry_bad=self.retry_bad,
            assume_staged=self.assume_staged,
        )

    def _as_predicted(self, seen: Observation) -> Observation:
        """The host as the tasks before this one would have left it."""
        seen = plan_instance(seen, self.release, "standby", assume_staged=self.assume_staged).after
        if self.state == "canary":
            return seen
        # whether a release that was marked bad may be tried again is asked once, at the first stage
        seen = dataclasses.replace(self, retry_bad=True)._canary(seen).after
        if self.state == "provisional":
            return seen
        return plan_provisional(seen, self.release, self.who, deadline=self.deadline).after


def plan_rollback(seen: Observation, to: str | None, who: Who) -> Plan:
    """The release that was left is marked bad, and the one before (or `to`, any kept one) serves as the truth.

    A promotion that is pending is what is taken back first. A rollback that was killed after it had written the truth
    is completed, and not counted as another step.
    """
    draft = _Draft(seen)
    activation, pending = seen.activation, seen.open
    rightful = (activation.confirmed, pending.release if pending else None)
    last = activation.last or {}
    # Ansible repeats a module whose connection broke: one run takes one step, however often it asks
    repeated = who.run is not None and last.get("run") == who.run
    interrupted = last.get("event") == "rollback" and (
        repeated
        or not seen.written
        or (seen.pending is not None and pending is None)
        or seen.current != activation.confirmed
        or any(item.state == "serving" and name not in rightful for name, item in seen.instances.items())
    )
    _write_down(draft)
    if interrupted and to in (None, activation.confirmed):
        _settle(draft, who)
        if activation.confirmed is not None:
            draft.serve(activation.confirmed)
        elif last.get("from"):
            draft.stop(last["from"])
        draft.finish()
        draft.close_if_bare()
        word = "completed" if draft.actions else "has done"
        return draft.plan(f"{word} the rollback to {activation.confirmed or 'nothing'}")

    target = to
    if target is None:
        # a promotion is taken back to what it was to replace; only then does a step count
        target = activation.confirmed if pending is not None else activation.previous(seen.staged)
    if target is None and pending is not None:
        _roll_back_to_nothing(draft, pending.release, who)
        return draft.plan(f"nothing serves: {pending.release} was the first release, and was taken back")
    if target is None:
        raise MobiusError(
            "nothing_to_roll_back",
            f"{activation.confirmed} has no earlier healthy release to go back to."
            if activation.confirmed
            else "Nothing was ever confirmed on this host, so there is nothing to go back to.",
        )
    _must_be_id(target)
    _must_be_staged(seen, target, False)
    if not any(entry.release == target and entry.confirmed for entry in activation.history):
        raise MobiusError(
            "invalid_input",
            f"{target} was never confirmed on this host, so there is no going back to it.",
            do_next="Release it with its probes and its gate instead: `mobius release`.",
        )
    if target == activation.confirmed and pending is None:
        _settle(draft, who)
        draft.serve(target)
        draft.finish()
        return draft.plan(f"{target} is confirmed and serves")

    left = [release for release in (pending.release if pending else None, activation.confirmed) if release]
    left = [release for release in left if release != target]
    draft.serve(target)
    token = activation.token + 1
    line = _line("rollback", left[0] if left else None, target, token, who)
    truth = activation
    for release in left:
        truth = truth.marked(release, True, who.reason or "rolled back", who.run)
    if target != activation.confirmed:
        entry = Entry(target, line["at"], line["at"], False, f"rolled back from {left[0]}" if left else None, who.run)
        truth = dataclasses.replace(truth, history=(*truth.history, entry))
    draft.do("truth", value=dataclasses.replace(truth, token=token, confirmed=target, last=line))
    if seen.pending is not None:
        draft.do("forget")
    for release in left:
        silent = draft.now.instance(release).word == "silent"
        draft.rest(release)
        if silent:
            draft.do("stop", release)
    draft.do("log", value=line)
    draft.finish()
    _settle(draft, who)
    return draft.plan(f"rolled back from {left[0] if left else 'nothing'} to {target}")


def _roll_back_to_nothing(draft: _Draft, release: str, who: Who) -> None:
    activation = draft.now.activation
    line = _line("rollback", release, None, activation.token + 1, who)
    truth = activation.marked(release, True, who.reason or "rolled back", who.run)
    draft.do("truth", value=dataclasses.replace(truth, token=activation.token + 1, last=line))
    draft.do("forget")
    draft.stop(release)
    draft.close_if_bare()
    draft.do("log", value=line)


def plan_mark(seen: Observation, release: str, bad: bool, who: Who) -> Plan:
    """The release is refused on this host, or no longer."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    activation = draft.now.activation
    if activation.is_bad(release) == bad:
        return draft.plan(f"{release} is {'' if bad else 'not '}marked bad")
    if bad and activation.confirmed == release:
        raise MobiusError(
            "release_in_use",
            f"{release} is what this host serves, so it is not marked bad.",
            do_next="Roll back: that marks it bad and serves the release before.",
        )
    if bad and draft.now.open is not None and draft.now.open.release == release:
        # what is bad must not be confirmed by the run that promotes it
        _revert(draft, release, who, mark_bad=True)
        return draft.plan(f"{release} is marked bad and was taken back; {activation.confirmed or 'nothing'} serves")
    line = _line("marked_bad" if bad else "marked_good", release, release, activation.token, who)
    truth = activation.marked(release, bad, who.reason, who.run)
    draft.do("truth", value=dataclasses.replace(truth, last=line))
    draft.do("log", value=line)
    return draft.plan(f"{release} is {'' if bad else 'no longer '}marked bad")


def plan_boot(seen: Observation, who: Who) -> Plan:
    """What the truth names runs."""
    draft = _Draft(seen)
    confirmed = seen.activation.confirmed
    if confirmed is not None and seen.instance(confirmed).unit != "active":
        draft.do("start", confirmed)
    _settle(draft, who)
    return draft.plan(f"{draft.now.activation.confirmed or 'nothing'} serves")


def plan_guard(seen: Observation, who: Who) -> Plan:
    """A promotion past its deadline is taken back, and what a kill left undone is done; before that, nothing."""
    draft = _Draft(seen)
    if not seen.live:
        _settle(draft, who)
    serving = draft.now.activation.confirmed or "nothing"
    return draft.plan(f"{seen.open.release} was taken back; {serving} serves" if seen.open else "nothing is overdue")


def plan_watched_rollback(seen: Observation, window: Window, who: Who) -> Plan:
    """The rollback that the watch asks for, and the release that gave cause for it stopped.

    Nothing when another switch came first, nor while a promotion awaits its end: that one replaces the release, or is
    taken back without having been to blame.
    """
    if not window.is_of(seen.activation, seen.boot) or seen.open is not None:
        return _Draft(seen).plan(f"{window.release} is left alone")
    plan = plan_rollback(seen, None, who)
    draft = _Draft(plan.after)
    draft.stop(window.release)  # it may leak or spin in standby, too
    if draft.now.window is not None:
        draft.do("unwatch")
    return Plan(seen, draft.now, (*plan.actions, *draft.actions), plan.note)


def plan_unwatched(seen: Observation, who: Who) -> Plan:
    """After the monitoring window, nothing is warm but what a promotion needs; before its end, nothing is done."""
    draft = _Draft(seen)
    window = seen.open_window
    if window is not None and seen.at < window.until:
        return draft.plan(f"{window.release} is watched for {window.until - seen.at:.0f} s more")
    if seen.overtime:
        return draft.plan("the host is held by a run, so nothing that is warm is stopped")
    _settle(draft, who)
    pending = draft.now.open
    needed = (draft.now.activation.confirmed, *((pending.release, pending.previous) if pending else ()))
    if window is not None and window.previous not in (None, *needed):
        draft.stop(str(window.previous))
    if seen.window is not None:
        draft.do("unwatch")
    return draft.plan(f"{window.release} was watched to the end" if window else "nothing is to be watched")
