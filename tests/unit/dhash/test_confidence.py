# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The second look, on photographs and on pictures with nothing in them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageDraw, ImageFont

from mobius.dhash._confidence import (
    CONFIDENT,
    DOUBTFUL,
    FORM_BYTES,
    LOOK_BYTES,
    TRANSFORMS,
    judge,
    look_of,
    readable,
    transformed,
    trusted,
)

PILLOW = {
    "none": None,
    "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
    "flip": Image.Transpose.FLIP_TOP_BOTTOM,
    "rotate90": Image.Transpose.ROTATE_90,
    "rotate180": Image.Transpose.ROTATE_180,
    "rotate270": Image.Transpose.ROTATE_270,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}


def luma(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L")


def coefficients(look: bytes) -> numpy.ndarray:
    return numpy.frombuffer(look, numpy.int8)[1:FORM_BYTES].astype(int)


def grain(look: bytes) -> numpy.ndarray:
    return numpy.unpackbits(numpy.frombuffer(look, numpy.uint8)[FORM_BYTES:-1])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transformed_look_is_the_look_of_the_transformed_picture(photographs: dict[str, Path], name: str) -> None:
    for photograph in ("astronaut", "camera", "chelsea", "coffee", "rocket"):
        picture = luma(photographs[photograph])
        turned = picture if PILLOW[name] is None else picture.transpose(PILLOW[name])
        made, seen = transformed(look_of(picture), name), look_of(turned)
        assert len(made) == LOOK_BYTES
        assert abs(made[0] - seen[0]) <= 1
        # turning by a quarter swaps the two passes of the resize, which round between them
        assert abs(coefficients(made) - coefficients(seen)).max() <= 2
        assert abs(made[-1] - seen[-1]) <= 12, "other rows and columns are measured"
        # of 4608 bits, those of pixels that hardly stand out may turn over
        assert (grain(made) != grain(seen)).sum() <= 60


def verdict(one: Image.Image, other: Image.Image) -> int:
    looks = [numpy.frombuffer(look_of(picture), numpy.uint8)[None, :] for picture in (one, other)]
    return int(judge(numpy.zeros(1, numpy.uint8), *looks)[0])


def test_a_copy_is_confident_and_one_in_which_a_part_was_exchanged_is_for_a_person(
    photographs: dict[str, Path],
) -> None:
    for name in ("astronaut", "chelsea", "coffee", "grass"):
        picture = luma(photographs[name])
        small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=40)
        with Image.open(buffer) as copy:
            assert verdict(picture, copy.convert("L")) == CONFIDENT
    picture = luma(photographs["astronaut"])
    changed = picture.copy()
    # what a person would see at once, and the form does not: another face
    box = (160, 40, 260, 140)
    changed.paste(picture.crop(box).transpose(Image.Transpose.ROTATE_180), box[:2])
    assert verdict(picture, changed) == DOUBTFUL


def test_a_picture_with_nothing_in_it_is_never_confident() -> None:
    ramp = Image.linear_gradient("L")
    assert verdict(ramp, ramp) != CONFIDENT
    grey = Image.new("L", (100, 100), 128)
    assert verdict(grey, grey) != CONFIDENT


def sprite(seed: int) -> Image.Image:
    """A planet on white: the silhouette is always the same, the surface is each seed's own."""
    values = numpy.random.default_rng(seed).normal(90, 5, (24, 24)).clip(0, 255).astype(numpy.uint8)
    surface = Image.fromarray(values).resize((280, 280), Image.Resampling.BICUBIC)
    mask = Image.new("L", surface.size)
    ImageDraw.Draw(mask).ellipse((20, 20, 260, 260), fill=255)
    return Image.composite(surface, Image.new("L", surface.size, 255), mask)


def page(word: str) -> Image.Image:
    """A screenshot of text, as a manual has it, in which one word is `word`."""
    image = Image.new("L", (640, 480), 255)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    for line in range(14):
        pen.text((20, 20 + 32 * line), f"{line}. Choose the partition of the disk to be formatted", fill=0, font=font)
    pen.rectangle((560, 430, 630, 470), fill=200, outline=0)
    pen.text((575, 437), word, fill=0, font=font)
    return image


def test_drawings_that_differ_inside_one_silhouette_or_in_a_word_are_for_a_person() -> None:
    assert verdict(sprite(1), sprite(2)) == DOUBTFUL
    assert verdict(page("Yes"), page("No")) == DOUBTFUL


def test_a_copy_of_low_quality_is_confident_though_it_is_as_flat_as_a_drawing(photographs: dict[str, Path]) -> None:
    picture = luma(photographs["camera"])
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    with Image.open(buffer) as copy:
        assert not trusted(look_of(copy.convert("L")))
        assert verdict(picture, copy.convert("L")) == CONFIDENT


def test_a_drawing_is_not_certain_of_anything_and_says_so(photographs: dict[str, Path]) -> None:
    assert not trusted(look_of(page("Yes")))
    assert not trusted(look_of(sprite(1)))
    assert trusted(look_of(luma(photographs["chelsea"])))


def test_a_look_of_an_earlier_release_finds_but_proves_nothing(photographs: dict[str, Path]) -> None:
    now = look_of(luma(photographs["chelsea"]))
    before = readable(now[:-1])
    assert before is not None
    assert len(before) == LOOK_BYTES
    row = numpy.frombuffer(before, numpy.uint8)[None, :]
    assert int(judge(numpy.zeros(1, numpy.uint8), row, row)[0]) == DOUBTFUL
    assert not trusted(now[:-1])
    assert readable(now) == now
    assert [readable(look) for look in (None, b"", now[:-2], now + b"x")] == [None] * 4
