# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verifies backups: every byte of an archive against its `.sha256` and its manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import MobiusError
from ..host.config import Host
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
from .store import Backup, list_backups, read_records, update_record

Part = tuple[int, int]
"""`(k, n)`: the k-th part of n, beginning with 1."""


def verify_backups(
    host: Host, part: Part | None = None, *, record: bool = True, clock: Clock = utc_now
) -> dict[str, str | None]:
    """Read every backup of the service; by id, None for a whole one and else what is wrong with it.

    Args:
        part: read one part only: all headers, and every n-th file. Once all n parts were read, the backup counts as
            verified since the oldest of them.
        record: whether the results are recorded.
    """
    results: dict[str, str | None] = {}
    for backup in list_backups(host):
        try:
            if part is None:
                _, digest = verify_backup(backup)
                values: dict[str, Any] = {"manifest_sha256": digest, "verified": timestamp(clock())}
            else:
                values = _verify_backup_part(host, backup, part, clock)
        except DamagedError as error:
            if not backup.path.exists():  # rotated meanwhile
                continue
            results[backup.id] = str(error)
            values = {"verified": None, "parts": {}, "damaged": str(error)}
        else:
            results[backup.id] = None
            values["damaged"] = None
        if record:
            update_record(host, backup.id, values)
    return results


def require_whole(results: dict[str, str | None]) -> None:
    """Fail when a result of `verify_backups` is damage.

    Raises:
        MobiusError: backup_damaged, with what is wrong with which backup.
    """
    if damaged := {backup_id: reason for backup_id, reason in results.items() if reason is not None}:
        reasons = "; ".join(f"{backup_id}: {reason}" for backup_id, reason in damaged.items())
        raise MobiusError("backup_damaged", f"{len(damaged)} of {len(results)} backups are damaged: {reasons}.")


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
        manifest, digest = verify_backup(newest)
    except DamagedError as error:
        if not check_mode:
            update_record(host, newest.id, {"verified": None, "parts": {}, "damaged": str(error)})
        return None, None, newest.id
    verified = timestamp(clock())
    if not check_mode:
        update_record(host, newest.id, {"verified": verified, "manifest_sha256": digest, "damaged": None})
    return replace(newest, verified=verified, damaged=None), manifest, None


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
    return number, parts


def _verify_backup_part(host: Host, backup: Backup, part: Part, clock: Clock) -> dict[str, Any]:
    """Verify a part; what is known of the backup then."""
    _require_digest(backup)
    record = read_records(host).get(backup.id, {})
    verify_archive_part(backup.path, *part, record.get("manifest_sha256"))
    known = record.get("parts") or {}
    times = {**(known.get("times", {}) if known.get("of") == part[1] else {}), str(part[0]): timestamp(clock())}
    values: dict[str, Any] = {"parts": {"of": part[1], "times": times}}
    if len(times) == part[1]:
        values["verified"] = max(min(times.values()), record.get("verified") or "")
    return values


def _require_digest(backup: Backup) -> str:
    if backup.sha256 is None:
        raise DamagedError("its .sha256 is missing or is not a line of sha256sum")
    return backup.sha256


# --- One archive ------------------------------------------------------------------------------------------------------


def verify_archive(path: Path, expected_sha256: str) -> tuple[ArchiveManifest, str]:
    """Read an archive whole: its digest, and each byte against the manifest. A thread for each of the two.

    Returns:
        The manifest and its SHA-256.

    Raises:
        DamagedError: anything is not what was written.
    """
    with open_archive(path) as stream, ThreadPoolExecutor(1) as pool:
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
    with open_archive(path) as stream:
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
