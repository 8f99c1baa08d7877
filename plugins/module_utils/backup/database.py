# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies SQLite databases while a service writes to them, and verifies that they are sound."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import MobiusError
from .safe_open import NoFileError, copy_file, describe_kind, open_file

SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files beside it."""

_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
"""What SQLite reports of a file that is no sound database."""

_READ_FAILURE_CODES = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
"""What it reports of one, or of a journal beside it, that the disk cannot give. All else may pass, or is the copy's."""

_NOT_OPENED_CODES = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""What it reports of one that is a link by now, or that it would have to write to: a copy shows what it holds."""

_COPY_ATTEMPTS = 2  # SQLite itself waits some ten seconds for a lock before it reports the race
_LOCK_BYTES_START, _LOCK_BYTES = 0x40000000, 512  # of a database
_SHM_IN_USE_BYTE = 128  # of a -shm
_CHECK_CACHE_KIB = 65536
_FLOCK_FORMAT = "hhqqi"  # struct flock of Linux: type, whence, start, length, process

_REASON_MAX_CHARACTERS = 200
_SQLITE_MAGIC = b"SQLite format 3\0"
_WAL_VERSIONS = b"\x02\x02"  # of a database in WAL mode, at this offset:
_WAL_VERSIONS_OFFSET = 18


class DamagedDatabaseError(Exception):
    """A database is damaged. The message is one sentence without its path."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error of SQLite means that the file is damaged, and not that a query is wrong or it is in use."""
    return _primary_code(error) in _DAMAGE_CODES


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_sqlite(name: str, folder: int) -> bool:
    """Whether a file in a folder is an SQLite database."""
    try:
        with open_file(name, folder) as stream:
            return stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except (FileNotFoundError, NoFileError):
        return False


def copy_database(name: str, path: Path, folder: int, copy: Path) -> None:
    """A consistent copy while the service writes; equal content gives an equal copy, whatever lies in the journal.

    Nothing beside it changes. A database that nobody has open is read as an immutable file, or where a service that was
    killed left a journal, copied with that and recovered as a copy: merely opening it otherwise would create or change
    its `-wal` and `-shm`, also in check mode. When it changed meanwhile, it is read again as one in use.

    Args:
        name: of the database in the folder behind the descriptor `folder`.
        path: of the database, for messages, and for an ordinary user.

    Raises:
        DamagedDatabaseError: it is damaged, or empty.
        MobiusError: disk_full, environment_failed.
    """
    for attempt in range(1, _COPY_ATTEMPTS + 1):
        try:
            _copy_now(name, path, folder, copy)
            return
        except sqlite3.Error as error:
            copy.unlink(missing_ok=True)
            code = getattr(error, "sqlite_errorcode", 0)
            if code == sqlite3.SQLITE_PROTOCOL and attempt < _COPY_ATTEMPTS:
                continue
            if is_damage(error) or code in _READ_FAILURE_CODES:
                raise DamagedDatabaseError(_one_line(str(error))) from error
            if _primary_code(error) == sqlite3.SQLITE_FULL:
                reason = f"{copy.parent} ran full while the database {path} was copied."
                raise MobiusError("disk_full", reason) from error
            raise MobiusError("environment_failed", f"The database {path} cannot be copied now: {error}.") from error


def _copy_now(name: str, path: Path, folder: int, copy: Path) -> None:
    versions = _file_versions(name, folder)
    journals = [companion for companion in SQLITE_COMPANIONS if name + companion in versions]
    idle = _is_in_wal_mode(name, folder) if not journals else not _is_in_use(name, folder)
    try:
        if idle and journals:
            _copy_recovered(name, journals, folder, copy)
        elif idle:
            _copy_pages(name, path, folder, "?mode=ro&immutable=1", copy)
        if not idle or _file_versions(name, folder) != versions:
            copy.unlink(missing_ok=True)
            _copy_pages(name, path, folder, "?mode=ro", copy)
    except sqlite3.Error as error:
        if _primary_code(error) not in _NOT_OPENED_CODES:
            raise
        copy.unlink(missing_ok=True)
        try:
            if _is_in_use(name, folder):
                raise
            _copy_recovered(name, journals, folder, copy)
        except NoFileError:
            raise DamagedDatabaseError("it is no file any more") from error


