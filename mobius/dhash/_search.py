# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exact search for near hashes by Hamming distance: within a radius, the nearest, and all pairs.

Multi-index hashing (Norouzi, Punjani and Fleet, 2012): a hash is cut into chunks of 16 bits; of two hashes at most
r bits apart, some chunk differs in few bits, so only the buckets of similar chunks have to be looked into. Four things
make it quick in numpy, and on real dhashes:

- Neighbouring bits of a dhash go together, so chunks of neighbouring bits crowd into few buckets (15 to 100 times more
  than random ones). Each chunk here takes its bits from all over the grid (8 times, and 1.5 with those next to it).
- How many bits a chunk may differ in is chosen anew for each query, by counts of what lies around each bucket
  (as Qin et al., GPH, 2018): the r + 1 cheapest steps. Any such choice is exact, by the pigeonhole principle.
- Each chunk has a table of all hashes, rotated so that the chunk comes first, and sorted: a bucket is one run of
  memory, read at the speed of a scan. Rotated hashes stand for themselves, so the tables need no row numbers.
- When the counts say that a scan of everything is cheaper, then it is a scan.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy
from numpy.typing import NDArray

Keys = NDArray[numpy.int64]
Places = NDArray[numpy.int64]
Words = NDArray[numpy.uint64]
Distances = NDArray[numpy.uint8]
Hits = tuple[Places, Places, Distances]
"""Which query, which place in what was searched, how far. Shapes (n,)."""

_CHUNKS: Final = 4
"""Chunks of a word."""
_VALUES: Final = 1 << 16
"""Values of a chunk."""
_LEVELS: Final = 5
"""Bits that a chunk may differ in: 0 to 4. Beyond that a scan is cheaper."""

_TABLES_FROM: Final = 1 << 16
"""Fewer hashes than this are scanned."""
_BLOCK: Final = 1 << 16
"""Distances computed at once: what fits into a core's cache."""
_RUN: Final = 32
"""Hashes in a bucket, on average, from which it is quicker to copy buckets whole than to gather their hashes."""
# Nanoseconds, measured; only the choice of the cheaper way hangs on them.
_SCAN_COST: Final = 0.65
_HASH_COST: Final = 2.0
_BUCKET_COST: Final = 60.0
_QUERIES_COST: Final = 200_000.0
"""How much to look for at once."""
_QUERIES: Final = 4096
"""Queries taken up at once."""
_TAIL: Final = 4096
_TAIL_SHARE: Final = 64
"""The tail is sorted in when it has more hashes than this, and than this share of all."""


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


class _Sorted:
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
        self.tables: Final = _Tables(words) if len(keys) >= _TABLES_FROM else None
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
            yield from _scan(self.words, words, radius, after)
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
            for query, row, apart in _scan(self.words, words[:, rest], radius, behind_rest):
                yield rest[query], row, apart

    @property
    def nbytes(self) -> int:
        held = self.tables.nbytes if self.tables else self.words[0].nbytes
        return self.keys.nbytes + self.rank.nbytes + held + sum(word.nbytes for word in self.words[1:])


