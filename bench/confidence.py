#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Calibrate the second look and the proof: how many of the certain matches are right, and how many copies are found.

Rightness: every confident pair of different files of a library is looked at again by a judge that shares nothing with
the proof: up to 512 pixels a side, in colour, brightness by rank, in blocks of 16 x 16 after the best shift. A pair
that it does not accept is listed, for a person to look at (with `--format json` every confident one). `--made` adds a
copy of so many pictures to the library, altered in one of the ways that copies are; which pairs are such is known and
told apart.

Recall: each picture of a sample is altered, and the copy is judged against it; it is also changed in one place, and
then nothing may be certain.
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
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX as SMALL

Pixels = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

KINDS: Final = ("photographs", "stamps", "skies", "scenes")
"""What is fetched when nothing is said."""

SIDE: Final = 512
_BLOCK: Final = 16


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Take `share` of the width and height away, half on each side."""

    def crop(image: Image.Image) -> Image.Image:
        across, down = round(image.width * share / 2), round(image.height * share / 2)
        return image.crop((across, down, image.width - across, image.height - down))

    return crop


def marked(image: Image.Image) -> Image.Image:
    """A watermark in white, a fourteenth of the height."""
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
    "watermark": marked,
    "2 % cropped": cropped(0.02),
    "aspect 4:3": lambda image: image.resize((image.width, max(9, image.height * 3 // 4))),
    "5 % cropped": cropped(0.05),
    "turned by 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "border of 5 %": lambda image: ImageOps.expand(image, max(1, min(image.size) // 20), "black"),
}
"""What is done to a picture before it is saved as a JPEG (quality 30 for the one of that name, else 85)."""

UNIFORM: Final = (
    "resized to 20 %", "JPEG q30", "brighter by 30 %", "darker by 30 %", "contrast +40 %", "blurred", "aspect 4:3",
)  # fmt: skip
"""Those that change a picture as a whole and take nothing of it away."""


def opened(path: Path | BinaryIO, most: int) -> Image.Image:
    """Upright, on white, at most `most` pixels a side."""
    with Image.open(path) as image:
        image.draft("RGB", (most, most))
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    upright.thumbnail((most, most))
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def exchanged(share: float) -> Callable[[Image.Image, random.Random], Image.Image | None]:
    """Put a square from elsewhere in the picture, `share` of its longer side wide, over another; None when all look the
    same (a mean difference of 16 grey levels is wanted)."""

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


CHANGED: Final = {f"a square of 1/{parts} exchanged": exchanged(1 / parts) for parts in (12, 24, 48)}
"""What makes another picture of one, in one place."""


def encoded(image: Image.Image, name: str) -> bytes:
    """A picture as it is saved after the alteration of that name."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30 if name == "JPEG q30" else 85)
    return buffer.getvalue()


def _blocks(pixels: Pixels) -> Pixels:
    """Whole blocks, shape (blocks, pixels, channels)."""
    tall, wide = (length // _BLOCK for length in pixels.shape[:2])
    cut = pixels[: tall * _BLOCK, : wide * _BLOCK].reshape(tall, _BLOCK, wide, _BLOCK, -1)
    return cut.swapaxes(1, 2).reshape(tall * wide, _BLOCK**2, -1)


def accepted(one: Image.Image, other: Image.Image) -> bool:
    """Whether a judge that knows nothing of the proof takes two pictures, of SIDE pixels at most, for one: no block in
    which neither the drawing nor the brightness is the same."""
    size = min(one.width, other.width), min(one.height, other.height)
    if min(size) < _BLOCK + 4:
        # too small for blocks: every pixel
        return one.size == other.size and int(numpy.abs(numpy.asarray(one, int) - numpy.asarray(other, int)).max()) <= 8
    first, second = (
        numpy.asarray(image.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.5)), float)
        for image in (one, other)
    )
    for channel in range(3):
        # the n-th brightest pixel of the one becomes as bright as the n-th of the other, all equal ones alike
        values, places, counts = numpy.unique(first[:, :, channel], return_inverse=True, return_counts=True)
        ranks = (numpy.cumsum(counts) - counts / 2) / counts.sum()
        curve = numpy.quantile(second[:, :, channel], ranks)
        first[:, :, channel] = curve[places.reshape(size[::-1])] if len(values) > 1 else first[:, :, channel]
    inner, sparse = numpy.s_[2:-2, 2:-2], numpy.s_[2:-2:3, 2:-2:3]
    shifts = [(down, across) for down in range(-2, 3) for across in range(-2, 3)]
    # by green alone, as it is the most of the luma
    green, other_green = first[:, :, 1], second[:, :, 1]
    best = min(
        shifts, key=lambda by: float(numpy.abs(green[sparse] - numpy.roll(other_green, by, (0, 1))[sparse]).mean())
    )
    moved = numpy.roll(second, best, (0, 1))[inner]
    a, b = _blocks(first[inner]), _blocks(moved)
    apart = numpy.sqrt(((a - b) ** 2).mean(axis=(1, 2)))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    strength = numpy.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    alike = (a * b).sum(axis=(1, 2)) / numpy.maximum(strength, 1)
    return not bool((((alike < 0.7) & (apart > 10)) | (apart > 30)).any())