def require_sound_database(path: Path) -> None:
    """Verify a database that nobody else has open, with SQLite's own check of its whole structure.

    What this host's SQLite cannot check, such as a module or a collation that only the service has, counts as sound.

    Raises:
        DamagedDatabaseError: it is damaged.
        MobiusError: environment_failed, when the disk that it was copied to fails.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            database.execute("pragma trusted_schema=off")
            # with SQLite's 2 MB, checking 83 MB of 500,000 rows and two indexes took 10.5 s on a busy machine, so 2.7 s
            database.execute(f"pragma cache_size=-{_CHECK_CACHE_KIB}")
            rows = database.execute("pragma integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        if is_damage(error):
            raise DamagedDatabaseError(_one_line(str(error))) from error
        if _primary_code(error) == sqlite3.SQLITE_IOERR:
            raise MobiusError("environment_failed", f"{path} cannot be verified now: {error}.") from error
        return
    if rows != [("ok",)]:
        raise DamagedDatabaseError(_one_line("; ".join(str(row[0]) for row in rows)))


def _one_line(text: str) -> str:
    """What SQLite reports, in one line of printable characters."""
    line = " ".join(text.replace("***", "").split())
    return "".join(character if character.isprintable() else "?" for character in line)[:_REASON_MAX_CHARACTERS]


def _file_versions(name: str, folder: int) -> dict[str, tuple[int, int]]:
    """Size and time of change of a database and of the journals beside it.

    Raises:
        DamagedDatabaseError: the database is empty, or a journal is no file; SQLite would wait for a pipe.
    """
    versions = {}
    for companion in ("", *SQLITE_COMPANIONS):
        try:
            status = os.stat(name + companion, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            if not companion:
                raise
            continue
        if companion and not stat.S_ISREG(status.st_mode):
            raise DamagedDatabaseError(f"its {companion} is {describe_kind(status.st_mode)}")
        versions[name + companion] = (status.st_size, status.st_mtime_ns)
    if versions[name][0] == 0:
        raise DamagedDatabaseError("it is empty")
    return versions


def _is_in_wal_mode(name: str, folder: int) -> bool:
    with open_file(name, folder) as stream:
        return stream.read(_WAL_VERSIONS_OFFSET + 2)[_WAL_VERSIONS_OFFSET:] == _WAL_VERSIONS


def _is_in_use(name: str, folder: int) -> bool:
    """Whether another process holds one of SQLite's locks on a database (SQLite's `os_unix.c` has where they lie)."""
    for locked, start, length in ((name, _LOCK_BYTES_START, _LOCK_BYTES), (f"{name}-shm", _SHM_IN_USE_BYTE, 1)):
        with contextlib.suppress(FileNotFoundError), open_file(locked, folder) as stream:
            request = struct.pack(_FLOCK_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
            answer = fcntl.fcntl(stream.fileno(), fcntl.F_GETLK, request)
            if struct.unpack(_FLOCK_FORMAT, answer)[0] != fcntl.F_UNLCK:
                return True
    return False


def _copy_recovered(name: str, journals: Sequence[str], folder: int, copy: Path) -> None:
    """Copy a database that nobody has open with its journals, and let SQLite recover that copy."""
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=copy.name) as aside:
        for companion in ("", *(companion for companion in journals if companion != "-shm")):
            copy_file(name + companion, folder, Path(aside, f"database{companion}"))
        with (
            contextlib.closing(sqlite3.connect(Path(aside, "database"))) as source,
            contextlib.closing(_new_copy(copy)) as target,
        ):
            source.backup(target)


def _new_copy(copy: Path) -> sqlite3.Connection:
    """A database to copy into: all that SQLite opens for it is opened, and its locks and journal are not again."""
    target = sqlite3.connect(copy)
    for pragma in ("locking_mode=exclusive", "journal_mode=off", "user_version"):
        target.execute(f"pragma {pragma}").fetchall()
    return target


def _copy_pages(name: str, path: Path, folder: int, options: str, copy: Path) -> None:
    """SQLite takes names, and resolves links in them, `/proc/self/fd` too; so it is shown nothing but the folder, and
    the copy outside is opened before."""
    confined = os.geteuid() == 0  # an ordinary user may not, and cannot be led to what only root can read
    uri = (Path("/", name) if confined else path.absolute()).as_uri() + options
    with (
        contextlib.closing(_new_copy(copy)) as target,
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
