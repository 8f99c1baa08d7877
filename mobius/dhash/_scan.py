# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring an index in line with a folder, which is only read.

A file whose size and time are as indexed is not read. A new path with the inode, size and time of a known file is a
renamed file, and is not read either. A file with the SHA-256 of a known picture is not decoded. Results are committed
every few seconds, so that a scan that was killed continues where it stopped; files that are gone are removed last.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple

import PIL

from mobius.dhash._cpus import usable_cpus
from mobius.dhash._database import Database
from mobius.dhash._fingerprint import ALGORITHMS, Fingerprint, Mode
from mobius.dhash._folder import FileStatus, below, is_below, list_files, list_folder
from mobius.dhash._hash_processes import HashingPool, Unhashed
from mobius.dhash._picture import USABLE, printable, store
from mobius.errors import MobiusError

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_BATCH: Final = 500
_BATCH_SECONDS: Final = 2.0
_MAX_READ_ATTEMPTS: Final = 3
_POLL_SECONDS: Final = 0.2
"""The scan wakes up this often: Python does not notice a Ctrl-C that comes just before a wait begins."""


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be hashed. `path` is relative to the scanned folder, absolute where only some files were
    scanned; `reason` is one sentence."""

    path: str
    reason: str


@dataclass(frozen=True)
class ScanReport:
    """The result of a scan.

    Attributes:
        images: every readable picture of the folder.
        hashed: decoded and hashed this time.
        known: at a new path, but with the bytes of a known picture: copied, renamed or moved.
        unchanged: files that were not read.
        renamed: pictures at another path than before.
        removed: files that are gone (renamed ones are not counted).
        links: symbolic links, which are not followed: a link is no copy.
        unreadable: files that could not be hashed, and why.
    """

    images: int
    hashed: int
    known: int
    unchanged: int
    renamed: int
    removed: int
    links: int
    unreadable: tuple[Unreadable, ...]


class _Known(NamedTuple):
    """A row of `files`, and whether it is still valid if the file has not changed."""

    size: int
    mtime_ns: int
    picture: int | None
    holds: bool


_Result = Fingerprint | str | Unhashed
"""The fingerprint of a new picture, the SHA-256 of a known one, or why the file is unreadable."""


class Scan:
    """One scan of one folder, or of some files only, of which none leaves the index.

    Raises:
        MobiusError: the folder does not exist or cannot be listed, or the index cannot be written.
    """

    def __init__(
        self,
        database: Database,
        folder: Path | str,
        *,
        files: Collection[bytes] | None = None,
        release: str,
        mode: Mode,
        threads: int | None,
        max_pixels: int,
        progress: Progress | None,
    ) -> None:
        self._database = database
        self._files = files
        self._root = os.fsencode(Path(folder).resolve())
        if not os.path.isdir(self._root):
            raise MobiusError("invalid_input", f"{printable(os.fsencode(folder))} is not a folder.")
        self._release = release
        self._mode: Mode = mode
        self._threads = threads or usable_cpus()
        self._max_pixels = max_pixels
        self._progress = progress
        self._readers = f"{release}, {_readers()}, {max_pixels} pixels"
        self._sizes: set[int] = set()

    def run(self) -> ScanReport:
        listing = list_folder(self._root) if self._files is None else list_files(self._files)
        known = self._known()
        new = [path for path in listing.files if path not in known]
        renamed_here = self._renamed({path: listing.files[path] for path in new})
        todo = {
            path: status
            for path, status in listing.files.items()
            if path not in renamed_here
            and not ((row := known.get(path)) and row.holds and row[:2] == (status.size, status.mtime_ns))
        }
        self._write_known([(path, listing.files[path], picture) for path, picture in renamed_here.items()])
        hashed, known_again = self._read_all(todo, len(listing.files) - len(todo))
        gone = {
            path: row
            for path, row in known.items()
            if self._files is None and path not in listing.files and not is_below(path, listing.hidden)
        }
        renamed = self._count_renamed(new, gone)
        self._remove(gone)
        with self._database.reading() as connection:
            stored = connection.execute(
                "SELECT path, reason FROM files WHERE path >= ? AND path < ?", self._range
            ).fetchall()
        if self._files is not None:
            stored = [row for row in stored if row[0] in listing.files]
        refused = {path: reason for path, reason in stored if reason is not None}
        reasons = {**refused, **listing.unusable, **listing.hidden}
        return ScanReport(
            images=len(stored) - len(refused),
            hashed=hashed,
            known=known_again + len(renamed_here),
            unchanged=len(listing.files) - len(todo) - len(renamed_here),
            renamed=renamed,
            removed=len(gone) - renamed,
            links=listing.links,
            unreadable=tuple(
                Unreadable(printable(os.path.relpath(path, self._root) if self._files is None else path), reason)
                for path, reason in sorted(reasons.items())
            ),
        )

    @property
    def _range(self) -> tuple[bytes, bytes]:
        """Between which two all paths of this scan are."""
        return below(self._root) if self._files is None else (b"", b"\xff" * 8)

    def _known(self) -> dict[bytes, _Known]:
        """The rows of the index below the folder."""
        with self._database.reading() as connection:
            self._sizes = {
                row[0]
                for row in connection.execute(f"SELECT DISTINCT size FROM pictures WHERE {self._usable}")  # noqa: S608
            }
            rows = connection.execute(
                "SELECT path, files.size, mtime_ns, picture, CASE WHEN picture IS NULL THEN readers=?"  # noqa: S608
                f" ELSE {self._usable} END FROM files LEFT JOIN pictures ON id=picture WHERE path >= ? AND path < ?",
                (self._readers, *self._range),
            )
            return {row[0]: _Known(row[1], row[2], row[3], bool(row[4])) for row in rows}

    @property
    def _usable(self) -> str:
        return f"({USABLE} AND algorithm='{ALGORITHMS[self._mode]}')"

    def _renamed(self, new: dict[bytes, FileStatus]) -> dict[bytes, int]:
        """New paths of files known by inode, size and time, with their picture's id."""
        if not new:
            return {}
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT files.size, mtime_ns, inode, picture FROM files JOIN pictures ON id=picture"  # noqa: S608
                f" WHERE inode != 0 AND {self._usable}"
            )
            known = {FileStatus(*row[:3]): int(row[3]) for row in rows}
        return {path: known[status] for path, status in new.items() if status in known}

    def _read_all(self, todo: dict[bytes, FileStatus], done: int) -> tuple[int, int]:
        """Hash and store; returns the number of pictures hashed, and of those with known bytes."""
        total, kinds = done + len(todo), Counter[type]()
        waiting = iter(todo.items())
        running: set[Future[list[tuple[bytes, FileStatus, _Result]]]] = set()
        batch: list[tuple[bytes, FileStatus, _Result]] = []
        stored = time.monotonic()
        with (
            HashingPool(self._mode, self._max_pixels, threads=self._threads, files=len(todo)) as hashers,
            ThreadPoolExecutor(self._threads, thread_name_prefix="scan") as pool,
        ):
            try:
                while True:
                    while len(running) < self._threads * 4 and (some := list(islice(waiting, hashers.batch_size))):
                        running.add(pool.submit(self._read, hashers, some))
                    if not running:
                        break
                    finished, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for result in chain.from_iterable(future.result() for future in finished):
                        batch.append(result)
                        kinds[type(result[-1])] += 1
                        done += 1
                        if self._progress is not None:
                            self._progress(done, total)
                    if len(batch) >= _BATCH or time.monotonic() - stored >= _BATCH_SECONDS:
                        self._store(batch)
                        batch, stored = [], time.monotonic()
            except BaseException:
                hashers.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
                self._store(batch)
        return kinds[Fingerprint], kinds[str]

    def _read(
        self, hashers: HashingPool, files: list[tuple[bytes, FileStatus]]
    ) -> list[tuple[bytes, FileStatus, _Result]]:
        """The result for each file, with the status that the file had then."""
        done: list[tuple[bytes, FileStatus, _Result]] = []
        for _ in range(_MAX_READ_ATTEMPTS):
            retry = []
            for (path, status), result in zip(files, self._read_once(hashers, files), strict=True):
                try:
                    now = FileStatus.of(os.stat(path, follow_symlinks=False))
                except OSError as error:
                    result, now = error, status
                if isinstance(result, OSError):
                    result = Unhashed(f"It cannot be read: {result.strerror}.", retry=True)
                if now == status:
                    done.append((path, status, result))
                else:
                    retry.append((path, now))
            files = retry
        changing = Unhashed("It changed each time while it was read.", retry=True)
        return done + [(path, status, changing) for path, status in files]

    def _read_once(self, hashers: HashingPool, files: list[tuple[bytes, FileStatus]]) -> list[_Result | OSError]:
        paths = [os.fsdecode(path) for path, _ in files]
        digests = [self._known_digest(path, status.size) for path, (_, status) in zip(paths, files, strict=True)]
        hashed = iter(hashers.hash([path for path, digest in zip(paths, digests, strict=True) if digest is None]))
        return [next(hashed) if digest is None else digest for digest in digests]

    def _known_digest(self, path: str, size: int) -> str | OSError | None:
        """The SHA-256 of a file if the index has a picture of these bytes, else None."""
        if size not in self._sizes:
            return None
        try:
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            return error
        with self._database.reading() as connection:
            statement = f"SELECT 1 FROM pictures WHERE sha256=? AND {self._usable}"  # noqa: S608
            return digest if connection.execute(statement, (digest,)).fetchone() else None

    def _store(self, batch: list[tuple[bytes, FileStatus, _Result]]) -> None:
        if not batch:
            return
        fingerprints = [result for _, _, result in batch if isinstance(result, Fingerprint)]
        with self._database.writing() as connection:
            store(connection, fingerprints, self._release, replace_algorithm=True)
            for path, status, result in batch:
                if isinstance(result, Unhashed):
                    row = (path, *status, None, result.reason, None if result.retry else self._readers)
                    connection.execute(_WRITE_UNREADABLE, row)
                else:
                    digest = result.sha256 if isinstance(result, Fingerprint) else result
                    connection.execute(_WRITE_FILE, (path, *status, digest))

    def _write_known(self, rows: list[tuple[bytes, FileStatus, int]]) -> None:
        if rows:
            with self._database.writing() as connection:
                values = [(path, *status, picture) for path, status, picture in rows]
                connection.executemany(_WRITE_FILE_OF_KNOWN, values)

    def _count_renamed(self, new: list[bytes], gone: dict[bytes, _Known]) -> int:
        """How many of the new paths have a picture that was at a path that is gone."""
        left = Counter(row.picture for row in gone.values() if row.picture is not None)
        if not left or not new:
            return 0
        arrived: Counter[int] = Counter()
        with self._database.reading() as connection:
            paths = set(new)
            for path, picture in connection.execute(
                "SELECT path, picture FROM files WHERE path >= ? AND path < ? AND picture IS NOT NULL", self._range
            ):
                if path in paths:
                    arrived[picture] += 1
        return (left & arrived).total()

    def _remove(self, gone: dict[bytes, _Known]) -> None:
        if gone:
            with self._database.writing() as connection:
                connection.executemany(
                    # unless another process has indexed the file since
                    "DELETE FROM files WHERE path=? AND size=? AND mtime_ns=?",
                    [(path, row.size, row.mtime_ns) for path, row in gone.items()],
                )


