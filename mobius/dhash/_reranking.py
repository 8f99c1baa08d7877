# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Re-ranking: which pairs of near hashes may be one picture, by their descriptors alone.

The thresholds were chosen on real pictures; `bench/confidence.py` measures them, docs/matching.md has the figures and
what they do not show.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._descriptor import BLOCKS, FORM_BYTES, GRAIN_END, dct_basis, emphasis, frequencies, readable

NO_MATCH: Final = 0
DOUBTFUL: Final = 1
NOMINATED: Final = 2

_BLOCK: Final = 1 << 14

_SMALL: Final = 16
"""Pixels a side of the picture that a form is drawn as again."""

_LEAST_COVERED: Final = 6
"""Contrast, in half grey levels, of a picture of which enough is left to see under what was put over it."""


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
def _waves() -> NDArray[numpy.float32]:
    """Each stored coefficient's wave over a small picture, shape (FORM_BYTES - 1, _SMALL * _SMALL)."""
    vertical, horizontal = frequencies()
    basis = dct_basis(_SMALL)
    waves: NDArray[numpy.float32] = numpy.einsum("ki,kj->kij", basis[vertical], basis[horizontal])
    return waves.reshape(len(vertical), -1)


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
    found = _coefficients(looks) / emphasis()
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
    words = numpy.ascontiguousarray(looks[:, FORM_BYTES:GRAIN_END]).view(numpy.uint64)
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
