#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Time to search hashes by Hamming distance, beside faiss, a BK-tree and plain numpy; all results are compared.

Ten million pictures are not available, but hashes like theirs are: each is the hash of two real pictures blended,
mirrored and weighted at random. Random bits would not do: hashes of pictures cluster, which makes an index slow. The
first line of output is how much these cluster, compared with real ones and with random bits. Everything runs on one
thread.
"""

from __future__ import annotations

import functools
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import faiss
import numpy
import pybktree
from pictures import FOLDER, PACKAGES, fetch, pictures_in

from mobius.dhash import HammingIndex, PictureError, hash_file

Hashes = numpy.ndarray[Any, numpy.dtype[numpy.uint64]]
"""Shape (n,) for 64 bits, (n, 2) for 128."""

Search = Callable[[Hashes], frozenset[int]]
"""One query, shape (1,) or (1, 2), to the indices of all hashes within the radius."""

_BLOCK: Final = 1 << 16
_FLAT_CHECKS: Final = 20


@dataclass(frozen=True)
class Row:
    """One way on one set of hashes.

    Attributes:
        build, megabytes: seconds to build, and memory; None where the library does not report it.
        median, p95: milliseconds of a query.
        times_flat: speed relative to faiss's flat scan.
        exact: whether all results are those of the flat scan.
    """

    count: int
    bits: int
    radius: int
    way: str
    build: float
    megabytes: float | None
    median: float
    p95: float
    times_flat: float
    exact: bool


def real_grids(files: Sequence[Path]) -> tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]:
    """The compared pixels of real pictures, shapes (n, 8, 9) and (n, 9, 8)."""
    wide, tall = [], []
    for path in files:
        try:
            grids = hash_file(path).grids
        except PictureError:
            continue
        wide.append(grids[0])
        tall.append(grids[1])
    count = len(wide)
    return (
        numpy.frombuffer(b"".join(wide), numpy.uint8).reshape(count, 8, 9),
        numpy.frombuffer(b"".join(tall), numpy.uint8).reshape(count, 9, 8),
    )


def hash_grids(wide: numpy.ndarray[Any, Any], tall: numpy.ndarray[Any, Any]) -> Hashes:
    """Hashes of grids, shape (n, 2)."""
    bits = (wide[:, :, 1:] > wide[:, :, :-1], tall[:, 1:] > tall[:, :-1])
    words = [numpy.packbits(half.reshape(len(half), 64), axis=1).view(">u8").ravel() for half in bits]
    return numpy.stack(words, axis=1).astype(numpy.uint64)


def blend_hashes(count: int, wide: numpy.ndarray[Any, Any], tall: numpy.ndarray[Any, Any], seed: int) -> Hashes:
    """Hashes of blended pairs of real pictures, shape (count, 2)."""
    chance = numpy.random.default_rng(seed)
    hashes = numpy.empty((count, 2), numpy.uint64)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        one, other = chance.integers(0, len(wide), (2, size))
        share = chance.uniform(0.3, 0.7, (size, 1, 1)).astype(numpy.float32)
        mirrored = chance.integers(0, 2, size).astype(bool)
        laid = []
        for grid in (wide, tall):
            over = grid[other].astype(numpy.float32)
            over[mirrored] = over[mirrored, :, ::-1]
            laid.append(grid[one] * share + over * (1 - share))
        hashes[start : start + size] = hash_grids(laid[0], laid[1])
    return hashes


def collision_ratio(hashes: Hashes) -> float:
    """How often two hashes agree in a chunk of 16 neighbouring bits, relative to random bits."""
    words = numpy.ascontiguousarray(hashes.reshape(-1)).view(numpy.uint16).reshape(-1, 4)
    agreeing = []
    for chunk in words.T:
        counts = numpy.bincount(chunk, minlength=1 << 16).astype(float)
        agreeing.append((counts * (counts - 1)).sum() / (len(chunk) * (len(chunk) - 1.0)))
    return float(numpy.mean(agreeing)) * (1 << 16)


def queries_for(hashes: Hashes, count: int, seed: int) -> Hashes:
    """Hashes of the index with up to four bits of each word flipped."""
    chance = numpy.random.default_rng(seed)
    near = hashes[chance.integers(0, len(hashes), count)].copy()
    for _ in range(4):
        near ^= numpy.uint64(1) << chance.integers(0, 64, near.shape).astype(numpy.uint64)
    return near


def _octets(hashes: Hashes) -> numpy.ndarray[Any, numpy.dtype[numpy.uint8]]:
    return numpy.ascontiguousarray(hashes).view(numpy.uint8).reshape(len(hashes), -1)


def _mobius(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    index = HammingIndex(64 if hashes.ndim == 1 else 128)
    index.add(numpy.arange(len(hashes)), hashes)
    return lambda query: frozenset(index.search(query, radius).key.tolist()), index.nbytes / 1e6


def _numpy(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    def search(query: Hashes) -> frozenset[int]:
        distance = numpy.bitwise_count(hashes ^ query)
        if distance.ndim == 2:
            distance = distance[:, 0] + distance[:, 1]
        return frozenset(numpy.flatnonzero(distance <= radius).tolist())

    return search, hashes.nbytes / 1e6


def _faiss(index: Any, hashes: Hashes, radius: int) -> Search:
    index.add(_octets(hashes))

    def search(query: Hashes) -> frozenset[int]:
        _, _, indices = index.range_search(_octets(query), radius + 1)
        return frozenset(indices.tolist())

    return search


def _faiss_flat(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    return _faiss(faiss.IndexBinaryFlat(64 * hashes.ndim), hashes, radius), hashes.nbytes / 1e6


def _faiss_multi_hash(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    """Chunks of 16 bits, with enough flips that by the pigeonhole principle nothing is missed."""
    chunks = 4 * hashes.ndim
    index = faiss.IndexBinaryMultiHash(64 * hashes.ndim, chunks, 16)
    index.nflip = radius // chunks
    return _faiss(index, hashes, radius), None


def _bk_tree(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    values = hashes.tolist() if hashes.ndim == 1 else [(rows << 64) | columns for rows, columns in hashes.tolist()]
    tree = pybktree.BKTree(lambda one, other: (one[0] ^ other[0]).bit_count(), [])
    for index, value in enumerate(values):
        tree.add((value, index))

    def search(query: Hashes) -> frozenset[int]:
        (value,) = query.tolist()
        if isinstance(value, list):
            value = (value[0] << 64) | value[1]
        return frozenset(index for _, (_, index) in tree.find((value, 0), radius))

    return search, None


WAYS: Final[dict[str, Callable[[Hashes, int], tuple[Search, float | None]]]] = {
    "faiss flat": _faiss_flat,
    "numpy scan": _numpy,
    "mobius": _mobius,
    "faiss multi-hash": _faiss_multi_hash,
    "BK-tree": _bk_tree,
}


def measure(hashes: Hashes, radius: int, queries: Hashes, ways: Sequence[str], slow_queries: int) -> Iterator[Row]:
    """Time each way, query by query; the BK-tree only with the first `slow_queries`."""
    expected: list[frozenset[int]] = []
    flat = 0.0
    for name in ways:
        started = time.perf_counter()
        search, megabytes = WAYS[name](hashes, radius)
        build = time.perf_counter() - started
        chosen = queries[: slow_queries if name == "BK-tree" else len(queries)]
        search(chosen[:1])
        times, results = [], []
        for number in range(len(chosen)):
            started = time.perf_counter()
            results.append(search(chosen[number : number + 1]))
            times.append((time.perf_counter() - started) * 1000)
        if not expected:
            expected, flat = results, statistics.median(times)
        exact = results == expected[: len(results)]
        p95 = float(numpy.percentile(times, 95))
        median = statistics.median(times)
        yield Row(len(hashes), 64 * hashes.ndim, radius, name, build, megabytes, median, p95, flat / median, exact)
        del search


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| hashes | bits | radius | way | build, s | MB | median, ms | p95, ms | times faiss flat | exact |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory_mb = "" if row.megabytes is None else f"{row.megabytes:.0f}"
        lines.append(
            f"| {row.count:,} | {row.bits} | {row.radius} | {row.way} | {row.build:.2f} | {memory_mb}"
            f" | {row.median:.3f} | {row.p95:.3f} | {row.times_flat:.2f} | {'yes' if row.exact else 'NO'} |"
        )
    return "\n".join(lines)


def all_pairs(hashes: Hashes, radius: int) -> str:
    """Every pair within the radius, and how long faiss's flat scan would take for the same (from a sample)."""
    index = HammingIndex(64 * hashes.ndim)  # type: ignore[arg-type]
    index.add(numpy.arange(len(hashes)), hashes)
    started = time.perf_counter()
    count = sum(len(block.distance) for block in index.pairs(radius))
    ours = time.perf_counter() - started
    flat = faiss.IndexBinaryFlat(64 * hashes.ndim)
    flat.add(_octets(hashes))
    sample = _octets(hashes[: min(len(hashes), 500)])
    started = time.perf_counter()
    flat.range_search(sample, radius + 1)
    theirs = (time.perf_counter() - started) * len(hashes) / len(sample) / 2
    return (
        f"all pairs of {len(hashes):,} within {radius} of {64 * hashes.ndim} bits: {count:,} in {ours:.1f} s; half of"
        f" faiss's flat scan for every hash, from {len(sample)} of them: {theirs:.0f} s"
    )