class _Tables:
    """For each chunk of each word all hashes' words, rotated so that the chunk comes first, and sorted.

    Attributes:
        flat: shape (words * chunks * n,), one table behind the other.
        words: for each word its values by row. The first is the first table.
        rows: shape (n,), for each place in the first table of the second word its row; None with one word.
        starts: shape (words * chunks, values + 1), where in `flat` the bucket of each value of the chunk starts.
        costs: shape (words * chunks, values, levels), nanoseconds to look at what differs from that value in exactly
            so many bits, or in fewer if that is more.
    """

    def __init__(self, words: list[Words]) -> None:
        """Build the tables of words by row. Replaces `words[0]` by its equal, the first table."""
        count, tables = len(words[0]), len(words) * _CHUNKS
        flat = numpy.empty((tables, count), numpy.uint64)
        flat[0] = words[0]
        words[0] = flat[0]
        self.words: Final = tuple(words)
        self.rows: NDArray[numpy.uint32] | None = None
        self.starts: Final = numpy.empty((tables, _VALUES + 1), numpy.int64)
        self.costs: Final = numpy.empty((tables, _VALUES, _LEVELS), numpy.float32)
        for table in range(tables):
            word, turn = divmod(table, _CHUNKS)
            if turn == 0 and word > 0:
                self.rows = numpy.argsort(self.words[word]).astype(numpy.uint32)
                flat[table] = self.words[word][self.rows]
            elif turn > 0:
                flat[table] = _turned(self.words[word], turn * 16)
                flat[table].sort()
            firsts = numpy.arange(_VALUES, dtype=numpy.uint64) << numpy.uint64(48)
            self.starts[table, :-1] = numpy.searchsorted(flat[table], firsts)
            self.starts[table, -1] = count
            self.costs[table] = _costs(numpy.diff(self.starts[table]))
            self.starts[table] += table * count
        self.flat: Final = flat.reshape(-1)

    @property
    def nbytes(self) -> int:
        held = self.flat.nbytes + self.starts.nbytes + self.costs.nbytes
        return held + (0 if self.rows is None else self.rows.nbytes)

    def plan(self, words: Words, radius: int) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
        """For each query: how many levels to look at in each table, and the nanoseconds that this takes.

        With s steps over all chunks, hashes at most s - 1 bits apart differ by less than its number of levels in some
        chunk; so radius + 1 steps find all, wherever they are taken. The shapes are (queries, tables) and (queries,).
        """
        queries, tables, steps = words.shape[1], len(words) * _CHUNKS, radius + 1
        if steps > tables * _LEVELS:
            return numpy.zeros((queries, tables), numpy.int64), numpy.full(queries, numpy.inf)
        costs = self.costs[numpy.arange(tables), _chunks(words)]
        costs = costs.swapaxes(1, 2).reshape(
            queries, _LEVELS * tables
        )  # lower levels first, and costs never fall with the level
        cheapest = numpy.argsort(costs, axis=1, kind="stable")[:, :steps]
        taken = numpy.zeros(costs.shape, bool)
        numpy.put_along_axis(taken, cheapest, True, axis=1)
        levels = taken.reshape(queries, _LEVELS, tables).sum(1)
        return levels, numpy.take_along_axis(costs, cheapest, 1).sum(1, dtype=numpy.float64)

    def probe(self, words: Words, radius: int, levels: NDArray[numpy.int64]) -> Hits:
        """Find each row within the radius of a query once. Shapes (words, queries) and (queries, tables)."""
        tables = levels.shape[1]
        first, count, source = self._buckets(_chunks(words), levels)
        if len(first) == 0:
            return _no_hits()
        turned = numpy.stack([_turned(word, turn * 16) for word in words for turn in range(_CHUNKS)], axis=1).ravel()
        ends = numpy.cumsum(count)
        total = int(ends[-1])
        if total >= _RUN * len(first):
            runs = zip(first.tolist(), (first + count).tolist(), strict=True)
            apart = numpy.concatenate([self.flat[start:end] for start, end in runs])
        else:
            places = numpy.arange(total)
            places += numpy.repeat(first - (ends - count), count)
            apart = self.flat[places]
        apart ^= numpy.repeat(turned[source], count)
        # Per word: whoever is farther off in this word than its steps say is near enough in the other.
        allowed = levels.reshape(-1, len(words), _CHUNKS).sum(2) - 1
        bound = (
            radius if len(words) == 1 else numpy.repeat(allowed.astype(numpy.int8).ravel()[source // _CHUNKS], count)
        )
        near = numpy.flatnonzero(numpy.bitwise_count(apart).astype(numpy.int8) <= bound)
        if len(near) == 0:
            return _no_hits()

        bucket = numpy.searchsorted(ends, near, side="right")
        query, table = numpy.divmod(source[bucket], tables)
        word, turn = numpy.divmod(table, _CHUNKS)
        differing = _turned(apart[near], (64 - turn * 16) % 64)
        value = words[word, query] ^ differing
        # Once only: by the first chunk that finds it, and one of equal words, which are neighbours in their bucket.
        by_chunk = (
            numpy.bitwise_count(_chunks(differing[None, :])) < levels.reshape(-1, len(words), _CHUNKS)[query, word]
        )
        once = by_chunk.argmax(1) == turn
        once[1:] &= (value[1:] != value[:-1]) | (bucket[1:] != bucket[:-1])
        query, word, value = query[once], word[once], value[once]
        return self._rows_of(words, radius, allowed, query, word, value)

    def _buckets(
        self, chunks: NDArray[numpy.int64], levels: NDArray[numpy.int64]
    ) -> tuple[Places, NDArray[numpy.int64], NDArray[numpy.int64]]:
        """Of the buckets to look at that are not empty: start, size, and query * tables + table."""
        tables = levels.shape[1]
        found, sources = [], []
        for level, masks in enumerate(_masks()):
            query, table = numpy.nonzero(levels > level)
            if len(query) == 0:
                break
            near = (chunks[query, table, None] ^ masks) + table[:, None] * (_VALUES + 1)
            found.append(near.ravel())
            sources.append(numpy.repeat(query * tables + table, len(masks)))
        if not found:
            return numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64)
        bucket, source = numpy.concatenate(found), numpy.concatenate(sources)
        starts = self.starts.reshape(-1)
        first = starts[bucket]
        count = starts[bucket + 1] - first
        full = numpy.flatnonzero(count)
        return first[full], count[full], source[full]

    def _rows_of(
        self, words: Words, radius: int, allowed: NDArray[numpy.int64], query: Places, word: Places, value: Words
    ) -> Hits:
        """The rows of words that were found, with their distances over all words."""
        if self.rows is None:
            query, row = _runs(self.words[0], query, value)
            return query, row, numpy.bitwise_count(words[0, query] ^ self.words[0][row])
        by_first, by_second = word == 0, word == 1
        query0, row0 = _runs(self.words[0], query[by_first], value[by_first])
        second = self.flat[_CHUNKS * len(self.rows) :][: len(self.rows)]
        query1, place = _runs(second, query[by_second], value[by_second])
        query, row = (
            numpy.concatenate([query0, query1]),
            numpy.concatenate([row0, self.rows[place].astype(numpy.int64)]),
        )
        apart = numpy.bitwise_count(words[0, query] ^ self.words[0][row])
        again = apart <= allowed[query, 0]
        again[: len(query0)] = False
        apart += numpy.bitwise_count(words[1, query] ^ self.words[1][row])
        near = numpy.flatnonzero((apart <= radius) & ~again)
        return query[near], row[near], apart[near]


@dataclass(frozen=True)
class _State:
    """What readers see: never changed, only replaced. A *place* is one in `main.keys`, or behind them in the tail.

    Attributes:
        main: most hashes.
        keys, words: the tail, what came since main was sorted; shapes (m,) and (words, m). The arrays behind these
            views grow, but what a view shows stays.
        dead: shape (d,), ascending: places that no longer count.
    """

    main: _Sorted
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
        for query, at, apart in _scan(tuple(self.words), words, radius):
            place = at + len(self.main)
            alive = self.alive(place)
            yield query[alive], place[alive], apart[alive]

    def nearest(self, words: Words, k: int) -> Iterator[Hits]:
        """Places among which are the `k` nearest of each query, in blocks."""
        rest = numpy.arange(words.shape[1])
        tables = self.main.tables
        step = len(words) * _CHUNKS
        for radius in range(step - 1, step * _LEVELS if tables else 0, step):
            assert tables is not None
            cheap = rest[tables.plan(words[:, rest], radius)[1] < self.main.scan_cost / 4]
            if len(cheap) == 0:
                break
            query, place, apart = _joined(self.near(words[:, cheap], radius))
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
            for start in range(0, len(held[0]), _BLOCK):
                apart = _apart(held, start, start + _BLOCK, word[:, None])[0]
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
        for start in range(0, count, _QUERIES):
            rows = numpy.arange(start, min(start + _QUERIES, count))
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
        for query, at, apart in _scan(tuple(tail), tail, radius, after=numpy.arange(len(own))):
            yield own[query], own[at], apart


class HammingIndex:
    """Hashes of 64 or 128 bits by key, searched by Hamming distance. Every answer is exact.

    Hashes are uint64, shape (n,) for 64 bits and (n, 2) for 128 (rows and columns of a `Dhash`; the distance is the sum
    over both). Keys are int64, shape (n,).

    Several threads may read while others write: a reader sees the index before or after a change, never between.

    Memory for a million hashes: 51 MB over 64 bits and 103 MB over 128 (of ten million 45 and 90), and twice that for a
    moment whenever what was added or removed since the last time comes to a 64th of all and is sorted in.
    """

    def __init__(self, bits: Literal[64, 128] = 128) -> None:
        if bits not in (64, 128):
            raise ValueError(f"An index is over 64 or 128 bits, not {bits}.")
        self._words: Final = bits // 64
        self._writing: Final = threading.Lock()
        self._tail_keys: Keys
        self._tail_words: Words
        self._state = self._sorted(numpy.empty(0, numpy.int64), list(numpy.empty((self._words, 0), numpy.uint64)))

    def __len__(self) -> int:
        state = self._state
        return len(state.main) + len(state.keys) - len(state.dead)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index holds."""
        state = self._state
        return state.main.nbytes + self._tail_keys.nbytes + self._tail_words.nbytes + state.dead.nbytes

    def add(self, keys: Keys, hashes: Words) -> None:
        """Add hashes under their keys; a key that is there already gets the new hash.

        Raises:
            ValueError: shape or type is wrong, or a key comes twice. Nothing was added then.
        """
        self._check_keys(keys)
        self._check_hashes(hashes)
        if len(keys) != len(hashes):
            raise ValueError(f"There are {len(keys)} keys for {len(hashes)} hashes.")
        with self._writing:
            self._change(keys, _spread(hashes))

    def remove(self, keys: Keys) -> int:
        """Remove hashes by key; unknown keys are no error. Returns how many were there.

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
            limit: at most so many per query, the nearest first; equally near ones by key.

        Raises:
            ValueError: shape, type, radius or limit is wrong.
        """
        self._check_hashes(hashes)
        radius = self._checked_radius(radius)
        limit = None if limit is None else _positive(limit, "limit")
        state = self._state
        return _neighbours(state, hashes, lambda words: state.near(words, radius), limit)

    def nearest(self, hashes: Words, k: int) -> Neighbours:
        """Find the `k` nearest hashes of each query (fewer when the index has fewer); equally near ones by key.

        Raises:
            ValueError: shape, type or k is wrong.
        """
        self._check_hashes(hashes)
        k = _positive(k, "k")
        state = self._state
        return _neighbours(state, hashes, lambda words: state.nearest(words, k), k)

    def pairs(self, radius: int) -> Iterator[Pairs]:
        """Find every unordered pair of hashes within `radius` once, in blocks.

        The pairs are those of the index as it was at the call. The memory needed is that of a block.

        Raises:
            ValueError: the radius is wrong.
        """
        return _pairs(self._state, self._checked_radius(radius))

    def _change(self, keys: Keys, words: Words | None) -> None:
        """Replace the state by one without `keys`, or with new words for them."""
        state = self._state
        dead = numpy.sort(numpy.concatenate([state.dead, state.places_of(keys)]))
        held, more = len(state.keys), 0 if words is None else len(keys)
        most = max(_TAIL, len(state.main) // _TAIL_SHARE)
        if held + more > most or len(dead) > most:
            alive = numpy.ones(len(state.main) + held, bool)
            alive[dead] = False
            rows, tail = alive[state.main.rank], alive[len(state.main) :]
            all_keys = [state.main.keys[state.main.rank[rows]], state.keys[tail]]
            all_words = [[old[rows], new[tail]] for old, new in zip(state.main.words, state.words, strict=True)]
            if words is not None:
                all_keys.append(keys)
                for word in range(self._words):
                    all_words[word].append(words[word])
                del words
            self._state = self._sorted(numpy.concatenate(all_keys), [numpy.concatenate(pieces) for pieces in all_words])
            return
        if words is not None:
            if held + more > len(self._tail_keys):
                room = 2 * (held + more)
                # readers may still look at the old arrays
                self._tail_keys = numpy.concatenate([state.keys, numpy.empty(room - held, numpy.int64)])
                free = numpy.empty((self._words, room - held), numpy.uint64)
                self._tail_words = numpy.concatenate([state.words, free], axis=1)
            self._tail_keys[held : held + more] = keys
            self._tail_words[:, held : held + more] = words
        self._state = _State(state.main, self._tail_keys[: held + more], self._tail_words[:, : held + more], dead)

    def _sorted(self, keys: Keys, words: list[Words]) -> _State:
        """A state with an empty tail."""
        self._tail_keys = numpy.empty(0, numpy.int64)
        self._tail_words = numpy.empty((self._words, 0), numpy.uint64)
        return _State(_Sorted(keys, words), self._tail_keys, self._tail_words, numpy.empty(0, numpy.int64))

    def _check_keys(self, keys: Keys) -> None:
        _check_array(keys, "Keys", numpy.int64, "(n,)", lambda shape: len(shape) == 1)
        ordered = numpy.sort(keys)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(again):
            raise ValueError(f"A key comes at most once in a call; {again[0]} comes twice.")

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


def _neighbours(state: _State, hashes: Words, find: Callable[[Words], Iterator[Hits]], limit: int | None) -> Neighbours:
    queries, keys, distances = [], [], []
    for start in range(0, len(hashes), _QUERIES):
        query, place, apart = _joined(find(_spread(hashes[start : start + _QUERIES])))
        key = state.keys_at(place)
        order = numpy.lexsort((key, apart, query))
        query, key, apart = query[order], key[order], apart[order]
        if limit is not None:
            first = numpy.searchsorted(query, query)
            kept = numpy.arange(len(query)) - first < limit
            query, key, apart = query[kept], key[kept], apart[kept]
        queries.append(query + start)
        keys.append(key)
        distances.append(apart)
    if not queries:
        return Neighbours(*_no_hits())
    return Neighbours(numpy.concatenate(queries), numpy.concatenate(keys), numpy.concatenate(distances))


def _pairs(state: _State, radius: int) -> Iterator[Pairs]:
    waiting: list[Hits] = []
    length = 0
    for hits in state.pairs(radius):
        # where little is near there are ten thousands of empty ones on the way to a block
        if len(hits[2]):
            waiting.append(hits)
            length += len(hits[2])
        if length >= _BLOCK:
            yield _as_pairs(state, _joined(waiting))
            waiting, length = [], 0
    if waiting:
        yield _as_pairs(state, _joined(waiting))


def _as_pairs(state: _State, hits: Hits) -> Pairs:
    one, other = state.keys_at(hits[0]), state.keys_at(hits[1])
    return Pairs(numpy.minimum(one, other), numpy.maximum(one, other), hits[2])


def _scan(held: tuple[Words, ...], words: Words, radius: int, after: Places | None = None) -> Iterator[Hits]:
    """Compare all with all, in blocks; with `after`, shape (queries,), only what lies behind that for each query."""
    count, queries = len(held[0]), words.shape[1]
    if count == 0:
        return
    high = max(1, min(queries, 16))
    high = max(high, min(queries, _BLOCK // count))
    wide = max(1, _BLOCK // high)
    for top in range(0, queries, high):
        some = words[:, top : top + high]
        behind = None if after is None else after[top : top + high]
        for start in range(0 if behind is None else int(behind.min()) + 1, count, wide):
            apart = _apart(held, start, start + wide, some)
            near = numpy.flatnonzero(apart <= radius)
            if len(near) == 0:
                continue
            query, place = numpy.divmod(near, apart.shape[1])
            place += start
            apart = apart.ravel()[near]
            if behind is not None:
                kept = place > behind[query]
                query, place, apart = query[kept], place[kept], apart[kept]
            yield query + top, place, apart


def _apart(held: tuple[Words, ...], start: int, end: int, words: Words) -> Distances:
    """Distances of queries, shape (words, queries), from a stretch of what is held: shape (queries, end - start)."""
    apart: Distances = numpy.bitwise_count(held[0][start:end] ^ words[0, :, None])
    for word in range(1, len(held)):
        apart += numpy.bitwise_count(held[word][start:end] ^ words[word, :, None])
    return apart


def _spread(hashes: Words) -> Words:
    """Hashes, shape (n,) or (n, 2), with the bits of each word put into the order of the chunks; shape (words, n)."""
    count = len(hashes)
    octets = numpy.ascontiguousarray(hashes).view(numpy.uint8).reshape(count, hashes.ndim, 8)
    words = numpy.empty((hashes.ndim, count), numpy.uint64)
    for start in range(0, count, _BLOCK):
        parts = _spreading()[numpy.arange(8), octets[start : start + _BLOCK]]
        words[:, start : start + _BLOCK] = numpy.bitwise_or.reduce(parts, axis=2).T
    return words


@functools.cache
def _spreading() -> Words:
    """Shape (8, 256): where the bits of each byte go. Bit x of byte y, a cell of the grid, goes to chunk x + y."""
    spread = numpy.zeros((8, 256), numpy.uint64)
    octet = numpy.arange(256, dtype=numpy.uint64)
    for y in range(8):
        for x in range(8):
            to = (x + y) % _CHUNKS * 16 + y * 2 + x // 4
            spread[y] |= (octet >> numpy.uint64(x) & numpy.uint64(1)) << numpy.uint64(to)
    return spread


def _chunks(words: Words) -> NDArray[numpy.int64]:
    """The chunks of words, shape (words, n), each from its top: shape (n, words * chunks)."""
    turns = numpy.arange(48, -1, -16, dtype=numpy.uint64)
    chunks = (words.T[:, :, None] >> turns) & numpy.uint64(_VALUES - 1)
    return chunks.reshape(words.shape[1], len(words) * _CHUNKS).astype(numpy.int64)


def _turned(words: Words, by: int | NDArray[numpy.int64]) -> Words:
    """Words rotated to the left by so many bits, 0 to 63."""
    left = numpy.asarray(by, numpy.uint64)
    return (words << left) | (words >> ((numpy.uint64(64) - left) & numpy.uint64(63)))


@functools.cache
def _masks() -> tuple[NDArray[numpy.int64], ...]:
    """For each level the values with so many bits."""
    values = numpy.arange(_VALUES)
    bits = numpy.bitwise_count(values)
    return tuple(values[bits == level] for level in range(_LEVELS))


def _costs(counts: NDArray[numpy.int64]) -> NDArray[numpy.float32]:
    """Nanoseconds to look at each level round each value of a chunk, shape (values, levels), of counts by value."""
    around = numpy.zeros((_LEVELS, _VALUES), numpy.int32)
    around[0] = counts
    for bit in range(16):
        halves = around.reshape(_LEVELS, -1, 2, 1 << bit)
        halves[1:] += halves[:-1, :, ::-1]
    buckets = numpy.array([len(masks) for masks in _masks()])
    costs = around.T * _HASH_COST + buckets * _BUCKET_COST
    return numpy.maximum.accumulate(costs, axis=1).astype(numpy.float32)


def _runs(ordered: Words, query: Places, value: Words) -> tuple[Places, Places]:
    """Every place in an ascending array where the values are: which query, which place."""
    first = numpy.searchsorted(ordered, value)
    count = numpy.searchsorted(ordered, value, side="right") - first
    ends = numpy.cumsum(count)
    places = numpy.arange(int(ends[-1]) if len(ends) else 0) + numpy.repeat(first - (ends - count), count)
    return numpy.repeat(query, count), places


def _no_hits() -> Hits:
    return numpy.empty(0, numpy.int64), numpy.empty(0, numpy.int64), numpy.empty(0, numpy.uint8)


def _joined(blocks: Iterable[Hits]) -> Hits:
    found = list(blocks)
    if len(found) == 1:
        return found[0]
    found.append(_no_hits())
    query, place, apart = (numpy.concatenate([block[part] for block in found]) for part in range(3))
    return query, place, apart


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
