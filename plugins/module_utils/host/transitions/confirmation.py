# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The end of a promotion, confirmed or reverted, and what the module `promotion` requests of each stage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ...errors import MobiusError
from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import (
    catch_up_journal,
    make_journal_line,
    recover,
    require_pending,
    require_release_id,
    revert,
    stop_unneeded,
)
from ..state import ActivationEntry, MonitoringWindow, Pending
from .canary import plan_canary, plan_instance, plan_provisional, plan_renewed


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
    """The confirmed release serves, and the pending one does not run.

    Left alone are a release that is confirmed, and a promotion that is not the actor's.
    """
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
    if pending is not None and builder.model.is_live and not (is_pending and _is_promoted_by(pending, actor)):
        if not is_pending:
            builder.stop(release)
        return builder.plan(
            f"nothing was reverted: {pending.release} is being promoted by {pending.run or 'another command'}"
        )
    lease = observed.lease
    is_held = lease is not None and actor.run not in (None, lease.run) and lease.is_live(observed.at, observed.boot)
    if lease is not None and is_held and pending is None:
        return builder.plan(f"nothing was reverted: the run {lease.run} holds this host now")
    catch_up_journal(builder)
    revert(builder, release, actor, mark_bad=mark_bad)
    recover(builder, actor)
    return builder.plan(f"{builder.model.activation.confirmed or 'nothing'} serves; {release} was reverted")


def _is_promoted_by(pending: Pending, actor: Actor) -> bool:
    """A person at the console may end any promotion."""
    return actor.run is None or pending.run is None or pending.run == actor.run


@dataclass(frozen=True)
class Promotion:
    """The arguments of the module `promotion`.

    `predicted`: earlier tasks of the same check run have predicted the earlier stages, so these count as done.
    `deadline` in seconds from now, `share` in percent of the requests, for a canary.
    """

    release: str
    state: str
    actor: Actor
    deadline: float = 300.0
    mark_bad: bool = False
    retry_bad: bool = False
    predicted: bool = False
    assume_staged: bool = False
    share: int | None = None

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
            share=self.share,
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
