# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The candidate pairs of an index: hashes in memory, kept up to date with every write, and re-ranked pairs of them."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._database import Database
from mobius.dhash._descriptor import DESCRIPTOR_BYTES, upgrade_descriptor
from mobius.dhash._pair_store import MIN_PICTURES, PairArrays, PairStore, PictureMarks
from mobius.dhash._reranking import DEFAULT_THRESHOLDS, NEEDS_REVIEW, NO_MATCH, classify_pairs
from mobius.dhash._search import HammingIndex

BLIND_MAX_DISTANCE: Final = 10
"""Differing bits, of 128, up to which a pair needs review when one of the two has no descriptor (yet)."""

_PAIRS_PER_BLOCK: Final = 1 << 14
"""Pairs whose descriptors are read at once: about 20 MB, where those of a million pictures take 700 MB."""

_UNSAVED_PICTURES: Final = 1000
"""The pairs are written again when so many pictures have changed since."""

Keys = NDArray[numpy.int64]
Small = NDArray[numpy.uint8]


@dataclass(frozen=True)
class CandidatePairs:
    """Pairs of picture ids with a verdict of `classify_pairs` that is not NO_MATCH; shapes (n,), `first` < `second`."""

    first: Keys
    second: Keys
    distance: Small
    verdict: Small

    @classmethod
    def concatenate(cls, parts: Iterable[CandidatePairs]) -> CandidatePairs:
        parts = list(parts)
        empty = (numpy.empty(0, numpy.int64), numpy.empty(0, numpy.uint8))
        return cls(
            numpy.concatenate([empty[0], *(part.first for part in parts)]),
            numpy.concatenate([empty[0], *(part.second for part in parts)]),
            numpy.concatenate([empty[1], *(part.distance for part in parts)]),
            numpy.concatenate([empty[1], *(part.verdict for part in parts)]),
        )

    @property
    def arrays(self) -> PairArrays:
        return self.first, self.second, self.distance, self.verdict

    def select(self, chosen: NDArray[Any]) -> CandidatePairs:
        return CandidatePairs(self.first[chosen], self.second[chosen], self.distance[chosen], self.verdict[chosen])


@dataclass(frozen=True)
class Descriptors:
    """Descriptors by picture id, ascending; shapes (n,), (n, DESCRIPTOR_BYTES) and (n,), False where one is missing."""

    ids: Keys
    descriptors: Small
    there: NDArray[numpy.bool_]

    def classify(self, first: Keys, second: Keys, distance: Small) -> Small:
        """The verdict on each pair of ids, all of which must be in `ids`."""
        a, b = numpy.searchsorted(self.ids, first), numpy.searchsorted(self.ids, second)
        return classify_candidates(distance, self.descriptors[a], self.descriptors[b], self.there[a] & self.there[b])


def classify_candidates(
    distance: Small, descriptors_a: Small, descriptors_b: Small, there: NDArray[numpy.bool_]
) -> Small:
    """`classify_pairs`; a pair without both descriptors (`there` is False) needs review at best."""
    verdict = classify_pairs(distance, descriptors_a, descriptors_b)
    blind = numpy.where(distance <= BLIND_MAX_DISTANCE, NEEDS_REVIEW, NO_MATCH).astype(numpy.uint8)
    return numpy.where(there, verdict, blind)


def read_descriptors(connection: sqlite3.Connection, ids: Collection[int] | None = None) -> Descriptors:
    """Descriptors of the pictures that can be matched; of `ids` only, if not None."""
    rows = _rows(connection, "look", ids)
    stored = [upgrade_descriptor(row[1]) for row in rows]
    there = numpy.array([descriptor is not None for descriptor in stored], numpy.bool_)
    blank = bytes(DESCRIPTOR_BYTES)
    descriptors = numpy.frombuffer(b"".join(descriptor or blank for descriptor in stored), numpy.uint8).reshape(
        -1, DESCRIPTOR_BYTES
    )
    return Descriptors(numpy.array([row[0] for row in rows], numpy.int64), descriptors, there)


