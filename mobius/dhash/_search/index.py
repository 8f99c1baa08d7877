# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exact search for near hashes by Hamming distance: within a radius, the nearest, and all pairs.

Multi-index hashing (Norouzi, Punjani and Fleet, 2012): a hash is cut into chunks of 16 bits; two hashes within a
distance of r differ by few bits in some chunk, so only the buckets of similar chunks are searched. Four things make it
fast in numpy, and on real dhashes:

- Neighbouring bits of a dhash are correlated, so chunks of neighbouring bits fall into few buckets (15 to 100 times
  fuller than random ones). Each chunk here takes its bits from all over the grid (8 times, 1.5 with adjacent chunks).
- How many bits a chunk may differ in is chosen for each query, by counts of the hashes around each bucket (as GPH, Qin
  et al., 2018): the r + 1 cheapest steps. Any such choice is exact, by the pigeonhole principle.
- Each chunk has a table of all hashes, rotated so that the chunk comes first, and sorted: a bucket is one run of
  memory, read at the speed of a scan. Rotated hashes can be rotated back, so the tables need no row numbers.
- Where the counts say that a linear scan is cheaper, it is used.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy

from mobius.dhash._search.snapshot import QUERIES_PER_BLOCK, IndexSnapshot, SortedHashes
from mobius.dhash._search.words import BLOCK, Distances, Hits, Keys, Words, interleave, join_hits, no_hits

_TAIL_MIN_HASHES: Final = 4096
_TAIL_SHARE: Final = 64
"""The tail is merged when it has more hashes than the first, and than one in the second of all."""


_LIMITED_MAX_QUERIES: Final = 16
"""So few queries are scanned one by one, keeping the nearest only: a wide radius costs no more than a narrow one."""


@dataclass(frozen=True)
class Neighbours:
    """The results of queries, sorted by (query, distance, key).

    Attributes:
        query: shape (n,), which of the queries, from 0.
        key: shape (n,), the key of the hash.
        distance: shape (n,), differing bits.
    """

    query: Keys
    key: Keys
    distance: Distances


@dataclass(frozen=True)
class Pairs:
    """A block of pairs of near hashes, in unspecified order. Shapes (n,); `first` < `second` by key."""

    first: Keys
    second: Keys
    distance: Distances


