# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verifies backups: every byte of an archive against its `.sha256` and its manifest."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import MobiusError
from ..host.config import Host
from ..host.failures import MEDIUM_ERRNOS, to_failure
from .archive import (
    ArchiveManifest,
    DamagedError,
    file_sha256,
    manifest_sha256,
    open_archive,
    printable,
    range_sha256,
    read_manifest,
    read_members,
)
from .clock import Clock, timestamp, utc_now
from .store import NO_DIGEST, Backup, list_backups, read_records, update_record

Part = tuple[int, int]
"""`(k, n)`: the k-th part of n, beginning with 1."""


def verify_backups(
    host: Host, part: Part | None = None, *, record: bool = True, clock: Clock = utc_now
) -> dict[str, str | None]:
    """Read every backup of the service; by id, None for a whole one and else what is wrong with it.

    Args:
        part: read one part only: all headers, and every n-th file. Once all n parts were read, the backup counts as
            verified since the oldest of them. A part never clears damage that was known before.
        record: whether the results are recorded.

    Raises:
        MobiusError: the results could not be recorded, and none of them is damage.
    """
    results: dict[str, str | None] = {}
    failure: MobiusError | None = None
    for backup in list_backups(host):
        try:
            if part is None:
                read_whole(host, backup, record=record, clock=clock)
            else:
                _read_part(host, backup, part, record, clock)
        except DamagedError as error:
            if os.path.lexists(backup.path):  # else it was rotated meanwhile
                results[backup.id] = str(error)
            continue
        except MobiusError as error:
            failure = error
        results[backup.id] = None
    if failure and not any(results.values()):
        raise failure
    return results


def describe_read(part: Part | None) -> str:
    """What `verify_backups` reads of each backup, for people."""
    return f"in part (all headers and part {part[0]} of {part[1]} of the files)" if part else "in full"


def describe_whole(count: int, part: Part | None) -> str:
    """The sentence of a verification that met no damage."""
    backups = "1 backup" if count == 1 else f"{count} backups"
    return f"{backups} read {describe_read(part)}: " + ("as written, as far as read." if part else "what was written.")


def require_whole(results: dict[str, str | None], part: Part | None) -> None:
    """Fail when a result of `verify_backups` is damage.

    Raises:
        MobiusError: backup_damaged, with what is wrong with which backup.
    """
    if damaged := {backup_id: reason for backup_id, reason in results.items() if reason is not None}:
        reasons = "; ".join(f"{backup_id}: {reason}" for backup_id, reason in damaged.items())
        are = "is" if len(damaged) == 1 else "are"
        raise MobiusError(
            "backup_damaged",
            f"{len(damaged)} of {len(results)} backups {are} damaged (read {describe_read(part)}): {reasons}.",
            do_next="Make a new backup now, and keep the damaged one for inspection. It counts as damaged until a "
            "verification in full (without a subset) reads it whole.",
        )


def read_whole(
    host: Host, backup: Backup, *, record: bool, must_record: bool = True, clock: Clock = utc_now
) -> ArchiveManifest:
    """Read a backup whole, and record what that shows; only this clears damage that was known before.

    Args:
        must_record: whether it fails where a whole one cannot be recorded; a restore goes on.

    Raises:
        DamagedError: it is not what was written.
        MobiusError: the result could not be recorded.
    """
    # what was pulled of other hosts lies in a folder of that host, and may have the id of one of this host's
    record = record and backup.path.parent == host.backup_dir
    try:
        manifest, digest = verify_backup(backup)
    except DamagedError as error:
        raise _recorded_damage(host, backup, error, record, clock) from None
    if record:
        values = {"verified": timestamp(clock()), "manifest_sha256": digest, **UNDAMAGED}
        if must_record:
            _record(host, backup, values)
        else:
            with contextlib.suppress(MobiusError):
                _record(host, backup, values)
    return manifest


UNDAMAGED: dict[str, Any] = {"damaged": None, "damaged_at": None}
"""What is recorded of a backup that a full read showed to be whole."""


def _recorded_damage(host: Host, backup: Backup, error: DamagedError, record: bool, clock: Clock) -> DamagedError:
    """The damage, once it is known to all later runs; that it cannot be recorded does not hide it."""
    if record and os.path.lexists(backup.path):
        values = {"verified": None, "parts": {}, "damaged": str(error), "damaged_at": timestamp(clock())}
        try:
            _record(host, backup, values)
        except MobiusError as failure:
            return DamagedError(f"{error}; that could not be recorded, so a later run may not know it: {failure}")
    return error


def _record(host: Host, backup: Backup, values: dict[str, Any]) -> None:
    try:
        update_record(host, backup.id, values)
    except OSError as error:
        raise to_failure(error) from error


def verify_backup(backup: Backup) -> tuple[ArchiveManifest, str]:
    """Read a backup whole, compare it with its `.sha256` and every member with its manifest.

    Returns:
        The manifest and its SHA-256.

    Raises:
        DamagedError: it is not what was written.
    """
    manifest, digest = verify_archive(backup.path, _require_digest(backup))
    if manifest.head["id"] != backup.id:
        raise DamagedError(f"it is the backup {printable(manifest.head['id'])!r} under another name")
    return manifest, digest


