# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The open index file: its connections, transactions, and failures as one sentence each."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mobius.dhash._schema import prepare
from mobius.errors import MobiusError

BUSY_TIMEOUT_SECONDS: Final = 30.0
"""How long to wait for another process that writes."""


class Database:
    """An index that many threads and many processes use.

    One connection reads and another writes, so that a reader never waits for a writer, in whatever process.

    Raises:
        MobiusError: the file is no index, or of a newer schema than this release knows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = (threading.RLock(), threading.RLock())
        try:
            with contextlib.ExitStack() as opened:
                self._writer = self._connect(opened)
                prepare(self._writer, str(path))
                self._reader = self._connect(opened)
                opened.pop_all()
        except sqlite3.OperationalError as error:
            raise to_mobius_error(
                error, path, MobiusError("invalid_input", f"The index {path} cannot be opened: {error}.")
            ) from error
        except sqlite3.Error as error:
            raise MobiusError("invalid_input", f"{path} is not an index of pictures: {error}.") from error

    def _connect(self, opened: contextlib.ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        opened.callback(connection.close)
        # FULL: what was committed outlives a power cut
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def close(self) -> None:
        for lock, connection in zip(self._locks, (self._reader, self._writer), strict=True):
            with lock:
                connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent view of the index."""
        with self._locks[0], self._transaction(self._reader, "BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes."""
        with self._locks[1], self._transaction(self._writer, "BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise to_mobius_error(error, self.path, error) from error

    def version(self) -> int:
        """A number that changes with every commit of any process. It is read from shared memory."""
        with self._locks[0]:
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])


def to_mobius_error(error: sqlite3.Error, path: Path, otherwise: Exception) -> Exception:
    """A failure of the index as one sentence; `otherwise` when it is none that is expected."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return MobiusError("disk_full", f"There is no space left for the index {path}.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return MobiusError(
            "timeout", f"Another process has been writing to the index {path} for {BUSY_TIMEOUT_SECONDS:.0f} seconds."
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return MobiusError(
            "state_damaged", f"The index {path} is damaged.",
            do_next="Restore it from a backup; or remove it and scan again, which loses the decisions.",
        )  # fmt: skip
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return MobiusError("environment_failed", f"The index {path} cannot be used: {error}.")
    return otherwise


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < 1 << 16 or _has_no_inode(path.parent)
    except OSError:
        return False


def _has_no_inode(folder: Path) -> bool:
    if not hasattr(os, "statvfs"):  # Windows has none
        return False
    filesystem = os.statvfs(folder)
    return filesystem.f_files > 0 and filesystem.f_favail == 0
