# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exact search for near hashes by Hamming distance: within a radius, the nearest, and all pairs."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy
from numpy.typing import NDArray

Keys = NDArray[numpy.int64]
Words = NDArray[numpy.uint64]
Distances = NDArray[numpy.uint8]

_BLOCK: Final = 1 << 16
"""Distances computed at once: what fits into a core's cache."""


@dataclass(frozen=True)
class Neighbours:
    """What queries found, sorted by (query, distance, key).

    Attributes:
        query: shape (n,), which of the queries, from 0.
        key: shape (n,), the key that was found.
        distance: shape (n,), differing bits.
    """

    query: Keys
    key: Keys
    distance: Distances


@dataclass(frozen=True)
class Pairs:
    """A block of pairs of near hashes, in no promised order. Shapes (n,); `first` < `second` by key."""

    first: Keys
    second: Keys
    distance: Distances


class _State(NamedTuple):
    """What readers see: never changed, only replaced."""

    keys: Keys  # ascending
    words: Words  # (words, n)


class HammingIndex:
    """Hashes of 64 or 128 bits by key, searched by Hamming distance. Every answer is exact.

    Hashes are uint64, shape (n,) for 64 bits and (n, 2) for 128 (rows and columns of a `Dhash`; the distance is the sum
    over both). Keys are int64, shape (n,).

    Several threads may read while others write: a reader sees the index before or after a change, never between.
    """

    def __init__(self, bits: Literal[64, 128] = 128) -> None:
        if bits not in (64, 128):
            raise ValueError(f"An index is over 64 or 128 bits, not {bits}.")
        self._bits: Final = int(bits)
        self._writing = threading.Lock()
        self._state = _State(numpy.empty(0, numpy.int64), numpy.empty((bits // 64, 0), numpy.uint64))

    def __len__(self) -> int:
        return len(self._state.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index holds."""
        return self._state.keys.nbytes + self._state.words.nbytes

    def add(self, keys: Keys, hashes: Words) -> None:
        """Add hashes under their keys; a key that is there already gets the new hash.

        Raises:
            ValueError: shape or type is wrong, or a key comes twice. Nothing was added then.
        """
        keys, words = self._checked_keys(keys), self._checked_words(hashes)
        if len(keys) != words.shape[1]:
            raise ValueError(f"There are {len(keys)} keys for {words.shape[1]} hashes.")
        with self._writing:
            old = self._state
            stay = numpy.isin(old.keys, keys, invert=True)
            keys = numpy.concatenate([old.keys[stay], keys])
            order = numpy.argsort(keys)
            self._state = _State(keys[order], numpy.concatenate([old.words[:, stay], words], axis=1)[:, order])

    def remove(self, keys: Keys) -> int:
        """Remove hashes by key; unknown keys are no error. Returns how many were there.

        Raises:
            ValueError: shape or type is wrong, or a key comes twice.
        """
        keys = self._checked_keys(keys)
        with self._writing:
            old = self._state
            stay = numpy.isin(old.keys, keys, invert=True)
            self._state = _State(old.keys[stay], old.words[:, stay])
            return len(old.keys) - len(self._state.keys)

    def search(self, hashes: Words, radius: int, *, limit: int | None = None) -> Neighbours:
        """Find all hashes within `radius` of each query.

        Args:
            hashes: the queries, shaped as in `add`.
            radius: differing bits, 0 to 64 or 128.
            limit: at most so many per query, the nearest first; equally near ones by key.

        Raises:
            ValueError: shape, type, radius or limit is wrong.
        """
        words = self._checked_words(hashes)
        radius = self._checked_radius(radius)
        limit = None if limit is None else _positive(limit, "limit")
        state = self._state
        found = [self._search_one(state, query, words[:, query], radius, limit) for query in range(words.shape[1])]
        return _joined(found)

    def nearest(self, hashes: Words, k: int) -> Neighbours:
        """Find the `k` nearest hashes of each query (fewer when the index has fewer); equally near ones by key.

        Raises:
            ValueError: shape, type or k is wrong.
        """
        return self.search(hashes, self._bits, limit=_positive(k, "k"))

    def pairs(self, radius: int) -> Iterator[Pairs]:
        """Find every unordered pair of hashes within `radius` once, in blocks.

        The pairs are those of the index as it was when the first block was asked for.

        Raises:
            ValueError: the radius is wrong.
        """
        return self._pairs(self._checked_radius(radius))

    def _pairs(self, radius: int) -> Iterator[Pairs]:
        state = self._state
        for place in range(len(state.keys)):
            rest = _State(state.keys[place + 1 :], state.words[:, place + 1 :])
            found = self._search_one(rest, 0, state.words[:, place], radius, None)
            if len(found.key):
                yield Pairs(numpy.full(len(found.key), state.keys[place]), found.key, found.distance)

    def _search_one(self, state: _State, query: int, words: Words, radius: int, limit: int | None) -> Neighbours:
        keys, distances = [], []
        for start in range(0, len(state.keys), _BLOCK):
            apart = numpy.bitwise_count(state.words[:, start : start + _BLOCK] ^ words[:, None]).sum(0, numpy.uint8)
            near = numpy.flatnonzero(apart <= radius)
            keys.append(state.keys[start + near])
            distances.append(apart[near])
        if not keys:
            return _joined([])
        key, distance = numpy.concatenate(keys), numpy.concatenate(distances)
        order = numpy.lexsort((key, distance))[:limit]
        return Neighbours(numpy.full(len(order), query), key[order], distance[order])

    def _checked_keys(self, keys: Keys) -> Keys:
        _check_array(keys, "Keys", numpy.int64, "(n,)", lambda shape: len(shape) == 1)
        ordered = numpy.sort(keys)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(again):
            raise ValueError(f"A key comes at most once in a call; {again[0]} comes twice.")
        return keys

    def _checked_words(self, hashes: Words) -> Words:
        """The hashes with shape (words, n)."""
        if self._bits == 64:
            _check_array(hashes, "Hashes of 64 bits", numpy.uint64, "(n,)", lambda shape: len(shape) == 1)
            return hashes.reshape(1, -1)
        _check_array(
            hashes, "Hashes of 128 bits", numpy.uint64, "(n, 2)", lambda shape: len(shape) == 2 and shape[1] == 2
        )
        return hashes.T

    def _checked_radius(self, radius: int) -> int:
        radius = _whole(radius, "radius")
        if not 0 <= radius <= self._bits:
            raise ValueError(f"A radius over {self._bits} bits is 0 to {self._bits}, not {radius}.")
        return radius


def _joined(found: list[Neighbours]) -> Neighbours:
    return Neighbours(
        numpy.concatenate([numpy.empty(0, numpy.int64), *(each.query for each in found)]),
        numpy.concatenate([numpy.empty(0, numpy.int64), *(each.key for each in found)]),
        numpy.concatenate([numpy.empty(0, numpy.uint8), *(each.distance for each in found)]),
    )


def _check_array(array: object, what: str, dtype: type[Any], form: str, fits: Any) -> None:
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