def verify_newest(
    host: Host, backups: Sequence[Backup], check_mode: bool, clock: Clock = utc_now
) -> tuple[Backup | None, ArchiveManifest | None, str | None]:
    """The newest backup, its manifest, and None; or nothing and the id of a newest one that is damaged.

    An older one is not tried: a newest one that is damaged makes a new backup necessary in any case.
    """
    if not backups:
        return None, None, None
    newest = backups[-1]
    try:
        manifest = read_whole(host, newest, record=not check_mode, clock=clock)
    except DamagedError:
        return None, None, newest.id
    return replace(newest, verified=timestamp(clock()), damaged=None), manifest, None


def parse_part(text: str | None, clock: Clock = utc_now) -> Part | None:
    """`(k, n)` of `k/n` or `today/n`; None for everything.

    Raises:
        MobiusError: invalid_input.
    """
    if not text:
        return None
    match = re.fullmatch(r"(today|[1-9][0-9]{0,2})/([1-9][0-9]{0,2})", text)
    parts = int(match[2]) if match else 0
    number = clock().toordinal() % parts + 1 if match and match[1] == "today" else int(match[1]) if match else 1
    if not 1 <= number <= parts:
        raise MobiusError("invalid_input", f"subset is {text!r}, which is neither a part like 1/7 nor today/7.")
    return (number, parts) if parts > 1 else None


def _read_part(host: Host, backup: Backup, part: Part, record: bool, clock: Clock) -> None:
    """Read a part of a backup, and record what is known of it then.

    Raises:
        DamagedError: what was read is not what was written, or a read before showed damage.
    """
    known = read_records(host).get(backup.id, {})
    try:
        _require_digest(backup)
        verify_archive_part(backup.path, *part, known.get("manifest_sha256"))
    except DamagedError as error:
        raise _recorded_damage(host, backup, error, record, clock) from None
    if known.get("damaged"):
        since = f" since {known['damaged_at']}" if known.get("damaged_at") else ""
        raise DamagedError(f"{known['damaged']} (known{since}; this part shows nothing wrong, which clears nothing)")
    parts = known.get("parts") or {}
    times = {**(parts.get("times", {}) if parts.get("of") == part[1] else {}), str(part[0]): timestamp(clock())}
    values: dict[str, Any] = {"parts": {"of": part[1], "times": times}}
    if len(times) == part[1]:
        values["verified"] = max(min(times.values()), known.get("verified") or "")
    if record:
        _record(host, backup, values)


def _require_digest(backup: Backup) -> str:
    if backup.sha256 is None:
        raise DamagedError(NO_DIGEST)
    return backup.sha256


@contextlib.contextmanager
def _unreadable_is_damage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in MEDIUM_ERRNOS:
            raise DamagedError(f"it cannot be read: {error.strerror}") from error
        raise


# --- One archive ------------------------------------------------------------------------------------------------------


def verify_archive(path: Path, expected_sha256: str) -> tuple[ArchiveManifest, str]:
    """Read an archive whole: its digest, and each byte against the manifest. A thread for each of the two.

    Returns:
        The manifest and its SHA-256.

    Raises:
        DamagedError: anything is not what was written.
    """
    with _unreadable_is_damage(), open_archive(path) as stream, ThreadPoolExecutor(1) as pool:
        archive_digest = pool.submit(file_sha256, path)
        damage: DamagedError | None = None
        try:
            manifest = read_manifest(stream)
            manifest_digest = manifest_sha256(stream, manifest)
            _compare_members(path, manifest, part=None)
        except DamagedError as error:
            damage = error
        actual = archive_digest.result()
        if actual != expected_sha256:
            raise DamagedError(f"its SHA-256 is {actual}, not {expected_sha256}" + (f"; {damage}" if damage else ""))
        if damage:
            raise damage
        return manifest, manifest_digest


def verify_archive_part(path: Path, number: int, parts: int, expected_manifest_sha256: str | None) -> ArchiveManifest:
    """Compare all headers with the manifest, and the content of every `parts`-th file, beginning with the `number`-th.

    Raises:
        DamagedError: anything that was read is not what was written.
    """
    with _unreadable_is_damage(), open_archive(path) as stream:
        manifest = read_manifest(stream)
        if expected_manifest_sha256 and manifest_sha256(stream, manifest) != expected_manifest_sha256:
            raise DamagedError("its manifest is not the one that was written")
        _compare_members(path, manifest, part=(number, parts))
        return manifest


def _compare_members(path: Path, manifest: ArchiveManifest, part: Part | None) -> None:
    number = 0
    with open_archive(path) as lines, open_archive(path) as stream:
        for entry, offset in read_members(lines, stream, manifest):
            if entry.folder or not entry.stored:
                continue
            number += 1
            if part and (number - part[0]) % part[1]:
                continue
            if range_sha256(stream.fileno(), offset, entry.size) != entry.sha256:
                raise DamagedError(f"the content of {printable(entry.path)!r} is not what its manifest says")
