#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Time to hash photographs, compared with peers and with the decode alone, which all of them need.

Each photograph is scaled to several sizes and encoded in each format, in memory. Every way gets the same bytes. The
ways take turns, round after round, so that other load affects all of them; of each the fastest round counts. One thread
is timed by processor time, several by the clock.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import imagehash
import numpy
import pdqhash
from pictures import FOLDER, PACKAGES, fetch, pictures_in
from PIL import Image

from mobius.dhash import Library, hash_bytes

SIZES: Final = {"small": 640, "medium": 1600, "large": 4000}
"""Name to pixels of the longer side."""

FORMATS: Final[dict[str, dict[str, Any]]] = {
    "baseline": {"format": "JPEG", "quality": 85},
    "progressive": {"format": "JPEG", "quality": 85, "progressive": True},
    "PNG": {"format": "PNG", "compress_level": 6},
    "WebP": {"format": "WEBP", "quality": 80},
}

TURN: Final = 0.1
"""Smallest time of the decode alone in a turn: in less, the result depends on the processor caches as the way before
left them, which matters once in a scan of many pictures."""

SCANNED: Final = 4000
"""Pictures in a folder that is scanned."""

Way = Callable[[bytes], object]


def _imagehash(data: bytes) -> object:
    with Image.open(io.BytesIO(data)) as image:
        return imagehash.dhash(image)


def _imagehash_both(data: bytes) -> object:
    with Image.open(io.BytesIO(data)) as image:
        return imagehash.dhash(image), imagehash.dhash_vertical(image)


def _imagededup(data: bytes) -> object:
    """What imagededup 0.3 does for its DHash: the colours are resized first, and the small ones turned to grey."""
    with Image.open(io.BytesIO(data)) as image:
        colours = image if image.mode == "RGB" else image.convert("RGBA").convert("RGB")
        small = numpy.array(colours.resize((9, 8), Image.Resampling.LANCZOS).convert("L")).astype(numpy.uint8)
    return small[:, :-1] > small[:, 1:]


def _pdqhash(data: bytes) -> object:
    with Image.open(io.BytesIO(data)) as image:
        return pdqhash.compute(numpy.asarray(image.convert("RGB")))


