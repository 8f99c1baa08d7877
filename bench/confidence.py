#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Calibrate re-ranking and verification: how many of the confident matches are right, and how many copies are found.

Precision: every confident pair of different files of a library is compared again by a judge that shares no code with
verification: up to 512 pixels a side, in colour, brightness by rank, in blocks of 16 x 16 after the best shift. Pairs
that it does not accept are listed for a person to examine (with `--format json` every confident pair). `--made` adds
copies of pictures to the library, altered as copies are; their pairs are counted separately.

Recall: each picture of a sample is altered, and the copy is matched with it; it is also changed in one spot, and such a
copy must not be confident.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import numpy
from pictures import FOLDER, PACKAGES, fetch, pictures_in
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from mobius.dhash import (
    Fingerprint,
    HammingIndex,
    PictureError,
    VerificationImage,
    hash_bytes,
    hash_file,
    load_for_verification,
)
from mobius.dhash._descriptor import DESCRIPTOR_BYTES
from mobius.dhash._reranking import CANDIDATE, DEFAULT_THRESHOLDS, NEEDS_REVIEW, classify_pairs
from mobius.dhash._verification import DETAIL_MAX_SIDE_PX, verify
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX

Pixels = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

KINDS: Final = ("photographs", "stamps", "skies", "scenes")
"""What is fetched by default."""

JUDGE_SIDE_PX: Final = 512
_BLOCK_PX: Final = 16


def crop_by(share: float) -> Callable[[Image.Image], Image.Image]:
    """Crop `share` of the width and height, half on each side."""

    def crop(image: Image.Image) -> Image.Image:
        across, down = round(image.width * share / 2), round(image.height * share / 2)
        return image.crop((across, down, image.width - across, image.height - down))

    return crop


