# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hashes as words of 64 bits: their order of bits, chunks, distances, and the comparison of all with all."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Final

import numpy
from numpy.typing import NDArray

Keys = NDArray[numpy.int64]
Indices = NDArray[numpy.int64]
Words = NDArray[numpy.uint64]
Distances = NDArray[numpy.uint8]
Hits = tuple[Indices, Indices, Distances]
"""Index of the query, index of the hash, distance. Shapes (n,)."""

CHUNKS: Final = 4
"""Chunks of a word."""
CHUNK_VALUES: Final = 1 << 16
"""Values of a chunk."""
BLOCK: Final = 1 << 16
"""Distances computed at once: what fits into a core's cache."""


def linear_scan(stored: tuple[Words, ...], words: Words, radius: int, after: Indices | None = None) -> Iterator[Hits]:
    """Compare all with all, in blocks; with `after`, shape (queries,), only with later hashes for each query."""
    count, queries = len(stored[0]), words.shape[1]
    if count == 0:
        return
    high = max(1, min(queries, 16))
    high = max(high, min(queries, BLOCK // count))
    wide = max(1, BLOCK // high)
    for top in range(0, queries, high):
        chosen = words[:, top : top + high]
        behind = None if after is None else after[top : top + high]
        for start in range(0 if behind is None else int(behind.min()) + 1, count, wide):
            distance = distances_to(stored, start, start + wide, chosen)
            near = numpy.flatnonzero(distance <= radius)
            if len(near) == 0:
                continue
            query, index = numpy.divmod(near, distance.shape[1])
            index += start
            distance = distance.ravel()[near]
            if behind is not None:
                kept = index > behind[query]
                query, index, distance = query[kept], index[kept], distance[kept]
            yield query + top, index, distance


def distances_to(stored: tuple[Words, ...], start: int, end: int, words: Words) -> Distances:
    """Distances of queries, shape (words, queries), from hashes `start` to `end`: shape (queries, end - start)."""
    distance: Distances = numpy.bitwise_count(stored[0][start:end] ^ words[0, :, None])
    for word in range(1, len(stored)):
        distance += numpy.bitwise_count(stored[word][start:end] ^ words[word, :, None])
    return distance


def interleave(hashes: Words) -> Words:
    """Hashes, shape (n,) or (n, 2), with the bits of each word in the order of the chunks; shape (words, n)."""
    count = len(hashes)
    octets = numpy.ascontiguousarray(hashes).view(numpy.uint8).reshape(count, hashes.ndim, 8)
    words = numpy.empty((hashes.ndim, count), numpy.uint64)
    for start in range(0, count, BLOCK):
        parts = _interleave_table()[numpy.arange(8), octets[start : start + BLOCK]]
        words[:, start : start + BLOCK] = numpy.bitwise_or.reduce(parts, axis=2).T
    return words


@functools.cache
def _interleave_table() -> Words:
    """The word of each value of each byte, shape (8, 256): bit x of byte y, a cell of the grid, goes to chunk x + y."""
    table = numpy.zeros((8, 256), numpy.uint64)
    octet = numpy.arange(256, dtype=numpy.uint64)
    for y in range(8):
        for x in range(8):
            to = (x + y) % CHUNKS * 16 + y * 2 + x // 4
            table[y] |= (octet >> numpy.uint64(x) & numpy.uint64(1)) << numpy.uint64(to)
    return table


def chunks_of(words: Words) -> NDArray[numpy.int64]:
    """The chunks of words, shape (words, n), each from its top: shape (n, words * chunks)."""
    turns = numpy.arange(48, -1, -16, dtype=numpy.uint64)
    chunks = (words.T[:, :, None] >> turns) & numpy.uint64(CHUNK_VALUES - 1)
    return chunks.reshape(words.shape[1], len(words) * CHUNKS).astype(numpy.int64)


def rotate_left(words: Words, bits: int | NDArray[numpy.int64]) -> Words:
    """Words rotated to the left by 0 to 63 bits."""
    left = numpy.asarray(bits, numpy.uint64)
    return (words << left) | (words >> ((numpy.uint64(64) - left) & numpy.uint64(63)))


def no_hits() -> Hits:
    return numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64), numpy.empty(0, numpy.uint8)


def join_hits(blocks: Iterable[Hits]) -> Hits:
    hits = list(blocks)
    if len(hits) == 1:
        return hits[0]
    hits.append(no_hits())
    query, index, distance = (numpy.concatenate([block[part] for block in hits]) for part in range(3))
    return query, index, distance
