# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two grids of a dhash, 9x8 and 8x9: bit-identical to Pillow's LANCZOS, in a third of its time.

Pillow resizes in whole numbers: weights of 22 bits, first along the rows, rounded to 8 bits, then along the columns.
Nearly all of the time is that of the rows, once for each grid. Here one product of matrices does the rows of both
grids. A float64 represents each weight and each sum exactly, so BLAS may add in any order.

Source: `Resample.c` of Pillow (`precompute_coeffs`, `normalize_coeffs_8bpc`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

import numpy
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
Grids = tuple[NDArray[numpy.uint8], NDArray[numpy.uint8]]

_SIZES: Final = numpy.repeat((9, 8), (9, 8))
"""For each of the 17 pixels of a row or column of both grids, the length of its grid's row or column."""

_BITS: Final = 22
"""Fixed-point bits of Pillow's weights."""

_STRIP: Final = 128
_ROWS: Final = 120
_TALL: Final = 3000
"""Pixels across and down of one product with all 17, and down of one with 8 and 9. OpenBLAS would use threads for a
larger one (from 2^18 multiplications on), and a scan has its own."""

_LEAST: Final = 64
"""Side in pixels from which the product is faster, and from which Pillow's order is known up to `_TALLEST`."""

_TALLEST: Final = 1.8
"""Ratio of height to width up to which Pillow 13.0 and later resizes the rows first; earlier versions always do."""

_LONGEST: Final = 1 << 13
_SHORT: Final = 160
"""Sides in pixels for which weights are cached: the last 32 up to the first (1.1 MB each at most), and 1,024 up to the
second (22 kB each), as computing them takes longer than the product does for a picture that small."""

_BAND: Final = 1 << 20


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in bands, each with its first row: whole copies would take several times its memory."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def grids(luma: Image.Image, box: Box) -> Grids:
    """The pixels compared by rows, shape (8, 9), and those compared by columns, (9, 8).

    Args:
        luma: mode L.
        box: the part of it to resize: left, top, right, bottom, in pixels and fractions of them.
    """
    width, height = luma.size
    is_faster = min(luma.size) >= _LEAST and max(luma.size) <= _LONGEST and height <= _TALLEST * width
    return _product(luma, box) if is_faster and _pillow_is_as_known() else _plain(luma, box)


def _plain(luma: Image.Image, box: Box) -> Grids:
    wide, tall = (luma.resize(size, Image.Resampling.LANCZOS, box=box) for size in ((9, 8), (8, 9)))
    return numpy.asarray(wide), numpy.asarray(tall)


def _product(luma: Image.Image, box: Box) -> Grids:
    across = _across(luma, _weights(luma.width, box[0], box[2]))
    down = _weights(luma.height, box[1], box[3]).T
    wide, tall = numpy.zeros((8, 9)), numpy.zeros((9, 8))
    for top in range(0, luma.height, _TALL):
        rows = slice(top, top + _TALL)
        wide += down[9:, rows] @ across[rows, :9]
        tall += down[:9, rows] @ across[rows, 9:]
    return _rounded(wide).astype(numpy.uint8), _rounded(tall).astype(numpy.uint8)


@functools.cache
def _pillow_is_as_known() -> bool:
    """Whether the installed Pillow resizes two pictures of noise as `_product` does."""
    for width, height in ((240, 432), (1000, 64)):
        size = width * height
        noise = (numpy.arange(size, dtype=numpy.uint32) * 2654435761 >> 24).astype(numpy.uint8)
        luma = Image.fromarray(noise.reshape(-1, width))
        box = (0.25, 0.0, width - 0.5, float(luma.height))
        if any((one != other).any() for one, other in zip(_product(luma, box), _plain(luma, box), strict=True)):
            return False
    return True


def _across(luma: Image.Image, weights: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """The rows resized to 9 and to 8 pixels, beside each other: shape (height, 17), whole numbers."""
    width, height = luma.size
    rows, strips = min(_ROWS, height), -(-width // _STRIP)
    strip = -(-width // strips)
    sums = numpy.empty((height, 17))
    block = numpy.zeros((rows, strips * strip))
    stripes = block.reshape(rows, strips, strip).swapaxes(0, 1)
    parts = numpy.zeros((strips * strip, 17))
    parts[:width] = weights
    for top in range(0, height, rows):
        below = min(top + rows, height)
        block[: below - top, :width] = numpy.asarray(luma.crop((0, top, width, below)))
        products = numpy.matmul(stripes[:, : below - top], parts.reshape(strips, strip, 17))
        products.sum(0, out=sums[top:below])
    return _rounded(sums)


def _rounded(sums: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Pillow's `clip8`."""
    return numpy.clip(numpy.floor(sums + 0.5), 0, 255)


def _weights(length: int, start: float, end: float) -> NDArray[numpy.float64]:
    """The weight of each of `length` pixels in each of the 17 that `start` to `end` become: shape (length, 17)."""
    return (_weights_of_short if length <= _SHORT else _weights_of_long)(length, start, end)


def _compute_weights(length: int, start: float, end: float) -> NDArray[numpy.float64]:
    box_start, box_end = numpy.float32(start), numpy.float32(end)  # Pillow's box is of these
    scale = float(box_end - box_start) / _SIZES
    stretch = numpy.maximum(scale, 1.0)
    centres = float(box_start) + (numpy.hstack([numpy.arange(9), numpy.arange(8)]) + 0.5) * scale
    first = numpy.maximum(0, (centres - 3 * stretch + 0.5).astype(int))
    last = numpy.minimum(length, (centres + 3 * stretch + 0.5).astype(int))
    pixels = numpy.arange(length)[:, None]
    x = (pixels - centres + 0.5) * (1 / stretch)
    counted = (pixels >= first) & (pixels < last) & (x >= -3) & (x < 3)
    values = numpy.where(counted, numpy.sinc(x) * numpy.sinc(x / 3), 0)
    values /= values.sum(axis=0)
    fixed: NDArray[numpy.float64] = numpy.trunc(values * (1 << _BITS) + numpy.copysign(0.5, values)) / (1 << _BITS)
    return fixed


_weights_of_short: Final = functools.lru_cache(1024)(_compute_weights)
_weights_of_long: Final = functools.lru_cache(32)(_compute_weights)
