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

from mobius.dhash._descriptor import (
    DCT_BYTES,
    SIGN_MAP_BLOCKS,
    SIGN_MAP_END,
    dct_basis,
    emphasis,
    frequencies,
    upgrade_descriptor,
)

NO_MATCH: Final = 0
NEEDS_REVIEW: Final = 1
CANDIDATE: Final = 2

_BLOCK: Final = 1 << 14

_RECONSTRUCTED_SIDE_PX: Final = 16
"""Pixels a side of the picture that a form is drawn as again."""

_COVERED_MIN_CONTRAST: Final = 6
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
    review_cosine: float = 0.6
    covered_radius: int = 20
    uncovered_share: float = 0.75
    uncovered_correlation: float = 0.98
    candidate_cosine: float = 0.95
    contrast: float = 4.0
    detail: float = 8.0
    busy: int = 8
    blocks: int = 4
    sign_map_agreement: float = 0.0


DEFAULT_THRESHOLDS: Final = Thresholds()


@functools.cache
def _waves() -> NDArray[numpy.float32]:
    """Each stored coefficient's wave over a small picture, shape (FORM_BYTES - 1, _SMALL * _SMALL)."""
    vertical, horizontal = frequencies()
    basis = dct_basis(_RECONSTRUCTED_SIDE_PX)
    waves: NDArray[numpy.float32] = numpy.einsum("ki,kj->kij", basis[vertical], basis[horizontal])
    return waves.reshape(len(vertical), -1)


