# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Begin and end a maintenance."""

from __future__ import annotations

from ...errors import MobiusError
from ..front.settings import HTTP
from ..maintenance import Maintenance
from ..plan import Actor, HostPlan, Observation, PlanBuilder
from ..recovery import catch_up_journal, make_journal_line


def plan_maintenance(observed: Observation, is_on: bool, actor: Actor) -> HostPlan:
    """Clients get the page of maintenance, or no longer.

    What else an interrupted command left is not finished here: a host where something is broken needs its page most.

    Raises:
        MobiusError: `invalid_input` for a service that speaks no HTTP.
    """
    if observed.kind != HTTP:
        raise MobiusError("invalid_input", "The service speaks no HTTP, so its clients can get no page of maintenance.")
    builder = PlanBuilder(observed)
    catch_up_journal(builder)
    activation = observed.activation
    if (observed.maintenance is not None) != is_on:
        event = "maintenance_on" if is_on else "maintenance_off"
        line = make_journal_line(event, activation.confirmed, activation.confirmed, activation.token, actor)
        # the line comes first: a kill in between leaves a line too many, and never a maintenance without one
        builder.do("append_journal", value=line)
        if is_on:
            builder.do("begin_maintenance", value=Maintenance(line["at"], actor.name, actor.reason, actor.run))
        else:
            builder.do("end_maintenance")
    elif observed.is_page_served not in (None, is_on):
        builder.do("obey_maintenance", value=is_on)  # a command was killed before the front had obeyed
    if is_on:
        return builder.plan("clients get the page of maintenance")
    return builder.plan("clients are served")
