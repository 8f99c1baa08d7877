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


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 3000),
    tallness=st.floats(0.02, 1.5),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "black and white", "dark"]),
    cut=st.tuples(*[st.floats(0, 0.99)] * 4),
)
def test_the_product_of_matrices_gives_what_pillow_gives(
    width: int, tallness: float, seed: int, kind: str, cut: tuple[float, float, float, float]
) -> None:
    height = min(600, max(9, int(width * tallness)))
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width), numpy.uint8)
    if kind == "black and white":
        pixels = (pixels > 127).astype(numpy.uint8) * 255
    elif kind == "dark":
        pixels >>= 6
    assert same(Image.fromarray(pixels), (cut[0], cut[1], width - cut[2], height - cut[3]))


@pytest.mark.parametrize("size", [(8192, 40), (8000, 700), (4000, 3000), (129, 190)])
def test_the_widest_and_the_largest_are_the_same_too(size: tuple[int, int]) -> None:
    luma = Image.effect_noise(size, 90)
    assert same(luma, (0, 0, *map(float, size)))
    white = Image.new("L", size, 255)
    assert same(white, (0, 0, *map(float, size)))


def test_the_weights_of_a_strip_never_leave_the_whole_numbers_of_a_float32() -> None:
    for width in (20, 128, 129, 1000, 4001, _grids._WIDEST):
        weights = _grids._weights(width, 0.0, float(width)).astype(numpy.float64)
        for part in (numpy.maximum(weights, 0), numpy.minimum(weights, 0)):
            assert numpy.abs(part.sum(axis=1)).max() * 255 < 1 << 24


def test_a_pillow_that_resizes_otherwise_is_noticed_and_then_left_to_itself(
    photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(photographs["coffee"]) as image:
        luma = image.convert("L")
    box = (0.0, 0.0, *map(float, luma.size))
    wanted = _grids._plain(luma, box)
    monkeypatch.setattr(_grids, "_lanczos", lambda width, left, right, size: numpy.ones((width, size), numpy.int64))
    for remembered in (_grids._weights, _grids._pillow_is_as_known):
        remembered.cache_clear()
    try:
        assert not _grids._pillow_is_as_known()
        for one, other in zip(_grids.grids(luma, box), wanted, strict=True):
            assert numpy.array_equal(one, other)
    finally:
        for remembered in (_grids._weights, _grids._pillow_is_as_known):
            remembered.cache_clear()
