# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Search against brute force: every answer is exact, on even and on crowded hashes, after any history."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobius.dhash import Dhash, HammingIndex, Neighbours
from mobius.dhash._search import index as index_module
from mobius.dhash._search import snapshot

WORD = st.integers(0, 2**64 - 1)
DHASHES = st.builds(Dhash, rows=WORD, columns=WORD)


@pytest.mark.slow
@given(DHASHES, DHASHES, DHASHES)
def test_distance_is_a_metric(a: Dhash, b: Dhash, c: Dhash) -> None:
    assert a.distance(a) == 0
    assert (a.distance(b) == 0) == (a == b)
    assert a.distance(b) == b.distance(a) <= 128
    assert a.distance(c) <= a.distance(b) + b.distance(c)


@contextlib.contextmanager
def searching_by(way: str) -> Iterator[None]:
    """Make few hashes be searched in the way that many are: by tables, or by both (which takes what it thinks cheaper),
    with a tail that is often sorted in.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_TAIL_MIN_HASHES", 20)
        if way != "scan":
            patch.setattr(snapshot, "_MIN_HASHES_FOR_TABLES", 30)
            patch.setattr(snapshot, "_SCAN_NS_PER_HASH", 1e9 if way == "tables" else 100.0)
            patch.setattr(snapshot, "_BLOCK_COST_NS", 100_000.0)
        yield


WAYS = st.sampled_from(["scan", "tables", "both"])


def made(seed: int, count: int, bits: int, crowded: bool) -> numpy.ndarray:
    """Hashes, shape (count,) or (count, 2): even ones, or copies of few with some bits changed, as dhashes crowd."""
    random = numpy.random.default_rng(seed)
    shape = (count,) if bits == 64 else (count, 2)
    if not crowded:
        return random.integers(0, 2**64, shape, dtype=numpy.uint64)
    few = random.integers(0, 2**64, (1 + count // 50, *shape[1:]), dtype=numpy.uint64)
    few[0] = 0
    hashes = few[random.integers(0, len(few), count)]
    for _ in range(8):
        hashes ^= numpy.where(random.random(shape) < 0.5, 0, 1 << random.integers(0, 64, shape)).astype(numpy.uint64)
    return hashes


def distances(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """Shape (len(a), len(b))."""
    apart = numpy.bitwise_count(a[:, None] ^ b[None, :])
    return apart if apart.ndim == 2 else apart.sum(2)


def rows(found: Neighbours) -> list[tuple[int, int, int]]:
    return list(zip(found.query.tolist(), found.distance.tolist(), found.key.tolist(), strict=True))


def brute(keys: numpy.ndarray, hashes: numpy.ndarray, queries: numpy.ndarray, radius: int, limit: int | None = None):
    expected = []
    for query, apart in enumerate(distances(queries, hashes)):
        near = sorted((int(apart[i]), int(keys[i])) for i in numpy.flatnonzero(apart <= radius))
        expected += [(query, *one) for one in near[:limit]]
    return expected


def brute_pairs(keys: numpy.ndarray, hashes: numpy.ndarray, radius: int) -> set[tuple[int, int, int]]:
    apart = distances(hashes, hashes)
    return {
        (int(min(keys[i], keys[j])), int(max(keys[i], keys[j])), int(apart[i, j]))
        for i, j in numpy.argwhere(apart <= radius)
        if i < j
    }


def all_pairs(index: HammingIndex, radius: int) -> list[tuple[int, int, int]]:
    return [
        row
        for block in index.pairs(radius)
        for row in zip(block.first.tolist(), block.second.tolist(), block.distance.tolist(), strict=True)
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    way=WAYS,
    seed=st.integers(0, 2**32),
    count=st.integers(0, 400),
    bits=st.sampled_from([64, 128]),
    crowded=st.booleans(),
    radius=st.integers(0, 40),
    limit=st.none() | st.integers(1, 5),
)
def test_answers_are_those_of_brute_force(
    way: str, seed: int, count: int, bits: int, crowded: bool, radius: int, limit: int | None
) -> None:
    hashes = made(seed, count, bits, crowded)
    keys = numpy.random.default_rng(seed).permutation(count).astype(numpy.int64) - count // 2
    queries = numpy.concatenate([hashes[:3], made(seed, 9, bits, crowded), made(seed + 1, 2, bits, False)])
    with searching_by(way):
        index = HammingIndex(bits)
        index.add(keys, hashes)
        assert len(index) == count
        assert rows(index.search(queries, radius, limit=limit)) == brute(keys, hashes, queries, radius, limit)
        assert rows(index.nearest(queries, limit or 3)) == brute(keys, hashes, queries, bits, limit or 3)
        pairs = all_pairs(index, radius)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute_pairs(keys, hashes, radius)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 60), st.integers(0, 2**32)), max_size=12
)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(way=WAYS, changes=CHANGES, bits=st.sampled_from([64, 128]), crowded=st.booleans(), radius=st.integers(0, 24))
def test_any_history_of_changes_leaves_what_a_dictionary_holds(
    way: str, changes: list[tuple[str, int, int]], bits: int, crowded: bool, radius: int
) -> None:
    index, held = HammingIndex(bits), {}
    queries = made(1, 5, bits, crowded)
    for change, count, seed in changes:
        keys = numpy.random.default_rng(seed).permutation(100)[:count].astype(numpy.int64)
        with searching_by(way):
            if change == "add":
                hashes = made(seed, count, bits, crowded)
                index.add(keys, hashes)
                held.update(zip(keys.tolist(), hashes, strict=True))
            else:
                assert index.remove(keys) == sum(held.pop(key, None) is not None for key in keys.tolist())
            assert len(index) == len(held)
            keys = numpy.array(list(held), numpy.int64)
            hashes = numpy.array(list(held.values()), numpy.uint64).reshape(made(0, len(held), bits, False).shape)
            assert rows(index.search(queries, radius)) == brute(keys, hashes, queries, radius)
            assert rows(index.nearest(queries, 3)) == brute(keys, hashes, queries, bits, 3)
            pairs = all_pairs(index, radius)
            assert len(pairs) == len(set(pairs))
            assert set(pairs) == brute_pairs(keys, hashes, radius)


def test_equally_near_hashes_come_by_key() -> None:
    index = HammingIndex(64)
    index.add(numpy.array([7, -3, 5, 9]), numpy.array([1, 2, 4, 0], numpy.uint64))
    query = numpy.zeros(1, numpy.uint64)
    assert rows(index.nearest(query, 3)) == [(0, 0, 9), (0, 1, -3), (0, 1, 5)]
    assert rows(index.search(query, 1, limit=2)) == [(0, 0, 9), (0, 1, -3)]


def test_a_query_of_the_widest_radius_finds_everything() -> None:
    index = HammingIndex(128)
    index.add(numpy.array([1, 2]), numpy.array([[0, 0], [2**64 - 1, 2**64 - 1]], numpy.uint64))
    assert rows(index.search(numpy.zeros((1, 2), numpy.uint64), 128)) == [(0, 0, 1), (0, 128, 2)]


def test_what_the_caller_does_to_its_arrays_afterwards_changes_nothing() -> None:
    index = HammingIndex(64)
    keys, hashes = numpy.array([1, 2]), numpy.array([10, 20], numpy.uint64)
    index.add(keys, hashes)
    keys[:], hashes[:] = 0, 0
    assert rows(index.search(numpy.array([20], numpy.uint64), 0)) == [(0, 0, 2)]


@pytest.mark.slow
def test_readers_see_the_index_before_or_after_a_change() -> None:
    """One writer moves all hashes between two places; a reader must always find all of them in one of the two."""
    index = HammingIndex(64)
    keys = numpy.arange(500)
    places = numpy.zeros(500, numpy.uint64), numpy.full(500, 2**64 - 1, numpy.uint64)
    index.add(keys, places[0])
    over, odd = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            seen = numpy.bincount(index.search(numpy.array([0, 2**64 - 1], numpy.uint64), 0).query, minlength=2)
            if sorted(seen) != [0, 500]:
                odd.append(seen)
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for change in range(200):
        index.add(keys, places[(change + 1) % 2])
    over.set()
    for reader in readers:
        reader.join()
    assert not odd


KEYS = numpy.arange(2)
HASHES = numpy.zeros(2, numpy.uint64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda index: index.add([0, 1], HASHES), "Keys are a numpy array of int64, not list."),
        (
            lambda index: index.add(KEYS.astype(numpy.int32), HASHES),
            "Keys are int64 of shape (n,), not int32 of shape (2,).",
        ),
        (
            lambda index: index.add(KEYS, HASHES.astype(numpy.int64)),
            "Hashes of 64 bits are uint64 of shape (n,), not int64 of shape (2,).",
        ),
        (
            lambda index: index.add(KEYS, HASHES.reshape(1, 2)),
            "Hashes of 64 bits are uint64 of shape (n,), not uint64 of shape (1, 2).",
        ),
        (lambda index: index.add(KEYS, HASHES[:1]), "There are 2 keys for 1 hashes."),
        (lambda index: index.add(numpy.array([5, 5]), HASHES), "A key comes at most once in a call; 5 comes twice."),
        (lambda index: index.remove(numpy.array([5, 5])), "A key comes at most once in a call; 5 comes twice."),
        (lambda index: index.search(HASHES, 65), "A radius over 64 bits is 0 to 64, not 65."),
        (lambda index: index.search(HASHES, -1), "A radius over 64 bits is 0 to 64, not -1."),
        (lambda index: index.search(HASHES, 1.5), "A radius is a whole number, not 1.5."),
        (lambda index: index.search(HASHES, 1, limit=0), "A limit is at least 1, not 0."),
        (lambda index: index.nearest(HASHES, 0), "A k is at least 1, not 0."),
        (lambda index: index.pairs(65), "A radius over 64 bits is 0 to 64, not 65."),
        (lambda index: HammingIndex(96), "An index is over 64 or 128 bits, not 96."),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, words: str) -> None:
    index = HammingIndex(64)
    index.add(numpy.array([7]), HASHES[:1])
    with pytest.raises(ValueError) as refused:
        call(index)
    assert str(refused.value) == words
    assert rows(index.search(HASHES[:1], 64)) == [(0, 0, 7)]


def test_hashes_of_128_bits_have_two_words() -> None:
    with pytest.raises(ValueError, match=r"uint64 of shape \(n, 2\), not uint64 of shape \(2,\)"):
        HammingIndex(128).add(KEYS, HASHES)
