# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans the repair of a host whose state files or instances are not what they should be."""

from __future__ import annotations

import dataclasses

from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import catch_up_journal, make_journal_line, recover


def plan_repair(observed: Observation, actor: Actor) -> HostPlan:
    """A lost activation record is written as it was rebuilt, and everything else agrees with the record."""
    builder = PlanBuilder(observed)
    if observed.is_record_lost:
        catch_up_journal(builder)
        activation = observed.activation
        line = make_journal_line("repaired", None, activation.confirmed, activation.token, actor)
        builder.do("write_activation", value=dataclasses.replace(activation, last=line))
        builder.do("append_journal", value=line)
    recover(builder, actor)
    confirmed = builder.model.activation.confirmed
    if confirmed in observed.staged and builder.model.role(confirmed) == "serving":
        builder.serve(confirmed)
    for release in list(builder.model.instances):
        if release not in observed.staged and builder.model.role(release) != "serving":
            builder.stop(release)
    builder.finish()
    return builder.plan(f"{confirmed or 'nothing'} serves" if builder.actions else "nothing is to be repaired")
