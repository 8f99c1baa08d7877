# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What systemd's units ask for without a person: start at boot, revert what is overdue, end a monitoring window."""

from __future__ import annotations

from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import recover, revert


def plan_boot(observed: Observation, actor: Actor) -> HostPlan:
    """The confirmed release runs.

    Where two instances cannot run at once, a live promotion has stopped it: that one goes on if its release runs, and
    is reverted if not, as after a kill before its start.
    """
    builder = PlanBuilder(observed)
    confirmed, promotion = observed.activation.confirmed, observed.live_promotion
    if promotion is not None and not observed.overlaps:
        if not observed.instance(promotion.release).exists:
            failed = Actor(actor.name, promotion.run, "it did not start")
            revert(builder, promotion.release, failed, mark_bad=False)
    elif confirmed is not None and not observed.overlaps:
        builder.serve(confirmed)  # of a rollback that was killed, the other one may run
    elif confirmed is not None and observed.instance(confirmed).unit != "active":
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
