# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The quick way to the two grids gives to the bit what Pillow gives."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobius.dhash import _grids

LANCZOS = Image.Resampling.LANCZOS


def same(luma: Image.Image, box: tuple[float, float, float, float]) -> bool:
    found = _grids._product(luma, box)
    wanted = [numpy.asarray(luma.resize(size, LANCZOS, box=box)) for size in ((9, 8), (8, 9))]
    return all(numpy.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_this_pillow_is_one_that_the_quick_way_is_written_after() -> None:
    assert _grids._pillow_is_as_known()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(_grids._LEAST, 3000),
    tallness=st.floats(0.02, _grids._TALLEST),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "black and white", "dark"]),
    cut=st.tuples(*[st.floats(0, 0.99)] * 4),
)
def test_the_product_of_matrices_gives_what_pillow_gives(
    width: int, tallness: float, seed: int, kind: str, cut: tuple[float, float, float, float]
) -> None:
    height = min(600, max(_grids._LEAST, int(width * tallness)))
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width), numpy.uint8)
    if kind == "black and white":
        pixels = (pixels > 127).astype(numpy.uint8) * 255
    elif kind == "dark":
        pixels >>= 6
    assert same(Image.fromarray(pixels), (cut[0], cut[1], width - cut[2], height - cut[3]))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8192, 64), (8000, 700), (4000, 3000), (129, 190), (64, 115), (1080, 1920)])
def test_the_widest_and_the_largest_are_the_same_too(size: tuple[int, int]) -> None:
    luma = Image.effect_noise(size, 90)
    assert same(luma, (0, 0, *map(float, size)))
    white = Image.new("L", size, 255)
    assert same(white, (0, 0, *map(float, size)))


def test_a_pillow_that_resizes_otherwise_is_noticed_and_then_left_to_itself(
    photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(photographs["coffee"]) as image:
        luma = image.convert("L")
    box = (0.0, 0.0, *map(float, luma.size))
    wanted = _grids._plain(luma, box)
    monkeypatch.setattr(_grids, "_weights", lambda length, start, end: numpy.full((length, 17), 1 / length))
    _grids._pillow_is_as_known.cache_clear()
    try:
        assert not _grids._pillow_is_as_known()
        for one, other in zip(_grids.grids(luma, box), wanted, strict=True):
            assert numpy.array_equal(one, other)
    finally:
        _grids._pillow_is_as_known.cache_clear()
