# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verify the candidate pairs of an index on their pixels, and store the verdicts.

A verdict is stored when both files were loaded with the very bytes that were indexed. A posted picture has no file, and
its thumbnail is too little; nor can a file be used that is gone, changed, damaged or larger than
`VERIFIED_FILE_MAX_BYTES`. Such pairs have no verdict and need review; they are tried again after a scan, or by the next
process. Verdicts are committed every few seconds, so a process that was killed continues where it stopped; two
processes that verify one pair store one verdict.

Only those pairs are verified that decide about groups (see `_verification_plan.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple

import numpy
from loguru import logger
from numpy.typing import NDArray

from mobius.dhash._candidates import CandidateIndex
from mobius.dhash._database import Database
from mobius.dhash._decisions import decided_pairs, decisions
from mobius.dhash._decoder import Decoder
from mobius.dhash._image_cache import ImageCache
from mobius.dhash._picture import picture_ids, pictures_by_id, read_keeper_ranks, unchanged_file
from mobius.dhash._reranking import CANDIDATE
from mobius.dhash._scan import Progress
from mobius.dhash._verification import DETAIL_MAX_SIDE_PX, VERIFICATION_RULE, MemoryBudget, verify
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX, VerificationImage
from mobius.dhash._verification_plan import DIFFERENT, PENDING, SAME, UNAVAILABLE, VerificationPlan
from mobius.dhash.errors import PictureError
from mobius.errors import MobiusError

VERIFIED_FILE_MAX_BYTES: Final = 1 << 26
"""Largest file that is verified."""

_OVERVIEW_CACHE_BYTES: Final = 1 << 28
"""Limit of the overview images in memory: some 1,800 frames of a camera."""
_DETAIL_CACHE_BYTES: Final = 1 << 26
"""Limit of the detailed images in memory: 17 of 1280 x 960."""
_BUDGETED_CACHE_BYTES: Final = 1 << 25
"""Limit of each of the two where a memory budget is kept, as in the service."""
_BATCH_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 3600.0
"""Pairs that could not be loaded are tried again after this time."""

_Ids = NDArray[numpy.int64]
_Verdict = tuple[int, int, bool | None]


class _RankedPairs(NamedTuple):
    """Picture ids, those worth keeping first, shape (n,); and pairs of positions in it, shapes (m,), each `first`
    < `second`."""

    ordered: _Ids
    first: NDArray[numpy.int64]
    second: NDArray[numpy.int64]

    def ids(self, index: int) -> tuple[int, int]:
        """The ids of a pair, the one worth keeping first."""
        return int(self.ordered[self.first[index]]), int(self.ordered[self.second[index]])


class CandidateVerifier:
    """The verdicts on the pairs of an index. Thread-safe."""

    def __init__(self, database: Database, candidates: CandidateIndex, decoder: Decoder) -> None:
        self._database = database
        self._candidates = candidates
        self._decoder = decoder
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
        """Verify candidate pairs without a verdict, as `Library.verify_pairs` says; returns how many are left."""
        pairs = self._candidate_pairs()
        plan = self._plan(pairs)
        deadline = None if seconds is None else time.monotonic() + seconds

        def cache(side: int, limit_bytes: int) -> ImageCache:
            def load(number: int) -> VerificationImage | None:
                return self.load_image(number, side, max_pixels=max_pixels, memory_budget=memory_budget)

            return ImageCache(load, limit_bytes if memory_budget is None else _BUDGETED_CACHE_BYTES)

        overviews = cache(OVERVIEW_SIDE_PX, _OVERVIEW_CACHE_BYTES)
        details = cache(DETAIL_MAX_SIDE_PX, _DETAIL_CACHE_BYTES)

        def verify_pair(index: int) -> tuple[int, bool | None]:
            one, other = pairs.ids(index)

            def load_detail() -> tuple[VerificationImage | None, VerificationImage | None]:
                return details.get(one), details.get(other)

            def compare() -> bool | None:
                return verify(overviews.get(one), overviews.get(other), load_detail, memory_budget)

            return index, verify_or_none(compare, one, other)

        running: set[Future[tuple[int, bool | None]]] = set()
        batch: list[_Verdict] = []
        done, stored = 0, time.monotonic()
        with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
            try:
                while True:
                    while len(running) < threads and (deadline is None or time.monotonic() < deadline):
                        if (index := plan.next_pair()) is None:
                            break
                        running.add(pool.submit(verify_pair, index))
                    if not running:
                        break
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for index, same in (future.result() for future in finished):
                        plan.resolve(index, same)
                        one, other = pairs.ids(index)
                        batch.append((min(one, other), max(one, other), same))
                    done += len(finished)
                    if progress is not None:
                        # a picture that joins a keeper needs no further verdict: the total gets smaller
                        progress(done, done + plan.pending)
                    if time.monotonic() - stored >= _BATCH_SECONDS:
                        self._store(batch, release)
                        batch, stored = [], time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
                self._store(batch, release)
        return plan.left

    def _candidate_pairs(self) -> _RankedPairs:
        """The candidate pairs, by the rank of their pictures."""
        pairs = self._candidates.pairs()
        is_candidate = pairs.verdict == CANDIDATE
        first, second = pairs.first[is_candidate], pairs.second[is_candidate]
        ids = numpy.unique(numpy.concatenate([first, second]))
        with self._database.reading() as connection:
            ranks = read_keeper_ranks(connection, ids.tolist())
        ordered = numpy.array(sorted(ranks, key=ranks.__getitem__), numpy.int64)
        known = numpy.isin(first, ordered) & numpy.isin(second, ordered)  # another process may have removed some
        by_id = numpy.argsort(ordered)
        positions = [by_id[numpy.searchsorted(ordered[by_id], side[known])] for side in (first, second)]
        return _RankedPairs(ordered, numpy.minimum(*positions), numpy.maximum(*positions))

    def _plan(self, pairs: _RankedPairs) -> VerificationPlan:
        """What is to be verified, by the verdicts and decisions so far."""
        since = time.monotonic() - _RETRY_SECONDS
        self._unverifiable = {pair: tried_at for pair, tried_at in self._unverifiable.items() if tried_at > since}
        one, other = pairs.ordered[pairs.first], pairs.ordered[pairs.second]
        keys = pair_keys(numpy.minimum(one, other), numpy.maximum(one, other))
        recorded = decisions(self._database)
        with self._database.reading() as connection:
            same = _stored_keys(connection, "rule=? AND proven", (VERIFICATION_RULE,))
            different = _stored_keys(connection, "rule=? AND NOT proven", (VERIFICATION_RULE,))
            ids = picture_ids(connection, {digest for one in recorded for digest in (one.first, one.second)})
        states = numpy.full(len(keys), PENDING, numpy.uint8)
        for state, stored in (
            (UNAVAILABLE, [first << 32 | second for first, second in self._unverifiable]), (SAME, same),
            (DIFFERENT, different),
        ):  # fmt: skip
            states[numpy.isin(keys, stored)] = state
        position = {number: index for index, number in enumerate(pairs.ordered.tolist())}
        decided = decided_pairs(recorded, ids, position)
        return VerificationPlan(
            len(pairs.ordered), pairs.first, pairs.second, states, decided["same"], decided["different"]
        )

    def load_image(
        self, number: int, side: int, *, max_pixels: int, memory_budget: MemoryBudget | None
    ) -> VerificationImage | None:
        """Load a picture as `load_for_verification` does, from a file with the bytes that were indexed.

        Returns:
            None when no such file can be read, or the picture is damaged or has more than `max_pixels`.
        """
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, (number,)).get(number, [])
        for picture in pictures:
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
                    return self._decoder.load_for_verification(data, side, max_pixels=max_pixels)
        return None

    def retry(self) -> None:
        """Try pairs again that could not be loaded: the files may have changed."""
        self._unverifiable = {}

    def _store(self, batch: list[_Verdict], release: str) -> None:
        """Store verdicts, and remember which pairs have none."""
        rows = [
            (first, second, VERIFICATION_RULE, same, release, first, second)
            for first, second, same in batch
            if same is not None
        ]
        self._unverifiable |= {(first, second): time.monotonic() for first, second, same in batch if same is None}
        if rows:
            with self._database.writing() as connection:
                connection.executemany(
                    # nothing for a picture that was removed meanwhile
                    "INSERT OR IGNORE INTO proofs (first, second, rule, proven, release) SELECT ?, ?, ?, ?, ?"
                    " WHERE (SELECT count(*) FROM pictures WHERE id IN (?, ?)) = 2",
                    rows,
                )


def verify_or_none(compare: Callable[[], bool | None], *ids: int) -> bool | None:
    """The result of comparing the pictures with these ids; None when that fails for whatever reason, for example too
    little memory, so that the other pairs are verified all the same."""
    try:
        return compare()
    except (MobiusError, sqlite3.Error):
        raise  # the index, and not the pictures
    except Exception:  # noqa: BLE001
        logger.exception("Pictures {} cannot be compared", ids)
        return None


def verified_keys(connection: sqlite3.Connection) -> NDArray[numpy.int64]:
    """`pair_keys` of the pairs that are verified to be the same picture."""
    return _stored_keys(connection, "rule=? AND proven", (VERIFICATION_RULE,))


def verdicts_for(connection: sqlite3.Connection, sha256: str) -> dict[int, bool]:
    """Picture id to whether it is the picture with these bytes: for that itself, and all that it was compared with."""
    rows = connection.execute(
        "SELECT id, 1 FROM pictures WHERE sha256=:sha256"
        " UNION ALL SELECT second, proven FROM pictures JOIN proofs ON first=id WHERE sha256=:sha256 AND rule=:rule"
        " UNION ALL SELECT first, proven FROM pictures JOIN proofs ON second=id WHERE sha256=:sha256 AND rule=:rule",
        {"sha256": sha256, "rule": VERIFICATION_RULE},
    )
    return {row[0]: bool(row[1]) for row in rows}


def pair_keys(first: NDArray[numpy.int64], second: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """One number for each pair of ids, shape (n,)."""
    return first << 32 | second


def _stored_keys(connection: sqlite3.Connection, where: str, values: tuple[int, ...]) -> NDArray[numpy.int64]:
    # `where` is always a literal of this module
    rows: Iterator[tuple[int]] = connection.execute(f"SELECT first << 32 | second FROM proofs WHERE {where}", values)  # noqa: S608
    return numpy.fromiter((row[0] for row in rows), numpy.int64)