def add_watermark(image: Image.Image) -> Image.Image:
    """Add a watermark in white, a fourteenth of the height."""
    copy = image.copy()
    font = ImageFont.load_default(max(10, image.height // 14))
    ImageDraw.Draw(copy).text((image.width * 0.55, image.height * 0.85), "© MOBIUS", fill="white", font=font)
    return copy


ALTERED: Final[dict[str, Callable[[Image.Image], Image.Image]]] = {
    "resized to 20 %": lambda image: image.resize((max(9, image.width // 5), max(9, image.height // 5))),
    "JPEG q30": lambda image: image,
    "brighter by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "contrast +40 %": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(1, min(image.size) / 200))),
    "watermark": add_watermark,
    "2 % cropped": crop_by(0.02),
    "aspect 4:3": lambda image: image.resize((image.width, max(9, image.height * 3 // 4))),
    "5 % cropped": crop_by(0.05),
    "turned by 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "border of 5 %": lambda image: ImageOps.expand(image, max(1, min(image.size) // 20), "black"),
}
"""Alterations of a picture before it is saved as a JPEG (quality 30 for the one of that name, else 85)."""

UNIFORM: Final = (
    "resized to 20 %", "JPEG q30", "brighter by 30 %", "darker by 30 %", "contrast +40 %", "blurred", "aspect 4:3",
)  # fmt: skip
"""Those that change the whole picture and remove nothing."""


def open_upright(path: Path | BinaryIO, max_side: int) -> Image.Image:
    """Open a picture upright, on white, at most `max_side` pixels a side."""
    with Image.open(path) as image:
        image.draft("RGB", (max_side, max_side))
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    upright.thumbnail((max_side, max_side))
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def exchange_squares(share: float) -> Callable[[Image.Image, random.Random], Image.Image | None]:
    """Copy a square of the picture, `share` of its longer side wide, over another; None when no two squares differ by
    16 grey levels on average."""

    def exchange(image: Image.Image, chance: random.Random) -> Image.Image | None:
        side = max(2, round(max(image.size) * share))
        if min(image.size) <= side:
            return None
        for _ in range(20):
            here, there = (
                (left, top, left + side, top + side)
                for left, top in (
                    (chance.randrange(image.width - side), chance.randrange(image.height - side)) for _ in range(2)
                )
            )
            old, new = image.crop(here), image.crop(there)
            if numpy.abs(numpy.asarray(old, float) - numpy.asarray(new, float)).mean() >= 16:
                copy = image.copy()
                copy.paste(new, here[:2])
                return copy
        return None

    return exchange


CHANGED: Final = {f"a square of 1/{parts} exchanged": exchange_squares(1 / parts) for parts in (12, 24, 48)}
"""Changes in one spot, which make another picture."""


def encode_jpeg(image: Image.Image, name: str) -> bytes:
    """The JPEG of a picture after the alteration of that name."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30 if name == "JPEG q30" else 85)
    return buffer.getvalue()


def _blocks(pixels: Pixels) -> Pixels:
    """Whole blocks, shape (blocks, pixels, channels)."""
    tall, wide = (length // _BLOCK_PX for length in pixels.shape[:2])
    cut = pixels[: tall * _BLOCK_PX, : wide * _BLOCK_PX].reshape(tall, _BLOCK_PX, wide, _BLOCK_PX, -1)
    return cut.swapaxes(1, 2).reshape(tall * wide, _BLOCK_PX**2, -1)


def judge_accepts(one: Image.Image, other: Image.Image) -> bool:
    """Whether a judge that is independent of verification takes two pictures, of JUDGE_SIDE_PX at most, for the same:
    no block differs in structure and brightness."""
    size = min(one.width, other.width), min(one.height, other.height)
    if min(size) < _BLOCK_PX + 4:
        # too small for blocks: every pixel
        return one.size == other.size and int(numpy.abs(numpy.asarray(one, int) - numpy.asarray(other, int)).max()) <= 8
    first, second = (
        numpy.asarray(image.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.5)), float)
        for image in (one, other)
    )
    for channel in range(3):
        # match the brightness by rank: the n-th brightest pixel of one becomes that of the other; equal ones stay equal
        values, rank_of, counts = numpy.unique(first[:, :, channel], return_inverse=True, return_counts=True)
        ranks = (numpy.cumsum(counts) - counts / 2) / counts.sum()
        curve = numpy.quantile(second[:, :, channel], ranks)
        first[:, :, channel] = curve[rank_of.reshape(size[::-1])] if len(values) > 1 else first[:, :, channel]
    inner, sparse = numpy.s_[2:-2, 2:-2], numpy.s_[2:-2:3, 2:-2:3]
    shifts = [(down, across) for down in range(-2, 3) for across in range(-2, 3)]
    # by green alone, the largest part of the luma
    green, other_green = first[:, :, 1], second[:, :, 1]
    best = min(
        shifts, key=lambda by: float(numpy.abs(green[sparse] - numpy.roll(other_green, by, (0, 1))[sparse]).mean())
    )
    shifted = numpy.roll(second, best, (0, 1))[inner]
    a, b = _blocks(first[inner]), _blocks(shifted)
    distance = numpy.sqrt(((a - b) ** 2).mean(axis=(1, 2)))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    strength = numpy.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    correlation = (a * b).sum(axis=(1, 2)) / numpy.maximum(strength, 1)
    return not bool((((correlation < 0.7) & (distance > 10)) | (distance > 30)).any())


def lower_bound(right: int, count: int) -> float:
    """The lower end of the 95 % interval (Clopper and Pearson, one-sided) of a share of `right` in `count`."""
    if right == 0:
        return 0.0
    low, high = 0.0, right / count
    for _ in range(60):
        share = (low + high) / 2
        logs = [
            math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
            + k * math.log(share) + (count - k) * math.log1p(-share)
            for k in range(right, count + 1)
        ]  # fmt: skip
        low, high = (share, high) if sum(map(math.exp, logs)) < 0.05 else (low, share)
    return low


def select_half(names: list[str], half: str) -> list[str]:
    """The packages that the thresholds were chosen on (`one`), or the others (`other`)."""
    return [name for name in names if half == "both" or (zlib.crc32(name.encode()) % 2 == 0) == (half == "one")]


@dataclass(frozen=True)
class Entry:
    """A picture of the measured library: its path; or the path of its original, and its bytes."""

    path: Path
    made: bytes | None
    fingerprint: Fingerprint

    @property
    def picture(self) -> bytes | Path:
        return self.path if self.made is None else self.made

    def open_for_judge(self) -> Image.Image:
        """The picture at the size that the judge compares."""
        return open_upright(self.path if self.made is None else io.BytesIO(self.made), JUDGE_SIDE_PX)


def library(files: list[Path], made: int) -> list[Entry]:
    """All pictures with different bytes, and copies of `made` of them, each altered in one way."""

    def read(path: Path) -> Entry | None:
        with contextlib.suppress(PictureError):
            return Entry(path, None, hash_file(path, descriptor=True))
        return None

    def copied(number: int) -> Entry | None:
        name = list(UNIFORM)[number % len(UNIFORM)]
        path = kept[number * max(1, len(kept) // made) % len(kept)].path
        with contextlib.suppress(PictureError, OSError):
            data = encode_jpeg(ALTERED[name](open_upright(path, 1600)), name)
            return Entry(path, data, hash_bytes(data, descriptor=True))
        return None

    with ThreadPoolExecutor(2) as pool:
        kept = list({entry.fingerprint.sha256: entry for entry in pool.map(read, files) if entry}.values())
        copies = [entry for entry in pool.map(copied, range(min(made, len(kept)))) if entry]
    return [*kept, *{entry.fingerprint.sha256: entry for entry in copies}.values()]


def rightness(entries: list[Entry]) -> dict[str, Any]:
    """Every confident pair of pictures with different bytes, and the judge's result."""
    hashes = numpy.array([(one.fingerprint.dhash.rows, one.fingerprint.dhash.columns) for one in entries], numpy.uint64)
    descriptors = numpy.frombuffer(b"".join(one.fingerprint.descriptor or b"" for one in entries), numpy.uint8)
    descriptors = descriptors.reshape(len(entries), -1)
    index = HammingIndex(128)
    index.add(numpy.arange(len(entries)), hashes)
    counts: Counter[str] = Counter()
    candidates: list[tuple[int, int]] = []
    for block in index.pairs(DEFAULT_THRESHOLDS.radius):
        verdicts = classify_pairs(block.distance, descriptors[block.first], descriptors[block.second])
        counts["candidates"] += len(verdicts)
        counts["matches"] += int((verdicts >= NEEDS_REVIEW).sum())
        chosen = verdicts == CANDIDATE
        candidates += zip(block.first[chosen].tolist(), block.second[chosen].tolist(), strict=True)
    small = functools.lru_cache(1000)(lambda number: load(entries[number].picture, OVERVIEW_SIDE_PX))
    large = functools.lru_cache(60)(lambda number: entries[number].open_for_judge())
    kinds = {kind: Counter[str]() for kind in ("natural", "own copy", "other copy")}
    refused: list[tuple[str, str, str]] = []
    pairs: list[tuple[str, str, str]] = []
    started = time.monotonic()

    def is_confident(pair: tuple[int, int]) -> bool:
        one, other = (entries[number].picture for number in pair)
        return bool(
            verify(
                small(pair[0]), small(pair[1]), lambda: (load(one, DETAIL_MAX_SIDE_PX), load(other, DETAIL_MAX_SIDE_PX))
            )
        )

    candidates.sort()
    with ThreadPoolExecutor(2) as pool:
        confident = [
            pair for pair, confirmed in zip(candidates, pool.map(is_confident, candidates), strict=True) if confirmed
        ]
    seconds = time.monotonic() - started
    for first, second in confident:
        one, other = entries[first], entries[second]
        made = one.made is not None or other.made is not None
        kind = "natural" if not made else "own copy" if one.path == other.path else "other copy"
        kinds[kind]["confident"] += 1
        pairs.append((kind, str(one.path), str(other.path)))
        # a copy and its original are the same picture, whatever the judge says
        if kind == "own copy" or judge_accepts(large(first), large(second)):
            kinds[kind]["right"] += 1
        else:
            refused.append((kind, str(one.path), str(other.path)))
    return {
        "pictures": len(entries),
        **counts,
        "nominated": len(candidates),
        "proof_seconds": round(seconds, 1),
        **{
            kind: {**tally, "at_least": lower_bound(tally["right"], tally["confident"]) if tally["confident"] else None}
            for kind, tally in kinds.items()
        },
        "refused": refused,
        "pairs": pairs,
    }


def load(picture: bytes | Path, side: int) -> VerificationImage | None:
    """Load a picture for verification; None when it cannot be read."""
    with contextlib.suppress(PictureError, OSError):
        return load_for_verification(picture if isinstance(picture, bytes) else picture.read_bytes(), side)
    return None


def classify(before: Fingerprint, path: Path, small: VerificationImage | None, data: bytes) -> tuple[bool, bool, int]:
    """Whether a saved picture is a confident match of another, whether it is a match at all, and the smallest distance
    of its eight transforms."""
    after = hash_bytes(data, descriptor=True)
    descriptors = [numpy.frombuffer(one.descriptor or b"", numpy.uint8)[None, :] for one in (before, after)]
    verdict = int(classify_pairs(numpy.array([before.dhash.distance(after.dhash)], numpy.uint8), *descriptors)[0])
    nearest = min(before.dhash.distance(turned) for turned in after.transforms().values())
    is_confident = verdict == CANDIDATE and verify(
        small, load(data, OVERVIEW_SIDE_PX), lambda: (load(path, DETAIL_MAX_SIDE_PX), load(data, DETAIL_MAX_SIDE_PX))
    )
    return bool(is_confident), verdict >= NEEDS_REVIEW, nearest


def recall(files: list[Path]) -> tuple[int, dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Alter and change pictures, and count which copies are found.

    Returns:
        The number of pictures of one grey on white, whose copies are blank and which are left out; for each alteration
        of the others the share of copies found confident, found at all, or only by their transforms; and for each
        change in one spot the number of pictures changed, and the share still confident, found, or missed by the judge.
    """
    blank = 0
    altered: dict[str, Counter[str]] = {name: Counter() for name in ALTERED}
    changed: dict[str, Counter[str]] = {name: Counter() for name in CHANGED}
    for number, path in enumerate(files):
        try:
            picture = open_upright(path, 1600)
            before, small = hash_file(path, descriptor=True), load(path, OVERVIEW_SIDE_PX)
        except (PictureError, OSError):
            continue
        if min(picture.size) < 64:
            continue
        if before.descriptor == bytes(DESCRIPTOR_BYTES):
            blank += 1
            continue
        for name, alter in ALTERED.items():
            confident, is_match, nearest = classify(before, path, small, encode_jpeg(alter(picture), name))
            altered[name].update(
                count=1, confident=confident, found=is_match, transforms=nearest <= DEFAULT_THRESHOLDS.radius
            )
        for name, change in CHANGED.items():
            chance = random.Random(number)  # noqa: S311 - the same on every run
            if (other := change(picture, chance)) is not None:
                data = encode_jpeg(other, name)
                confident, is_match, _ = classify(before, path, small, data)
                missed = judge_accepts(open_upright(path, JUDGE_SIDE_PX), open_upright(io.BytesIO(data), JUDGE_SIDE_PX))
                changed[name].update(count=1, confident=confident, found=is_match, missed=missed)

    def shares(tallies: dict[str, Counter[str]], keys: tuple[str, ...]) -> dict[str, dict[str, float]]:
        return {
            name: {"count": tally["count"], **{key: tally[key] / max(1, tally["count"]) for key in keys}}
            for name, tally in tallies.items()
        }

    changes = shares(changed, ("confident", "found", "missed"))
    return blank, shares(altered, ("confident", "found", "transforms")), changes


@click.command()
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Your pictures.  [default: fetched]")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(list(PACKAGES)),
    multiple=True,
    help=f"Pictures.  [default: {', '.join(KINDS)}]",
)
@click.option(
    "--half",
    type=click.Choice(["both", "one", "other"]),
    default="both",
    show_default=True,
    help="Only the packages that the thresholds were chosen on, or only the others.",
)
@click.option("--sample", default=300, show_default=True, help="Number of pictures to alter.")
@click.option("--made", default=0, show_default=True, help="Number of altered copies to add to the library.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(folder: Path | None, kinds: tuple[str, ...], half: str, sample: int, made: int, form: str) -> None:
    """Measure how many matches are right, and how many altered copies are found.

    \b
    python bench/confidence.py
    python bench/confidence.py --folder ~/Pictures --sample 100
    """
    if folder is None:
        names = select_half([name for kind in kinds or KINDS for name in PACKAGES[kind]], half)
        fetch(FOLDER, tuple(names))
        files = [path for name in names for path in pictures_in(FOLDER / name)]
    else:
        files = pictures_in(folder)
    right = rightness(library(files, made))
    step = max(1, len(files) // max(1, sample))
    blank, altered, changed = recall(files[::step][:sample])
    if form == "json":
        click.echo(json.dumps({"right": right, "blank": blank, "recall": altered, "changed": changed}))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in right.items() if name not in ("refused", "pairs")))
    for kind, one, other in right["refused"]:
        click.echo(f"not accepted ({kind}): {one} and {other}")
    click.echo(f"\n{blank} pictures of one grey are left out: their copies are blank paper.")
    click.echo("\n| altered | confident | confident or doubtful | within the radius of one of 8 transforms |")
    click.echo("|---|---|---|---|")
    for name, shares in altered.items():
        click.echo(f"| {name} | {shares['confident']:.1%} | {shares['found']:.1%} | {shares['transforms']:.1%} |")
    click.echo("\n| changed in one spot | pictures | confident | confident or doubtful | accepted by the judge |")
    click.echo("|---|---|---|---|---|")
    for name, shares in changed.items():
        cells = (f"{shares[key]:.1%}" for key in ("confident", "found", "missed"))
        click.echo(f"| {name} | {shares['count']:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
