# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The index of a library: one SQLite file (WAL, schema versioned) beside a folder of pictures that is only read."""

from __future__ import annotations

import datetime
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy
import numpy.typing

from mobius.dhash._hash import ALGORITHMS, MAX_PIXELS, Dhash, Fingerprint, Mode, hash_file
from mobius.errors import MobiusError

SCHEMA: Final = 1
"""`PRAGMA user_version` of the indexes written here."""

SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib"),
        *("tif", "tiff", "webp", "avif", "avifs"),
    )
)
"""Names that a scan takes for pictures, in any case; everything else in the folder is none of its business."""

_TABLES = """
CREATE TABLE images (
    root TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL, algorithm TEXT NOT NULL,
    rows INTEGER NOT NULL, columns INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL,
    release TEXT NOT NULL, written_at TEXT NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE TABLE unreadable (
    root TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL, release TEXT NOT NULL, written_at TEXT NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be hashed. `path` is relative to the scanned folder; `reason` is one sentence."""

    path: str
    reason: str


@dataclass(frozen=True)
class ScanReport:
    """What a scan found. `images` counts every readable picture of the folder, `hashed` those hashed this time."""

    images: int
    hashed: int
    unchanged: int
    removed: int
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class Match:
    """Two pictures, as paths, whose hashes differ by `distance` bits (of 128)."""

    distance: int
    first: str
    second: str


Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


