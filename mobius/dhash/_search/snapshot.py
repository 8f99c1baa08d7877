# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One state of an index, which never changes: sorted hashes, the tail added since, and what was removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._search.tables import LEVELS, ChunkTables
from mobius.dhash._search.words import (
    BLOCK,
    CHUNKS,
    Distances,
    Hits,
    Keys,
    Places,
    Words,
    distances_to,
    join_hits,
    linear_scan,
)

_TABLES_FROM: Final = 1 << 16
"""Fewer hashes than this are scanned."""
# Nanoseconds, measured; only the choice of the cheaper way hangs on them.
_SCAN_COST: Final = 0.65
_QUERIES_COST: Final = 200_000.0
"""How much to look for at once."""
QUERIES_PER_BLOCK: Final = 4096
"""Queries taken up at once."""


class SortedHashes:
    """Many hashes, sorted and never changed. A hash's *row* is its place in the order of its first word.

    Attributes:
        keys: shape (n,), ascending.
        rank: shape (n,), for each row the place of its key in `keys`.
        words: for each word of the hashes, its values by row.
        tables: None for few hashes.
    """

    def __init__(self, keys: Keys, words: list[Words]) -> None:
        """Sort hashes. Replaces the arrays in `words` on the way, so that their memory goes as soon as possible."""
        by_key = numpy.argsort(keys, kind="stable")
        self.keys: Final = keys[by_key]
        place = numpy.empty(len(keys), numpy.uint32)
        place[by_key] = numpy.arange(len(keys), dtype=numpy.uint32)
        del by_key
        order = numpy.argsort(words[0], kind="stable")
        self.rank: Final = place[order]
        del place
        for word in range(len(words)):
            words[word] = words[word][order]
        del order
        self.tables: Final = ChunkTables(words) if len(keys) >= _TABLES_FROM else None
        self.words: Final = tuple(words)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def scan_cost(self) -> float:
        """Nanoseconds to compare one query with all."""
        return len(self.keys) * len(self.words) * _SCAN_COST

    def near(self, words: Words, radius: int, after: Places | None = None) -> Iterator[Hits]:
        """Rows within the radius of each query, in blocks; with `after`, shape (queries,), only those behind it."""
        if self.tables is None or words.shape[1] == 0:
            yield from linear_scan(self.words, words, radius, after)
            return
        levels, cost = self.tables.plan(words, radius)
        by_table = cost < (self.scan_cost if after is None else self.scan_cost * (1 - after / len(self)))
        cheap = numpy.flatnonzero(by_table)
        share = (numpy.cumsum(cost[cheap]) / _QUERIES_COST).astype(numpy.int64)
        for some in numpy.split(cheap, numpy.flatnonzero(numpy.diff(share)) + 1):
            query, row, apart = self.tables.probe(words[:, some], radius, levels[some])
            query = some[query]
            if after is not None:
                behind = row > after[query]
                query, row, apart = query[behind], row[behind], apart[behind]
            yield query, row, apart
        rest = numpy.flatnonzero(~by_table)
        if len(rest):
            behind_rest = None if after is None else after[rest]
            for query, row, apart in linear_scan(self.words, words[:, rest], radius, behind_rest):
                yield rest[query], row, apart

    @property
    def nbytes(self) -> int:
        held = self.tables.nbytes if self.tables else self.words[0].nbytes
        return self.keys.nbytes + self.rank.nbytes + held + sum(word.nbytes for word in self.words[1:])


