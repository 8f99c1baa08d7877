# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The live state before a restore: what of it differs from the backup, what is damaged, and what would be lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from ..errors import MobiusError
from ..host.config import Host
from .archive import ArchiveEntry, ArchiveManifest, file_sha256, printable, read_entries
from .safe_open import NoFileError
from .snapshot import HostSnapshot, archive_entries
from .source import file_stamp
from .store import Backup

UNCHANGED = "Nothing was changed."
_WITHOUT_CONTENT = ("a pipe", "a socket")


@dataclass(frozen=True)
class WriteCounter:
    """How later writes are counted.

    Attributes:
        database: path of an SQLite database below the state folder; a missing one holds none.
        query: gives one row with one number, and may use `:since`, RFC 3339 in UTC.
    """

    database: str
    query: str

    def count_since(self, copy: Path, since: str) -> int:
        """How many writes there are at `since` or later, in a copy of the database that nobody else has open.

        Raises:
            UncountableError: the query fails or gives no number.
        """
        try:
            uri = f"{copy.absolute().as_uri()}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
                row = database.execute(self.query, {"since": since}).fetchone()
        except sqlite3.Error as error:
            raise UncountableError(f"the query on {self.database} fails ({error})") from error
        if row is None or len(row) != 1 or not isinstance(row[0], int):
            raise UncountableError(f"the query on {self.database} gives no number")
        return row[0]


class UncountableError(Exception):
    """Writes cannot be counted. The message is the reason, for the end of a sentence."""


@dataclass(frozen=True)
class LiveState:
    """The live state, compared with a backup.

    `differences`: at most 20 names; `damage`: one line for each path that is damaged, or is neither a file nor a folder
    where the backup has one; `must_be_kept_aside`: a backup could not hold all of it as it is; `lost`: how many writes
    are later than the backup, None when they were not counted, or cannot be for the reason `lost_unknown`.
    """

    differences: tuple[str, ...]
    damage: tuple[str, ...]
    must_be_kept_aside: bool
    lost: int | None
    lost_unknown: str | None


def examine_live_state(
    host: Host,
    backup: Backup,
    manifest: ArchiveManifest,
    *,
    scratch: Path,
    databases: Collection[str],
    writes: WriteCounter | None,
    with_configuration: bool = True,
) -> LiveState:
    """Compare the live state with a backup that was verified, and refuse one that cannot be exchanged.

    Args:
        scratch: a folder for copies of databases.
        databases: paths below the state folder of what must be sound databases.
        writes: how the writes are counted that would be lost.
        with_configuration: whether the configuration is compared, too.

    Raises:
        MobiusError: environment_failed, invalid_input.
    """
    unchanged = {"activation.json", f"state/{host.journal_path.relative_to(host.state_dir)}"}

    def counts(entry: ArchiveEntry) -> bool:
        if not with_configuration and entry.path.partition("/")[0] == "config":
            return False
        return entry.path not in unchanged and not (entry.is_in_library and backup.scope == "state")

    declared = {*databases, *([writes.database] if writes else [])}
    folder = Path(tempfile.mkdtemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=scratch))
    try:
        snapshot = HostSnapshot.of(host, "full", folder, databases=declared)
        walk = (item for item in snapshot.walk() if counts(item.entry))
        old = (entry for entry in archive_entries(backup, manifest) if counts(entry))
        differences = snapshot.survey(old, walk).differences
        damage = {**snapshot.displaced, **snapshot.damage}
        lost, lost_unknown = _count_lost(snapshot, damage, writes, manifest.head["created"])
    finally:
        shutil.rmtree(folder)
    _require_exchangeable(host, snapshot)
    if backup.scope == "state":
        _require_pictures(host, backup, manifest)
    unsaved = [kind for kind in snapshot.skipped_kinds.values() if kind not in _WITHOUT_CONTENT]
    named = tuple(f"{printable(path)}: {reason}" for path, reason in sorted(damage.items()))
    return LiveState(tuple(differences), named, bool(damage or unsaved), lost, lost_unknown)


def _count_lost(
    snapshot: HostSnapshot, damage: Mapping[str, str], writes: WriteCounter | None, since: str
) -> tuple[int | None, str | None]:
    """How many writes there are since then, and why they cannot be counted."""
    if writes is None:
        return None, None
    path = f"state/{writes.database}"
    if path in damage:
        return None, f"the live data is damaged ({path}: {damage[path]})"
    if path not in snapshot.copies:
        return 0, None
    try:
        return writes.count_since(snapshot.copies[path][0], since), None
    except UncountableError as error:
        return None, str(error)


def _require_exchangeable(host: Host, snapshot: HostSnapshot) -> None:
    """Refuse what stands on another disk; a link where the backup has a folder is damage instead."""
    for top, name in ((host.state_dir, "state"), (host.config_dir, "config")):
        children = [entry for entry in top.iterdir() if entry.is_dir()] if top.is_dir() else []
        links = [entry for entry in children if entry.is_symlink() and f"{name}/{entry.name}" not in snapshot.displaced]
        fixed = [entry for entry in (top, *children) if os.path.ismount(entry)] + links
        if top.is_symlink():
            fixed.insert(0, top)
        if fixed:
            raise MobiusError(
                "environment_failed",
                f"{fixed[0]} is a link or a mounted file system, so it cannot be exchanged in one step. {UNCHANGED}",
                do_next="Restore by hand, as docs/backup.md says.",
            )
        for other in (host.backup_dir, host.log_dir, host.root, host.run_dir):
            if other.is_relative_to(top):
                raise MobiusError(
                    "environment_failed", f"{other} lies in {top}, which would be exchanged with it. {UNCHANGED}"
                )


def _require_pictures(host: Host, backup: Backup, manifest: ArchiveManifest) -> None:
    """The library stays, so it has to hold every picture that the index of the backup was made from."""
    wrong = []
    is_folder = not (host.state_dir / "library").is_symlink()
    with open(backup.path, "rb") as stream:
        for entry in read_entries(stream, manifest):
            if entry.stored or entry.folder:
                continue
            path = host.state_dir.joinpath(*entry.parts[1:])
            try:
                status = path.lstat()
                same_size = is_folder and stat.S_ISREG(status.st_mode) and status.st_size == entry.size
                if not same_size or (file_stamp(status) != entry.stamp and file_sha256(path) != entry.sha256):
                    wrong.append(entry.path)
            except (OSError, NoFileError):  # missing, unreadable, or no file
                wrong.append(entry.path)
    if wrong:
        raise MobiusError(
            "invalid_input",
            f"The backup {backup.id} holds no pictures, and {len(wrong)} of those that it names are missing from the "
            f"library or differ, {printable(wrong[0])} first. {UNCHANGED}",
            do_next="Restore a full backup instead.",
        )
