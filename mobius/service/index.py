# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The library of the host as an instance uses it: opened on demand, called in threads, failures as HTTP problems."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from loguru import logger

from mobius.dhash import Decoder, Library, MemoryBudget
from mobius.errors import MobiusError
from mobius.service.lanes import LaneName, Lanes
from mobius.service.problems import ProblemError

WRITE_BUSY_SECONDS: Final = 10.0
"""How long a write waits for a process that writes."""
PAGE_SECONDS: Final = 15.0
"""How long a page waits for the comparison of a whole library."""
BUSY_WARN_SECONDS: Final = 2.0
"""For how long the index must have been locked at every check before health warns of it."""
SAMPLED_ROWS: Final = 16
"""Rows that a health check reads from the file, at random."""
RETRY_SECONDS: Final = 2.0
"""How long to wait before trying again to open an index."""
COUNT_PAUSE_FACTOR: Final = 10
"""Pause after a count, as a multiple of its duration, so that counting uses at most a tenth of a CPU."""
VERIFY_SECONDS: Final = 1.0
"""Time limit of one round of verifying pairs."""
_DIGEST_LENGTH: Final = 64
_T = TypeVar("_T")


class Index:
    """The library of one instance.

    Args:
        path: the SQLite file, created when it is missing; None for an instance without an index.
        release: recorded with every row written.
        max_pixels, memory_budget: as in `Library.verify_pairs`.
        decoder: as in `Library`.
    """

    def __init__(
        self,
        path: Path | None,
        release: str,
        *,
        max_pixels: int,
        memory_budget: MemoryBudget | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.path = path
        self.release = release
        self.max_pixels = max_pixels
        self.memory_budget = memory_budget
        self._decoder = decoder
        self.verifies_pairs = False
        """Whether `count` verifies pairs, too. A release in standby leaves that to the serving one."""
        self.figures: dict[str, int] = {}
        """Counts of the library as of the last `count`; empty before."""
        self.lanes = Lanes()
        self._opening = threading.Lock()
        self._library: Library | None = None
        self._failure: tuple[float, ProblemError] | None = None
        self._counting: Future[None] | None = None
        self._busy_since: float | None = None
        self._random = random.Random()  # noqa: S311 (which rows are sampled is no secret)
        self._count_after = 0.0

    async def run(self, work: Callable[[Library], _T], *, lane: LaneName = "read", invalid_status: int = 422) -> _T:
        """Call the library in a thread.

        Args:
            lane: the kind of work.
            invalid_status: the status when the library rejects its input.

        Raises:
            ProblemError: 404 when the instance has no index, 503 when it cannot be used or too much waits for it, 507
                when the disk is full.
        """
        try:
            async with asyncio.timeout(PAGE_SECONDS if lane == "page" else None):
                return await self.lanes.run(lane, lambda: work(self.library()))
        except TimeoutError:
            raise ProblemError(
                503, "The pictures of the library are being compared; try again.", headers={"Retry-After": "10"}
            ) from None
        except MobiusError as error:
            raise problem_of(error, invalid_status) from error

    def library(self) -> Library:
        """The open library. Blocks, so call it in a thread.

        Raises:
            ProblemError: the instance has no index, or it cannot be opened now.
        """
        if self.path is None:
            raise ProblemError(404, "This service keeps no index: its setting `index` names none.")
        with self._opening:
            if self._library is None:
                if self._failure is not None and time.monotonic() - self._failure[0] < RETRY_SECONDS:
                    raise self._failure[1]
                try:
                    self._library = Library(
                        self.path, release=self.release, decoder=self._decoder, busy_seconds=WRITE_BUSY_SECONDS
                    )
                except MobiusError as error:
                    logger.error("{}", error.reason)
                    self._failure = (time.monotonic(), ProblemError(503, error.reason, headers={"Retry-After": "5"}))
                    raise self._failure[1] from error
            return self._library

    @property
    def error(self) -> str:
        """Why the library could not be opened; "" when it is open or was not opened yet."""
        return self._failure[1].detail if self._library is None and self._failure is not None else ""

    def count(self) -> None:
        """Update the figures in the background, and verify some pairs, unless that is running or has just ended.

        Returns at once: pairing a large library can take minutes.
        """
        busy = self._counting is not None and not self._counting.done()
        if self.path is not None and not busy and time.monotonic() >= self._count_after:
            with contextlib.suppress(ProblemError):  # another thread was faster
                self._counting = self.lanes.submit("background", self._count)

    def _count(self) -> None:
        started = time.monotonic()
        try:
            library = self.library()
            if self.verifies_pairs:
                self._verify_pairs(library)
            self.figures = library.figures()
        except (ProblemError, MobiusError, sqlite3.Error) as error:
            logger.warning("The library cannot be counted: {}", error)
        self._count_after = time.monotonic() + max(0.5, COUNT_PAUSE_FACTOR * (time.monotonic() - started))

    def _verify_pairs(self, library: Library) -> None:
        try:
            library.verify_pairs(
                threads=1, max_pixels=self.max_pixels, seconds=VERIFY_SECONDS, memory_budget=self.memory_budget
            )
        except (MobiusError, sqlite3.Error) as error:
            # on a full disk nothing can be stored, but counting still works
            logger.warning("The verified pairs cannot be stored: {}", error)

    def find_problem(self) -> tuple[int | None, str]:
        """The schema version on the disk (None before there is an index), and why the index cannot be used: it was
        lost since it was opened, cannot be read, or is damaged where some rows were read."""
        if self._library is not None:
            try:
                self._library.check_file()
            except MobiusError as error:
                return None, f"{error.reason} {error.do_next}"
        if self.path is None or not self.path.exists():
            return None, self.error
        try:
            with contextlib.closing(self._connect("ro")) as database:
                schema = int(database.execute("PRAGMA user_version").fetchone()[0])
                damage = "" if self._library is None else self._sample(database)
        except sqlite3.Error as error:
            return None, f"The index {self.path} cannot be read: {error}."
        return schema, damage or self.error

    def _sample(self, database: sqlite3.Connection) -> str:
        """Read some rows from the file: this connection has none of its pages in memory. Returns what is wrong."""
        assert self.path is not None
        database.execute("BEGIN")
        pages, page_bytes = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        length, log = (_length(f"{self.path}{suffix}") for suffix in ("", "-wal"))
        if length // page_bytes + log // page_bytes < pages:
            return f"The index {self.path} was truncated: it has {length} bytes of {pages * page_bytes}."
        highest = database.execute("SELECT coalesce(max(id), 0) FROM pictures").fetchone()[0]
        for _ in range(SAMPLED_ROWS if highest else 0):
            row = database.execute(
                "SELECT pictures.*, files.* FROM pictures LEFT JOIN files ON picture=id WHERE id >= ? ORDER BY id",
                (self._random.randint(1, highest),),
            ).fetchone()
            if row is None or len(row[1]) != _DIGEST_LENGTH:
                return f"The index {self.path} is damaged: a row of it cannot be read."
        return ""

    def find_write_problem(self) -> str:
        """Why the index cannot be written now, or has not been able to be for some time; "" when it can."""
        if self.path is None or not self.path.exists():
            return ""
        try:
            with contextlib.closing(self._connect("rw")) as database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return f"The index {self.path} cannot be written: {error}."
            now = time.monotonic()
            self._busy_since = self._busy_since or now
            seconds = now - self._busy_since
            if seconds < BUSY_WARN_SECONDS:
                return ""
            return f"Another process has locked the index {self.path} for {seconds:.0f} s: writes wait, reads do not."
        self._busy_since = None
        return ""

    def _connect(self, mode: str) -> sqlite3.Connection:
        assert self.path is not None
        return sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=0.1, isolation_level=None)

    def close(self) -> bool:
        """Stop the threads. Returns whether one of them is still working."""
        return self.lanes.close()


def _length(name: str) -> int:
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def problem_of(error: MobiusError, invalid_status: int) -> ProblemError:
    """The HTTP problem for a failure of the library."""
    if error.outcome == "disk_full":
        return ProblemError(507, f"{error.reason} Reading goes on; free some space to write again.")
    if error.outcome == "invalid_input":
        return ProblemError(invalid_status, error.reason)
    return ProblemError(503, error.reason, headers={"Retry-After": "5"})
