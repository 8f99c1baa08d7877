# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An immutable state of an index: sorted hashes, the tail added since, and what was removed."""

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
    Indices,
    Keys,
    Words,
    distances_to,
    join_hits,
    linear_scan,
)

_MIN_HASHES_FOR_TABLES: Final = 1 << 16
"""Smaller indexes are scanned."""
# measured; these only decide which way is taken
_SCAN_NS_PER_HASH: Final = 0.65
_BLOCK_COST_NS: Final = 200_000.0
"""Estimated cost of the queries that are probed together."""
QUERIES_PER_BLOCK: Final = 4096
"""Queries of a search or of pairing that are handled together."""


class SortedHashes:
    """Sorted, immutable hashes. A hash's *row* is its index in the order of the first words.

    Attributes:
        keys: shape (n,), ascending.
        rank: shape (n,), for each row the index of its key in `keys`.
        words: for each word of the hashes, its values by row.
        tables: None for a small index.
    """

    def __init__(self, keys: Keys, words: list[Words]) -> None:
        """Sort hashes. Replaces the arrays in `words` one by one, to free their memory early."""
        by_key = numpy.argsort(keys, kind="stable")
        self.keys: Final = keys[by_key]
        index = numpy.empty(len(keys), numpy.uint32)
        index[by_key] = numpy.arange(len(keys), dtype=numpy.uint32)
        del by_key
        order = numpy.argsort(words[0], kind="stable")
        self.rank: Final = index[order]
        del index
        for word in range(len(words)):
            words[word] = words[word][order]
        del order
        self.tables: Final = ChunkTables(words) if len(keys) >= _MIN_HASHES_FOR_TABLES else None
        self.words: Final = tuple(words)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def scan_cost(self) -> float:
        """Nanoseconds to compare one query with all."""
        return len(self.keys) * len(self.words) * _SCAN_NS_PER_HASH

    def near(self, words: Words, radius: int, after: Indices | None = None) -> Iterator[Hits]:
        """Rows within the radius of each query, in blocks; with `after`, shape (queries,), only later rows."""
        if self.tables is None or words.shape[1] == 0:
            yield from linear_scan(self.words, words, radius, after)
            return
        levels, cost = self.tables.plan(words, radius)
        by_table = cost < (self.scan_cost if after is None else self.scan_cost * (1 - after / len(self)))
        cheap = numpy.flatnonzero(by_table)
        share = (numpy.cumsum(cost[cheap]) / _BLOCK_COST_NS).astype(numpy.int64)
        for chosen in numpy.split(cheap, numpy.flatnonzero(numpy.diff(share)) + 1):
            query, row, distance = self.tables.probe(words[:, chosen], radius, levels[chosen])
            query = chosen[query]
            if after is not None:
                later = row > after[query]
                query, row, distance = query[later], row[later], distance[later]
            yield query, row, distance
        remaining = numpy.flatnonzero(~by_table)
        if len(remaining):
            after_remaining = None if after is None else after[remaining]
            for query, row, distance in linear_scan(self.words, words[:, remaining], radius, after_remaining):
                yield remaining[query], row, distance

    @property
    def nbytes(self) -> int:
        stored = self.tables.nbytes if self.tables else self.words[0].nbytes
        return self.keys.nbytes + self.rank.nbytes + stored + sum(word.nbytes for word in self.words[1:])


