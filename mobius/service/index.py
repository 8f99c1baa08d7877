# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's library as an instance uses it: opened when it can be, asked in threads, its failures as problems."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from loguru import logger

from mobius.dhash import Library, Room
from mobius.errors import MobiusError
from mobius.service.problems import ProblemError

THREADS: Final = 4
RETRY_SECONDS: Final = 2.0
"""An index that could not be opened is tried again after this time."""
REST: Final = 10
"""Counting rests for so many times as long as it took, so that it takes a tenth of a CPU at most."""
PROVING_SECONDS: Final = 1.0
"""Pairs are looked at for so long at a time."""
_T = TypeVar("_T")


class Index:
    """The library of one instance.

    Args:
        path: the SQLite file; made when it is missing. None when the instance is to keep no index.
        release: recorded with every row written.
        max_pixels, room: as in `Library.prove`.
    """

    def __init__(self, path: Path | None, release: str, *, max_pixels: int, room: Room | None = None) -> None:
        self.path = path
        self.release = release
        self.max_pixels = max_pixels
        self.room = room
        self.proving = False
        """Whether `count` looks at pairs, too. A release that stands by leaves that to the one that serves."""
        self.figures: dict[str, int] = {}
        """Counts of the library as of the last `count`; empty before."""
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="index")
        self._opening = threading.Lock()
        self._library: Library | None = None
        self._closed: tuple[float, ProblemError] | None = None
        self._counting: Future[None] | None = None
        self._working: set[Future[Any]] = set()
        self._count_after = 0.0

    async def run(self, work: Callable[[Library], _T], *, refused: int = 422) -> _T:
        """Ask the library in a thread.

        Args:
            refused: the status when the library finds what it was given wrong.

        Raises:
            ProblemError: 404 when there is no index here, 503 when it cannot be used, 507 when the disk is full.
        """
        context = contextvars.copy_context()
        try:
            return await asyncio.wrap_future(self._submit(lambda: context.run(lambda: work(self.library()))))
        except MobiusError as error:
            raise problem_of(error, refused) from error

    def _submit(self, work: Callable[[], _T]) -> Future[_T]:
        future = self._pool.submit(work)
        self._working.add(future)
        future.add_done_callback(self._working.discard)
        return future

    def library(self) -> Library:
        """The open library. Blocks: for threads.

        Raises:
            ProblemError: there is none, or it cannot be opened now.
        """
        if self.path is None:
            raise ProblemError(404, "This service keeps no index: its setting `index` names none.")
        with self._opening:
            if self._library is None:
                if self._closed is not None and time.monotonic() - self._closed[0] < RETRY_SECONDS:
                    raise self._closed[1]
                try:
                    self._library = Library(self.path, release=self.release)
                except MobiusError as error:
                    logger.error("{}", error.reason)
                    self._closed = (time.monotonic(), ProblemError(503, error.reason, headers={"Retry-After": "5"}))
                    raise self._closed[1] from error
            return self._library

    @property
    def trouble(self) -> str:
        """Why the library could not be opened; "" when it is open, or nobody has tried."""
        return self._closed[1].detail if self._library is None and self._closed is not None else ""

    def count(self) -> None:
        """Have the figures renewed in the background, and some pairs looked at, unless that is being done or was done
        just now: pairing a large library takes its time, and nobody who asks is to wait for it."""
        busy = self._counting is not None and not self._counting.done()
        if self.path is not None and not busy and time.monotonic() >= self._count_after:
            self._counting = self._submit(self._count)

    def _count(self) -> None:
        begun = time.monotonic()
        try:
            library = self.library()
            if self.proving:
                self._prove(library)
            self.figures = library.figures()
        except (ProblemError, MobiusError, sqlite3.Error) as error:
            logger.warning("The library cannot be counted: {}", error)
        self._count_after = time.monotonic() + max(0.5, REST * (time.monotonic() - begun))

    def _prove(self, library: Library) -> None:
        try:
            library.prove(threads=1, max_pixels=self.max_pixels, seconds=PROVING_SECONDS, room=self.room)
        except (MobiusError, sqlite3.Error) as error:
            # a full disk keeps nothing, and can be counted all the same
            logger.warning("What pairs of pictures prove cannot be kept: {}", error)

    def look(self) -> tuple[int | None, str]:
        """The schema on the disk (None before there is an index) and why it cannot be read."""
        if self.path is None or not self.path.exists():
            return None, ""
        try:
            with contextlib.closing(self._connect("ro")) as database:
                return int(database.execute("PRAGMA user_version").fetchone()[0]), ""
        except sqlite3.Error as error:
            return None, f"The index cannot be read: {error}."

    def try_to_write(self) -> str:
        """Why nobody could write now; "" when somebody could, or does."""
        if self.path is None or not self.path.exists():
            return ""
        try:
            with contextlib.closing(self._connect("rw")) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
        except sqlite3.Error as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            return "" if busy else f"The index cannot be written: {error}."
        return ""

    def _connect(self, mode: str) -> sqlite3.Connection:
        assert self.path is not None
        return sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=0.1, isolation_level=None)

    def close(self) -> bool:
        """Give the threads up. Returns whether one of them is still at work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return bool(self._working)


def problem_of(error: MobiusError, refused: int) -> ProblemError:
    """A failure of the library as an answer."""
    if error.outcome == "disk_full":
        return ProblemError(507, f"{error.reason} Reading goes on; free some space to write again.")
    if error.outcome == "invalid_input":
        return ProblemError(refused, error.reason)
    return ProblemError(503, error.reason, headers={"Retry-After": "5"})