class CandidateIndex:
    """The hashes of an index in memory, and the pairs of near ones. Thread-safe; a search never waits for pairing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hashes_lock = threading.Lock()
        self._pairs_lock = threading.Lock()
        self._hashes = HammingIndex(128)
        self._version: int | None = None
        self._last_change = -1
        self._pairs: CandidatePairs | None = None
        # ids whose pairs are out of date; None for all
        self._stale: set[int] | None = None
        self._store = PairStore(database.path)
        self._unsaved = 0

    def hashes(self) -> HammingIndex:
        """The hash of each picture by id, as of now."""
        with self._hashes_lock:
            version = self._database.version()
            if version != self._version:
                with self._database.reading() as connection:
                    self._apply_changes(connection)
                self._version = version
            return self._hashes

    def _apply_changes(self, connection: sqlite3.Connection) -> None:
        oldest, newest = connection.execute(
            "SELECT coalesce(min(number), 1), coalesce(max(number), 0) FROM changes"
        ).fetchone()
        if self._last_change < oldest - 1:
            hashes = HammingIndex(128)
            hashes.add(*_read_hashes(connection))
            self._hashes, self._stale = hashes, None
        elif self._last_change < newest:
            rows = connection.execute("SELECT DISTINCT picture FROM changes WHERE number > ?", (self._last_change,))
            changed = {row[0] for row in rows}
            ids, words = _read_hashes(connection, changed)
            self._hashes.remove(numpy.setdiff1d(numpy.fromiter(changed, numpy.int64), ids))
            self._hashes.add(ids, words)
            if self._stale is not None:
                self._stale |= changed
        self._last_change = newest

    def pairs(self) -> CandidatePairs:
        """Every pair that is not NO_MATCH, as of now. The first call compares all pictures, or those that have changed
        since another process kept its pairs; later ones what changed."""
        with self._pairs_lock:
            try:
                self._pairs, marks = self._updated_pairs()
                if marks is not None:
                    self._store.save(marks, self._pairs.arrays)
                    self._unsaved = 0
            except BaseException:
                with self._hashes_lock:
                    self._stale = None
                raise
            return self._pairs

    def _updated_pairs(self) -> tuple[CandidatePairs, PictureMarks | None]:
        """The pairs as of now, and the marks of their pictures if they are to be kept."""
        with self._hashes_lock, self._database.reading() as connection:
            self._apply_changes(connection)
            hashes, pairs, stale = self._hashes, self._pairs, self._stale
            self._stale = set()
            if pairs is None and (kept := self._store.load()) is not None:
                pairs, stale = CandidatePairs(*kept[1]), PictureMarks.read(connection).changed_since(kept[0])
            if stale is not None and len(stale) > max(1000, len(hashes) // 10):
                stale = None
            self._unsaved += len(stale or ())
            is_saved = len(hashes) >= MIN_PICTURES and (stale is None or self._unsaved >= _UNSAVED_PICTURES)
            marks = PictureMarks.read(connection) if is_saved else None
            if pairs is not None and stale is not None:
                if not stale:
                    return pairs, marks
                changed, words = _read_hashes(connection, stale)
                neighbours = hashes.search(words, DEFAULT_THRESHOLDS.radius)
        if pairs is None or stale is None:
            blocks = hashes.pairs(DEFAULT_THRESHOLDS.radius)
            classified = self._classified((block.first, block.second, block.distance) for block in blocks)
            return CandidatePairs.concatenate(classified), marks
        first, second = changed[neighbours.query], neighbours.key
        # a pair of two changed pictures comes from both sides
        once = (first < second) | ((first != second) & ~numpy.isin(second, changed))
        first, second, distance = first[once], second[once], neighbours.distance[once]
        new = self._classified([(numpy.minimum(first, second), numpy.maximum(first, second), distance)])
        outdated = numpy.fromiter(stale, numpy.int64)
        current = pairs.select(~numpy.isin(pairs.first, outdated) & ~numpy.isin(pairs.second, outdated))
        return CandidatePairs.concatenate([current, *new]), marks

    def _classified(self, pairs: Iterable[tuple[Keys, Keys, Small]]) -> Iterator[CandidatePairs]:
        """Classify pairs of near hashes. A pair of a picture that was removed meanwhile is dropped; one that changed
        is classified again the next time."""
        for first, second, distance in _blocks(pairs):
            with self._database.reading() as connection:
                descriptors = read_descriptors(connection, {*first.tolist(), *second.tolist()})
            there = numpy.isin(first, descriptors.ids) & numpy.isin(second, descriptors.ids)
            near = CandidatePairs(first, second, distance, distance).select(there)
            verdict = descriptors.classify(near.first, near.second, near.distance)
            yield CandidatePairs(near.first, near.second, near.distance, verdict).select(verdict != NO_MATCH)


def _blocks(pairs: Iterable[tuple[Keys, Keys, Small]]) -> Iterator[tuple[Keys, Keys, Small]]:
    """The same pairs, in blocks of at most _PAIRS_PER_BLOCK."""
    for first, second, distance in pairs:
        for start in range(0, len(first), _PAIRS_PER_BLOCK):
            part = slice(start, start + _PAIRS_PER_BLOCK)
            yield first[part], second[part], distance[part]


def _read_hashes(
    connection: sqlite3.Connection, ids: Collection[int] | None = None
) -> tuple[Keys, NDArray[numpy.uint64]]:
    """Ids, shape (n,), and hashes, (n, 2), of the pictures that can be matched; of `ids` only, if not None."""
    table = numpy.array(_rows(connection, "rows, columns", ids), numpy.int64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1:].copy().view(numpy.uint64)


def _rows(connection: sqlite3.Connection, columns: str, ids: Collection[int] | None) -> list[tuple[Any, ...]]:
    """Ids and columns of the pictures that can be matched, by id."""
    if ids is None:
        return connection.execute(f"SELECT id, {columns} FROM pictures ORDER BY id").fetchall()  # noqa: S608
    statement = f"SELECT id, {columns} FROM pictures WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608
    return connection.execute(statement, (json.dumps([*ids]),)).fetchall()
