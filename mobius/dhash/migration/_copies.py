# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verified copies of an index, what it holds as one digest, and its restore from a copy."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mobius.dhash._database import BUSY_TIMEOUT_SECONDS, to_mobius_error
from mobius.durable import TEMPORARY_PREFIX, fsync_dir
from mobius.errors import MobiusError

MIN_FREE_SHARE: Final = 0.1
"""Of a disk's size: a migration leaves at least so much free."""

_DERIVED: Final = ("changes", "compatible", "proofs")
"""Tables that are made of the others, or only say what they changed."""


class IndexCopy(NamedTuple):
    """The SHA-256 of a copy's file, and the digest of what it holds (`content_digest`)."""

    sha256: str
    content: str


def require_free_space(folder: Path, needed: int = 0) -> None:
    """Refuse when less than a tenth of the disk would be free after `needed` more bytes.

    Raises:
        MobiusError: disk_full.
    """
    disk = shutil.disk_usage(folder)
    if disk.free - needed < disk.total * MIN_FREE_SHARE:
        raise MobiusError(
            "disk_full",
            f"The disk of {folder} has {disk.free / 1e6:.0f} of {disk.total / 1e6:.0f} MB free; the migration "
            f"would write {needed / 1e6:.0f} MB more, and leaves at least 10 % free.",
            do_next="Free some space and run the same command again, which goes on where it was.",
        )


@contextlib.contextmanager
def connected(index: Path) -> Iterator[sqlite3.Connection]:
    """An open index, as it is: of any schema. SQLite's failures become one sentence each."""
    try:
        with contextlib.closing(
            sqlite3.connect(index, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
    except sqlite3.Error as error:
        raise to_mobius_error(
            error, index, MobiusError("invalid_input", f"{index} cannot be used as an index: {error}.")
        ) from error


def content_digest(connection: sqlite3.Connection) -> str:
    """SHA-256 of the schema, and of every row that is not derived from others."""
    digest = hashlib.sha256(repr(connection.execute("PRAGMA user_version").fetchone()).encode())
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name").fetchall()
    for (table,) in tables:
        if table not in _DERIVED and not table.startswith("sqlite_"):
            digest.update(f"{table}\n".encode())
            for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2'):  # noqa: S608
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def copy_index(index: Path, copy: Path) -> IndexCopy:
    """Copy an index that may be in use into one file, verified and durable before it has its name.

    Raises:
        MobiusError: state_damaged, when the index is; disk_full.
    """
    require_free_space(copy.parent, sum(file.stat().st_size for file in _files_of(index)))
    temporary = copy.with_name(TEMPORARY_PREFIX + copy.name)
    temporary.unlink(missing_ok=True)
    with connected(index) as source, connected(temporary) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
        (result,) = target.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            raise MobiusError(
                "state_damaged", f"The index {index} is damaged: {' '.join(result.replace('*', '').split())[:200]}."
            )
        content = content_digest(target)
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    os.replace(temporary, copy)
    fsync_dir(copy.parent)
    return IndexCopy(sha256, content)


def restore_index(copy: Path, sha256: str, index: Path) -> None:
    """Let the index hold what a copy holds, in one transaction. Processes that have it open read it all again.

    Raises:
        MobiusError: backup_damaged, when the copy is not what was written; nothing is changed then.
    """
    require_copy(copy, sha256)
    prepared = copy.with_name("restored.sqlite")
    copy_index(copy, prepared)
    with connected(prepared) as source, connected(index) as target:
        if has_table(source, "changes"):
            newest = max(_newest_change(source), _newest_change(target) if has_table(target, "changes") else 0)
            source.execute("DELETE FROM changes")
            # whoever follows the changes is behind this one, and so reads everything
            source.execute("INSERT INTO changes (number, picture) VALUES (?, 0)", (newest + 1000,))
        source.backup(target)
    prepared.unlink()


def require_copy(copy: Path, sha256: str) -> None:
    """Refuse a copy that is not what was written.

    Raises:
        MobiusError: backup_damaged.
    """
    try:
        with open(copy, "rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MobiusError("backup_damaged", f"The backup {copy} cannot be read: {error.strerror}.") from error
    if actual != sha256:
        raise MobiusError("backup_damaged", f"The backup {copy} has SHA-256 {actual[:12]}…, and had {sha256[:12]}….")


def remove_index(index: Path) -> None:
    """Remove an index and SQLite's files beside it."""
    for file in reversed(_files_of(index)):
        file.unlink()
    fsync_dir(index.parent)


def _files_of(index: Path) -> list[Path]:
    return [file for end in ("", "-wal", "-shm") if (file := index.with_name(index.name + end)).exists()]


def _newest_change(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(number), 0) FROM changes").fetchone()[0])


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether an index has a table, which depends on its schema."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE type='table' AND name=?", (name,)).fetchone()
    return found is not None
