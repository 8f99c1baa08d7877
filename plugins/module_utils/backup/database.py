# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies SQLite databases while a service writes to them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..errors import MobiusError
from .safe_open import NoFileError, open_file

SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files beside it."""

_SQLITE_MAGIC = b"SQLite format 3\0"
_WAL_VERSIONS = b"\x02\x02"  # of a database in WAL mode, at this offset:
_WAL_VERSIONS_OFFSET = 18


def is_sqlite(name: str, folder: int) -> bool:
    """Whether a file in a folder is an SQLite database."""
    try:
        with open_file(name, folder) as stream:
            return stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except (FileNotFoundError, NoFileError):
        return False


def copy_database(name: str, path: Path, folder: int, copy: Path) -> None:
    """A consistent copy while the service writes; equal content gives an equal copy, whatever lies in the journal.

    A database in WAL mode that nobody has open is read as an immutable file: merely opening it otherwise would leave
    empty `-wal` and `-shm` files beside it, also in check mode. When somebody opened it meanwhile, it is read again.

    Args:
        name: of the database in the folder behind the descriptor `folder`.
        path: of the database, for messages, and for an ordinary user.

    Raises:
        MobiusError: state_damaged.
    """
    try:
        unopened = _unopened_version(name, folder)
        if unopened:
            _copy_pages(name, path, folder, "?mode=ro&immutable=1", copy)
        if not unopened or _unopened_version(name, folder) != unopened:
            copy.unlink(missing_ok=True)
            _copy_pages(name, path, folder, "?mode=ro", copy)
    except sqlite3.Error as error:
        raise MobiusError("state_damaged", f"The database {path} cannot be read: {error}.") from error


def _unopened_version(name: str, folder: int) -> tuple[int, int] | None:
    """Size and time of change of a database in WAL mode that no other process has open, else None."""
    with open_file(name, folder) as stream:
        in_wal_mode = stream.read(_WAL_VERSIONS_OFFSET + 2)[_WAL_VERSIONS_OFFSET:] == _WAL_VERSIONS
        status = os.fstat(stream.fileno())
    is_unopened = not any(_exists(name + companion, folder) for companion in SQLITE_COMPANIONS)
    return (status.st_size, status.st_mtime_ns) if in_wal_mode and is_unopened else None


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _copy_pages(name: str, path: Path, folder: int, options: str, copy: Path) -> None:
    """SQLite takes names, and resolves links in them, `/proc/self/fd` too; so it is shown nothing but the folder.

    The copy lies outside: all that SQLite opens for it is opened before, and its locks and journal are not opened
    again.
    """
    confined = os.geteuid() == 0  # an ordinary user may not, and cannot be led to what only root can read
    uri = (Path("/", name) if confined else path.absolute()).as_uri() + options
    with contextlib.closing(sqlite3.connect(copy)) as target:
        for pragma in ("locking_mode=exclusive", "journal_mode=off", "user_version"):
            target.execute(f"pragma {pragma}").fetchall()
        with (
            _confine_to(folder) if confined else contextlib.nullcontext(),
            contextlib.closing(sqlite3.connect(uri, uri=True)) as source,
        ):
            source.backup(target)


@contextlib.contextmanager
def _confine_to(folder: int) -> Iterator[None]:
    """The folder is this process's `/` meanwhile: no link in it leads out of it. Nothing may be imported in there."""
    with contextlib.ExitStack() as stack:
        outside, current = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/", "."))
        stack.callback(os.close, outside)
        stack.callback(os.close, current)
        try:
            os.fchdir(folder)
            os.chroot(".")
            yield
        finally:
            os.fchdir(outside)
            os.chroot(".")
            os.fchdir(current)
