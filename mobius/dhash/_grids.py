# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The two grids of a dhash, 9x8 and 8x9, to the bit what Pillow's LANCZOS gives and in a third of its time.

Pillow resizes in whole numbers: weights of 22 bits, first along the rows, rounded to 8 bits, then along the columns.
Nearly all of the time goes into the rows, and each grid goes over all of them. Here they are one product of matrices
for both grids: the weights are cut into a high and a low part, so small that no sum of theirs over a strip leaves the
24 bits in which a float32 is a whole number, and so BLAS adds them up exactly, in whatever order. The columns are left
to Pillow. Source: `Resample.c` of Pillow (`precompute_coeffs`, `normalize_coeffs_8bpc`).
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

_BITS: Final = 22
"""Fixed point of Pillow's weights."""

_LOW: Final = 7
"""Bits of the low part: 255 * 2^6 * _STRIP stays below 2^24, and so does 255 * 2^(22-7) times the positive weights."""

_STRIP: Final = 128
_ROWS: Final = 64
"""Pixels across and down of one product. A larger one would be shared out to threads by OpenBLAS, of which a scan has
its own (2^18 multiplications and 2^19 are its bounds)."""

_LEAST: Final = 1 << 16
"""Pixels from which the product is quicker."""

_TALLEST: Final = 1.5
"""Height to width up to which Pillow, from 13.0 on, goes over the rows first. Before, it always did."""

_WIDEST: Final = 1 << 13
"""Columns up to which weights are kept: 1.1 MB at most for each of the few widths that are remembered."""

_BAND: Final = 1 << 20


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture cut across, each band with its first row: whole copies would take several times its own memory."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def grids(luma: Image.Image, box: Box) -> Grids:
    """The pixels compared by rows, shape (8, 9), and those compared by columns, (9, 8).

    Args:
        luma: mode L.
        box: what of it is meant: left, top, right, bottom, in pixels and parts of them.
    """
    width, height = luma.size
    quicker = width * height >= _LEAST and width <= _WIDEST and height <= _TALLEST * width
    return _product(luma, box) if quicker and _pillow_is_as_known() else _plain(luma, box)


def _plain(luma: Image.Image, box: Box) -> Grids:
    return _resized(luma, (9, 8), box), _resized(luma, (8, 9), box)


def _product(luma: Image.Image, box: Box) -> Grids:
    across = _across(luma, _weights(luma.width, box[0], box[2]))
    wide, tall = (Image.fromarray(numpy.ascontiguousarray(part)) for part in (across[:, :9], across[:, 9:]))
    return _resized(wide, (9, 8), (0, box[1], 9, box[3])), _resized(tall, (8, 9), (0, box[1], 8, box[3]))


def _resized(luma: Image.Image, size: tuple[int, int], box: Box) -> NDArray[numpy.uint8]:
    return numpy.asarray(luma.resize(size, Image.Resampling.LANCZOS, box=box))


@functools.cache
def _pillow_is_as_known() -> bool:
    """Whether this Pillow resizes as the one that the product was written after, by two pictures of noise."""
    for width, height in ((240, 240 * _TALLEST), (1000, 20)):
        size = width * int(height)
        noise = (numpy.arange(size, dtype=numpy.uint32) * 2654435761 >> 24).astype(numpy.uint8)
        luma = Image.fromarray(noise.reshape(-1, width))
        box = (0.25, 0.0, width - 0.5, float(luma.height))
        if any((one != other).any() for one, other in zip(_product(luma, box), _plain(luma, box), strict=True)):
            return False
    return True


def _across(luma: Image.Image, weights: NDArray[numpy.float32]) -> NDArray[numpy.uint8]:
    """The rows resized to 9 and to 8 pixels, beside each other: shape (height, 17)."""
    strips = len(weights)
    found = numpy.empty((luma.height, 17), numpy.uint8)
    block = numpy.zeros((_ROWS, strips * _STRIP), numpy.float32)
    stripes = block.reshape(_ROWS, strips, _STRIP).swapaxes(0, 1)
    for top, band in bands(luma):
        pixels = numpy.asarray(band)
        for start in range(0, len(pixels), _ROWS):
            rows = pixels[start : start + _ROWS]
            block[: len(rows), : luma.width] = rows
            high, low = numpy.split(numpy.matmul(stripes, weights).sum(0, dtype=numpy.float64)[: len(rows)], 2, axis=1)
            rounded = numpy.floor((high * (1 << _LOW) + low) / (1 << _BITS) + 0.5)
            found[top + start : top + start + len(rows)] = numpy.clip(rounded, 0, 255)
    return found


@functools.lru_cache(16)
def _weights(width: int, left: float, right: float) -> NDArray[numpy.float32]:
    """High and low parts of the weights of each of the 17 pixels: shape (strips, _STRIP, 34)."""
    whole = numpy.hstack([_lanczos(width, left, right, size) for size in (9, 8)])
    high = whole + (1 << _LOW >> 1) >> _LOW
    weights = numpy.zeros((-(-width // _STRIP) * _STRIP, 34), numpy.float32)
    weights[:width] = numpy.hstack([high, whole - (high << _LOW)])
    return weights.reshape(-1, _STRIP, 34)


def _lanczos(width: int, left: float, right: float, size: int) -> NDArray[numpy.int64]:
    """What each of `width` pixels counts in each of `size`, in 2^-22, shape (width, size)."""
    first_place, last_place = numpy.float32(left), numpy.float32(right)  # Pillow's box is of these
    scale = float(last_place - first_place) / size
    stretch = max(scale, 1.0)
    centres = float(first_place) + (numpy.arange(size) + 0.5) * scale
    first = numpy.maximum(0, (centres - 3 * stretch + 0.5).astype(int))
    end = numpy.minimum(width, (centres + 3 * stretch + 0.5).astype(int))
    places = numpy.arange(width)[:, None]
    x = (places - centres + 0.5) * (1 / stretch)
    values = numpy.where((places >= first) & (places < end) & (x >= -3) & (x < 3), numpy.sinc(x) * numpy.sinc(x / 3), 0)
    values /= values.sum(axis=0)
    fixed: NDArray[numpy.int64] = numpy.trunc(values * (1 << _BITS) + numpy.copysign(0.5, values)).astype(numpy.int64)
    return fixed
