# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Creates backups of a service's state on its host, each verified by reading it back before it gets its name.

What a backup holds: `snapshot.py`; where it lies: `store.py`; its format: `archive.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

from .. import durable
from ..disk_space import SpaceNeed, require_space
from ..errors import MobiusError
from ..host.config import Host
from .archive import ArchiveEntry, ArchiveManifest, DamagedError, describe_damage, file_sha256, printable
from .archive_writer import FileShrankError, write_archive
from .clock import Clock, timestamp, utc_now
from .retention import KeepRules, required_backups, surplus_backups
from .snapshot import MISSING, HostSnapshot, archive_entries
from .store import (
    SCOPES,
    Backup,
    archive_path,
    digest_path,
    find_leftovers,
    list_backups,
    lock_backups,
    next_id,
    remove_backups,
    remove_leftovers,
    temporary_folder,
    update_record,
    write_digest,
)
from .verification import UNDAMAGED, verify_newest

_DAMAGE_MAX = 20  # that a manifest names


@dataclass(frozen=True)
class BackupResult:
    """What a backup did, or in check mode would do.

    `backup` is the newest one afterwards (None when it is only predicted), `differences` name what changed since the
    one before, `removed` are the ids that rotation removes, `leftovers` the names of what killed runs left, `skipped`
    what is neither a file nor a folder, `damaged` the id of a newest backup that no longer is what was written,
    `source_damage` what of the host's data is damaged: then `backup` holds it as it is, and is marked.
    """

    written: bool
    backup: Backup | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    differences: tuple[str, ...]
    skipped: tuple[str, ...]
    damaged: str | None
    source_damage: str | None
    files: int
    size: int

    @property
    def changed(self) -> bool:
        """Whether anything in the backup folder changed, or would change."""
        return bool(self.written or self.removed or self.leftovers)


def create_backup(
    host: Host,
    *,
    scope: str,
    keep: KeepRules,
    scratch: Path,
    host_name: str | None = None,
    run: str | None = None,
    check_mode: bool = False,
    locks_held: bool = False,
    databases: Collection[str] = (),
    clock: Clock = utc_now,
) -> BackupResult:
    """Write a verified backup unless nothing changed since the newest whole one of this scope, then rotate.

    Args:
        scope: `full` or `state`.
        keep: which backups of this scope are kept; the one just written or verified always is.
        scratch: a folder for copies of databases in check mode, when the backup folder must stay as it is.
        host_name: this host's name, which a restore compares; the kernel's when left out.
        check_mode: change nothing, and report exactly what would change.
        locks_held: the caller holds `lock_backups` and the host's lock already.
        databases: paths below the state folder of what must be sound SQLite databases. What is damaged is saved as it
            is; the backup is marked then, and nothing good is removed.

    Raises:
        MobiusError: disk_full, when there is not enough space (nothing was written then); environment_failed; timeout
            when another backup goes on for too long.
    """
    now = clock().astimezone(UTC)
    with contextlib.nullcontext() if locks_held else lock_backups(host, check_mode):
        leftovers = find_leftovers(host)
        if not check_mode:
            remove_leftovers(leftovers)
        before = list_backups(host)
        of_scope = [backup for backup in before if backup.scope == scope]
        with temporary_folder(host, scratch, check_mode) as folder:
            newest, manifest, damaged = verify_newest(host, of_scope, check_mode, clock)
            snapshot = HostSnapshot.of(host, scope, folder, clock=clock, locks_held=locks_held, databases=databases)
            survey = snapshot.survey(_entries_of(newest, manifest))
            _recall_missing(snapshot, manifest)
            if newest and newest.source_damage and not (snapshot.damage or survey.differences):
                survey.differences.append("no longer damaged")
            if survey.differences:
                require_space(SpaceNeed(f"a backup of {host.service}", host.backup_dir, survey.needed_bytes))
                following = Backup(next_id(before, scope, now), Path(), 0, None, release=snapshot.confirmed, run=run)
                if not check_mode:
                    head = _manifest_head(host, following, host_name, timestamp(now))
                    newest = _write(host, snapshot, _entries_of(newest, manifest), head, clock)
                of_scope.append(replace(following, source_damage=describe_damage(snapshot.damage) or None))
            elif newest and snapshot.damage and not newest.source_damage:
                newest = _mark(host, newest, describe_damage(snapshot.damage), check_mode)
        required = required_backups(host, of_scope)
        removed = surplus_backups([backup for backup in of_scope if backup.id != damaged], keep, now, required)
        if snapshot.damage:  # the newest good one was not read now
            removed = [backup for backup in removed if backup.source_damage]
        if not check_mode:
            remove_backups(host, removed)
        label = f"new {scope} backup of {survey.files} files, {survey.size} bytes"
        kept = [backup.id for backup in before if backup not in removed]
        return BackupResult(
            written=bool(survey.differences),
            backup=None if survey.differences and check_mode else newest,
            before=tuple(backup.id for backup in before),
            after=(*kept, label) if survey.differences else tuple(kept),
            removed=tuple(backup.id for backup in removed),
            leftovers=tuple(path.name for path in leftovers),
            differences=tuple(survey.differences),
            skipped=tuple(snapshot.skipped),
            damaged=damaged,
            source_damage=describe_damage(snapshot.damage) or None,
            files=survey.files,
            size=survey.size,
        )


def require_sound_source(host: Host, result: BackupResult) -> None:
    """Fail when what was backed up, or would be, is damaged.

    Raises:
        MobiusError: source_damaged, with what is damaged and the newest good backup.
    """
    if result.source_damage is None:
        return
    good = [backup.id for backup in list_backups(host) if backup.scope == "full" and backup.is_good]
    saved = f"It is kept as it is in {result.backup.id}, which" if result.backup else "The backup would keep it, and"
    newest = f"the newest good one, {good[-1]}" if good else "nothing, as there is no good full backup"
    raise MobiusError(
        "source_damaged",
        f"What is backed up of {host.service} is damaged: {result.source_damage}. {saved} is marked; `latest` means "
        f"{newest}.",
    )


def _recall_missing(snapshot: HostSnapshot, manifest: ArchiveManifest | None) -> None:
    """What was missing when the newest backup was made, and still is, is not in that backup to be missed."""
    damage = manifest.head.get("damage") if manifest and snapshot.confirmed is not None else None
    for path in snapshot.declared - snapshot.paths_met:
        if isinstance(damage, dict) and path in damage:
            snapshot.damage.setdefault(path, MISSING)


def _mark(host: Host, backup: Backup, source_damage: str, check_mode: bool) -> Backup:
    """Mark a backup that was made before it could be known that its source was damaged."""
    if not check_mode:
        update_record(host, backup.id, {"source_damage": source_damage})
    return replace(backup, source_damage=source_damage)


@dataclass(frozen=True)
class PruneResult:
    """What a rotation alone removed, or in check mode would remove: ids and names."""

    before: tuple[str, ...]
    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    damaged: tuple[str, ...]


def prune_backups(host: Host, *, keep: KeepRules, check_mode: bool = False, clock: Clock = utc_now) -> PruneResult:
    """Remove what the rules do not keep, of every scope whose newest backup of sound data is whole: that is verified
    first."""
    now = clock().astimezone(UTC)
    with lock_backups(host, check_mode):
        leftovers = find_leftovers(host)
        before = list_backups(host)
        removed: list[Backup] = []
        damaged: list[str] = []
        for scope in SCOPES:
            of_scope = [backup for backup in before if backup.scope == scope]
            unmarked = [backup for backup in of_scope if backup.source_damage is None]
            newest, _, damaged_id = verify_newest(host, unmarked, check_mode, clock)
            if damaged_id:
                damaged.append(damaged_id)
            if newest:
                removed += surplus_backups(of_scope, keep, now, required_backups(host, of_scope))
        if not check_mode:
            remove_leftovers(leftovers)
            remove_backups(host, removed)
        return PruneResult(
            before=tuple(backup.id for backup in before),
            removed=tuple(backup.id for backup in removed),
            leftovers=tuple(path.name for path in leftovers),
            damaged=tuple(damaged),
        )


@dataclass(frozen=True)
class BackupSpace:
    """Bytes that a backup needs at most in the backup folder: `archive` stays, `copies` are needed meanwhile only."""

    archive: int = 0
    copies: int = 0

    @property
    def peak(self) -> int:
        """What is needed at one time."""
        return self.archive + self.copies


def estimate_space(host: Host, *, scope: str, scratch: Path, available: int) -> BackupSpace:
    """What a backup of this scope needs now; nothing when nothing changed since the newest whole one.

    Files are measured, not read, as long as they fit: only when more than `available` is needed are they compared with
    the newest backup, which a deploy does anyway.

    Args:
        scratch: a folder for copies of databases.
        available: bytes that are free for it.

    Raises:
        MobiusError: as `create_backup`.
    """
    snapshot = HostSnapshot.of(host, scope, scratch, sizes_only=True)
    survey = snapshot.survey(None)
    copy_bytes = snapshot.copy_bytes
    upper_bound = BackupSpace(survey.needed_bytes, copy_bytes)
    if upper_bound.peak <= available:
        return upper_bound
    with lock_backups(host, True), temporary_folder(host, scratch, True) as folder:
        of_scope = [backup for backup in list_backups(host) if backup.scope == scope]
        newest, manifest, _ = verify_newest(host, of_scope, True)
        survey = HostSnapshot.of(host, scope, folder).survey(_entries_of(newest, manifest))
    return BackupSpace(survey.needed_bytes, copy_bytes) if survey.differences else BackupSpace()


def _entries_of(newest: Backup | None, manifest: ArchiveManifest | None) -> Iterator[ArchiveEntry] | None:
    """The entries of the newest whole backup, to compare with."""
    if newest is None or manifest is None:
        return None
    entries = archive_entries(newest, manifest)
    # of a damaged file, the content that was saved need not be the one that its stamp stands for
    return (replace(entry, stamp=None) for entry in entries) if newest.source_damage else entries


def _manifest_head(host: Host, backup: Backup, host_name: str | None, created: str) -> dict[str, Any]:
    return {
        "service": host.service,
        "host": host_name or os.uname().nodename,
        "id": backup.id,
        "scope": backup.scope,
        "created": created,
        "release": backup.release,
        "run": backup.run,
    }


def _write(
    host: Host, snapshot: HostSnapshot, old: Iterator[ArchiveEntry] | None, head: dict[str, Any], clock: Clock
) -> Backup:
    """Write, fsync, read back, and only then give the archive its name; `.sha256` has its name just before."""
    final = archive_path(host, head["id"])
    descriptor, temporary = tempfile.mkstemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=host.backup_dir)
    try:
        with os.fdopen(descriptor, "w+b", buffering=0) as raw:
            written = write_archive(raw, _with_damage(head, snapshot), snapshot.sources(old), host.backup_dir)
            os.fsync(raw.fileno())
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read it back from the disk, not from memory
        actual = file_sha256(Path(temporary))
        if actual != written.sha256:
            raise MobiusError(
                "backup_damaged",
                f"The backup just written to {host.backup_dir} reads back wrong: "
                f"its SHA-256 is {actual}, not {written.sha256}.",
                do_next="Check the disk under the backup folder; the backups there are as they were.",
            )
        verified = timestamp(clock())
        record = {"verified": verified, "manifest_sha256": written.manifest_sha256, **UNDAMAGED, "source_damage": None}
        update_record(host, head["id"], record)
        write_digest(final, written.sha256)
        os.rename(temporary, final)
        durable.fsync_dir(host.backup_dir)
    except FileShrankError as error:
        raise MobiusError(
            "environment_failed",
            f"{printable(str(error))} became shorter while it was backed up.",
            do_next="Run it again.",
        ) from error
    except DamagedError as error:
        raise MobiusError(
            "environment_failed",
            f"Nothing was backed up, because a backup could not be restored completely: {error}.",
            do_next="Move or rename it, and run it again.",
        ) from error
    except OSError as error:
        if error.errno in durable.DISK_FULL_ERRNOS:
            raise MobiusError("disk_full", f"{host.backup_dir} ran full while the backup was written.") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if not final.exists():
            digest_path(final).unlink(missing_ok=True)
    values = {name: head[name] for name in ("host", "created", "release", "run")}
    values["source_damage"] = describe_damage(snapshot.damage) or None
    return Backup(head["id"], final, written.bytes, written.sha256, **values, verified=verified)


def _with_damage(head: dict[str, Any], snapshot: HostSnapshot) -> Callable[[], dict[str, Any]]:
    """The manifest's head with the first ones of what is damaged, which is known only once all was read."""
    return lambda: head | ({"damage": dict(sorted(snapshot.damage.items())[:_DAMAGE_MAX])} if snapshot.damage else {})