class Library:
    """An index, opened for use by one thread.

    Args:
        index: the SQLite file; made when missing.
        release: written into every row, so that the rows of a bad release can be found.

    Raises:
        MobiusError: the file is no index, or of a newer schema than this release knows.
    """

    def __init__(self, index: Path | str, *, release: str = "none") -> None:
        self.index = Path(index)
        self.release = release
        try:
            self._db = sqlite3.connect(self.index, timeout=30, isolation_level=None)
        except sqlite3.Error as error:
            raise MobiusError("invalid_input", f"The index {self.index} cannot be opened: {error}.") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise MobiusError("invalid_input", f"{self.index} is not an index of pictures: {error}.") from error
        except MobiusError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            self._db.execute("ROLLBACK")
            raise MobiusError(
                "invalid_input",
                f"The index {self.index} has schema {version}; this release knows schemas up to {SCHEMA}.",
                do_next="Use the release that wrote the index, or a newer one.",
            )
        if version == 0:
            if self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                self._db.execute("ROLLBACK")
                raise MobiusError("invalid_input", f"{self.index} is a database of something else.")
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """The number of pictures in the index."""
        return int(self._db.execute("SELECT count(*) FROM images").fetchone()[0])

    def images(self) -> Iterator[dict[str, Any]]:
        """Every picture as a dictionary: root, path, size, sha256, algorithm, dhash (32 hex), width, height, format,
        release, written_at; ordered by root and path."""
        columns = (
            "root", "path", "size", "sha256", "algorithm", "rows", "columns",
            "width", "height", "format", "release", "written_at",
        )  # fmt: skip
        for row in self._db.execute(f"SELECT {', '.join(columns)} FROM images ORDER BY root, path"):  # noqa: S608
            image = dict(zip(columns, row, strict=True))
            rows, vertical = _unsigned(image.pop("rows")), _unsigned(image.pop("columns"))
            yield {**image, "dhash": Dhash(rows, vertical, image["algorithm"]).hex}

    def scan(
        self,
        folder: Path | str,
        *,
        mode: Mode = "fast",
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> ScanReport:
        """Bring the index in line with a folder and everything below it.

        Files whose size and time are as indexed are not read again; what disappeared leaves the index. Work is
        committed in small batches, so a scan that was stopped goes on where it was.

        Raises:
            MobiusError: the folder does not exist or cannot be listed.
        """
        root = Path(folder).resolve()
        if not root.is_dir():
            raise MobiusError("invalid_input", f"{folder} is not a folder.")
        key = _text(os.fspath(root))
        known = {
            row[0]: row[1:]
            for row in self._db.execute(
                "SELECT path, size, mtime_ns, algorithm FROM images WHERE root=? "
                "UNION ALL SELECT path, size, mtime_ns, '' FROM unreadable WHERE root=?",
                (key, key),
            )
        }
        names: set[str] = set()
        todo: list[tuple[str, os.stat_result]] = []
        unlisted: list[Unreadable] = []
        for name in _walk(root, unlisted):
            try:
                status = os.stat(root / name)
            except OSError as error:
                unlisted.append(Unreadable(_text(name), f"It cannot be read: {error.strerror}."))
                continue
            if not stat.S_ISREG(status.st_mode):
                unlisted.append(Unreadable(_text(name), "It is not a regular file."))
                continue
            text = _text(name)
            names.add(text)
            if known.get(text) not in (
                (status.st_size, status.st_mtime_ns, ALGORITHMS[mode]),
                (status.st_size, status.st_mtime_ns, ""),
            ):
                todo.append((name, status))
        # What could not even be listed is not known to be gone.
        hidden = tuple(f"{entry.path}/" for entry in unlisted) if unlisted else ()
        gone = [name for name in known if name not in names and not (hidden and name.startswith(hidden))]
        self._write("DELETE FROM images WHERE root=? AND path=?", [(key, name) for name in gone])
        self._write("DELETE FROM unreadable WHERE root=? AND path=?", [(key, name) for name in gone])
        unchanged = len(names) - len(todo)
        hashed = self._hash_all(root, key, todo, mode, threads, max_pixels, unchanged, progress)
        listed = [
            Unreadable(*row)
            for row in self._db.execute("SELECT path, reason FROM unreadable WHERE root=? ORDER BY path", (key,))
        ]
        images = int(self._db.execute("SELECT count(*) FROM images WHERE root=?", (key,)).fetchone()[0])
        return ScanReport(images, hashed, unchanged, len(gone), tuple(unlisted + listed))

    def _hash_all(
        self,
        root: Path,
        key: str,
        todo: list[tuple[str, os.stat_result]],
        mode: Mode,
        threads: int | None,
        max_pixels: int,
        unchanged: int,
        progress: Progress | None,
    ) -> int:
        """Hash and store; returns the number of pictures hashed."""
        workers = threads or len(os.sched_getaffinity(0))
        total, done, hashed = unchanged + len(todo), unchanged, 0
        waiting = iter(todo)
        running: dict[Future[Fingerprint | str], tuple[str, os.stat_result]] = {}
        batch: list[tuple[str, os.stat_result, Fingerprint | str]] = []
        with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
            try:
                while True:
                    while len(running) < workers * 4 and (entry := next(waiting, None)) is not None:
                        running[pool.submit(_attempt, root / entry[0], mode, max_pixels)] = entry
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        batch.append((*running.pop(future), result))
                        done += 1
                        hashed += isinstance(result, Fingerprint)
                        if progress is not None:
                            progress(done, total)
                    if len(batch) >= 100:
                        self._store(key, batch)
                        batch = []
            finally:
                pool.shutdown(cancel_futures=True)
                self._store(key, batch)
        return hashed

    def _store(self, key: str, batch: list[tuple[str, os.stat_result, Fingerprint | str]]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        good, bad = [], []
        for name, status, result in batch:
            place = (key, _text(name), status.st_size, status.st_mtime_ns)
            if isinstance(result, str):
                bad.append((*place, result, self.release, now))
            else:
                dhash = result.dhash
                values = (result.sha256, dhash.algorithm, _signed(dhash.rows), _signed(dhash.columns))
                good.append((*place, *values, result.width, result.height, result.format, self.release, now))
        self._db.execute("BEGIN IMMEDIATE")
        for table, rows, other in (("images", good, "unreadable"), ("unreadable", bad, "images")):
            if rows:
                marks = ",".join("?" * len(rows[0]))
                self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)  # noqa: S608
                self._db.executemany(
                    f"DELETE FROM {other} WHERE root=? AND path=?",  # noqa: S608
                    [row[:2] for row in rows],
                )
        self._db.execute("COMMIT")

    def _write(self, statement: str, rows: list[tuple[str, str]]) -> None:
        if rows:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")

    def duplicates(self, radius: int = 10) -> Iterator[Match]:
        """Every pair of pictures whose hashes differ by at most `radius` of 128 bits, each pair once.

        Compares all with all: 10,000 pictures take under a second.
        """
        rows = self._db.execute("SELECT root, path, rows, columns FROM images ORDER BY root, path").fetchall()
        paths = [os.path.join(root, path) for root, path, _, _ in rows]
        bits = numpy.array([row[2:] for row in rows], dtype=numpy.int64).reshape(-1, 2).view(numpy.uint64)
        for place in range(len(paths) - 1):
            distances = numpy.bitwise_count(bits[place + 1 :] ^ bits[place]).sum(axis=1, dtype=numpy.uint8)
            for offset in numpy.flatnonzero(distances <= radius):
                yield Match(int(distances[offset]), paths[place], paths[place + 1 + int(offset)])


def _walk(root: Path, unlisted: list[Unreadable]) -> Iterator[str]:
    """Names of picture files below `root`, relative to it, in a stable order; links to folders are not followed."""

    def note(error: OSError) -> None:
        if Path(error.filename) == root:
            raise MobiusError("invalid_input", f"{root} cannot be listed: {error.strerror}.") from error
        name = os.path.relpath(error.filename, root)
        unlisted.append(Unreadable(_text(name), f"It cannot be listed: {error.strerror}."))

    for folder, folders, files in os.walk(root, onerror=note):
        folders.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.relpath(os.path.join(folder, name), root)


def _attempt(path: Path, mode: Mode, max_pixels: int) -> Fingerprint | str:
    """The fingerprint, or the reason why there is none."""
    try:
        return hash_file(path, mode, max_pixels=max_pixels)
    except MobiusError as error:
        return error.reason
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _text(name: str) -> str:
    """A name as it can be stored and printed: bytes that are not UTF-8 show as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _signed(value: int) -> int:
    """SQLite's numbers are signed."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _unsigned(value: int) -> int:
    return value % (1 << 64)