class HammingIndex:
    """Hashes of 64 or 128 bits by key, searched by Hamming distance. Every result is exact.

    Hashes are uint64, shape (n,) for 64 bits and (n, 2) for 128 (rows and columns of a `Dhash`; the distance is the sum
    over both). Keys are int64, shape (n,).

    Several threads may read while others write: a reader sees the index before or after a change, never between.

    Memory for a million hashes: 51 MB over 64 bits and 103 MB over 128 (45 and 90 MB a million, of ten million). It is
    twice that for a moment when the changes since the last merge reach a 64th of all hashes, and are merged.
    """

    def __init__(self, bits: Literal[64, 128] = 128) -> None:
        if bits not in (64, 128):
            raise ValueError(f"An index is over 64 or 128 bits, not {bits}.")
        self._words: Final = bits // 64
        self._writing: Final = threading.Lock()
        self._tail_keys: Keys
        self._tail_words: Words
        self._snapshot = self._sorted(numpy.empty(0, numpy.int64), list(numpy.empty((self._words, 0), numpy.uint64)))

    def __len__(self) -> int:
        snapshot = self._snapshot
        return len(snapshot.main) + len(snapshot.keys) - len(snapshot.dead)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index holds."""
        snapshot = self._snapshot
        return snapshot.main.nbytes + self._tail_keys.nbytes + self._tail_words.nbytes + snapshot.dead.nbytes

    def add(self, keys: Keys, hashes: Words) -> None:
        """Add hashes by key; a known key gets the new hash.

        Raises:
            ValueError: shape or type is wrong, or a key comes twice. Nothing was added then.
        """
        self._check_keys(keys)
        self._check_hashes(hashes)
        if len(keys) != len(hashes):
            raise ValueError(f"There are {len(keys)} keys for {len(hashes)} hashes.")
        with self._writing:
            self._change(keys, interleave(hashes))

    def remove(self, keys: Keys) -> int:
        """Remove hashes by key; unknown keys are no error. Returns how many were removed.

        Raises:
            ValueError: shape or type is wrong, or a key comes twice.
        """
        self._check_keys(keys)
        with self._writing:
            before = len(self)
            self._change(keys, None)
            return before - len(self)

    def search(self, hashes: Words, radius: int, *, limit: int | None = None) -> Neighbours:
        """Find all hashes within `radius` of each query.

        Args:
            hashes: the queries, shaped as in `add`.
            radius: differing bits, 0 to 64 or 128.
            limit: results per query at most, the nearest first; equal distances by key.

        Raises:
            ValueError: shape, type, radius or limit is wrong.
        """
        self._check_hashes(hashes)
        radius = self._checked_radius(radius)
        limit = None if limit is None else _positive(limit, "limit")
        snapshot = self._snapshot

        def find(words: Words) -> Iterator[Hits]:
            if limit is None or words.shape[1] > _LIMITED_MAX_QUERIES:
                return snapshot.near(words, radius)
            return snapshot.nearest_within(words, radius, limit)

        return _neighbours(snapshot, hashes, find, limit)

    def nearest(self, hashes: Words, k: int) -> Neighbours:
        """Find the `k` nearest hashes of each query (fewer if the index has fewer); equal distances by key.

        Raises:
            ValueError: shape, type or k is wrong.
        """
        self._check_hashes(hashes)
        k = _positive(k, "k")
        snapshot = self._snapshot
        return _neighbours(snapshot, hashes, lambda words: snapshot.nearest(words, k), k)

    def pairs(self, radius: int) -> Iterator[Pairs]:
        """Find every unordered pair of hashes within `radius` once, in blocks.

        The pairs are those of the index as it was at the call. The memory needed is that of a block.

        Raises:
            ValueError: the radius is wrong.
        """
        return _pairs(self._snapshot, self._checked_radius(radius))

    def _change(self, keys: Keys, words: Words | None) -> None:
        """Replace the snapshot by one without `keys`, or with new words for them."""
        snapshot = self._snapshot
        dead = numpy.sort(numpy.concatenate([snapshot.dead, snapshot.indices_of(keys)]))
        stored, more = len(snapshot.keys), 0 if words is None else len(keys)
        tail_limit = max(_TAIL_MIN_HASHES, len(snapshot.main) // _TAIL_SHARE)
        if stored + more > tail_limit or len(dead) > tail_limit:
            alive = numpy.ones(len(snapshot.main) + stored, bool)
            alive[dead] = False
            rows, tail = alive[snapshot.main.rank], alive[len(snapshot.main) :]
            all_keys = [snapshot.main.keys[snapshot.main.rank[rows]], snapshot.keys[tail]]
            all_words = [[old[rows], new[tail]] for old, new in zip(snapshot.main.words, snapshot.words, strict=True)]
            if words is not None:
                all_keys.append(keys)
                for word in range(self._words):
                    all_words[word].append(words[word])
                del words
            self._snapshot = self._sorted(
                numpy.concatenate(all_keys), [numpy.concatenate(pieces) for pieces in all_words]
            )
            return
        if words is not None:
            if stored + more > len(self._tail_keys):
                capacity = 2 * (stored + more)
                # readers may still use the old arrays
                self._tail_keys = numpy.concatenate([snapshot.keys, numpy.empty(capacity - stored, numpy.int64)])
                free = numpy.empty((self._words, capacity - stored), numpy.uint64)
                self._tail_words = numpy.concatenate([snapshot.words, free], axis=1)
            self._tail_keys[stored : stored + more] = keys
            self._tail_words[:, stored : stored + more] = words
        self._snapshot = IndexSnapshot(
            snapshot.main, self._tail_keys[: stored + more], self._tail_words[:, : stored + more], dead
        )

    def _sorted(self, keys: Keys, words: list[Words]) -> IndexSnapshot:
        """A snapshot with an empty tail."""
        self._tail_keys = numpy.empty(0, numpy.int64)
        self._tail_words = numpy.empty((self._words, 0), numpy.uint64)
        return IndexSnapshot(SortedHashes(keys, words), self._tail_keys, self._tail_words, numpy.empty(0, numpy.int64))

    def _check_keys(self, keys: Keys) -> None:
        _check_array(keys, "Keys", numpy.int64, "(n,)", lambda shape: len(shape) == 1)
        ordered = numpy.sort(keys)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            raise ValueError(f"A key comes at most once in a call; {repeated[0]} comes twice.")

    def _check_hashes(self, hashes: Words) -> None:
        if self._words == 1:
            _check_array(hashes, "Hashes of 64 bits", numpy.uint64, "(n,)", lambda shape: len(shape) == 1)
        else:
            _check_array(hashes, "Hashes of 128 bits", numpy.uint64, "(n, 2)", lambda shape: shape[1:] == (2,))

    def _checked_radius(self, radius: int) -> int:
        radius, bits = _whole(radius, "radius"), 64 * self._words
        if not 0 <= radius <= bits:
            raise ValueError(f"A radius over {bits} bits is 0 to {bits}, not {radius}.")
        return radius


def _neighbours(
    snapshot: IndexSnapshot, hashes: Words, find: Callable[[Words], Iterator[Hits]], limit: int | None
) -> Neighbours:
    queries, keys, distances = [], [], []
    for start in range(0, len(hashes), QUERIES_PER_BLOCK):
        query, index, distance = join_hits(find(interleave(hashes[start : start + QUERIES_PER_BLOCK])))
        key = snapshot.keys_at(index)
        order = numpy.lexsort((key, distance, query))
        query, key, distance = query[order], key[order], distance[order]
        if limit is not None:
            first = numpy.searchsorted(query, query)
            kept = numpy.arange(len(query)) - first < limit
            query, key, distance = query[kept], key[kept], distance[kept]
        queries.append(query + start)
        keys.append(key)
        distances.append(distance)
    if not queries:
        return Neighbours(*no_hits())
    return Neighbours(numpy.concatenate(queries), numpy.concatenate(keys), numpy.concatenate(distances))


def _pairs(snapshot: IndexSnapshot, radius: int) -> Iterator[Pairs]:
    waiting: list[Hits] = []
    length = 0
    for hits in snapshot.pairs(radius):
        # many hits are empty, where few hashes are near
        if len(hits[2]):
            waiting.append(hits)
            length += len(hits[2])
        if length >= BLOCK:
            yield _as_pairs(snapshot, join_hits(waiting))
            waiting, length = [], 0
    if waiting:
        yield _as_pairs(snapshot, join_hits(waiting))


def _as_pairs(snapshot: IndexSnapshot, hits: Hits) -> Pairs:
    one, other = snapshot.keys_at(hits[0]), snapshot.keys_at(hits[1])
    return Pairs(numpy.minimum(one, other), numpy.maximum(one, other), hits[2])


def _check_array(
    array: object, what: str, dtype: type[Any], form: str, fits: Callable[[tuple[int, ...]], bool]
) -> None:
    if not isinstance(array, numpy.ndarray):
        raise ValueError(f"{what} are a numpy array of {dtype.__name__}, not {type(array).__name__}.")  # noqa: TRY004
    if array.dtype != dtype or not fits(array.shape):
        raise ValueError(f"{what} are {dtype.__name__} of shape {form}, not {array.dtype} of shape {array.shape}.")


def _whole(number: int, what: str) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise ValueError(f"A {what} is a whole number, not {number!r}.") from None


def _positive(number: int, what: str) -> int:
    if (number := _whole(number, what)) < 1:
        raise ValueError(f"A {what} is at least 1, not {number}.")
    return number