def _decode(data: bytes) -> object:
    """libjpeg-turbo alone (the one in Pillow), at 1/8, luma only; what else is no JPEG is decoded whole."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (image.width // 8, image.height // 8))
        return image.load()


WAYS: Final[dict[str, Way]] = {
    "decode alone": _decode,
    "mobius fast": lambda data: hash_bytes(data, "fast"),
    "mobius exact": lambda data: hash_bytes(data, "exact"),
    "imagehash": _imagehash,
    "imagehash, both": _imagehash_both,
    "imagededup": _imagededup,
    "pdqhash": _pdqhash,
}


@dataclass(frozen=True)
class Row:
    """One way on one kind of picture.

    Attributes:
        milliseconds: for a picture, the fastest of all rounds.
        times_imagehash: how many pictures it hashes while imagehash (rows only) hashes one, as many threads both.
        over_decode: how much more time than the decode alone, as a share of that; JPEG only.
    """

    format: str
    size: str
    threads: int
    way: str
    milliseconds: float
    times_imagehash: float
    over_decode: float | None


def _alone(way: Way, data: Sequence[bytes]) -> float:
    """Seconds of processor time."""
    started = time.thread_time()
    for one in data:
        way(one)
    return time.thread_time() - started


def _together(way: Way, data: Sequence[bytes], pool: ThreadPoolExecutor) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    list(pool.map(way, data))
    return time.perf_counter() - started


def measure(pictures: dict[str, list[bytes]], threads: int, rounds: int, ways: dict[str, Way]) -> list[Row]:
    """Time each way over each list of encoded pictures; the keys are `format, size`."""
    rows = []
    with ThreadPoolExecutor(threads) as pool:
        for kind, data in pictures.items():
            best = dict.fromkeys(ways, float("inf"))
            turn = list(data) * math.ceil(TURN / _alone(_decode, data))
            for _ in range(rounds):
                for name, way in ways.items():
                    best[name] = min(best[name], _alone(way, turn) if threads == 1 else _together(way, turn, pool))
            form, size = kind.split(", ")
            decoded = best["decode alone"] if form in ("baseline", "progressive") else None
            for name, seconds in best.items():
                over = None if decoded is None else seconds / decoded - 1
                milliseconds = seconds / len(turn) * 1000
                rows.append(Row(form, size, threads, name, milliseconds, best["imagehash"] / seconds, over))
    return rows


def prepare(files: Sequence[Path], sizes: dict[str, int], copies: int) -> dict[str, list[bytes]]:
    """Each photograph at each size in each format, `copies` times each."""
    pictures: dict[str, list[bytes]] = {f"{form}, {size}": [] for form in FORMATS for size in sizes}
    for path in files:
        with Image.open(path) as opened:
            opened.draft("RGB", (max(sizes.values()),) * 2)
            whole = opened.convert("RGB")
        for size, side in sizes.items():
            small = whole.copy()
            small.thumbnail((side, side))
            for form, options in FORMATS.items():
                buffer = io.BytesIO()
                small.save(buffer, **options)
                pictures[f"{form}, {size}"] += [buffer.getvalue()] * copies
    return pictures


def photographs(count: int, side: int) -> list[Path]:
    """Photographs of at least `side` pixels, evenly chosen from the packages of them."""
    fetch(FOLDER, PACKAGES["photographs"])
    large = []
    for path in (path for name in PACKAGES["photographs"] for path in pictures_in(FOLDER / name)):
        with Image.open(path) as image:
            if image.format in ("JPEG", "WEBP") and max(image.size) >= side:
                large.append(path)
    step = max(1, len(large) // count)
    return large[::step][:count]


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| format | size | threads | way | ms a picture | times imagehash | over the decode |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        over = "" if row.over_decode is None else f"{row.over_decode:+.0%}"
        lines.append(
            f"| {row.format} | {row.size} | {row.threads} | {row.way} | {row.milliseconds:.2f}"
            f" | {row.times_imagehash:.2f} | {over} |"
        )
    return "\n".join(lines)


def scaling(rows: Sequence[Row]) -> list[str]:
    """What the second thread brings, a line for each kind of picture and way of ours."""
    one = {(row.format, row.size, row.way): row.milliseconds for row in rows if row.threads == 1}
    lines = []
    for row in rows:
        alone = one.get((row.format, row.size, row.way))
        if row.threads == 2 and alone and row.way in ("mobius fast", "decode alone"):
            lines.append(f"{row.way}, {row.format}, {row.size}: 2 threads do {alone / row.milliseconds:.2f} of one")
    return lines


def scans(pictures: dict[str, list[bytes]], threads: Sequence[int], rounds: int) -> list[str]:
    """Scan a folder of `SCANNED` baseline JPEGs of each size: what the index and the second look cost as well."""
    lines = []
    for kind, data in pictures.items():
        form, size = kind.split(", ")
        if form != "baseline" or size == "large":
            continue
        with tempfile.TemporaryDirectory() as folder:
            for number, one in zip(range(SCANNED), itertools.cycle(data), strict=False):
                (Path(folder) / f"{number}.jpg").write_bytes(one + str(number).encode())  # each its own picture
            best = dict.fromkeys(threads, float("inf"))
            for turn, number in itertools.product(range(rounds), threads):
                with Library(Path(folder) / f"index {turn} {number}") as library:
                    started = time.perf_counter()
                    library.scan(folder, threads=number)
                    best[number] = min(best[number], time.perf_counter() - started)
        alone = best[threads[0]]
        lines += [
            f"scan, {kind}: {SCANNED / seconds:,.0f} pictures/s with {number} at a time,"
            f" {alone / seconds:.2f} of {threads[0]}"
            for number, seconds in best.items()
        ]
    return lines


@click.command()
@click.option("--pictures", "count", default=12, show_default=True, help="Photographs.")
@click.option("--rounds", default=7, show_default=True, help="Each way has so many turns.")
@click.option("--threads", default="1,2", show_default=True, help="Numbers of threads, with commas.")
@click.option("--sizes", default=",".join(SIZES), show_default=True, help=f"Of {', '.join(SIZES)}.")
@click.option("--file", "files", type=click.Path(exists=True, path_type=Path), multiple=True, help="Your photographs.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(count: int, rounds: int, threads: str, sizes: str, files: tuple[Path, ...], form: str) -> None:
    """Time hashing beside imagehash, imagededup's algorithm, pdqhash and the decode alone.

    As text it also tells what a second thread brings, and how fast a folder of baseline JPEGs is scanned.

    \b
    python bench/dhash.py
    python bench/dhash.py --file holiday.jpg --sizes small --rounds 3
    """
    wanted = {name: SIZES[name] for name in sizes.split(",")}
    chosen = list(files) or photographs(count, max(wanted.values()))
    pictures = prepare(chosen, wanted, copies=max(1, 4 // len(chosen)))
    rows, numbers = [], [int(number) for number in threads.split(",")]
    for number in numbers:
        rows += measure(pictures, number, rounds, WAYS)
    if form == "json":
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    click.echo(f"{len(chosen)} photographs, {rounds} rounds, {os.cpu_count()} CPUs, Pillow {Image.__version__}\n")
    click.echo(table(rows))
    click.echo("\n" + "\n".join([*scaling(rows), *scans(pictures, numbers, rounds)]))


if __name__ == "__main__":
    main()
