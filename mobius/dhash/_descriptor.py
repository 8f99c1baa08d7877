# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The descriptor of a picture: what re-ranking compares, since near hashes alone are no match.

A dhash only records which of two neighbouring cells is brighter, so pictures of little content (skies, gradients, icons
on white) have near hashes by chance. The descriptor is independent of the hash, and has three parts:

- The *DCT signature*: the low frequencies of the luma, 119 coefficients of a cosine transform in one byte each, after
  one byte of contrast. Two are compared by the cosine between their coefficients, the higher frequencies raised so that
  each weighs about the same in a natural picture. It finds pairs that may show the same picture, but not a smooth
  picture under a watermark, whose letters have most of the higher frequencies. So where signatures differ and hashes
  are near, both pictures are reconstructed from their signatures and compared without what differs most.
- The *sign map*: where, on 48 x 48 pixels, the luma is clearly above or below its surroundings. Two cards of one deck,
  or two objects on white, have one DCT signature and differ in a small place. So sign maps are compared block by block.
- The *flat share*: the share of pixels of exactly the grey of their neighbours. Nothing here uses it; releases of
  schema 2, which may work on the same index, use it, and hash a picture again that lacks it.

A descriptor cannot confirm a match: it excludes pairs, and selects candidates for verification (`_verification`).

Mirrored and rotated pictures have the same coefficients with other signs and in another order, and a turned sign map,
so the descriptors of the eight transforms need no second decode.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy
from numpy.typing import NDArray
from PIL import Image

DCT_SIDE_PX: Final = 32
"""Side of the picture that is transformed."""

ORDER: Final = 14
"""Highest sum of the two frequencies kept, in half waves a side; 0, the mean, is left out."""

DCT_BYTES: Final = (ORDER + 1) * (ORDER + 2) // 2
"""Bytes of the DCT signature: one of contrast, then one for each coefficient."""

SIGN_MAP_BLOCKS: Final = 6
"""Blocks a side of the sign map; a block is 8 x 8 pixels, so one word of 64 bits."""

SIGN_MAP_END: Final = DCT_BYTES + 2 * 8 * SIGN_MAP_BLOCKS**2

DESCRIPTOR_BYTES: Final = SIGN_MAP_END + 1
"""Bytes of a descriptor: the DCT signature, then the brighter and the darker half of the sign map with a word for each
block, then the flat share in 255ths."""

TRANSFORMS: Final[dict[str, tuple[bool, bool, bool]]] = {
    "none": (False, False, False),
    "mirror": (False, True, False),
    "flip": (False, False, True),
    "rotate180": (False, True, True),
    "transpose": (True, False, False),
    "rotate90": (True, False, True),
    "rotate270": (True, True, False),
    "transverse": (True, True, True),
}
"""Each transform as whether to swap the axes, then mirror left and right, then flip upside down. Rotations turn
counter-clockwise, as in Pillow."""

_FLAT_SHARE_ROWS: Final = 128
"""Rows that the flat share is measured on at most, so that a large picture costs no more."""

_STANDOUT_MIN_GREYS: Final = 1.0
"""Smallest difference from its surroundings of a pixel that stands out; less is compression noise."""


@functools.cache
def frequencies() -> tuple[NDArray[numpy.intp], NDArray[numpy.intp]]:
    """Vertical and horizontal frequency of each stored coefficient, shape (DCT_BYTES - 1,) each."""
    vertical, horizontal = numpy.mgrid[: ORDER + 1, : ORDER + 1]
    kept = (vertical + horizontal > 0) & (vertical + horizontal <= ORDER)
    return vertical[kept], horizontal[kept]


@functools.cache
def dct_basis(side: int) -> NDArray[numpy.float32]:
    """The orthonormal cosine transform (DCT-II), shape (ORDER + 1, side)."""
    frequency, pixel = numpy.arange(ORDER + 1)[:, None], numpy.arange(side)[None, :]
    waves = numpy.cos(math.pi / side * (pixel + 0.5) * frequency) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    basis: NDArray[numpy.float32] = waves.astype(numpy.float32)
    return basis


@functools.cache
def emphasis() -> NDArray[numpy.float32]:
    """Weights of the coefficients: the spectrum of natural pictures falls off as one over the frequency."""
    vertical, horizontal = frequencies()
    return numpy.hypot(vertical, horizontal).astype(numpy.float32)