@dataclass(frozen=True)
class Snapshot:
    """What readers see: never changed, only replaced. A *place* is one in `main.keys`, or behind them in the tail.

    Attributes:
        main: most hashes.
        keys, words: the tail, what came since main was sorted; shapes (m,) and (words, m). The arrays behind these
            views grow, but what a view shows stays.
        dead: shape (d,), ascending: places that no longer count.
    """

    main: SortedHashes
    keys: Keys
    words: Words
    dead: Places

    def alive(self, places: Places) -> NDArray[numpy.bool_]:
        """Which of the places count."""
        if len(self.dead) == 0:
            return numpy.ones(len(places), bool)
        at = numpy.minimum(numpy.searchsorted(self.dead, places), len(self.dead) - 1)
        alive: NDArray[numpy.bool_] = self.dead[at] != places
        return alive

    def keys_at(self, places: Places) -> Keys:
        """The keys of places."""
        count = len(self.main)
        in_tail = places >= count
        if not in_tail.any():
            return self.main.keys[places]
        keys = numpy.empty(len(places), numpy.int64)
        keys[in_tail] = self.keys[places[in_tail] - count]
        keys[~in_tail] = self.main.keys[places[~in_tail]]
        return keys

    def places_of(self, keys: Keys) -> Places:
        """Where those of the keys are that are there."""
        in_main, in_tail = numpy.empty(0, numpy.int64), numpy.flatnonzero(numpy.isin(self.keys, keys))
        if len(self.main):
            at = numpy.minimum(numpy.searchsorted(self.main.keys, keys), len(self.main) - 1)
            in_main = at[self.main.keys[at] == keys]
        places = numpy.concatenate([in_main, in_tail + len(self.main)])
        return places[self.alive(places)]

    def near(self, words: Words, radius: int) -> Iterator[Hits]:
        """Places within the radius of each query, in blocks."""
        for query, row, apart in self.main.near(words, radius):
            place = self.main.rank[row].astype(numpy.int64)
            alive = self.alive(place)
            yield query[alive], place[alive], apart[alive]
        for query, at, apart in linear_scan(tuple(self.words), words, radius):
            place = at + len(self.main)
            alive = self.alive(place)
            yield query[alive], place[alive], apart[alive]

    def nearest(self, words: Words, k: int) -> Iterator[Hits]:
        """Places among which are the `k` nearest of each query, in blocks."""
        rest = numpy.arange(words.shape[1])
        tables = self.main.tables
        step = len(words) * CHUNKS
        for radius in range(step - 1, step * LEVELS if tables else 0, step):
            assert tables is not None
            cheap = rest[tables.plan(words[:, rest], radius)[1] < self.main.scan_cost / 4]
            if len(cheap) == 0:
                break
            query, place, apart = join_hits(self.near(words[:, cheap], radius))
            enough = numpy.bincount(query, minlength=len(cheap)) >= k
            kept = enough[query]
            yield cheap[query[kept]], place[kept], apart[kept]
            rest = numpy.setdiff1d(rest, cheap[enough], assume_unique=True)
        for far in rest.tolist():
            place, apart = self._nearest_by_scan(words[:, far], k)
            yield numpy.full(len(place), far), place, apart

    def _nearest_by_scan(self, word: Words, k: int) -> tuple[Places, Distances]:
        places, distances = numpy.empty(0, numpy.int64), numpy.empty(0, numpy.uint8)
        bound = 64 * len(word)
        for in_tail, held in enumerate((self.main.words, tuple(self.words))):
            for start in range(0, len(held[0]), BLOCK):
                apart = distances_to(held, start, start + BLOCK, word[:, None])[0]
                near = numpy.flatnonzero(apart <= bound)
                near_place = (
                    near + (start + len(self.main)) if in_tail else self.main.rank[near + start].astype(numpy.int64)
                )
                alive = self.alive(near_place)
                places = numpy.concatenate([places, near_place[alive]])
                distances = numpy.concatenate([distances, apart[near[alive]]])
                if len(places) >= k:
                    bound = int(numpy.partition(distances, k - 1)[k - 1])
                    kept = distances <= bound
                    places, distances = places[kept], distances[kept]
        return places, distances

    def pairs(self, radius: int) -> Iterator[Hits]:
        """Each pair of places within the radius once, in blocks."""
        main, count = self.main, len(self.main)
        for start in range(0, count, QUERIES_PER_BLOCK):
            rows = numpy.arange(start, min(start + QUERIES_PER_BLOCK, count))
            own = main.rank[rows].astype(numpy.int64)
            alive = self.alive(own)
            rows, own = rows[alive], own[alive]
            for query, row, apart in main.near(numpy.stack([word[rows] for word in main.words]), radius, after=rows):
                place = main.rank[row].astype(numpy.int64)
                alive = self.alive(place)
                yield own[query[alive]], place[alive], apart[alive]
        own = numpy.arange(len(self.keys)) + count
        own = own[self.alive(own)]
        tail = self.words[:, own - count]
        for query, row, apart in main.near(tail, radius):
            place = main.rank[row].astype(numpy.int64)
            alive = self.alive(place)
            yield own[query[alive]], place[alive], apart[alive]
        for query, at, apart in linear_scan(tuple(tail), tail, radius, after=numpy.arange(len(own))):
            yield own[query], own[at], apart
