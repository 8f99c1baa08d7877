# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a bundle can and may be deployed to this host: signature, version, Python, and space with the backup."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import staging, version_order
from .backup.service import BackupSpace, estimate_space
from .backup.store import leftover_bytes
from .disk_space import SpaceNeed, free_bytes, require_space
from .errors import MobiusError
from .host.config import Host
from .host.recovery import find_bad, make_bad_refusal, make_promotion_refusal
from .host.revision import revision_of
from .host.state import boot_id, is_live, read_activation, read_pending

NO_BACKUP = "none"


def check_deploy(
    host: Host,
    expect: Mapping[str, Any],
    *,
    backup: str,
    allow_downgrade: bool,
    retry_bad: bool,
    python: str,
    scratch: Path,
) -> dict[str, Any]:
    """Refuse a deploy that this host cannot or must not make; the result is that of the module `preflight`.

    Args:
        expect: what the bundle holds (`staging.EXPECT`).
        backup: the scope of the backup before the deploy, or `NO_BACKUP`.
        retry_bad: allow a release that was marked bad on this host.
        python: the Python that will run the release.
        scratch: a folder for temporary files.

    Raises:
        MobiusError: `locked` while another release is being promoted, `bundle_unsigned`, `release_bad`,
            `downgrade`, `bundle_platform`, `disk_full`, `not_provisioned`.
    """
    signer = staging.require_signer(host, expect)
    activation, pending = read_activation(host), read_pending(host)
    release, confirmed = revision_of(host, expect["release"]), activation.confirmed
    facts = {"signer": signer, "revision": release, "confirmed": confirmed}
    now = time.monotonic()
    if pending is not None and pending.release != release and is_live(activation, pending, now, boot_id()):
        raise make_promotion_refusal(pending, now)
    if confirmed == release:
        return {**facts, "release_bytes": 0, "backup_bytes": 0}
    if not retry_bad and (bad := find_bad(activation, release)):
        raise make_bad_refusal(activation, bad)
    if confirmed and not allow_downgrade:
        _refuse_downgrade(release, confirmed)
    staging.require_python(python, expect)
    needs = [] if host.release_dir(release).exists() else [staging.tree_need(host, expect)]
    space = BackupSpace()
    if backup != NO_BACKUP:
        freed = leftover_bytes(host)
        what = f"a backup of {host.service}"
        # as if all went to one disk: when that is not enough, the backup is estimated more precisely
        available = free_bytes(host.backup_dir) + freed - sum(need.size for need in needs)
        space = estimate_space(host, scope=backup, scratch=scratch, available=available)
        require_space(SpaceNeed(what, host.backup_dir, space.peak, freed=freed))
        needs.append(SpaceNeed(what, host.backup_dir, space.archive, freed=freed))
    require_space(*needs)
    release_bytes = sum(need.size for need in needs if need.folder == host.releases_dir)
    return {**facts, "release_bytes": release_bytes, "backup_bytes": space.peak}


def _refuse_downgrade(release: str, confirmed: str) -> None:
    """Another build of the same version is no downgrade; nor is a version without an order."""
    version, present = (name.rpartition("-")[0] for name in (release, confirmed))
    if version_order.is_lower(version, present):
        raise MobiusError("downgrade", f"{release} is a lower version than {confirmed}, which this host has confirmed.")