def memory(hashes: Hashes) -> str:
    """The memory of the index, and its peak while it is built."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    index = HammingIndex(64 * hashes.ndim)  # type: ignore[arg-type]
    index.add(numpy.arange(len(hashes)), hashes)
    held, peak = (value - before for value in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    share = len(hashes) / 1e6
    return (
        f"memory of {len(hashes):,} hashes of {64 * hashes.ndim} bits: {held / 1e6:.0f} MB"
        f" ({held / 1e6 / share:.1f} MB a million), while it is built up to {peak / 1e6:.0f} MB"
    )


@click.command()
@click.option("--counts", default="100000,1000000,10000000", show_default=True, help="Hashes, with commas.")
@click.option("--queries", "query_count", default=200, show_default=True, help="Queries of each way.")
@click.option("--bk-tree-up-to", default=1_000_000, show_default=True, help="A BK-tree of more takes minutes to build.")
@click.option("--multi-hash-up-to", default=10_000_000, show_default=True, help="faiss's needs 4 GB for ten million.")
@click.option("--pairs-up-to", default=1_000_000, show_default=True, help="Find all pairs of at most so many hashes.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Real pictures.  [default: fetched]")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(
    counts: str,
    query_count: int,
    bk_tree_up_to: int,
    multi_hash_up_to: int,
    pairs_up_to: int,
    folder: Path | None,
    form: str,
) -> None:
    """Time searching beside faiss (flat and multi-hash), a BK-tree and numpy.

    \b
    python bench/search.py
    python bench/search.py --counts 20000 --folder ~/Pictures
    """
    faiss.omp_set_num_threads(1)
    if folder is None:
        names = (*PACKAGES["photographs"], *PACKAGES["stamps"])
        fetch(FOLDER, names)
        files = [path for name in names for path in pictures_in(FOLDER / name)]
    else:
        files = pictures_in(folder)
    wide, tall = real_grids(files)
    largest = max(map(int, counts.split(",")))
    every = blend_hashes(largest, wide, tall, seed=1)
    print_note = functools.partial(click.echo, err=form == "json")
    print_note(
        f"{len(wide)} real pictures; two hashes agree in 16 neighbouring bits"
        f" {collision_ratio(hash_grids(wide, tall)):.0f} times as often as random ones,"
        f" of {largest:,} made of them {collision_ratio(every[:1_000_000]):.0f} times"
    )
    print_note(f"faiss {faiss.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}\n")
    rows: list[Row] = []
    notes = []
    for count in map(int, counts.split(",")):
        ways = ["faiss flat", "numpy scan", "mobius"]
        ways += ["faiss multi-hash"] if count <= multi_hash_up_to else []
        for hashes, radius in ((every[:count, 0].copy(), 10), (every[:count], 20)):
            tree = ["BK-tree"] if count <= bk_tree_up_to and hashes.ndim == 1 else []
            rows += measure(
                hashes, radius, queries_for(hashes, query_count, seed=2), ways + tree, min(query_count, _FLAT_CHECKS)
            )
            notes.append(memory(hashes))
            if count <= pairs_up_to:
                notes.append(all_pairs(hashes, 4 if hashes.ndim == 1 else 10))
    click.echo(json.dumps([asdict(row) for row in rows]) if form == "json" else table(rows))
    print_note("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