def compute_descriptor(luma: Image.Image) -> bytes:
    """The descriptor of a picture.

    Args:
        luma: mode L, upright, at least 1 x 1.

    Returns:
        DESCRIPTOR_BYTES bytes: the contrast in half grey levels (standard deviation, at most 127.5), the signed
        coefficients scaled to a maximum of 127, the sign map and the flat share. All zero for a picture of one grey.
    """
    small = numpy.asarray(luma.resize((DCT_SIDE_PX, DCT_SIDE_PX), Image.Resampling.BILINEAR), numpy.float32)
    basis = dct_basis(DCT_SIDE_PX)
    coefficients = (basis @ small @ basis.T)[frequencies()]
    contrast = min(255, round(2 * math.sqrt(float(coefficients @ coefficients)) / DCT_SIDE_PX))
    if contrast == 0:
        return bytes(DESCRIPTOR_BYTES)
    coefficients *= emphasis()
    signed = numpy.rint(coefficients * (127 / float(numpy.abs(coefficients).max()))).astype(numpy.int8)
    return bytes([contrast]) + signed.tobytes() + _sign_map_of(luma) + bytes([round(255 * _flat_share(luma))])


def _flat_share(luma: Image.Image) -> float:
    """The share of pixels as bright as the ones to their right and below, 0 to 1."""
    if min(luma.size) < 2:
        return 1.0
    pixels = numpy.asarray(luma)
    count = min(_FLAT_SHARE_ROWS, luma.height - 1)
    rows = numpy.arange(count) * (luma.height - 1) // count
    here, below = pixels[rows], pixels[rows + 1]
    return float(((here[:, :-1] == here[:, 1:]) & (here[:, :-1] == below[:, :-1])).mean())


def upgrade_descriptor(descriptor: bytes | None) -> bytes | None:
    """A stored descriptor in the form of this release; None when there is none, or of an unknown form.

    Early releases stored no flat share. Such a descriptor can be matched; the next scan computes it again.
    """
    if descriptor is not None and len(descriptor) == SIGN_MAP_END:
        return descriptor + b"\xff"
    return descriptor if descriptor is not None and len(descriptor) == DESCRIPTOR_BYTES else None


def _sign_map_of(luma: Image.Image) -> bytes:
    """Where pixels differ from their surroundings of 5 x 5 by at least half the root mean square of that difference."""
    side = 8 * SIGN_MAP_BLOCKS
    small = numpy.asarray(luma.resize((side, side), Image.Resampling.BILINEAR), numpy.float32)
    around = small
    for axis in (0, 1):
        padded = numpy.pad(around, [(2, 2) if axis == way else (0, 0) for way in (0, 1)], mode="edge")
        around = numpy.mean([padded.take(range(start, start + side), axis) for start in range(5)], axis=0)
    difference = small - around
    limit = max(_STANDOUT_MIN_GREYS, float(numpy.sqrt((difference * difference).mean())) / 2)
    return _pack_blocks(difference >= limit) + _pack_blocks(difference <= -limit)


def _pack_blocks(plane: NDArray[numpy.bool_]) -> bytes:
    """Bits of a plane, shape (8 * BLOCKS, 8 * BLOCKS), block by block."""
    blocks = plane.reshape(SIGN_MAP_BLOCKS, 8, SIGN_MAP_BLOCKS, 8).swapaxes(1, 2)
    return numpy.packbits(blocks.reshape(-1)).tobytes()


def transform_descriptor(descriptor: bytes, transform: str) -> bytes:
    """The descriptor of the transformed picture, from the descriptor alone.

    Raises:
        KeyError: `transform` is none of the eight (`TRANSFORMS`).
    """
    order, signs = _coefficient_order(transform)
    signed = numpy.frombuffer(descriptor, numpy.int8)[1:DCT_BYTES]
    swapped, mirrored, flipped = TRANSFORMS[transform]
    planes = numpy.unpackbits(numpy.frombuffer(descriptor, numpy.uint8)[DCT_BYTES:SIGN_MAP_END]).astype(bool)
    sign_map = (
        planes.reshape(2, SIGN_MAP_BLOCKS, SIGN_MAP_BLOCKS, 8, 8)
        .swapaxes(2, 3)
        .reshape(2, 8 * SIGN_MAP_BLOCKS, 8 * SIGN_MAP_BLOCKS)
    )
    if swapped:
        sign_map = sign_map.swapaxes(1, 2)
    sign_map = sign_map[:, :: -1 if flipped else 1, :: -1 if mirrored else 1]
    return (
        descriptor[:1]
        + (signed[order] * signs).tobytes()
        + _pack_blocks(sign_map[0])
        + _pack_blocks(sign_map[1])
        + descriptor[SIGN_MAP_END:]
    )


@functools.cache
def _coefficient_order(name: str) -> tuple[NDArray[numpy.intp], NDArray[numpy.int8]]:
    """The source index of each coefficient, and its sign: mirroring negates the odd horizontal frequencies."""
    swapped, mirrored, flipped = TRANSFORMS[name]
    vertical, horizontal = frequencies()
    position_of = {pair: index for index, pair in enumerate(zip(vertical, horizontal, strict=True))}
    order = [position_of[(h, v) if swapped else (v, h)] for v, h in zip(vertical, horizontal, strict=True)]
    odd = (horizontal * mirrored + vertical * flipped) % 2
    return numpy.array(order), (1 - 2 * odd).astype(numpy.int8)
