# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backups and which releases a host keeps, and which it removes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import MobiusError
from ..host.config import Host
from ..host.plan import Observation
from ..host.state import read_pending, staged_releases
from ..manifest import release_of
from .store import Backup


@dataclass(frozen=True)
class KeepRules:
    """Which backups of a scope are kept: those that any of these names. The newest whole one always is.

    `count`: the newest so many; `age_days`: those not older; `days`, `weeks`, `months`: the last of each of the newest
    so many calendar days, weeks and months (UTC) that have one.
    """

    count: int = 5
    age_days: int = 0
    days: int = 0
    weeks: int = 0
    months: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise MobiusError("invalid_input", f"keep is {self.count}, but at least one backup must be kept.")
        if min(self.age_days, self.days, self.weeks, self.months) < 0:
            raise MobiusError("invalid_input", "How long backups are kept is a negative number.")


def surplus_backups(
    backups: Sequence[Backup], keep: KeepRules, now: datetime, required: Collection[str] = ()
) -> list[Backup]:
    """What rotation removes of the backups of one scope, oldest first.

    Args:
        backups: oldest first; the last good one is whole.
        required: ids that are kept whatever the rules say.
    """
    # a damaged one is left for inspection, and does not count among those that are kept
    counted = [backup for backup in backups if backup.is_good]
    # one of damaged data stays only to be examined, beside the good ones and never instead of one
    marked = [backup for backup in backups if backup.damaged is None and backup.source_damage is not None]
    kept = {backup.id for backup in (*counted[-keep.count :], *marked[-keep.count :])} | set(required)
    if keep.age_days:
        kept |= {backup.id for backup in counted if now - backup.begun <= timedelta(days=keep.age_days)}
    for number, period in ((keep.days, "%Y-%m-%d"), (keep.weeks, "%G-%V"), (keep.months, "%Y-%m")):
        last = {backup.begun.strftime(period): backup.id for backup in counted}
        kept |= set(list(last.values())[len(last) - min(number, len(last)) :])
    return [backup for backup in backups if backup.damaged is None and backup.id not in kept]


def required_backups(host: Host, backups: Sequence[Backup]) -> set[str]:
    """The ids of the newest good backup under each kept release, and of all that belong to a run that has not ended."""
    releases = set(staged_releases(host))
    required = {backup.release: backup.id for backup in backups if backup.release in releases and backup.is_good}
    pending = read_pending(host)
    run = pending.run if pending else None
    return set(required.values()) | {backup.id for backup in backups if run and backup.run == run}


def surplus_releases(observation: Observation, keep: int, *, required: Collection[str] = ()) -> list[str]:
    """The staged releases that are removed, sorted: the healthy ones beyond the newest `keep`, and the bad ones.

    What is confirmed or pending, the target of a rollback, what is pinned, runs, or is `required`, is kept whatever the
    number. A release that was never tried on this host is neither healthy nor bad yet, and is kept, too.
    """
    activation = observation.activation
    healthy = [
        entry.release for entry in activation.history if entry.confirmed and not activation.is_bad(entry.release)
    ]
    newest = list(dict.fromkeys(release for release in reversed(healthy) if release in observation.staged))
    tried = {entry.release for entry in activation.history}
    # the tree of a release that has run as a revision is kept for its revisions only
    tried |= {release_of(release) for release in (*tried, *observation.staged) if release_of(release) != release}
    kept = {
        *newest[: max(1, keep)],
        *required,
        *activation.pinned,
        *(release for release, instance in observation.instances.items() if instance.exists),
        *(release for release in observation.staged if release not in tried),
    }
    for release in (activation.confirmed, activation.previous(observation.staged)):
        if release is not None:
            kept.add(release)
    if observation.pending is not None:
        pending = (observation.pending.release, observation.pending.previous)
        kept.update(release for release in pending if release is not None)
    kept |= {release_of(release) for release in kept}
    # revisions come first: they lead to the tree of their release
    return sorted(observation.staged - kept, key=lambda release: (release_of(release), -len(release), release))
