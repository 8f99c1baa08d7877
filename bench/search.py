#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Time to search hashes by Hamming distance, beside faiss, a BK-tree and plain numpy; every answer is compared.

Ten million pictures are not to be had, but hashes like theirs are: each is the hash of two real pictures laid over each
other, mirrored and weighted by chance. Random bits would not do: hashes of pictures crowd, which is what makes an index
slow. How much these crowd, beside the real ones and beside random bits, is said first. One thread everywhere.
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
"""One query, shape (1,) or (1, 2), to the places of all that is within the radius."""

_BLOCK: Final = 1 << 16
_FLAT_CHECKS: Final = 20


@dataclass(frozen=True)
class Row:
    """One way on one set of hashes.

    Attributes:
        build, megabytes: seconds to build, and memory held where the way can tell; 0 where it is the hashes themselves.
        median, p95: milliseconds of a query.
        times_flat: how many queries it answers while faiss's flat scan answers one.
        exact: whether all answers were those of the plain scan.
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


def hashed(wide: numpy.ndarray[Any, Any], tall: numpy.ndarray[Any, Any]) -> Hashes:
    """Hashes of grids, shape (n, 2)."""
    bits = (wide[:, :, 1:] > wide[:, :, :-1], tall[:, 1:] > tall[:, :-1])
    words = [numpy.packbits(half.reshape(len(half), 64), axis=1).view(">u8").ravel() for half in bits]
    return numpy.stack(words, axis=1).astype(numpy.uint64)


def made(count: int, wide: numpy.ndarray[Any, Any], tall: numpy.ndarray[Any, Any], seed: int) -> Hashes:
    """Hashes of pairs of real pictures laid over each other, shape (count, 2)."""
    chance = numpy.random.default_rng(seed)
    found = numpy.empty((count, 2), numpy.uint64)
    for start in range(0, count, _BLOCK):
        some = min(_BLOCK, count - start)
        one, other = chance.integers(0, len(wide), (2, some))
        share = chance.uniform(0.3, 0.7, (some, 1, 1)).astype(numpy.float32)
        mirrored = chance.integers(0, 2, some).astype(bool)
        laid = []
        for grid in (wide, tall):
            over = grid[other].astype(numpy.float32)
            over[mirrored] = over[mirrored, :, ::-1]
            laid.append(grid[one] * share + over * (1 - share))
        found[start : start + some] = hashed(laid[0], laid[1])
    return found


def crowding(hashes: Hashes) -> float:
    """How often two hashes agree in a chunk of 16 neighbouring bits, as a multiple of what random bits do."""
    words = numpy.ascontiguousarray(hashes.reshape(-1)).view(numpy.uint16).reshape(-1, 4)
    agreeing = []
    for chunk in words.T:
        counts = numpy.bincount(chunk, minlength=1 << 16).astype(float)
        agreeing.append((counts * (counts - 1)).sum() / (len(chunk) * (len(chunk) - 1.0)))
    return float(numpy.mean(agreeing)) * (1 << 16)


def queries_for(hashes: Hashes, count: int, seed: int) -> Hashes:
    """Half copies with a few bits changed, half hashes of other pictures."""
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
        apart = numpy.bitwise_count(hashes ^ query)
        if apart.ndim == 2:
            apart = apart[:, 0] + apart[:, 1]
        return frozenset(numpy.flatnonzero(apart <= radius).tolist())

    return search, hashes.nbytes / 1e6


def _faiss(index: Any, hashes: Hashes, radius: int) -> Search:
    index.add(_octets(hashes))

    def search(query: Hashes) -> frozenset[int]:
        _, _, found = index.range_search(_octets(query), radius + 1)
        return frozenset(found.tolist())

    return search


def _faiss_flat(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    return _faiss(faiss.IndexBinaryFlat(64 * hashes.ndim), hashes, radius), hashes.nbytes / 1e6


def _faiss_multi_hash(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    """Chunks of 16 bits, so many flipped that by the pigeonhole principle nothing is missed."""
    chunks = 4 * hashes.ndim
    index = faiss.IndexBinaryMultiHash(64 * hashes.ndim, chunks, 16)
    index.nflip = radius // chunks
    return _faiss(index, hashes, radius), None


def _bk_tree(hashes: Hashes, radius: int) -> tuple[Search, float | None]:
    values = hashes.tolist() if hashes.ndim == 1 else [(rows << 64) | columns for rows, columns in hashes.tolist()]
    tree = pybktree.BKTree(lambda one, other: (one[0] ^ other[0]).bit_count(), [])
    for place, value in enumerate(values):
        tree.add((value, place))

    def search(query: Hashes) -> frozenset[int]:
        (value,) = query.tolist()
        if isinstance(value, list):
            value = (value[0] << 64) | value[1]
        return frozenset(place for _, (_, place) in tree.find((value, 0), radius))

    return search, None


WAYS: Final[dict[str, Callable[[Hashes, int], tuple[Search, float | None]]]] = {
    "faiss flat": _faiss_flat,
    "numpy scan": _numpy,
    "mobius": _mobius,
    "faiss multi-hash": _faiss_multi_hash,
    "BK-tree": _bk_tree,
}


def measure(hashes: Hashes, radius: int, queries: Hashes, ways: Sequence[str], slow_queries: int) -> Iterator[Row]:
    """Time each way, query by query. `slow_queries` is how many the BK-tree gets."""
    wanted: list[frozenset[int]] = []
    flat = 0.0
    for name in ways:
        started = time.perf_counter()
        search, megabytes = WAYS[name](hashes, radius)
        build = time.perf_counter() - started
        asked = queries[: slow_queries if name == "BK-tree" else len(queries)]
        search(asked[:1])
        times, answers = [], []
        for number in range(len(asked)):
            started = time.perf_counter()
            answers.append(search(asked[number : number + 1]))
            times.append((time.perf_counter() - started) * 1000)
        if not wanted:
            wanted, flat = answers, statistics.median(times)
        exact = answers == wanted[: len(answers)]
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
        held = "" if row.megabytes is None else f"{row.megabytes:.0f}"
        lines.append(
            f"| {row.count:,} | {row.bits} | {row.radius} | {row.way} | {row.build:.2f} | {held} | {row.median:.3f}"
            f" | {row.p95:.3f} | {row.times_flat:.2f} | {'yes' if row.exact else 'NO'} |"
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
    """What the index holds, and the most that it needed on the way."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    index = HammingIndex(64 * hashes.ndim)  # type: ignore[arg-type]
    index.add(numpy.arange(len(hashes)), hashes)
    held, most = (value - before for value in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    share = len(hashes) / 1e6
    return (
        f"memory of {len(hashes):,} hashes of {64 * hashes.ndim} bits: {held / 1e6:.0f} MB"
        f" ({held / 1e6 / share:.1f} MB a million), while it is built up to {most / 1e6:.0f} MB"
    )


@click.command()
@click.option("--counts", default="100000,1000000,10000000", show_default=True, help="Hashes, with commas.")
@click.option("--queries", "asked", default=200, show_default=True, help="Each way gets so many.")
@click.option("--bk-tree-up-to", default=1_000_000, show_default=True, help="A BK-tree of more takes minutes to build.")
@click.option("--multi-hash-up-to", default=10_000_000, show_default=True, help="faiss's needs 4 GB for ten million.")
@click.option("--pairs-up-to", default=1_000_000, show_default=True, help="All pairs among at most so many.")
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Real pictures.  [default: fetched]")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(
    counts: str,
    asked: int,
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
    most = max(map(int, counts.split(",")))
    every = made(most, wide, tall, seed=1)
    say = functools.partial(click.echo, err=form == "json")
    say(
        f"{len(wide)} real pictures; two hashes agree in 16 neighbouring bits {crowding(hashed(wide, tall)):.0f} times"
        f" as often as random ones, of {most:,} made of them {crowding(every[:1_000_000]):.0f} times"
    )
    say(f"faiss {faiss.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}\n")
    rows: list[Row] = []
    notes = []
    for count in map(int, counts.split(",")):
        ways = ["faiss flat", "numpy scan", "mobius"]
        ways += ["faiss multi-hash"] if count <= multi_hash_up_to else []
        for hashes, radius in ((every[:count, 0].copy(), 10), (every[:count], 20)):
            tree = ["BK-tree"] if count <= bk_tree_up_to and hashes.ndim == 1 else []
            rows += measure(hashes, radius, queries_for(hashes, asked, seed=2), ways + tree, min(asked, _FLAT_CHECKS))
            notes.append(memory(hashes))
            if count <= pairs_up_to:
                notes.append(all_pairs(hashes, 4 if hashes.ndim == 1 else 10))
    click.echo(json.dumps([asdict(row) for row in rows]) if form == "json" else table(rows))
    say("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
