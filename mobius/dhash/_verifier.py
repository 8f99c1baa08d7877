# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proofs of an index: which of the nominated pairs have been looked at, and looking at the others.

A verdict is kept when both pictures were seen, from the very bytes that were indexed. What was only posted has no bytes
here, and its thumbnail proves nothing; a file that is gone, changed, damaged or larger than `VERIFIED_FILE_MAX_BYTES` neither: such
pairs stay without a verdict, so doubtful, and are tried again after a scan, or by the next process. What was found is
committed every few seconds, so that whoever was killed goes on where he was; two who do the same at once keep one
verdict.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

import numpy
from loguru import logger
from numpy.typing import NDArray

from mobius.dhash._candidates import CandidateIndex
from mobius.dhash._database import Database
from mobius.dhash._picture import pictures_by_id, unchanged_file
from mobius.dhash._reranking import CANDIDATE
from mobius.dhash._scan import Progress
from mobius.dhash._verification import DETAIL_MAX_SIDE_PX, VERIFICATION_RULE, MemoryBudget, verify
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX, VerificationImage, load_for_verification
from mobius.dhash.errors import PictureError
from mobius.errors import MobiusError

VERIFIED_FILE_MAX_BYTES: Final = 1 << 26
"""Of a file that is looked at."""

_TILE: Final = 64
"""Pairs are taken tile by tile of so many pictures a side, so that those of one tile fit into memory."""
_CACHED_IMAGES: Final = 2 * _TILE
"""Small pictures in memory: 33 MB at most."""
_BATCH_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 3600.0
"""What could not be seen is tried again after this time."""

_Ids = NDArray[numpy.int64]
_Verdict = tuple[int, int, bool | None]