def at_least(right: int, count: int) -> float:
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


def halved(names: list[str], half: str) -> list[str]:
    """The packages that thresholds were chosen on (`one`), or those that they were not (`other`)."""
    return [name for name in names if half == "both" or (zlib.crc32(name.encode()) % 2 == 0) == (half == "one")]


@dataclass(frozen=True)
class Entry:
    """A picture of the library that is measured: where it is, or the picture that it was made of and its bytes."""

    path: Path
    made: bytes | None
    fingerprint: Fingerprint

    @property
    def picture(self) -> bytes | Path:
        return self.path if self.made is None else self.made

    def seen(self) -> Image.Image:
        """As the judge sees it."""
        return opened(self.path if self.made is None else io.BytesIO(self.made), SIDE)


def library(files: list[Path], made: int) -> list[Entry]:
    """All pictures with bytes of their own, and copies of `made` of them, each altered in one way."""

    def read(path: Path) -> Entry | None:
        with contextlib.suppress(PictureError):
            return Entry(path, None, hash_file(path, descriptor=True))
        return None

    def copied(number: int) -> Entry | None:
        name = list(UNIFORM)[number % len(UNIFORM)]
        path = kept[number * max(1, len(kept) // made) % len(kept)].path
        with contextlib.suppress(PictureError, OSError):
            data = encoded(ALTERED[name](opened(path, 1600)), name)
            return Entry(path, data, hash_bytes(data, descriptor=True))
        return None

    with ThreadPoolExecutor(2) as pool:
        kept = list({entry.fingerprint.sha256: entry for entry in pool.map(read, files) if entry}.values())
        copies = [entry for entry in pool.map(copied, range(min(made, len(kept)))) if entry]
    return [*kept, *{entry.fingerprint.sha256: entry for entry in copies}.values()]


def rightness(entries: list[Entry]) -> dict[str, Any]:
    """Every confident pair of pictures with different bytes, each looked at by the judge."""
    hashes = numpy.array([(one.fingerprint.dhash.rows, one.fingerprint.dhash.columns) for one in entries], numpy.uint64)
    descriptors = numpy.frombuffer(b"".join(one.fingerprint.descriptor or b"" for one in entries), numpy.uint8)
    descriptors = descriptors.reshape(len(entries), -1)
    index = HammingIndex(128)
    index.add(numpy.arange(len(entries)), hashes)
    counts: Counter[str] = Counter()
    candidate_cosine: list[tuple[int, int]] = []
    for block in index.pairs(DEFAULT_THRESHOLDS.radius):
        verdicts = classify_pairs(block.distance, descriptors[block.first], descriptors[block.second])
        counts["candidates"] += len(verdicts)
        counts["matches"] += int((verdicts >= NEEDS_REVIEW).sum())
        chosen = verdicts == CANDIDATE
        candidate_cosine += zip(block.first[chosen].tolist(), block.second[chosen].tolist(), strict=True)
    small = functools.lru_cache(1000)(lambda number: seen(entries[number].picture, SMALL))
    large = functools.lru_cache(60)(lambda number: entries[number].seen())
    kinds = {kind: Counter[str]() for kind in ("natural", "own copy", "other copy")}
    refused: list[tuple[str, str, str]] = []
    pairs: list[tuple[str, str, str]] = []
    began = time.monotonic()

    def certain(pair: tuple[int, int]) -> bool:
        one, other = (entries[number].picture for number in pair)
        return bool(
            verify(
                small(pair[0]), small(pair[1]), lambda: (seen(one, DETAIL_MAX_SIDE_PX), seen(other, DETAIL_MAX_SIDE_PX))
            )
        )

    candidate_cosine.sort()
    with ThreadPoolExecutor(2) as pool:
        confident = [
            pair for pair, sure in zip(candidate_cosine, pool.map(certain, candidate_cosine), strict=True) if sure
        ]
    seconds = time.monotonic() - began
    for first, second in confident:
        one, other = entries[first], entries[second]
        made = one.made is not None or other.made is not None
        kind = "natural" if not made else "own copy" if one.path == other.path else "other copy"
        kinds[kind]["confident"] += 1
        pairs.append((kind, str(one.path), str(other.path)))
        # a copy and what it was made of are one picture, whatever a judge says
        if kind == "own copy" or accepted(large(first), large(second)):
            kinds[kind]["right"] += 1
        else:
            refused.append((kind, str(one.path), str(other.path)))
    return {
        "pictures": len(entries),
        **counts,
        "nominated": len(candidate_cosine),
        "proof_seconds": round(seconds, 1),
        **{
            kind: {**tally, "at_least": at_least(tally["right"], tally["confident"]) if tally["confident"] else None}
            for kind, tally in kinds.items()
        },
        "refused": refused,
        "pairs": pairs,
    }


def seen(picture: bytes | Path, side: int) -> VerificationImage | None:
    """As the proof sees it."""
    with contextlib.suppress(PictureError, OSError):
        return load_for_verification(picture if isinstance(picture, bytes) else picture.read_bytes(), side)
    return None


def classify(before: Fingerprint, path: Path, small: VerificationImage | None, data: bytes) -> tuple[bool, bool, int]:
    """Whether a saved picture is a confident match of another, whether it is one at all, and the least of the distances
    of its eight transforms."""
    after = hash_bytes(data, descriptor=True)
    descriptors = [numpy.frombuffer(one.descriptor or b"", numpy.uint8)[None, :] for one in (before, after)]
    verdict = int(classify_pairs(numpy.array([before.dhash.distance(after.dhash)], numpy.uint8), *descriptors)[0])
    nearest = min(before.dhash.distance(turned) for turned in after.transforms().values())
    certain = verdict == CANDIDATE and verify(
        small, seen(data, SMALL), lambda: (seen(path, DETAIL_MAX_SIDE_PX), seen(data, DETAIL_MAX_SIDE_PX))
    )
    return bool(certain), verdict >= NEEDS_REVIEW, nearest


def recall(files: list[Path]) -> tuple[int, dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """How many pictures are of one grey on white, so that a copy of them is blank paper, and are left out. For each
    alteration of the others: the share of copies found confident, found at all, or only by their transforms; and for
    each change in one place how many pictures were changed, and the share that is still confident, found, or missed by
    the judge."""
    blank = 0
    altered: dict[str, Counter[str]] = {name: Counter() for name in ALTERED}
    changed: dict[str, Counter[str]] = {name: Counter() for name in CHANGED}
    for number, path in enumerate(files):
        try:
            picture = opened(path, 1600)
            before, small = hash_file(path, descriptor=True), seen(path, SMALL)
        except (PictureError, OSError):
            continue
        if min(picture.size) < 64:
            continue
        if before.descriptor == bytes(DESCRIPTOR_BYTES):
            blank += 1
            continue
        for name, alter in ALTERED.items():
            confident, found, nearest = classify(before, path, small, encoded(alter(picture), name))
            altered[name].update(
                count=1, confident=confident, found=found, transforms=nearest <= DEFAULT_THRESHOLDS.radius
            )
        for name, change in CHANGED.items():
            chance = random.Random(number)  # noqa: S311 - the same on every run
            if (other := change(picture, chance)) is not None:
                data = encoded(other, name)
                confident, found, _ = classify(before, path, small, data)
                missed = accepted(opened(path, SIDE), opened(io.BytesIO(data), SIDE))
                changed[name].update(count=1, confident=confident, found=found, missed=missed)

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
@click.option("--sample", default=300, show_default=True, help="So many pictures are altered.")
@click.option("--made", default=0, show_default=True, help="Add altered copies of so many pictures to the library.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(folder: Path | None, kinds: tuple[str, ...], half: str, sample: int, made: int, form: str) -> None:
    """Measure how many matches are right, and how many altered copies are found.

    \b
    python bench/confidence.py
    python bench/confidence.py --folder ~/Pictures --sample 100
    """
    if folder is None:
        names = halved([name for kind in kinds or KINDS for name in PACKAGES[kind]], half)
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
    click.echo("\n| changed in one place | pictures | confident | confident or doubtful | accepted by the judge |")
    click.echo("|---|---|---|---|---|")
    for name, shares in changed.items():
        cells = (f"{shares[key]:.1%}" for key in ("confident", "found", "missed"))
        click.echo(f"| {name} | {shares['count']:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