_WRITE_UNREADABLE: Final = (
    "INSERT INTO files (path, size, mtime_ns, inode, picture, reason, readers) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (path) DO UPDATE SET (size, mtime_ns, inode, picture, reason, readers) ="
    " (excluded.size, excluded.mtime_ns, excluded.inode, NULL, excluded.reason, excluded.readers)"
)
# nothing is written if another process has removed the picture meanwhile: the next scan reads the file again
_WRITE_FILE: Final = (
    "INSERT INTO files (path, size, mtime_ns, inode, picture, reason, readers)"
    " SELECT ?, ?, ?, ?, id, NULL, NULL FROM pictures WHERE sha256=?"
    " ON CONFLICT (path) DO UPDATE SET (size, mtime_ns, inode, picture, reason, readers) ="
    " (excluded.size, excluded.mtime_ns, excluded.inode, excluded.picture, NULL, NULL)"
)
_WRITE_FILE_OF_KNOWN: Final = (
    "INSERT INTO files (path, size, mtime_ns, inode, picture)"
    " SELECT ?, ?, ?, ?, id FROM pictures WHERE id=? ON CONFLICT (path) DO NOTHING"
)


@functools.cache
def _readers() -> str:
    """The versions of the decoders. A file that these cannot read is tried again with others."""
    heif = "with" if importlib.util.find_spec("pillow_heif") else "without"
    return f"Pillow {PIL.__version__} {heif} pillow-heif"