class CandidateVerifier:
    """What is proven of the pairs of an index. Any thread may call."""

    def __init__(self, database: Database, matches: CandidateIndex) -> None:
        self._database = database
        self._candidates = matches
        self._unverifiable: dict[tuple[int, int], float] = {}

    def run(
        self,
        release: str,
        *,
        max_pixels: int,
        threads: int,
        seconds: float | None,
        memory_budget: MemoryBudget | None,
        progress: Progress | None,
    ) -> int:
        """Look at nominated pairs without a verdict, as `Library.prove` says; returns how many are left."""
        first, second, shut = self._pending_pairs()
        deadline = None if seconds is None else time.monotonic() + seconds
        pairs = ((int(first[at]), int(second[at])) for at in range(len(first)))

        @functools.lru_cache(_CACHED_IMAGES)
        def small(number: int) -> VerificationImage | None:
            return self.load_image(number, OVERVIEW_SIDE_PX, max_pixels=max_pixels, memory_budget=memory_budget)

        def looked(pair: tuple[int, int]) -> _Verdict:
            def load_detail() -> tuple[VerificationImage | None, VerificationImage | None]:
                one, other = (
                    self.load_image(number, DETAIL_MAX_SIDE_PX, max_pixels=max_pixels, memory_budget=memory_budget)
                    for number in pair
                )
                return one, other

            return *pair, verify_or_none(
                lambda: verify(small(pair[0]), small(pair[1]), load_detail, memory_budget), *pair
            )

        running: set[Future[_Verdict]] = set()
        batch: list[_Verdict] = []
        done, kept, stored = 0, 0, time.monotonic()
        with ThreadPoolExecutor(threads, thread_name_prefix="prove") as pool:
            try:
                while True:
                    while len(running) < threads and (deadline is None or time.monotonic() < deadline):
                        if (pair := next(pairs, None)) is None:
                            break
                        running.add(pool.submit(looked, pair))
                    if not running:
                        break
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    batch += (future.result() for future in finished)
                    done += len(finished)
                    if progress is not None:
                        progress(done, len(first))
                    if time.monotonic() - stored >= _BATCH_SECONDS:
                        kept += self._store(batch, release)
                        batch, stored = [], time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
                kept += self._store(batch, release)
        return shut + len(first) - kept

    def _pending_pairs(self) -> tuple[_Ids, _Ids, int]:
        """The pairs to look at, tile by tile, shapes (n,), and how many there are besides that could not be seen."""
        pairs = self._candidates.pairs()
        candidates = pairs.verdict == CANDIDATE
        first, second = pairs.first[candidates], pairs.second[candidates]
        with self._database.reading() as connection:
            left = ~numpy.isin(pair_keys(first, second), _stored_keys(connection, "rule=?", (VERIFICATION_RULE,)))
        first, second = first[left], second[left]
        since = time.monotonic() - _RETRY_SECONDS
        self._unverifiable = {pair: at for pair, at in self._unverifiable.items() if at > since}
        shut = numpy.isin(pair_keys(first, second), [one << 32 | other for one, other in self._unverifiable])
        first, second = first[~shut], second[~shut]
        order = numpy.lexsort((second, first, second // _TILE, first // _TILE))
        return first[order], second[order], int(shut.sum())

    def load_image(
        self, number: int, side: int, *, max_pixels: int, memory_budget: MemoryBudget | None
    ) -> VerificationImage | None:
        """A picture as `load_for_verification` makes it, from a file with the bytes that were indexed; None when there is none that can
        be read, or the picture is damaged or has more than `max_pixels`."""
        with self._database.reading() as connection:
            found = pictures_by_id(connection, (number,)).get(number, [])
        for picture in found:
            pixels, path = picture.width * picture.height, unchanged_file(picture)
            if path is None or picture.warnings or pixels > max_pixels or picture.size > VERIFIED_FILE_MAX_BYTES:
                continue
            with (
                contextlib.suppress(OSError, PictureError, MemoryError),
                # a large file of few pixels takes memory, too
                contextlib.nullcontext() if memory_budget is None else memory_budget(max(pixels, picture.size // 3)),
                path.open("rb") as file,
            ):
                data = file.read(picture.size)
                if hashlib.sha256(data).hexdigest() == picture.sha256:
                    return load_for_verification(data, side, max_pixels=max_pixels)
        return None

    def retry(self) -> None:
        """Try again what could not be seen: the files may have changed."""
        self._unverifiable = {}

    def _store(self, batch: list[_Verdict], release: str) -> int:
        """Keep verdicts, and remember which pairs have none; returns how many have one."""
        rows = [
            (first, second, VERIFICATION_RULE, verified_keys, release)
            for first, second, verified_keys in batch
            if verified_keys is not None
        ]
        self._unverifiable |= {
            (first, second): time.monotonic() for first, second, verified_keys in batch if verified_keys is None
        }
        if rows:
            with self._database.writing() as connection:
                connection.executemany(
                    # nothing of a picture that was removed meanwhile
                    "INSERT OR IGNORE INTO proofs (first, second, rule, proven, release) SELECT ?1, ?2, ?3, ?4, ?5"
                    " WHERE (SELECT count(*) FROM pictures WHERE id IN (?1, ?2)) = 2",
                    rows,
                )
        return len(rows)


def verify_or_none(compare: Callable[[], bool | None], *ids: int) -> bool | None:
    """What a comparison of the pictures with these ids says; None when they make it fail, by too little memory or
    whatever else: the others are looked at all the same."""
    try:
        return compare()
    except (MobiusError, sqlite3.Error):
        raise  # the index, and not the pictures
    except Exception:  # noqa: BLE001
        logger.exception("Pictures {} cannot be compared", ids)
        return None


def verified_keys(connection: sqlite3.Connection) -> NDArray[numpy.int64]:
    """`pair_keys` of the pairs that are proven."""
    return _stored_keys(connection, "rule=? AND proven", (VERIFICATION_RULE,))


def verdicts_for(connection: sqlite3.Connection, sha256: str) -> dict[int, bool]:
    """Of the picture with these bytes and of those that it was compared with: id to whether it is proven to be it."""
    rows = connection.execute(
        "SELECT id, 1 FROM pictures WHERE sha256=?1"
        " UNION ALL SELECT second, proven FROM pictures JOIN proofs ON first=id WHERE sha256=?1 AND rule=?2"
        " UNION ALL SELECT first, proven FROM pictures JOIN proofs ON second=id WHERE sha256=?1 AND rule=?2",
        (sha256, VERIFICATION_RULE),
    )
    return {row[0]: bool(row[1]) for row in rows}


def pair_keys(first: NDArray[numpy.int64], second: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """One number for each pair of ids, shape (n,)."""
    return first << 32 | second


def _stored_keys(connection: sqlite3.Connection, where: str, values: tuple[int, ...]) -> NDArray[numpy.int64]:
    # both are written above
    rows: Iterator[tuple[int]] = connection.execute(f"SELECT first << 32 | second FROM proofs WHERE {where}", values)  # noqa: S608
    return numpy.fromiter((row[0] for row in rows), numpy.int64)
