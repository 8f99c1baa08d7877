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

A look proves nothing: it says what is no match, and which matches are worth a look at their pixels (`_proof`).

Mirrored and rotated pictures have the same coefficients with other signs and in another order, and a turned grain, so
the eight transforms of a look need no second decode.

The thresholds were chosen on real pictures; `bench/confidence.py` measures them, docs/matching.md has the figures and
what they do not show.
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

FORM_BYTES: Final = (ORDER + 1) * (ORDER + 2) // 2
"""Bytes of the form: one of contrast, then one a coefficient."""

BLOCKS: Final = 6
"""Blocks a side of the grain, of 8 x 8 pixels each, so that one is a word of 64 bits."""

_GRAIN_END: Final = FORM_BYTES + 2 * 8 * BLOCKS**2

LOOK_BYTES: Final = _GRAIN_END + 1
"""Bytes of a look: the form, then of the grain a word a block of what is brighter and one a block of what is darker,
then the flatness in 255ths."""

NO_MATCH: Final = 0
DOUBTFUL: Final = 1
NOMINATED: Final = 2

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

_BLOCK: Final = 1 << 14

_SMALL: Final = 16
"""Pixels a side of the picture that a form is drawn as again."""

_ROWS: Final = 128
"""Rows that the flatness is measured on at most, so that it costs no more on a large picture."""

_LEAST_COVERED: Final = 6
"""Contrast, in half grey levels, of a picture of which enough is left to see under what was put over it."""

_LEAST: Final = 1.0
"""Grey levels that a pixel stands out by at least: less is the noise of a coder."""


@dataclass(frozen=True)
class Thresholds:
    """Where a match begins, and what is worth a look at its pixels.

    Attributes:
        radius: largest distance of two hashes, of 128 bits, at which their looks are compared at all.
        doubtful: smallest cosine of a match.
        covered_radius: largest distance of two hashes, of 128 bits, at which one picture may be the other with
            something put over it, although their cosine is less.
        uncovered: smallest share of the pixels of such a match that differ by no more than half a standard deviation.
        likeness: smallest correlation of such a match, without the eighth of the pixels that differs most.
        nominated: smallest cosine of a match that may be proven.
        contrast: standard deviation of the small luma, in grey levels of 255, below which a picture is flat.
        detail: number of coefficients (as if all were equally strong) below which a picture has too little in it.
        busy: pixels of a block's 64 that stand out, from which the block counts.
        blocks: number of busy blocks below which a picture has too little in it.
        agreement: smallest correlation of the grain in every busy block of a match that may be proven.
    """

    radius: int = 32
    doubtful: float = 0.6
    covered_radius: int = 20
    uncovered: float = 0.75
    likeness: float = 0.98
    nominated: float = 0.95
    contrast: float = 4.0
    detail: float = 8.0
    busy: int = 8
    blocks: int = 4
    agreement: float = 0.0


DEFAULT_THRESHOLDS: Final = Thresholds()


@functools.cache
def _frequencies() -> tuple[NDArray[numpy.intp], NDArray[numpy.intp]]:
    """Vertical and horizontal frequency of each stored coefficient, shape (LOOK_BYTES - 1,)."""
    vertical, horizontal = numpy.mgrid[: ORDER + 1, : ORDER + 1]
    kept = (vertical + horizontal > 0) & (vertical + horizontal <= ORDER)
    return vertical[kept], horizontal[kept]


@functools.cache
def _basis(side: int) -> NDArray[numpy.float32]:
    """The orthonormal cosine transform (DCT-II), shape (ORDER + 1, side)."""
    frequency, place = numpy.arange(ORDER + 1)[:, None], numpy.arange(side)[None, :]
    waves = numpy.cos(math.pi / side * (place + 0.5) * frequency) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    basis: NDArray[numpy.float32] = waves.astype(numpy.float32)
    return basis


