#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Calibrate the second look: how many of the matches are right, and how many altered copies are found.

Rightness: every confident pair of different files of a library is looked at again, on pixels that neither hash nor look
has seen (128 x 128, block by block, after the best shift). A pair that they do not prove counts as wrong. Recall: each
picture of a sample is altered in the ways that pictures are, and the copy is judged against it.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import numpy
from pictures import FOLDER, PACKAGES, fetch, pictures_in
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from mobius.dhash import HammingIndex, PictureError, hash_bytes, hash_file
from mobius.dhash._confidence import CONFIDENT, DEFAULT_THRESHOLDS, DOUBTFUL, judge

Pixels = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

KINDS: Final = ("photographs", "stamps", "skies", "scenes")
"""What is fetched when nothing is said."""

SIDE: Final = 128
_BLOCK: Final = 32


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


def opened(path: Path, most: int) -> Image.Image:
    """Upright, on white, at most `most` pixels a side."""
    with Image.open(path) as image:
        image.draft("RGB", (most, most))
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    upright.thumbnail((most, most))
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def prepared(path: Path) -> tuple[Pixels, Pixels]:
    """The luma, and what in it is finer than 4 pixels; shape (SIDE, SIDE) each."""
    small = opened(path, 1024).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    luma = numpy.asarray(small, numpy.float64)
    return luma, luma - numpy.asarray(small.filter(ImageFilter.GaussianBlur(4)), numpy.float64)


def _blocks(pixels: Pixels) -> Pixels:
    parts = SIDE // _BLOCK
    return pixels.reshape(parts, _BLOCK, parts, _BLOCK).swapaxes(1, 2).reshape(parts * parts, -1)


def proven(one: tuple[Pixels, Pixels], other: tuple[Pixels, Pixels]) -> bool:
    """Whether pixels prove that two pictures are one: no block with detail of its own, none of another brightness."""
    fine, other_fine = one[1], other[1]
    shifts = [(down, across) for down in range(-2, 3) for across in range(-2, 3)]
    shift = max(shifts, key=lambda by: float((fine * numpy.roll(other_fine, by, (0, 1))).sum()))
    a, b = _blocks(fine), _blocks(numpy.roll(other_fine, shift, (0, 1)))
    strength = numpy.sqrt((a * a).sum(1) * (b * b).sum(1))
    alike = (a * b).sum(1) / numpy.maximum(strength, 1)
    busy = numpy.maximum((a * a).sum(1), (b * b).sum(1)) > 9 * _BLOCK**2
    luma, moved = one[0] - one[0].mean(), numpy.roll(other[0], shift, (0, 1))
    moved = moved - moved.mean()
    gain = float((luma * moved).sum()) / max(1.0, float((moved * moved).sum()))
    apart = numpy.sqrt((_blocks(luma - gain * moved) ** 2).mean(1))
    return not bool(((busy & (alike < 0.35) & (apart > 8)) | (apart > 25)).any())


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


def rightness(files: list[Path]) -> dict[str, Any]:
    """Every confident pair of pictures with different bytes, each looked at on pixels."""
    found = {}
    for path in files:
        try:
            fingerprint = hash_file(path, look=True)
        except PictureError:
            continue
        found.setdefault(fingerprint.sha256, (path, fingerprint))
    kept = list(found.values())
    hashes = numpy.array([(one.dhash.rows, one.dhash.columns) for _, one in kept], numpy.uint64)
    looks = numpy.frombuffer(b"".join(one.look or b"" for _, one in kept), numpy.uint8).reshape(len(kept), -1)
    index = HammingIndex(128)
    index.add(numpy.arange(len(kept)), hashes)
    counts: Counter[str] = Counter()
    wrong: list[tuple[str, str]] = []
    pixels: dict[int, tuple[Pixels, Pixels]] = {}
    for block in index.pairs(DEFAULT_THRESHOLDS.radius):
        verdicts = judge(block.distance, looks[block.first], looks[block.second])
        counts["candidates"] += len(verdicts)
        counts["doubtful"] += int((verdicts == DOUBTFUL).sum())
        for place in numpy.flatnonzero(verdicts == CONFIDENT).tolist():
            pair = int(block.first[place]), int(block.second[place])
            for number in pair:
                if number not in pixels:
                    pixels[number] = prepared(kept[number][0])
            counts["confident"] += 1
            if proven(pixels[pair[0]], pixels[pair[1]]):
                counts["proven"] += 1
            else:
                wrong.append((str(kept[pair[0]][0]), str(kept[pair[1]][0])))
    low = at_least(counts["proven"], counts["confident"]) if counts["confident"] else None
    return {"pictures": len(kept), **counts, "at_least": low, "not_proven": wrong}


def recall(files: list[Path]) -> dict[str, dict[str, float]]:
    """For each alteration: the share of copies found confident, doubtful, or only by their transforms."""
    tallies: dict[str, Counter[str]] = {name: Counter() for name in ALTERED}
    for path in files:
        try:
            picture = opened(path, 1600)
            before = hash_file(path, look=True)
        except (PictureError, OSError):
            continue
        if min(picture.size) < 64:
            continue
        for name, alter in ALTERED.items():
            buffer = io.BytesIO()
            alter(picture).save(buffer, "JPEG", quality=30 if name == "JPEG q30" else 85)
            after = hash_bytes(buffer.getvalue(), look=True)
            looks = [numpy.frombuffer(one.look or b"", numpy.uint8)[None, :] for one in (before, after)]
            apart = numpy.array([before.dhash.distance(after.dhash)], numpy.uint8)
            verdict = int(judge(apart, *looks)[0])
            tallies[name]["count"] += 1
            tallies[name]["confident"] += verdict == CONFIDENT
            tallies[name]["doubtful"] += verdict == DOUBTFUL
            nearest = min(before.dhash.distance(turned) for turned in after.transforms().values())
            tallies[name]["transforms"] += nearest <= DEFAULT_THRESHOLDS.radius
    return {
        name: {key: tally[key] / max(1, tally["count"]) for key in ("confident", "doubtful", "transforms")}
        for name, tally in tallies.items()
    }


@click.command()
@click.option("--folder", type=click.Path(exists=True, path_type=Path), help="Your pictures.  [default: fetched]")
@click.option(
    "--kind", "kinds", type=click.Choice(list(PACKAGES)), multiple=True, help="Pictures.  [default: no clip art]"
)
@click.option(
    "--half",
    type=click.Choice(["both", "one", "other"]),
    default="both",
    show_default=True,
    help="Only the packages that the thresholds were chosen on, or only the others.",
)
@click.option("--sample", default=300, show_default=True, help="So many pictures are altered.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(folder: Path | None, kinds: tuple[str, ...], half: str, sample: int, form: str) -> None:
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
    right = rightness(files)
    step = max(1, len(files) // sample)
    found = recall(files[::step][:sample])
    if form == "json":
        click.echo(json.dumps({"right": right, "recall": found}))
        return
    click.echo(", ".join(f"{name} {value}" for name, value in right.items() if name != "not_proven"))
    for one, other in right["not_proven"][:50]:
        click.echo(f"not proven: {one} and {other}")
    click.echo("\n| altered | confident | confident or doubtful | within the radius of one of 8 transforms |")
    click.echo("|---|---|---|---|")
    for name, shares in found.items():
        both = shares["confident"] + shares["doubtful"]
        click.echo(f"| {name} | {shares['confident']:.1%} | {both:.1%} | {shares['transforms']:.1%} |")


if __name__ == "__main__":
    main()
