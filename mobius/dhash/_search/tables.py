# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Multi-index hashing (Norouzi, Punjani and Fleet, 2012): the tables of chunks, and how they are probed."""

from __future__ import annotations

import functools
from typing import Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._search.words import CHUNK_VALUES, CHUNKS, Hits, Indices, Words, chunks_of, no_hits, rotate_left

LEVELS: Final = 5
"""Levels of search: a chunk may differ in 0 to 4 bits. Beyond that a scan is cheaper."""
_MIN_BUCKET_TO_COPY: Final = 32
"""Average size of a bucket from which copying whole buckets is faster than gathering their hashes."""
_NS_PER_HASH: Final = 2.0
_NS_PER_BUCKET: Final = 60.0


class ChunkTables:
    """For each chunk of each word all hashes' words, rotated so that the chunk comes first, and sorted.

    Attributes:
        flat: shape (words * chunks * n,), one table behind the other.
        words: for each word its values by row. The first is the first table.
        rows: shape (n,), the row of each entry in the first table of the second word; None with one word.
        starts: shape (words * chunks, values + 1), where in `flat` the bucket of each value of the chunk starts.
        costs: shape (words * chunks, values, levels), nanoseconds to search the values that differ from that value in
            exactly so many bits, or the largest cost of a lower level.
    """

    def __init__(self, words: list[Words]) -> None:
        """Build the tables of words by row. Replaces `words[0]` by its equal, the first table."""
        count, tables = len(words[0]), len(words) * CHUNKS
        flat = numpy.empty((tables, count), numpy.uint64)
        flat[0] = words[0]
        words[0] = flat[0]
        self.words: Final = tuple(words)
        self.rows: NDArray[numpy.uint32] | None = None
        self.starts: Final = numpy.empty((tables, CHUNK_VALUES + 1), numpy.int64)
        self.costs: Final = numpy.empty((tables, CHUNK_VALUES, LEVELS), numpy.float32)
        for table in range(tables):
            word, rotation = divmod(table, CHUNKS)
            if rotation == 0 and word > 0:
                self.rows = numpy.argsort(self.words[word]).astype(numpy.uint32)
                flat[table] = self.words[word][self.rows]
            elif rotation > 0:
                flat[table] = rotate_left(self.words[word], rotation * 16)
                flat[table].sort()
            firsts = numpy.arange(CHUNK_VALUES, dtype=numpy.uint64) << numpy.uint64(48)
            self.starts[table, :-1] = numpy.searchsorted(flat[table], firsts)
            self.starts[table, -1] = count
            self.costs[table] = _costs(numpy.diff(self.starts[table]))
            self.starts[table] += table * count
        self.flat: Final = flat.reshape(-1)

    @property
    def nbytes(self) -> int:
        tables = self.flat.nbytes + self.starts.nbytes + self.costs.nbytes
        return tables + (0 if self.rows is None else self.rows.nbytes)

    def plan(self, words: Words, radius: int) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
        """For each query, the number of levels to search in each table, and the estimated nanoseconds.

        With s steps over all chunks, two hashes within a distance of s - 1 differ in some chunk by less than its number
        of levels; so radius + 1 steps find all, wherever they are taken. Shapes (queries, tables) and (queries,).
        """
        queries, tables, steps = words.shape[1], len(words) * CHUNKS, radius + 1
        if steps > tables * LEVELS:
            return numpy.zeros((queries, tables), numpy.int64), numpy.full(queries, numpy.inf)
        costs = self.costs[numpy.arange(tables), chunks_of(words)]
        # lower levels first, and costs never fall with the level
        costs = costs.swapaxes(1, 2).reshape(queries, LEVELS * tables)
        cheapest = numpy.argsort(costs, axis=1, kind="stable")[:, :steps]
        chosen = numpy.zeros(costs.shape, bool)
        numpy.put_along_axis(chosen, cheapest, True, axis=1)
        levels = chosen.reshape(queries, LEVELS, tables).sum(1)
        return levels, numpy.take_along_axis(costs, cheapest, 1).sum(1, dtype=numpy.float64)

    def probe(self, words: Words, radius: int, levels: NDArray[numpy.int64]) -> Hits:
        """Find each row within the radius of a query once. Shapes (words, queries) and (queries, tables)."""
        tables = levels.shape[1]
        first, count, source = self._buckets(chunks_of(words), levels)
        if len(first) == 0:
            return no_hits()
        rotated = numpy.stack(
            [rotate_left(word, rotation * 16) for word in words for rotation in range(CHUNKS)], axis=1
        ).ravel()
        ends = numpy.cumsum(count)
        total = int(ends[-1])
        if total >= _MIN_BUCKET_TO_COPY * len(first):
            runs = zip(first.tolist(), (first + count).tolist(), strict=True)
            difference = numpy.concatenate([self.flat[start:end] for start, end in runs])
        else:
            indices = numpy.arange(total)
            indices += numpy.repeat(first - (ends - count), count)
            difference = self.flat[indices]
        difference ^= numpy.repeat(rotated[source], count)
        # a hash beyond the steps of one word is within those of the other, or too far
        allowed = levels.reshape(-1, len(words), CHUNKS).sum(2) - 1
        bound = radius if len(words) == 1 else numpy.repeat(allowed.astype(numpy.int8).ravel()[source // CHUNKS], count)
        near = numpy.flatnonzero(numpy.bitwise_count(difference).astype(numpy.int8) <= bound)
        if len(near) == 0:
            return no_hits()

        bucket = numpy.searchsorted(ends, near, side="right")
        query, table = numpy.divmod(source[bucket], tables)
        word, rotation = numpy.divmod(table, CHUNKS)
        differing = rotate_left(difference[near], (64 - rotation * 16) % 64)
        value = words[word, query] ^ differing
        # count each hit once: for the first chunk that finds it, and one of equal words, which are adjacent in a bucket
        by_chunk = (
            numpy.bitwise_count(chunks_of(differing[None, :])) < levels.reshape(-1, len(words), CHUNKS)[query, word]
        )
        once = by_chunk.argmax(1) == rotation
        once[1:] &= (value[1:] != value[:-1]) | (bucket[1:] != bucket[:-1])
        query, word, value = query[once], word[once], value[once]
        return self._rows_of(words, radius, allowed, query, word, value)

    def _buckets(
        self, chunks: NDArray[numpy.int64], levels: NDArray[numpy.int64]
    ) -> tuple[Indices, NDArray[numpy.int64], NDArray[numpy.int64]]:
        """Start, size, and query * tables + table of the buckets to search that are not empty."""
        tables = levels.shape[1]
        buckets, sources = [], []
        for level, masks in enumerate(_masks()):
            query, table = numpy.nonzero(levels > level)
            if len(query) == 0:
                break
            near = (chunks[query, table, None] ^ masks) + table[:, None] * (CHUNK_VALUES + 1)
            buckets.append(near.ravel())
            sources.append(numpy.repeat(query * tables + table, len(masks)))
        if not buckets:
            return numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64)
        bucket, source = numpy.concatenate(buckets), numpy.concatenate(sources)
        starts = self.starts.reshape(-1)
        first = starts[bucket]
        count = starts[bucket + 1] - first
        full = numpy.flatnonzero(count)
        return first[full], count[full], source[full]

    def _rows_of(
        self, words: Words, radius: int, allowed: NDArray[numpy.int64], query: Indices, word: Indices, value: Words
    ) -> Hits:
        """The rows of near words, with their distances over all words."""
        if self.rows is None:
            query, row = _runs(self.words[0], query, value)
            return query, row, numpy.bitwise_count(words[0, query] ^ self.words[0][row])
        by_first, by_second = word == 0, word == 1
        query0, row0 = _runs(self.words[0], query[by_first], value[by_first])
        second = self.flat[CHUNKS * len(self.rows) :][: len(self.rows)]
        query1, index = _runs(second, query[by_second], value[by_second])
        query, row = (
            numpy.concatenate([query0, query1]),
            numpy.concatenate([row0, self.rows[index].astype(numpy.int64)]),
        )
        difference = numpy.bitwise_count(words[0, query] ^ self.words[0][row])
        already_counted = difference <= allowed[query, 0]
        already_counted[: len(query0)] = False
        difference += numpy.bitwise_count(words[1, query] ^ self.words[1][row])
        near = numpy.flatnonzero((difference <= radius) & ~already_counted)
        return query[near], row[near], difference[near]


@functools.cache
def _masks() -> tuple[NDArray[numpy.int64], ...]:
    """For each level, the values with so many bits set."""
    values = numpy.arange(CHUNK_VALUES)
    bits = numpy.bitwise_count(values)
    return tuple(values[bits == level] for level in range(LEVELS))


def _costs(counts: NDArray[numpy.int64]) -> NDArray[numpy.float32]:
    """Nanoseconds to search each level around each value of a chunk, shape (values, levels), from counts by value."""
    around = numpy.zeros((LEVELS, CHUNK_VALUES), numpy.int32)
    around[0] = counts
    for bit in range(16):
        halves = around.reshape(LEVELS, -1, 2, 1 << bit)
        halves[1:] += halves[:-1, :, ::-1]
    buckets = numpy.array([len(masks) for masks in _masks()])
    costs = around.T * _NS_PER_HASH + buckets * _NS_PER_BUCKET
    return numpy.maximum.accumulate(costs, axis=1).astype(numpy.float32)


def _runs(ordered: Words, query: Indices, value: Words) -> tuple[Indices, Indices]:
    """All indices of values in an ascending array, with the query of each."""
    first = numpy.searchsorted(ordered, value)
    count = numpy.searchsorted(ordered, value, side="right") - first
    ends = numpy.cumsum(count)
    indices = numpy.arange(int(ends[-1]) if len(ends) else 0) + numpy.repeat(first - (ends - count), count)
    return numpy.repeat(query, count), indices
