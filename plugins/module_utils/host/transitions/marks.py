# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Marks on releases in the activation record: bad, and pinned."""

from __future__ import annotations

import dataclasses

from ...errors import MobiusError
from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import find_revision, make_journal_line, recover, require_release_id, require_staged, revert


def plan_mark(observed: Observation, release: str, bad: bool, actor: Actor) -> HostPlan:
    """The release is marked bad on this host, or no longer."""
    require_release_id(release)
    release = find_revision(observed, release)
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
    release = find_revision(observed, release)
    builder = PlanBuilder(observed)
    recover(builder, actor)
    activation = builder.model.activation
    if (release in activation.pinned) == is_pinned:
        return builder.plan(f"{release} is {'' if is_pinned else 'not '}pinned")
    if is_pinned:
        require_staged(builder.model, release, False)
    line = make_journal_line("pinned" if is_pinned else "unpinned", release, release, activation.token, actor)
    # The record's `last` stays that of the newest switch, which a repeated module and the lease recognise by it. So the
    # line comes first: a kill in between leaves a line too many, and never a pin without one.
    builder.do("append_journal", value=line)
    builder.do("write_activation", value=activation.with_pin(release, is_pinned))
    return builder.plan(f"{release} is {'' if is_pinned else 'no longer '}pinned")
