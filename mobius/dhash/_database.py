# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The open index file: its connections, transactions, and failures as one sentence each."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mobius.dhash._index_file import IndexFile
from mobius.dhash._schema import prepare
from mobius.errors import MobiusError

BUSY_TIMEOUT_SECONDS: Final = 30.0
"""How long to wait for another process that writes."""

_READERS: Final = 4
"""Connections that read at the same time."""


class Database:
    """An index that many threads and many processes use.

    Some connections read and another writes, so that a reader never waits for a writer, in whatever process, nor for a
    long read of another thread. Every transaction begins with a look at the files, and a commit has another before it:
    nothing is written into a file that has lost its name.

    Args:
        busy_seconds: how long to wait for another process that writes.

    Raises:
        MobiusError: the file is no index, or of a newer schema than this release knows.
    """

    def __init__(self, path: Path, *, busy_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._writer_lock, self._version_lock = threading.RLock(), threading.Lock()
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        try:
            with contextlib.ExitStack() as opened:
                self._writer = self._connect(opened)
                prepare(self._writer, str(path))
                # its count of commits is one of this connection alone
                self._version_reader = self._connect(opened)
                for _ in range(_READERS):
                    self._idle_readers.put(self._connect(opened))
                self._file = IndexFile(path)
                opened.pop_all()
        except sqlite3.OperationalError as error:
            raise to_mobius_error(
                error, path, MobiusError("invalid_input", f"The index {path} cannot be opened: {error}.")
            ) from error
        except sqlite3.Error as error:
            raise MobiusError("invalid_input", f"{path} is not an index of pictures: {error}.") from error

    def _connect(self, opened: contextlib.ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        opened.callback(connection.close)
        # FULL: what was committed outlives a power cut
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def close(self) -> None:
        for _ in range(_READERS):
            reader = self._idle_readers.get()
            reader.close()
            self._idle_readers.put(reader)  # whoever reads now gets SQLite's error
        for lock, connection in ((self._version_lock, self._version_reader), (self._writer_lock, self._writer)):
            with lock:
                connection.close()

    def check_file(self) -> None:
        """Raises MobiusError when the file is not the one that was opened any more."""
        self._file.check()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent view of the index. A thread has one at a time."""
        self._file.check()
        reader = self._idle_readers.get()
        try:
            with self._transaction(reader, "BEGIN") as connection:
                yield connection
        finally:
            self._idle_readers.put(reader)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes."""
        self._file.check()
        with self._writer_lock, self._transaction(self._writer, "BEGIN IMMEDIATE") as connection:
            yield connection
            self._file.check()

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
            raise to_mobius_error(error, self.path, error, self._busy_seconds) from error

    def version(self) -> int:
        """A number that changes with every commit of any process. It is read from shared memory."""
        with self._version_lock:
            return int(self._version_reader.execute("PRAGMA data_version").fetchone()[0])


def to_mobius_error(
    error: sqlite3.Error, path: Path, otherwise: Exception, busy_seconds: float = BUSY_TIMEOUT_SECONDS
) -> Exception:
    """A failure of the index as one sentence; `otherwise` when it is none that is expected."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return MobiusError("disk_full", f"There is no space left for the index {path}.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return MobiusError(
            "timeout", f"Another process has been writing to the index {path} for {busy_seconds:.0f} seconds."
        )
    # of an index that was open already; one that is being opened is a file of something else
    is_overwritten = code == sqlite3.SQLITE_NOTADB and otherwise is error
    if code == sqlite3.SQLITE_CORRUPT or is_overwritten:
        return MobiusError(
            "state_damaged", f"The index {path} is damaged.",
            do_next="Restore it from a backup; or remove it and scan again, which loses the decisions.",
        )  # fmt: skip
    is_unusable = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
    if is_unusable or (code == sqlite3.SQLITE_CANTOPEN and otherwise is error):
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
