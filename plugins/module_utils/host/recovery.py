# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every transition begins with and shares: finish or undo what an interrupted command left."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from ..errors import MobiusError
from .config import RELEASE_ID
from .plan import Actor, Observation, PlanBuilder
from .state import Pending

REVERTING_DEADLINE = 0.0  # the deadline of a promotion that is being taken back


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make_journal_line(event: str, before: str | None, after: str | None, token: int, actor: Actor) -> dict[str, Any]:
    """A line of the journal, still without its link to the line before."""
    return {
        "at": utc_now(),
        "event": event,
        "from": before,
        "to": after,
        "run": actor.run,
        "token": token,
        "reason": actor.reason,
        "actor": actor.name,
    }


def catch_up_journal(builder: PlanBuilder) -> None:
    """Add the line to the journal that a kill kept from it, before the truth that has it is replaced."""
    if not builder.model.written:
        builder.do("append_journal", value=builder.model.activation.last)


def recover(builder: PlanBuilder, actor: Actor) -> None:
    """Finish, or undo, what a killed command or a passed deadline left behind.

    The truth decides: an instance serves exactly when its role says so. Only instances that answer are told anything,
    and nobody is told to stand by before the one that is to serve does; so this cannot fail where nothing is broken.
    """
    catch_up_journal(builder)
    pending = builder.model.pending
    if pending is not None and not builder.model.live:
        if builder.model.open:
            late = Actor(actor.name, pending.run, "it was not confirmed before its deadline")
            revert(builder, pending.release, late, mark_bad=False)
        else:
            builder.do("remove_pending")
    expected = [release for release in builder.model.instances if builder.model.role(release) == "serving"]
    for release in expected:
        if builder.model.instance(release).state in ("standby", "draining"):
            builder.do("serve", release)
    unexpected = [
        release
        for release, instance in builder.model.instances.items()
        if release not in expected and instance.state == "serving"
    ]
    confirmed = builder.model.activation.confirmed
    if any(builder.model.instance(release).state == "serving" for release in expected):
        for release in unexpected:
            builder.do("stand_by", release)
    elif confirmed is None:
        for release in unexpected:
            builder.stop(release)
        builder.stop_listening_if_unused()
    if confirmed is not None and builder.model.current != confirmed:
        builder.do("link_current", confirmed)
    if builder.model.open_window is not None and not builder.model.watched:
        builder.do("start_watch")


def revert(builder: PlanBuilder, release: str, actor: Actor, *, mark_bad: bool) -> None:
    """Have the confirmed release serve again, and the other one gone; without a confirmed one, nothing at all.

    Once the confirmed one serves, the promotion is made overdue: from there on whoever comes next, the guard at the
    latest, goes on taking it back.
    """
    confirmed = builder.model.activation.confirmed
    if confirmed is not None:
        builder.serve(confirmed)
    pending = builder.model.open
    line = make_journal_line("reverted", release, confirmed, builder.model.activation.token, actor)
    if mark_bad and not builder.model.activation.is_bad(release):
        truth = builder.model.activation.marked(release, True, actor.reason, actor.run)
        builder.do("write_activation", value=dataclasses.replace(truth, last=line))
        builder.do("append_journal", value=line)
    elif pending is not None and pending.deadline > REVERTING_DEADLINE:
        builder.do("append_journal", value=line)
    if pending is not None and pending.deadline > REVERTING_DEADLINE:
        builder.do("write_pending", release, dataclasses.replace(pending, deadline=REVERTING_DEADLINE))
    builder.stop(release)
    if builder.model.pending is not None:
        builder.do("remove_pending")
    builder.stop_listening_if_unused()


def stop_unneeded(builder: PlanBuilder) -> None:
    """Only the confirmed release and the one to go back to keep running, the latter as long as the window lasts."""
    over = builder.model.window_seconds and builder.model.open_window is None
    keep = (
        builder.model.activation.confirmed,
        None if over else builder.model.activation.previous(builder.model.staged),
    )
    for release in list(builder.model.instances):
        if release not in keep:
            builder.stop(release)


def require_pending(observed: Observation, release: str, actor: Actor) -> Pending:
    pending = observed.promoting
    if pending is None or pending.release != release:
        raise MobiusError(
            "nothing_pending",
            f"{release} is not being promoted on this host"
            + (f"; {pending.release} is." if pending else "; its promotion was reverted or never began."),
        )
    if actor.run is not None and pending.run is not None and pending.run != actor.run:
        raise MobiusError("fenced", f"{release} is being promoted by the run {pending.run}, not by {actor.run}.")
    return pending


def require_release_id(release: str) -> None:
    if not RELEASE_ID.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is no release id.")


def require_staged(observed: Observation, release: str, assume: bool) -> None:
    if release not in observed.staged and not assume:
        raise MobiusError("release_missing", f"{release} is not staged on this host.")
