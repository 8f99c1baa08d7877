# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every transition begins with and shares: finish or undo what an interrupted command left."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import MobiusError
from ..manifest import REVISION, release_of
from .clock import utc_now
from .plan import Actor, Observation, PlanBuilder
from .state import Activation, Pending

REVERTING_DEADLINE_SECONDS = 0.0  # of CLOCK_MONOTONIC: marks a promotion whose reversal has begun


def make_journal_line(event: str, before: str | None, after: str | None, token: int, actor: Actor) -> dict[str, Any]:
    """A line of the journal, without the digest of the line before it."""
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
    """Append the lines that earlier commands did not write, before the record that holds them is replaced."""
    for line in builder.model.unjournaled:
        builder.do("append_journal", value=line)


def heal_record(builder: PlanBuilder) -> None:
    """Write the activation record again where a damaged or missing file or a kill has left only one of the two."""
    if builder.model.is_record_lost:
        return  # what was rebuilt is shown to a person first
    if builder.model.record_problem is not None:
        builder.do("heal_activation", value=builder.model.activation)
    elif not builder.model.is_copied:
        builder.do("write_copy")


def recover(builder: PlanBuilder, actor: Actor) -> None:
    """Finish or undo what a killed command or a passed deadline left behind.

    The activation record decides: an instance serves exactly when its role says so. Only instances that answer are sent
    a request, and none stands by before the expected one serves; so this cannot fail on a host where nothing is broken.
    """
    catch_up_journal(builder)
    heal_record(builder)
    if builder.model.pending_problem is not None:
        builder.do("set_pending_aside")
    pending = builder.model.pending
    if pending is not None and not builder.model.is_live:
        if builder.model.open_promotion:
            overdue = Actor(actor.name, pending.run, "it was not confirmed before its deadline")
            revert(builder, pending.release, overdue, mark_bad=False)
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
    if builder.model.open_window is not None and not builder.model.is_watched:
        builder.do("start_watch")


def revert(builder: PlanBuilder, release: str, actor: Actor, *, mark_bad: bool) -> None:
    """Let the confirmed release, if there is one, serve again, and stop the other release.

    Once the confirmed release serves, the promotion is made overdue: after a kill the next command, at the latest the
    guard, continues to revert it.
    """
    confirmed = builder.model.activation.confirmed
    if confirmed is not None:
        builder.serve(confirmed)
    pending = builder.model.open_promotion
    line = make_journal_line("reverted", release, confirmed, builder.model.activation.token, actor)
    if mark_bad and not builder.model.activation.is_bad(release):
        line["bad"] = True  # a lost record is rebuilt from the journal
        activation = builder.model.activation.marked(release, True, actor.reason, actor.run)
        builder.do("write_activation", value=dataclasses.replace(activation, last=line))
        builder.do("append_journal", value=line)
    elif pending is not None and pending.deadline > REVERTING_DEADLINE_SECONDS:
        builder.do("append_journal", value=line)
    if pending is not None and pending.deadline > REVERTING_DEADLINE_SECONDS:
        builder.do("write_pending", release, dataclasses.replace(pending, deadline=REVERTING_DEADLINE_SECONDS))
    builder.stop(release)
    if builder.model.pending is not None:
        builder.do("remove_pending")
    builder.stop_listening_if_unused()


def stop_unneeded(builder: PlanBuilder) -> None:
    """Stop all but the confirmed release and, while the window lasts, the target of a rollback."""
    is_over = builder.model.window_seconds and builder.model.open_window is None
    needed = (
        builder.model.activation.confirmed,
        None if is_over else builder.model.activation.previous(builder.model.staged),
    )
    for release in list(builder.model.instances):
        if release not in needed:
            builder.stop(release)


def make_promotion_refusal(pending: Pending, now: float) -> MobiusError:
    """The failure that names whose promotion a host has, since when and until when."""
    who = f"the run {pending.run}" if pending.run else "another command"
    return MobiusError(
        "locked",
        f"{pending.release} has been promoted by {who} on this host since {pending.activated}, until it is confirmed, "
        f"or else reverted in {max(0.0, pending.deadline - now):.0f} s.",
        do_next="Wait for that, and run again. To end it at once, run "
        f"`mobius-host rollback --from {pending.release}` on the host.",
    )


def make_bad_refusal(activation: Activation, release: str) -> MobiusError:
    """The failure that says why a release was marked bad on this host."""
    entry = activation.latest(release)
    reason = f": {entry.reason}" if entry and entry.reason else ""
    return MobiusError("release_bad", f"{release} was marked bad on this host{reason.rstrip('.')}.")


def find_bad(activation: Activation, revision: str) -> str | None:
    """What was marked bad: the revision, or its release on a host from before revisions; None for neither."""
    return next((name for name in (revision, release_of(revision)) if activation.is_bad(name)), None)


def require_pending(observed: Observation, release: str, actor: Actor) -> Pending:
    pending = observed.live_promotion
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
    if not REVISION.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is not a release id.")


def find_revision(observed: Observation, name: str) -> str:
    """The revision that a person or a run names by its release alone; the name itself when it has a digest.

    A release that this host knows without a digest is itself. Otherwise it is what is promoted or confirmed of it, then
    the newest of the record, then the only one that is staged.
    """
    activation, pending = observed.activation, observed.open_promotion
    known = [pending.release if pending else None, activation.confirmed]
    known += [entry.release for entry in reversed(activation.history)]
    if name in known or release_of(name) != name:
        return name
    staged = [release for release in sorted(observed.staged) if release != name and release_of(release) == name]
    known += staged if len(staged) == 1 else []
    return next((release for release in known if release is not None and release_of(release) == name), name)


def find_target(observed: Observation, name: str) -> str:
    """The target of a rollback that names a release alone: of its revisions the newest other one that is not bad."""
    activation = observed.activation
    if release_of(name) != name or activation.latest(name) is not None:
        return name
    confirmed = [entry.release for entry in reversed(activation.history) if entry.confirmed]
    others = [item for item in confirmed if release_of(item) == name and item in observed.staged]
    is_left = observed.open_promotion is None
    healthy = [item for item in others if not activation.is_bad(item)]
    other = [item for item in healthy if not (is_left and item == activation.confirmed)]
    return next(iter((*other, *healthy, *others)), name)


def require_staged(observed: Observation, release: str, assume_staged: bool) -> None:
    """Require that a release or revision is staged, and that a release alone is one of a host from before revisions."""
    if release not in observed.staged and not assume_staged:
        raise MobiusError("release_missing", f"{release} is not staged on this host.")
    revisions = [name for name in sorted(observed.staged) if name != release and release_of(name) == release]
    if revisions and observed.activation.latest(release) is None:
        raise MobiusError(
            "release_missing",
            f"{release} is staged on this host as {' and '.join(revisions)}, and not with the present configuration.",
            do_next="Name one of these, or deploy the bundle again, which stages it with the present configuration.",
        )
