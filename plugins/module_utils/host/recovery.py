# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every transition begins with and shares: finish or undo what an interrupted command left."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from ..errors import MobiusError
from .config import RELEASE_ID
from .plan import Observation, Who, _Draft
from .state import Pending

TAKEN_BACK = 0.0  # the deadline of a promotion that is being taken back


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _line(event: str, before: str | None, after: str | None, token: int, who: Who) -> dict[str, Any]:
    """A line of the journal, still without its link to the line before."""
    return {
        "at": _now(),
        "event": event,
        "from": before,
        "to": after,
        "run": who.run,
        "token": token,
        "reason": who.reason,
        "actor": who.actor,
    }


def _write_down(draft: _Draft) -> None:
    """Add the line to the journal that a kill kept from it, before the truth that has it is replaced."""
    if not draft.now.written:
        draft.do("log", value=draft.now.activation.last)


def _settle(draft: _Draft, who: Who) -> None:
    """Finish, or undo, what a killed command or a passed deadline left behind.

    The truth decides: an instance serves exactly when its role says so. Only instances that answer are told anything,
    and nobody is told to stand by before the one that is to serve does; so this cannot fail where nothing is broken.
    """
    _write_down(draft)
    pending = draft.now.pending
    if pending is not None and not draft.now.live:
        if draft.now.open:
            late = Who(who.actor, pending.run, "it was not confirmed before its deadline")
            _revert(draft, pending.release, late, mark_bad=False)
        else:
            draft.do("forget")
    wanted = [release for release in draft.now.instances if draft.now.role(release) == "serving"]
    for release in wanted:
        if draft.now.instance(release).state in ("standby", "draining"):
            draft.do("serve", release)
    strangers = [
        release
        for release, instance in draft.now.instances.items()
        if release not in wanted and instance.state == "serving"
    ]
    confirmed = draft.now.activation.confirmed
    if any(draft.now.instance(release).state == "serving" for release in wanted):
        for release in strangers:
            draft.do("standby", release)
    elif confirmed is None:
        for release in strangers:
            draft.stop(release)
        draft.close_if_bare()
    if confirmed is not None and draft.now.current != confirmed:
        draft.do("link", confirmed)
    if draft.now.open_window is not None and not draft.now.watched:
        draft.do("watch")


def _revert(draft: _Draft, release: str, who: Who, *, mark_bad: bool) -> None:
    """Have the confirmed release serve again, and the other one gone; without a confirmed one, nothing at all.

    Once the confirmed one serves, the promotion is made overdue: from there on whoever comes next, the guard at the
    latest, goes on taking it back.
    """
    confirmed = draft.now.activation.confirmed
    if confirmed is not None:
        draft.serve(confirmed)
    pending = draft.now.open
    line = _line("reverted", release, confirmed, draft.now.activation.token, who)
    if mark_bad and not draft.now.activation.is_bad(release):
        truth = draft.now.activation.marked(release, True, who.reason, who.run)
        draft.do("truth", value=dataclasses.replace(truth, last=line))
        draft.do("log", value=line)
    elif pending is not None and pending.deadline > TAKEN_BACK:
        draft.do("log", value=line)
    if pending is not None and pending.deadline > TAKEN_BACK:
        draft.do("pending", release, dataclasses.replace(pending, deadline=TAKEN_BACK))
    draft.stop(release)
    if draft.now.pending is not None:
        draft.do("forget")
    draft.close_if_bare()


def _keep_warm(draft: _Draft) -> None:
    """Only the confirmed release and the one to go back to keep running, the latter as long as the window lasts."""
    over = draft.now.window_seconds and draft.now.open_window is None
    keep = (draft.now.activation.confirmed, None if over else draft.now.activation.previous(draft.now.staged))
    for release in list(draft.now.instances):
        if release not in keep:
            draft.stop(release)


def _own_pending(seen: Observation, release: str, who: Who) -> Pending:
    pending = seen.promoting
    if pending is None or pending.release != release:
        raise MobiusError(
            "nothing_pending",
            f"{release} is not being promoted on this host"
            + (f"; {pending.release} is." if pending else "; its promotion was reverted or never began."),
        )
    if who.run is not None and pending.run is not None and pending.run != who.run:
        raise MobiusError("fenced", f"{release} is being promoted by the run {pending.run}, not by {who.run}.")
    return pending


def _must_be_id(release: str) -> None:
    if not RELEASE_ID.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is no release id.")


def _must_be_staged(seen: Observation, release: str, assume: bool) -> None:
    if release not in seen.staged and not assume:
        raise MobiusError("release_missing", f"{release} is not staged on this host.")
