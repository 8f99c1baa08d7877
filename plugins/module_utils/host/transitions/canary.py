# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps of a promotion before its end: an instance in standby, the canary, alone and provisionally, renewed."""

from __future__ import annotations

import dataclasses

from ...errors import MobiusError
from ..clock import utc_now
from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import (
    find_bad,
    make_bad_refusal,
    make_journal_line,
    make_promotion_refusal,
    recover,
    require_pending,
    require_release_id,
    require_staged,
)
from ..state import Pending


def plan_instance(observed: Observation, release: str, state: str, *, assume_staged: bool = False) -> HostPlan:
    """The release runs beside what serves (`standby`), or does not run (`stopped`).

    Where two instances cannot run at once, it is only started by its promotion.
    """
    builder = PlanBuilder(observed)
    require_release_id(release)
    if state == "standby":
        require_staged(observed, release, assume_staged)
        if not observed.overlaps and release != observed.activation.confirmed:
            return builder.plan(f"{release} starts when it is promoted: two instances cannot run at once")
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
    share: int | None = None,
) -> HostPlan:
    """The release serves beside the confirmed one, as a pending promotion; alone where two cannot run at once.

    Args:
        deadline: in seconds from now.
        share: percent of the requests that it gets; CANARY_SHARE_PERCENT by default.
    """
    require_release_id(release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation, pending = builder.model.activation, builder.model.live_promotion
    if pending is not None and pending.release != release:
        raise make_promotion_refusal(pending, observed.at)
    if activation.confirmed == release:
        builder.serve(release)
        return builder.plan(f"{release} is confirmed and serves")
    if not retry_bad and (bad := find_bad(activation, release)):
        raise make_bad_refusal(activation, bad)
    require_staged(builder.model, release, assume_staged)
    if builder.model.overlaps and builder.model.instance(release).unit != "active":
        builder.do("start", release)
    if pending is None or pending.run != actor.run:
        promotion = Pending(
            release=release,
            previous=activation.confirmed,
            stage=pending.stage if pending else "canary" if observed.overlaps else "serving",
            deadline=builder.model.at + deadline,
            boot_id=builder.model.boot,
            run=actor.run,
            token=activation.token,
            activated=pending.activated if pending else utc_now(),
            share=share,
        )
        builder.do(
            "append_journal", value=make_journal_line("canary", activation.confirmed, release, activation.token, actor)
        )
        builder.do("write_pending", release, promotion)
        builder.do("start_guard")
    elif not builder.model.is_guarded:
        builder.do("start_guard")
    builder.serve(release)
    where = f"beside {activation.confirmed or 'nothing'}" if observed.overlaps else "alone"
    return builder.plan(f"{release} serves {where}, until confirmed or reverted")


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
