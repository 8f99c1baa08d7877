# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which releases a host no longer keeps."""

from __future__ import annotations

from collections.abc import Collection

from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Observation


def surplus(seen: Observation, keep: int, *, needed: Collection[str] = ()) -> list[str]:
    """The staged releases that may go, sorted: the healthy ones beyond the newest `keep`, and those marked bad.

    What is confirmed or pending, what a rollback would go to, what is pinned, runs, or is `needed`, stays whatever the
    number. A release that was never tried on this host is neither healthy nor bad yet, and stays, too.
    """
    truth = seen.activation
    activated = [entry.release for entry in truth.history if entry.confirmed and not truth.is_bad(entry.release)]
    newest = list(dict.fromkeys(release for release in reversed(activated) if release in seen.staged))
    known = {entry.release for entry in truth.history}
    stays = {
        *newest[: max(1, keep)],
        *needed,
        *truth.pinned,
        *(release for release, instance in seen.instances.items() if instance.exists),
        *(release for release in seen.staged if release not in known),
    }
    for release in (truth.confirmed, truth.previous(seen.staged)):
        if release is not None:
            stays.add(release)
    if seen.pending is not None:
        stays.update(release for release in (seen.pending.release, seen.pending.previous) if release is not None)
    return sorted(seen.staged - stays)
