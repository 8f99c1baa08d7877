# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Descriptors and re-ranking, on photographs and on empty pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageDraw, ImageFont

from mobius.dhash._descriptor import (
    DCT_BYTES,
    DESCRIPTOR_BYTES,
    TRANSFORMS,
    compute_descriptor,
    transform_descriptor,
    upgrade_descriptor,
)
from mobius.dhash._reranking import (
    CANDIDATE,
    NEEDS_REVIEW,
    NO_MATCH,
    classify_pairs,
    cosine_similarity,
    has_enough_detail,
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


def coefficients(descriptor: bytes) -> numpy.ndarray:
    return numpy.frombuffer(descriptor, numpy.int8)[1:DCT_BYTES].astype(int)


def grain(descriptor: bytes) -> numpy.ndarray:
    return numpy.unpackbits(numpy.frombuffer(descriptor, numpy.uint8)[DCT_BYTES:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transformed_descriptor_is_the_descriptor_of_the_transformed_picture(
    photographs: dict[str, Path], name: str
) -> None:
    for photograph in ("astronaut", "camera", "chelsea", "coffee", "rocket"):
        picture = luma(photographs[photograph])
        turned = picture if PILLOW[name] is None else picture.transpose(PILLOW[name])
        transformed, expected = transform_descriptor(compute_descriptor(picture), name), compute_descriptor(turned)
        assert len(transformed) == DESCRIPTOR_BYTES
        assert abs(transformed[0] - expected[0]) <= 1
        # turning by a quarter swaps the two passes of the resize, which round between them
        assert abs(coefficients(transformed) - coefficients(expected)).max() <= 2
        assert abs(transformed[-1] - expected[-1]) <= 12, "other rows and columns are measured"
        # of 4608 bits, those of pixels that hardly stand out may turn over
        assert (grain(transformed) != grain(expected)).sum() <= 60


def descriptors_of(*pictures: Image.Image) -> list[numpy.ndarray]:
    return [numpy.frombuffer(compute_descriptor(picture), numpy.uint8)[None, :] for picture in pictures]


def verdict(one: Image.Image, other: Image.Image, distance: int = 0) -> int:
    return int(classify_pairs(numpy.array([distance], numpy.uint8), *descriptors_of(one, other))[0])


def test_a_copy_is_a_candidate(photographs: dict[str, Path]) -> None:
    for name in ("astronaut", "chelsea", "coffee", "grass", "camera"):
        picture = luma(photographs[name])
        small = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=30)
        with Image.open(buffer) as copy:
            assert verdict(picture, copy.convert("L")) == CANDIDATE


def test_a_picture_with_nothing_in_it_is_not() -> None:
    ramp = Image.linear_gradient("L")
    assert verdict(ramp, ramp) != CANDIDATE
    grey = Image.new("L", (100, 100), 128)
    assert verdict(grey, grey) != CANDIDATE
    assert not has_enough_detail(compute_descriptor(ramp))


@pytest.mark.slow
def test_a_smooth_picture_needs_review_under_a_watermark() -> None:
    down, across = numpy.mgrid[:400, :600] / 400

    def smooth(bend: float = 1.0, strength: float = 1.0, waves: float = 0.0) -> Image.Image:
        levels = 14 * numpy.sin(2 * across + down) + 10 * numpy.cos(3 * down - bend * across)
        levels += waves * numpy.sin(9 * across) * numpy.cos(9 * down)
        return Image.fromarray((90 + strength * levels).astype(numpy.uint8))

    def marked(picture: Image.Image, fill: int = 255) -> Image.Image:
        copy = picture.copy()
        ImageDraw.Draw(copy).text((330, 340), "© MOBIUS", fill=fill, font=ImageFont.load_default(28))
        return copy

    one = smooth()
    assert float(cosine_similarity(*descriptors_of(one, marked(one)))[0]) < 0.5
    assert verdict(one, marked(one), 8) == NEEDS_REVIEW
    assert verdict(marked(one), one, 20) == NEEDS_REVIEW
    assert verdict(one, marked(one), 21) == NO_MATCH
    assert verdict(one, marked(smooth(bend=1.6)), 8) == NO_MATCH
    assert verdict(one, marked(smooth(strength=1.5)), 8) == NO_MATCH, "it differs everywhere"
    assert verdict(one, marked(smooth(waves=4)), 8) == NO_MATCH, "it differs a little, and has another form"
    assert verdict(smooth(strength=0.2), marked(smooth(strength=0.2), 130), 8) == NO_MATCH, "too little is to be seen"


def test_a_descriptor_has_the_flat_share_that_schema_2_uses_and_is_read_without_it(
    photographs: dict[str, Path],
) -> None:
    now = compute_descriptor(luma(photographs["chelsea"]))
    assert len(now) == DESCRIPTOR_BYTES
    drawing = Image.new("L", (100, 100), 255)
    drawing.paste(0, (20, 30, 70, 80))
    assert compute_descriptor(drawing)[-1] == 250, "the share of flat pixels, in 255ths"
    assert upgrade_descriptor(now) == now
    assert upgrade_descriptor(now[:-1]) == now[:-1] + b"\xff"
    assert has_enough_detail(now[:-1])
    assert [upgrade_descriptor(descriptor) for descriptor in (None, b"", now[:-2], now + b"x")] == [None] * 4