@dataclass(frozen=True)
class IndexSnapshot:
    """What a reader works on: never changed, only replaced. An *index* is one into `main.keys`, continued in the tail.

    Attributes:
        main: the sorted hashes.
        keys, words: the tail, added since main was sorted; shapes (m,) and (words, m). These are views of arrays that
            grow; the part that a view shows never changes.
        dead: shape (d,), ascending: indices that were removed.
    """

    main: SortedHashes
    keys: Keys
    words: Words
    dead: Indices

    def alive(self, indices: Indices) -> NDArray[numpy.bool_]:
        """Which of the indices were not removed."""
        if len(self.dead) == 0:
            return numpy.ones(len(indices), bool)
        at = numpy.minimum(numpy.searchsorted(self.dead, indices), len(self.dead) - 1)
        alive: NDArray[numpy.bool_] = self.dead[at] != indices
        return alive

    def keys_at(self, indices: Indices) -> Keys:
        """The keys at indices."""
        count = len(self.main)
        in_tail = indices >= count
        if not in_tail.any():
            return self.main.keys[indices]
        keys = numpy.empty(len(indices), numpy.int64)
        keys[in_tail] = self.keys[indices[in_tail] - count]
        keys[~in_tail] = self.main.keys[indices[~in_tail]]
        return keys

    def indices_of(self, keys: Keys) -> Indices:
        """The indices of those of the keys that exist."""
        in_main, in_tail = numpy.empty(0, numpy.int64), numpy.flatnonzero(numpy.isin(self.keys, keys))
        if len(self.main):
            at = numpy.minimum(numpy.searchsorted(self.main.keys, keys), len(self.main) - 1)
            in_main = at[self.main.keys[at] == keys]
        indices = numpy.concatenate([in_main, in_tail + len(self.main)])
        return indices[self.alive(indices)]

    def near(self, words: Words, radius: int) -> Iterator[Hits]:
        """Indices within the radius of each query, in blocks."""
        for query, row, distance in self.main.near(words, radius):
            index = self.main.rank[row].astype(numpy.int64)
            alive = self.alive(index)
            yield query[alive], index[alive], distance[alive]
        for query, at, distance in linear_scan(tuple(self.words), words, radius):
            index = at + len(self.main)
            alive = self.alive(index)
            yield query[alive], index[alive], distance[alive]

    def nearest_within(self, words: Words, radius: int, k: int) -> Iterator[Hits]:
        """Indices that include the `k` nearest within the radius of each query, in blocks. Few hits are held at once,
        however many are within the radius."""
        tables = self.main.tables
        by_table = (
            numpy.zeros(words.shape[1], bool)
            if tables is None
            else (tables.plan(words, radius)[1] < self.main.scan_cost)
        )
        cheap = numpy.flatnonzero(by_table)
        if len(cheap):
            for query, index, distance in self.near(words[:, cheap], radius):
                yield cheap[query], index, distance
        for far in numpy.flatnonzero(~by_table).tolist():
            index, distance = self._nearest_by_scan(words[:, far], k, radius)
            yield numpy.full(len(index), far), index, distance

    def nearest(self, words: Words, k: int) -> Iterator[Hits]:
        """Indices that include the `k` nearest of each query, in blocks."""
        remaining = numpy.arange(words.shape[1])
        tables = self.main.tables
        step = len(words) * CHUNKS
        for radius in range(step - 1, step * LEVELS if tables else 0, step):
            assert tables is not None
            cheap = remaining[tables.plan(words[:, remaining], radius)[1] < self.main.scan_cost / 4]
            if len(cheap) == 0:
                break
            query, index, distance = join_hits(self.near(words[:, cheap], radius))
            enough = numpy.bincount(query, minlength=len(cheap)) >= k
            kept = enough[query]
            yield cheap[query[kept]], index[kept], distance[kept]
            remaining = numpy.setdiff1d(remaining, cheap[enough], assume_unique=True)
        for far in remaining.tolist():
            index, distance = self._nearest_by_scan(words[:, far], k, 64 * len(words))
            yield numpy.full(len(index), far), index, distance

    def _nearest_by_scan(self, word: Words, k: int, bound: int) -> tuple[Indices, Distances]:
        """Those within the bound; of more than `k`, the nearest and all at the distance of the last of these."""
        indices, distances = numpy.empty(0, numpy.int64), numpy.empty(0, numpy.uint8)
        for in_tail, stored in enumerate((self.main.words, tuple(self.words))):
            for start in range(0, len(stored[0]), BLOCK):
                distance = distances_to(stored, start, start + BLOCK, word[:, None])[0]
                near = numpy.flatnonzero(distance <= bound)
                near_index = (
                    near + (start + len(self.main)) if in_tail else self.main.rank[near + start].astype(numpy.int64)
                )
                alive = self.alive(near_index)
                indices = numpy.concatenate([indices, near_index[alive]])
                distances = numpy.concatenate([distances, distance[near[alive]]])
                if len(indices) >= k:
                    bound = int(numpy.partition(distances, k - 1)[k - 1])
                    kept = distances <= bound
                    indices, distances = indices[kept], distances[kept]
        return indices, distances

    def pairs(self, radius: int) -> Iterator[Hits]:
        """Each pair of indices within the radius once, in blocks."""
        main, count = self.main, len(self.main)
        for start in range(0, count, QUERIES_PER_BLOCK):
            rows = numpy.arange(start, min(start + QUERIES_PER_BLOCK, count))
            first = main.rank[rows].astype(numpy.int64)
            alive = self.alive(first)
            rows, first = rows[alive], first[alive]
            for query, row, distance in main.near(numpy.stack([word[rows] for word in main.words]), radius, after=rows):
                index = main.rank[row].astype(numpy.int64)
                alive = self.alive(index)
                yield first[query[alive]], index[alive], distance[alive]
        first = numpy.arange(len(self.keys)) + count
        first = first[self.alive(first)]
        tail = self.words[:, first - count]
        for query, row, distance in main.near(tail, radius):
            index = main.rank[row].astype(numpy.int64)
            alive = self.alive(index)
            yield first[query[alive]], index[alive], distance[alive]
        for query, at, distance in linear_scan(tuple(tail), tail, radius, after=numpy.arange(len(first))):
            yield first[query], first[at], distance
