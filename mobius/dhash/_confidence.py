# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The second look: whether two pictures with near hashes really are one picture.

A dhash knows only which of two neighbours is brighter, so pictures with little in them (skies, gradients, icons on
white) come near each other by chance. A *look* is independent of it: the low frequencies of the picture's luma, 119
coefficients of a cosine transform in one byte each, and its contrast in one more. Two looks are compared by the cosine
between their coefficients, the higher frequencies raised so that each counts about the same in a natural picture.

Mirrored and rotated pictures have the same coefficients with other signs and in another order, so the eight transforms
of a look need no second decode.

The thresholds are calibrated on real pictures by `bench/confidence.py`; docs/matching.md has the figures.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy
from numpy.typing import NDArray
from PIL import Image

GRID: Final = 32
"""Pixels a side that a picture is brought to before its cosine transform."""

ORDER: Final = 14
"""Highest sum of the two frequencies kept (in half waves a side); 0, the mean, is left out."""

LOOK_BYTES: Final = (ORDER + 1) * (ORDER + 2) // 2
"""Bytes of a look: one of contrast, then one a coefficient."""

NO_MATCH: Final = 0
DOUBTFUL: Final = 1
CONFIDENT: Final = 2

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

_BLOCK: Final = 1 << 16


@dataclass(frozen=True)
class Thresholds:
    """Where a match begins and where it is certain.

    Attributes:
        radius: largest distance of two hashes, of 128 bits, at which their looks are compared at all.
        doubtful: smallest cosine of a match.
        confident: smallest cosine of a confident match.
        contrast: standard deviation of the small luma, in grey levels of 255, below which a picture is flat.
        detail: number of coefficients (as if all were equally strong) below which a picture has too little in it.
    """

    radius: int = 32
    doubtful: float = 0.6
    confident: float = 0.9
    contrast: float = 4.0
    detail: float = 8.0


DEFAULT_THRESHOLDS: Final = Thresholds()


@functools.cache
def _frequencies() -> tuple[NDArray[numpy.intp], NDArray[numpy.intp]]:
    """Vertical and horizontal frequency of each stored coefficient, shape (LOOK_BYTES - 1,)."""
    vertical, horizontal = numpy.mgrid[: ORDER + 1, : ORDER + 1]
    kept = (vertical + horizontal > 0) & (vertical + horizontal <= ORDER)
    return vertical[kept], horizontal[kept]


@functools.cache
def _basis() -> NDArray[numpy.float32]:
    """The orthonormal cosine transform (DCT-II), shape (ORDER + 1, GRID)."""
    frequency, place = numpy.arange(ORDER + 1)[:, None], numpy.arange(GRID)[None, :]
    waves = numpy.cos(math.pi / GRID * (place + 0.5) * frequency) * math.sqrt(2 / GRID)
    waves[0] /= math.sqrt(2)
    basis: NDArray[numpy.float32] = waves.astype(numpy.float32)
    return basis


@functools.cache
def _emphasis() -> NDArray[numpy.float32]:
    """Natural pictures fall off as one over the frequency; this raises each coefficient by as much."""
    vertical, horizontal = _frequencies()
    return numpy.hypot(vertical, horizontal).astype(numpy.float32)


def look_of(luma: Image.Image) -> bytes:
    """The look of a picture.

    Args:
        luma: mode L, already turned upright, at least 1 x 1.

    Returns:
        LOOK_BYTES bytes: the contrast in half grey levels (standard deviation, at most 127.5), then signed
        coefficients, the strongest brought to 127. All zero for a picture of one grey.
    """
    small = numpy.asarray(luma.resize((GRID, GRID), Image.Resampling.BILINEAR), numpy.float32)
    basis = _basis()
    found = (basis @ small @ basis.T)[_frequencies()]
    contrast = min(255, round(2 * math.sqrt(float(found @ found)) / GRID))
    if contrast == 0:
        return bytes(LOOK_BYTES)
    found *= _emphasis()
    signed = numpy.rint(found * (127 / float(numpy.abs(found).max()))).astype(numpy.int8)
    return bytes([contrast]) + signed.tobytes()


def transformed(look: bytes, transform: str) -> bytes:
    """The look of the transformed picture, from the look alone.

    Raises:
        KeyError: `transform` is none of the eight (`TRANSFORMS`).
    """
    order, signs = _transform(transform)
    signed = numpy.frombuffer(look, numpy.int8)[1:]
    return look[:1] + (signed[order] * signs).tobytes()


@functools.cache
def _transform(name: str) -> tuple[NDArray[numpy.intp], NDArray[numpy.int8]]:
    """Where each coefficient comes from, and its sign: mirroring negates the odd horizontal frequencies."""
    swapped, mirrored, flipped = TRANSFORMS[name]
    vertical, horizontal = _frequencies()
    places = {pair: place for place, pair in enumerate(zip(vertical, horizontal, strict=True))}
    order = [places[(h, v) if swapped else (v, h)] for v, h in zip(vertical, horizontal, strict=True)]
    odd = (horizontal * mirrored + vertical * flipped) % 2
    return numpy.array(order), (1 - 2 * odd).astype(numpy.int8)


def trusted(look: bytes, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> bool:
    """Whether there is enough in the picture for a look to prove anything. If not, its matches are never confident."""
    return bool(_enough(numpy.frombuffer(look, numpy.uint8)[None, :], thresholds)[0])


def judge(
    distances: NDArray[Any],
    looks_a: NDArray[numpy.uint8],
    looks_b: NDArray[numpy.uint8],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> NDArray[numpy.uint8]:
    """Judge candidate pairs.

    Args:
        distances: of their hashes, of 128 bits, shape (n,).
        looks_a, looks_b: their looks, shape (n, LOOK_BYTES) each.

    Returns:
        Shape (n,): 0 no match, 1 doubtful, 2 confident.
    """
    verdicts = numpy.zeros(len(distances), numpy.uint8)
    for start in range(0, len(distances), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = similarity(looks_a[part], looks_b[part])
        near = numpy.asarray(distances[part]) <= thresholds.radius
        known = _enough(looks_a[part], thresholds) & _enough(looks_b[part], thresholds)
        verdicts[part] += near & (cosines >= thresholds.doubtful)
        verdicts[part] += near & (cosines >= thresholds.confident) & known
    return verdicts


def similarity(looks_a: NDArray[numpy.uint8], looks_b: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """The cosine between the coefficients of looks, both of shape (n, LOOK_BYTES): -1 to 1, shape (n,).

    1 is one picture, whatever its brightness and contrast; 0 has nothing in common, as has a picture of one grey.
    """
    a, b = _coefficients(looks_a), _coefficients(looks_b)
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", a, a) * numpy.einsum("ij,ij->i", b, b))
    cosines: NDArray[numpy.float32] = numpy.einsum("ij,ij->i", a, b) / numpy.maximum(lengths, 1)
    return cosines


def _coefficients(looks: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return numpy.ascontiguousarray(looks[:, 1:]).view(numpy.int8).astype(numpy.float32)


def _enough(looks: NDArray[numpy.uint8], thresholds: Thresholds) -> NDArray[numpy.bool_]:
    """Which looks have contrast and detail, shape (n,). Detail is the participation ratio of the coefficients."""
    squares = _coefficients(looks) ** 2
    detail = squares.sum(axis=1) ** 2 / numpy.maximum((squares**2).sum(axis=1), 1)
    enough: NDArray[numpy.bool_] = (looks[:, 0] >= 2 * thresholds.contrast) & (detail >= thresholds.detail)
    return enough