def has_enough_detail(descriptor: bytes, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> bool:
    """Whether there is enough in a picture for a match to be proven, by its stored look."""
    found = upgrade_descriptor(descriptor)
    return found is not None and bool(_has_detail(numpy.frombuffer(found, numpy.uint8)[None, :], thresholds)[0])


def classify_pairs(
    distances: NDArray[Any],
    descriptors_a: NDArray[numpy.uint8],
    descriptors_b: NDArray[numpy.uint8],
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
        cosines = cosine_similarity(descriptors_a[part], descriptors_b[part])
        near = numpy.asarray(distances[part]) <= thresholds.radius
        known = _has_detail(descriptors_a[part], thresholds) & _has_detail(descriptors_b[part], thresholds)
        verdicts[part] += near & (cosines >= thresholds.review_cosine)
        verdicts[
            start + _find_covered(distances[part], cosines, descriptors_a[part], descriptors_b[part], thresholds)
        ] += 1
        alike = numpy.flatnonzero(near & (cosines >= thresholds.candidate_cosine) & known)
        agreeing = alike[_sign_maps_agree(descriptors_a[part][alike], descriptors_b[part][alike], thresholds)]
        verdicts[start + agreeing] += 1
    return verdicts


def _find_covered(
    distances: NDArray[Any],
    cosines: NDArray[numpy.float32],
    descriptors_a: NDArray[numpy.uint8],
    descriptors_b: NDArray[numpy.uint8],
    thresholds: Thresholds,
) -> NDArray[numpy.intp]:
    """The places of pairs whose forms disagree, and of which one may be the other with something put over it."""
    least = numpy.minimum(descriptors_a[:, 0], descriptors_b[:, 0])
    near = numpy.asarray(distances) <= thresholds.covered_radius
    checked = numpy.flatnonzero(near & (cosines < thresholds.review_cosine) & (least >= _COVERED_MIN_CONTRAST))
    a, b = _reconstruct(descriptors_a[checked]), _reconstruct(descriptors_b[checked])
    difference = b - a
    difference = numpy.abs(difference - numpy.median(difference, axis=1, keepdims=True))
    # the contrast is in half grey levels, and half a standard deviation is asked for
    uncovered_share = (difference <= least[checked, None] / 4).mean(axis=1) >= thresholds.uncovered_share
    checked, a, b, difference = (
        checked[uncovered_share],
        a[uncovered_share],
        b[uncovered_share],
        difference[uncovered_share],
    )
    kept = numpy.argsort(difference, axis=1)[:, : _RECONSTRUCTED_SIDE_PX**2 * 7 // 8]
    a, b = numpy.take_along_axis(a, kept, 1), numpy.take_along_axis(b, kept, 1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    lengths = numpy.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: NDArray[numpy.intp] = checked[
        (a * b).sum(axis=1) >= thresholds.uncovered_correlation * numpy.maximum(lengths, 1)
    ]
    return found


def _reconstruct(descriptors: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """The forms as pictures in grey levels around their mean, shape (n, _SMALL * _SMALL)."""
    found = _coefficients(descriptors) / emphasis()
    lengths = numpy.maximum(numpy.sqrt(numpy.einsum("ij,ij->i", found, found)), 1e-6)
    strength = descriptors[:, 0].astype(numpy.float32) / 2 * _RECONSTRUCTED_SIDE_PX / lengths
    drawn: NDArray[numpy.float32] = (found * strength[:, None]) @ _waves()
    return drawn


def _sign_maps_agree(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8], thresholds: Thresholds
) -> NDArray[numpy.bool_]:
    """Whether the grains are of one picture, shape (n,)."""
    alike, busy = sign_map_agreement(descriptors_a, descriptors_b, thresholds.busy)
    odd = busy & (alike < thresholds.sign_map_agreement)
    agree: NDArray[numpy.bool_] = (busy.sum(axis=1) >= thresholds.blocks) & ~odd.any(axis=1)
    return agree


def sign_map_agreement(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8], busy: int
) -> tuple[NDArray[numpy.float32], NDArray[numpy.bool_]]:
    """The correlation of two grains block by block, -1 to 1, and whether the block is busy in either.

    Args:
        looks_a, looks_b: shape (n, LOOK_BYTES).
        busy: pixels of a block's 64 that stand out, from which it is.

    Returns:
        Two arrays of shape (n, BLOCKS * BLOCKS).
    """
    (up_a, down_a), (up_b, down_b) = _sign_maps(descriptors_a), _sign_maps(descriptors_b)
    count = numpy.bitwise_count
    same = count(up_a & up_b).astype(numpy.float32) + count(down_a & down_b)
    other = count(up_a & down_b).astype(numpy.float32) + count(down_a & up_b)
    many_a, many_b = count(up_a | down_a).astype(numpy.float32), count(up_b | down_b).astype(numpy.float32)
    alike: NDArray[numpy.float32] = (same - other) / numpy.sqrt(numpy.maximum(many_a * many_b, 1))
    return alike, numpy.maximum(many_a, many_b) >= busy


def _sign_maps(descriptors: NDArray[numpy.uint8]) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
    """The words of what is brighter and of what is darker, shape (n, BLOCKS * BLOCKS) each."""
    words = numpy.ascontiguousarray(descriptors[:, DCT_BYTES:SIGN_MAP_END]).view(numpy.uint64)
    return words[:, : SIGN_MAP_BLOCKS**2], words[:, SIGN_MAP_BLOCKS**2 :]


def cosine_similarity(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8]
) -> NDArray[numpy.float32]:
    """The cosine between the coefficients of looks, both of shape (n, LOOK_BYTES): -1 to 1, shape (n,).

    1 is one picture, whatever its brightness and contrast; 0 has nothing in common, as has a picture of one grey.
    """
    a, b = _coefficients(descriptors_a), _coefficients(descriptors_b)
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", a, a) * numpy.einsum("ij,ij->i", b, b))
    cosines: NDArray[numpy.float32] = numpy.einsum("ij,ij->i", a, b) / numpy.maximum(lengths, 1)
    return cosines


def _coefficients(descriptors: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return numpy.ascontiguousarray(descriptors[:, 1:DCT_BYTES]).view(numpy.int8).astype(numpy.float32)


def _has_detail(descriptors: NDArray[numpy.uint8], thresholds: Thresholds) -> NDArray[numpy.bool_]:
    """Which looks have contrast and detail, shape (n,). Detail is the participation ratio of the coefficients."""
    squares = _coefficients(descriptors) ** 2
    detail = squares.sum(axis=1) ** 2 / numpy.maximum((squares**2).sum(axis=1), 1)
    enough: NDArray[numpy.bool_] = (descriptors[:, 0] >= 2 * thresholds.contrast) & (detail >= thresholds.detail)
    return enough
