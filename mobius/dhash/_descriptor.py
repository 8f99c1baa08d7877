# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The second look: which of the pictures with near hashes may be one picture, from memory alone.

A dhash knows only which of two neighbours is brighter, so pictures with little in them (skies, gradients, icons on
white) come near each other by chance. A *look* is independent of it, and has three parts:

- The *form*: the low frequencies of the picture's luma, 119 coefficients of a cosine transform in one byte each, and
  its contrast in one more. Two forms are compared by the cosine between their coefficients, the higher frequencies
  raised so that each counts about the same in a natural picture. It finds what may be one picture. Not so a smooth one
  under a watermark, whose letters have most of the higher frequencies; so where the forms disagree and the hashes are
  near, both are drawn again from their forms and compared without what differs most.
- The *grain*: where, on 48 x 48 pixels, the luma is clearly above or below what lies around it. Two cards of one pack,
  or two things cut out on white, have one form; what they differ in is small and in some place. So grains are compared
  block by block.
- The *flatness*: how much of the picture is of exactly one grey with its neighbours. It decides nothing here; releases
  of schema 2, which work on the same index, go by it, and hash again what lacks it.

A look proves nothing: it says what is no match, and which matches are worth a look at their pixels (`_verification`).

Mirrored and rotated pictures have the same coefficients with other signs and in another order, and a turned grain, so
the eight transforms of a look need no second decode.

The thresholds were chosen on real pictures; `bench/confidence.py` measures them, docs/matching.md has the figures and
what they do not show.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy
from numpy.typing import NDArray
from PIL import Image

DCT_SIDE_PX: Final = 32
"""Pixels a side that a picture is brought to before its cosine transform."""

ORDER: Final = 14
"""Highest sum of the two frequencies kept (in half waves a side); 0, the mean, is left out."""

DCT_BYTES: Final = (ORDER + 1) * (ORDER + 2) // 2
"""Bytes of the form: one of contrast, then one a coefficient."""

SIGN_MAP_BLOCKS: Final = 6
"""Blocks a side of the grain, of 8 x 8 pixels each, so that one is a word of 64 bits."""

SIGN_MAP_END: Final = DCT_BYTES + 2 * 8 * SIGN_MAP_BLOCKS**2

DESCRIPTOR_BYTES: Final = SIGN_MAP_END + 1
"""Bytes of a look: the form, then of the grain a word a block of what is brighter and one a block of what is darker,
then the flatness in 255ths."""

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
"""What was done to a picture: swap its axes, then mirror left and right, then turn upside down. Rotations turn
counter-clockwise, as Pillow's do."""

_ROWS: Final = 128
"""Rows that the flatness is measured on at most, so that it costs no more on a large picture."""

_STANDOUT_MIN_GREYS: Final = 1.0
"""Grey levels that a pixel stands out by at least: less is the noise of a coder."""


@functools.cache
def frequencies() -> tuple[NDArray[numpy.intp], NDArray[numpy.intp]]:
    """Vertical and horizontal frequency of each stored coefficient, shape (LOOK_BYTES - 1,)."""
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
    """Natural pictures fall off as one over the frequency; this raises each coefficient by as much."""
    vertical, horizontal = frequencies()
    return numpy.hypot(vertical, horizontal).astype(numpy.float32)


def compute_descriptor(luma: Image.Image) -> bytes:
    """The look of a picture.

    Args:
        luma: mode L, already turned upright, at least 1 x 1.

    Returns:
        LOOK_BYTES bytes: the contrast in half grey levels (standard deviation, at most 127.5), then signed
        coefficients, the strongest brought to 127, then the grain, then the flatness. All zero for a picture of one
        grey.
    """
    small = numpy.asarray(luma.resize((DCT_SIDE_PX, DCT_SIDE_PX), Image.Resampling.BILINEAR), numpy.float32)
    basis = dct_basis(DCT_SIDE_PX)
    found = (basis @ small @ basis.T)[frequencies()]
    contrast = min(255, round(2 * math.sqrt(float(found @ found)) / DCT_SIDE_PX))
    if contrast == 0:
        return bytes(DESCRIPTOR_BYTES)
    found *= emphasis()
    signed = numpy.rint(found * (127 / float(numpy.abs(found).max()))).astype(numpy.int8)
    return bytes([contrast]) + signed.tobytes() + _sign_map_of(luma) + bytes([round(255 * _flat_share(luma))])


def _flat_share(luma: Image.Image) -> float:
    """The share of pixels that are as bright as the one to the right and the one below, 0 to 1."""
    if min(luma.size) < 2:
        return 1.0
    pixels = numpy.asarray(luma)
    count = min(_ROWS, luma.height - 1)
    rows = numpy.arange(count) * (luma.height - 1) // count
    here, below = pixels[rows], pixels[rows + 1]
    return float(((here[:, :-1] == here[:, 1:]) & (here[:, :-1] == below[:, :-1])).mean())


def upgrade_descriptor(descriptor: bytes | None) -> bytes | None:
    """A stored look as one of LOOK_BYTES; None when there is none, or none that this release knows.

    One without its flatness, as early releases wrote it, finds what it found; the next scan looks again.
    """
    if descriptor is not None and len(descriptor) == SIGN_MAP_END:
        return descriptor + b"\xff"
    return descriptor if descriptor is not None and len(descriptor) == DESCRIPTOR_BYTES else None


def _sign_map_of(luma: Image.Image) -> bytes:
    """Where the picture stands out from its surroundings of 5 x 5, by half of what it does on average or more."""
    side = 8 * SIGN_MAP_BLOCKS
    small = numpy.asarray(luma.resize((side, side), Image.Resampling.BILINEAR), numpy.float32)
    around = small
    for axis in (0, 1):
        padded = numpy.pad(around, [(2, 2) if axis == way else (0, 0) for way in (0, 1)], mode="edge")
        around = numpy.mean([padded.take(range(start, start + side), axis) for start in range(5)], axis=0)
    stands = small - around
    least = max(_STANDOUT_MIN_GREYS, float(numpy.sqrt((stands * stands).mean())) / 2)
    return _pack_blocks(stands >= least) + _pack_blocks(stands <= -least)


def _pack_blocks(plane: NDArray[numpy.bool_]) -> bytes:
    """Bits of a plane, shape (8 * BLOCKS, 8 * BLOCKS), block by block."""
    blocks = plane.reshape(SIGN_MAP_BLOCKS, 8, SIGN_MAP_BLOCKS, 8).swapaxes(1, 2)
    return numpy.packbits(blocks.reshape(-1)).tobytes()


def transform_descriptor(descriptor: bytes, transform: str) -> bytes:
    """The look of the transformed picture, from the look alone.

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
    """Where each coefficient comes from, and its sign: mirroring negates the odd horizontal frequencies."""
    swapped, mirrored, flipped = TRANSFORMS[name]
    vertical, horizontal = frequencies()
    position_of = {pair: pixel for pixel, pair in enumerate(zip(vertical, horizontal, strict=True))}
    order = [position_of[(h, v) if swapped else (v, h)] for v, h in zip(vertical, horizontal, strict=True)]
    odd = (horizontal * mirrored + vertical * flipped) % 2
    return numpy.array(order), (1 - 2 * odd).astype(numpy.int8)
