# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The open index: who reads and who writes when, what goes wrong with it in one sentence, and rows as values."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mobius.dhash._confidence import LOOK_BYTES, readable, trusted
from mobius.dhash._hash import Dhash, Fingerprint
from mobius.dhash._schema import prepare
from mobius.errors import MobiusError

Confidence = Literal["confident", "doubtful"]
Worth = tuple[bool, bool, int, int, bytes, str]

PATIENCE: Final = 30.0
"""Seconds to wait for another process that writes."""


@dataclass(frozen=True)
class Picture:
    """A picture of the index, at one of the places where it lies.

    Attributes:
        path: absolute, as it is printed: bytes that are not UTF-8 show as \\xNN. None when it was only posted.
        modified_ns: the file's modification time in nanoseconds since 1970; None when it was only posted.
        warnings: a sentence for each fault that it could be hashed in spite of.
        copies: files with these very bytes.
        place: the path as the file system knows it.
    """

    sha256: str
    dhash: Dhash
    width: int
    height: int
    format: str
    size: int
    release: str
    path: str | None
    modified_ns: int | None
    posted: bool
    warnings: tuple[str, ...]
    copies: int
    look: bytes | None = field(repr=False)
    place: bytes | None = field(repr=False)

    @property
    def confidence(self) -> Confidence:
        """`doubtful` when there is so little detail in it that no match of it can be proven."""
        return "confident" if self.look is not None and trusted(self.look) else "doubtful"

    @property
    def worth(self) -> Worth:
        """Sorts the copy most worth keeping first: one that is a file and undamaged, the largest in pixels, then the
        oldest, then by path."""
        return (
            self.place is None,
            bool(self.warnings),
            -self.width * self.height,
            self.modified_ns or 0,
            self.place or b"",
            self.sha256,
        )

    def as_dict(self) -> dict[str, Any]:
        """What an export holds of it, and what programs get."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "dhash": self.dhash.hex[:16],
            "dhash_vertical": self.dhash.hex[16:],
            "algorithm": self.dhash.algorithm,
            "width": self.width,
            "height": self.height,
            "format": self.format,
            "size": self.size,
            "release": self.release,
            "confidence": self.confidence,
        }


class Database:
    """An index that many threads and many processes use.

    One connection reads and another writes, so that nobody who reads waits for a writer, in whatever process.

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
            raise _told(
                error, path, MobiusError("invalid_input", f"The index {path} cannot be opened: {error}.")
            ) from error
        except sqlite3.Error as error:
            raise MobiusError("invalid_input", f"{path} is not an index of pictures: {error}.") from error

    def _connect(self, opened: contextlib.ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        opened.callback(connection.close)
        # FULL: what was answered for is there after a power cut, too
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def close(self) -> None:
        for lock, connection in zip(self._locks, (self._reader, self._writer), strict=True):
            with lock:
                connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One moment's view of the index."""
        with self._locks[0], self._transaction(self._reader, "BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All that is written, or nothing of it."""
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
            raise _told(error, self.path, error) from error

    def version(self) -> int:
        """Changes with every commit of anybody. Costs a look into shared memory."""
        with self._locks[0]:
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])


def _told(error: sqlite3.Error, path: Path, otherwise: Exception) -> Exception:
    """What went wrong with the index as one sentence; `otherwise` when it is none of what can go wrong."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return MobiusError("disk_full", f"There is no space left for the index {path}.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return MobiusError(
            "timeout", f"Another process has been writing to the index {path} for {PATIENCE:.0f} seconds."
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
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 1 << 16 or (room.f_files > 0 and room.f_favail == 0)


def one_of_each(
    connection: sqlite3.Connection, where: str = "NOT quarantined", values: Sequence[Any] = ()
) -> Iterator[tuple[int, Picture]]:
    """Picture ids with their pictures at every place, by id and path; one that was only posted has no place."""
    # every `where` is written in this package
    for row in connection.execute(
        "SELECT id, sha256, algorithm, rows, columns, width, height, format, pictures.size, release, posted, warnings,"  # noqa: S608
        " look, path, mtime_ns, (SELECT count(*) FROM files WHERE picture=pictures.id)"
        f" FROM pictures LEFT JOIN files ON picture=id WHERE {where} ORDER BY id, path",
        values,
    ):
        yield (
            row[0],
            Picture(
                sha256=row[1], dhash=Dhash(unsigned(row[3]), unsigned(row[4]), row[2]), width=row[5], height=row[6],
                format=row[7], size=row[8], release=row[9], posted=bool(row[10]), warnings=tuple(row[11].splitlines()),
                look=None if readable(row[12]) is None else row[12],
                place=row[13], path=None if row[13] is None else shown(row[13]), modified_ns=row[14], copies=row[15],
            ),
        )  # fmt: skip


def places(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, list[Picture]]:
    """Picture id to the picture at each of its places, the one most worth keeping first."""
    found: dict[int, list[Picture]] = {}
    numbers = json.dumps([int(number) for number in ids])
    for number, picture in one_of_each(connection, "id IN (SELECT value FROM json_each(?))", (numbers,)):
        found.setdefault(number, []).append(picture)
    return {number: sorted(pictures, key=lambda picture: picture.worth) for number, pictures in found.items()}


def unchanged(picture: Picture) -> Path | None:
    """The picture's file, when it is there and as it was indexed."""
    if picture.place is None:
        return None
    path = Path(os.fsdecode(picture.place))
    try:
        status = path.stat()
    except OSError:
        return None
    return path if (status.st_size, status.st_mtime_ns) == (picture.size, picture.modified_ns) else None


USABLE: Final = f"(NOT quarantined AND length(look) IS {LOOK_BYTES})"
"""Of `pictures`: what need not be hashed again."""


def store(connection: sqlite3.Connection, fingerprints: Iterable[Fingerprint], release: str, *, anew: bool) -> None:
    """Write pictures. One that is known keeps its row, unless that is of no use (quarantined, or without its look) or,
    when `anew`, of another algorithm."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    connection.executemany(
        "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, warnings,"  # noqa: S608
        " release, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (sha256) DO UPDATE SET (algorithm, rows, columns, look, width, height, format, warnings,"
        " quarantined, release, written_at) = (excluded.algorithm, excluded.rows, excluded.columns, excluded.look,"
        " excluded.width, excluded.height, excluded.format, excluded.warnings, 0, excluded.release,"
        f" excluded.written_at) WHERE NOT {USABLE} OR (? AND algorithm != excluded.algorithm)",
        (
            (
                found.sha256, found.size, found.dhash.algorithm, signed(found.dhash.rows), signed(found.dhash.columns),
                found.look, found.width, found.height, found.format, "\n".join(found.warnings), release, now, anew,
            )
            for found in fingerprints
        ),
    )  # fmt: skip


def shown(place: bytes) -> str:
    """A path as it can be printed: bytes that are not UTF-8 show as \\xNN."""
    return place.decode("utf-8", "backslashreplace")


def signed(value: int) -> int:
    """SQLite's numbers are signed."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    return value % (1 << 64)