@functools.cache
def _waves() -> NDArray[numpy.float32]:
    """Each stored coefficient's wave over a small picture, shape (FORM_BYTES - 1, _SMALL * _SMALL)."""
    vertical, horizontal = _frequencies()
    basis = _basis(_SMALL)
    waves: NDArray[numpy.float32] = numpy.einsum("ki,kj->kij", basis[vertical], basis[horizontal])
    return waves.reshape(len(vertical), -1)


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
        coefficients, the strongest brought to 127, then the grain, then the flatness. All zero for a picture of one
        grey.
    """
    small = numpy.asarray(luma.resize((GRID, GRID), Image.Resampling.BILINEAR), numpy.float32)
    basis = _basis(GRID)
    found = (basis @ small @ basis.T)[_frequencies()]
    contrast = min(255, round(2 * math.sqrt(float(found @ found)) / GRID))
    if contrast == 0:
        return bytes(LOOK_BYTES)
    found *= _emphasis()
    signed = numpy.rint(found * (127 / float(numpy.abs(found).max()))).astype(numpy.int8)
    return bytes([contrast]) + signed.tobytes() + _grain_of(luma) + bytes([round(255 * _flatness(luma))])


def _flatness(luma: Image.Image) -> float:
    """The share of pixels that are as bright as the one to the right and the one below, 0 to 1."""
    if min(luma.size) < 2:
        return 1.0
    pixels = numpy.asarray(luma)
    most = min(_ROWS, luma.height - 1)
    rows = numpy.arange(most) * (luma.height - 1) // most
    here, below = pixels[rows], pixels[rows + 1]
    return float(((here[:, :-1] == here[:, 1:]) & (here[:, :-1] == below[:, :-1])).mean())


def readable(look: bytes | None) -> bytes | None:
    """A stored look as one of LOOK_BYTES; None when there is none, or none that this release knows.

    One without its flatness, as early releases wrote it, finds what it found; the next scan looks again.
    """
    if look is not None and len(look) == _GRAIN_END:
        return look + b"\xff"
    return look if look is not None and len(look) == LOOK_BYTES else None


def _grain_of(luma: Image.Image) -> bytes:
    """Where the picture stands out from its surroundings of 5 x 5, by half of what it does on average or more."""
    side = 8 * BLOCKS
    small = numpy.asarray(luma.resize((side, side), Image.Resampling.BILINEAR), numpy.float32)
    around = small
    for axis in (0, 1):
        padded = numpy.pad(around, [(2, 2) if axis == way else (0, 0) for way in (0, 1)], mode="edge")
        around = numpy.mean([padded.take(range(start, start + side), axis) for start in range(5)], axis=0)
    stands = small - around
    least = max(_LEAST, float(numpy.sqrt((stands * stands).mean())) / 2)
    return _packed(stands >= least) + _packed(stands <= -least)


def _packed(plane: NDArray[numpy.bool_]) -> bytes:
    """Bits of a plane, shape (8 * BLOCKS, 8 * BLOCKS), block by block."""
    blocks = plane.reshape(BLOCKS, 8, BLOCKS, 8).swapaxes(1, 2)
    return numpy.packbits(blocks.reshape(-1)).tobytes()


def transformed(look: bytes, transform: str) -> bytes:
    """The look of the transformed picture, from the look alone.

    Raises:
        KeyError: `transform` is none of the eight (`TRANSFORMS`).
    """
    order, signs = _transform(transform)
    signed = numpy.frombuffer(look, numpy.int8)[1:FORM_BYTES]
    swapped, mirrored, flipped = TRANSFORMS[transform]
    planes = numpy.unpackbits(numpy.frombuffer(look, numpy.uint8)[FORM_BYTES:_GRAIN_END]).astype(bool)
    grain = planes.reshape(2, BLOCKS, BLOCKS, 8, 8).swapaxes(2, 3).reshape(2, 8 * BLOCKS, 8 * BLOCKS)
    if swapped:
        grain = grain.swapaxes(1, 2)
    grain = grain[:, :: -1 if flipped else 1, :: -1 if mirrored else 1]
    return look[:1] + (signed[order] * signs).tobytes() + _packed(grain[0]) + _packed(grain[1]) + look[_GRAIN_END:]


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
    """Whether there is enough in a picture for a match to be proven, by its stored look."""
    found = readable(look)
    return found is not None and bool(_enough(numpy.frombuffer(found, numpy.uint8)[None, :], thresholds)[0])


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
        Shape (n,): 0 no match, 1 doubtful, 2 doubtful until their pixels have been looked at.
    """
    verdicts = numpy.zeros(len(distances), numpy.uint8)
    for start in range(0, len(distances), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines = similarity(looks_a[part], looks_b[part])
        near = numpy.asarray(distances[part]) <= thresholds.radius
        known = _enough(looks_a[part], thresholds) & _enough(looks_b[part], thresholds)
        verdicts[part] += near & (cosines >= thresholds.doubtful)
        verdicts[start + _covered(distances[part], cosines, looks_a[part], looks_b[part], thresholds)] += 1
        alike = numpy.flatnonzero(near & (cosines >= thresholds.nominated) & known)
        agreeing = alike[_agree(looks_a[part][alike], looks_b[part][alike], thresholds)]
        verdicts[start + agreeing] += 1
    return verdicts


def _covered(
    distances: NDArray[Any],
    cosines: NDArray[numpy.float32],
    looks_a: NDArray[numpy.uint8],
    looks_b: NDArray[numpy.uint8],
    thresholds: Thresholds,
) -> NDArray[numpy.intp]:
    """The places of pairs whose forms disagree, and of which one may be the other with something put over it."""
    least = numpy.minimum(looks_a[:, 0], looks_b[:, 0])
    near = numpy.asarray(distances) <= thresholds.covered_radius
    asked = numpy.flatnonzero(near & (cosines < thresholds.doubtful) & (least >= _LEAST_COVERED))
    a, b = _drawn(looks_a[asked]), _drawn(looks_b[asked])
    apart = b - a
    apart = numpy.abs(apart - numpy.median(apart, axis=1, keepdims=True))
    # the contrast is in half grey levels, and half a standard deviation is asked for
    uncovered = (apart <= least[asked, None] / 4).mean(axis=1) >= thresholds.uncovered
    asked, a, b, apart = asked[uncovered], a[uncovered], b[uncovered], apart[uncovered]
    kept = numpy.argsort(apart, axis=1)[:, : _SMALL**2 * 7 // 8]
    a, b = numpy.take_along_axis(a, kept, 1), numpy.take_along_axis(b, kept, 1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    lengths = numpy.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: NDArray[numpy.intp] = asked[(a * b).sum(axis=1) >= thresholds.likeness * numpy.maximum(lengths, 1)]
    return found


def _drawn(looks: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """The forms as pictures in grey levels around their mean, shape (n, _SMALL * _SMALL)."""
    found = _coefficients(looks) / _emphasis()
    lengths = numpy.maximum(numpy.sqrt(numpy.einsum("ij,ij->i", found, found)), 1e-6)
    strength = looks[:, 0].astype(numpy.float32) / 2 * _SMALL / lengths
    drawn: NDArray[numpy.float32] = (found * strength[:, None]) @ _waves()
    return drawn


def _agree(
    looks_a: NDArray[numpy.uint8], looks_b: NDArray[numpy.uint8], thresholds: Thresholds
) -> NDArray[numpy.bool_]:
    """Whether the grains are of one picture, shape (n,)."""
    alike, busy = agreement(looks_a, looks_b, thresholds.busy)
    odd = busy & (alike < thresholds.agreement)
    agree: NDArray[numpy.bool_] = (busy.sum(axis=1) >= thresholds.blocks) & ~odd.any(axis=1)
    return agree


def agreement(
    looks_a: NDArray[numpy.uint8], looks_b: NDArray[numpy.uint8], busy: int
) -> tuple[NDArray[numpy.float32], NDArray[numpy.bool_]]:
    """The correlation of two grains block by block, -1 to 1, and whether the block is busy in either.

    Args:
        looks_a, looks_b: shape (n, LOOK_BYTES).
        busy: pixels of a block's 64 that stand out, from which it is.

    Returns:
        Two arrays of shape (n, BLOCKS * BLOCKS).
    """
    (up_a, down_a), (up_b, down_b) = _grain(looks_a), _grain(looks_b)
    count = numpy.bitwise_count
    same = count(up_a & up_b).astype(numpy.float32) + count(down_a & down_b)
    other = count(up_a & down_b).astype(numpy.float32) + count(down_a & up_b)
    many_a, many_b = count(up_a | down_a).astype(numpy.float32), count(up_b | down_b).astype(numpy.float32)
    alike: NDArray[numpy.float32] = (same - other) / numpy.sqrt(numpy.maximum(many_a * many_b, 1))
    return alike, numpy.maximum(many_a, many_b) >= busy


def _grain(looks: NDArray[numpy.uint8]) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
    """The words of what is brighter and of what is darker, shape (n, BLOCKS * BLOCKS) each."""
    words = numpy.ascontiguousarray(looks[:, FORM_BYTES:_GRAIN_END]).view(numpy.uint64)
    return words[:, : BLOCKS**2], words[:, BLOCKS**2 :]


def similarity(looks_a: NDArray[numpy.uint8], looks_b: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """The cosine between the coefficients of looks, both of shape (n, LOOK_BYTES): -1 to 1, shape (n,).

    1 is one picture, whatever its brightness and contrast; 0 has nothing in common, as has a picture of one grey.
    """
    a, b = _coefficients(looks_a), _coefficients(looks_b)
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", a, a) * numpy.einsum("ij,ij->i", b, b))
    cosines: NDArray[numpy.float32] = numpy.einsum("ij,ij->i", a, b) / numpy.maximum(lengths, 1)
    return cosines


def _coefficients(looks: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return numpy.ascontiguousarray(looks[:, 1:FORM_BYTES]).view(numpy.int8).astype(numpy.float32)


def _enough(looks: NDArray[numpy.uint8], thresholds: Thresholds) -> NDArray[numpy.bool_]:
    """Which looks have contrast and detail, shape (n,). Detail is the participation ratio of the coefficients."""
    squares = _coefficients(looks) ** 2
    detail = squares.sum(axis=1) ** 2 / numpy.maximum((squares**2).sum(axis=1), 1)
    enough: NDArray[numpy.bool_] = (looks[:, 0] >= 2 * thresholds.contrast) & (detail >= thresholds.detail)
    return enough
