# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Re-ranking: which pairs of near hashes may show the same picture, by their descriptors alone.

The thresholds were chosen on real pictures; `bench/confidence.py` measures them, and docs/matching.md has the results
and their limits.
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

_PAIRS_PER_BLOCK: Final = 1 << 14

_RECONSTRUCTED_SIDE_PX: Final = 16
"""Side of the picture that is reconstructed from a DCT signature."""

_COVERED_MIN_CONTRAST: Final = 6
"""Contrast, in half grey levels, below which a picture cannot be recognised under an overlay."""


@dataclass(frozen=True)
class Thresholds:
    """The limits between no match, a pair to review, and a candidate for verification.

    Attributes:
        radius: largest distance of two hashes, of 128 bits, at which their descriptors are compared.
        review_cosine: smallest cosine of a pair to review.
        covered_radius: largest distance of two hashes, of 128 bits, at which one picture may be the other under an
            overlay such as a watermark, although their cosine is smaller.
        uncovered_share: smallest share of the pixels of such a pair that differ by at most half a standard deviation.
        uncovered_correlation: smallest correlation of such a pair, without the eighth of the pixels that differs most.
        candidate_cosine: smallest cosine of a candidate.
        contrast: smallest standard deviation of the small luma, in grey levels of 255, of a candidate.
        detail: smallest participation ratio of the coefficients of a candidate.
        busy: pixels of a sign map block's 64 that must stand out for the block to count.
        blocks: smallest number of busy blocks of a candidate.
        sign_map_agreement: smallest correlation of the sign maps in every busy block of a candidate.
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
    """The basis picture of each coefficient, shape (DCT_BYTES - 1, _RECONSTRUCTED_SIDE_PX ** 2)."""
    vertical, horizontal = frequencies()
    basis = dct_basis(_RECONSTRUCTED_SIDE_PX)
    waves: NDArray[numpy.float32] = numpy.einsum("ki,kj->kij", basis[vertical], basis[horizontal])
    return waves.reshape(len(vertical), -1)


def has_enough_detail(descriptor: bytes, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> bool:
    """Whether a picture has enough contrast and detail to be a candidate, by its stored descriptor."""
    current = upgrade_descriptor(descriptor)
    return current is not None and bool(_has_detail(numpy.frombuffer(current, numpy.uint8)[None, :], thresholds)[0])


def classify_pairs(
    distances: NDArray[Any],
    descriptors_a: NDArray[numpy.uint8],
    descriptors_b: NDArray[numpy.uint8],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> NDArray[numpy.uint8]:
    """Classify pairs of pictures.

    Args:
        distances: of their hashes, of 128 bits, shape (n,).
        descriptors_a, descriptors_b: shape (n, DESCRIPTOR_BYTES) each.

    Returns:
        Shape (n,): NO_MATCH, NEEDS_REVIEW, or CANDIDATE, which needs review until it has been verified.
    """
    verdicts = numpy.zeros(len(distances), numpy.uint8)
    for start in range(0, len(distances), _PAIRS_PER_BLOCK):
        part = slice(start, start + _PAIRS_PER_BLOCK)
        cosines = cosine_similarity(descriptors_a[part], descriptors_b[part])
        near = numpy.asarray(distances[part]) <= thresholds.radius
        detailed = _has_detail(descriptors_a[part], thresholds) & _has_detail(descriptors_b[part], thresholds)
        verdicts[part] += near & (cosines >= thresholds.review_cosine)
        covered = _find_covered(distances[part], cosines, descriptors_a[part], descriptors_b[part], thresholds)
        verdicts[start + covered] += 1
        alike = numpy.flatnonzero(near & (cosines >= thresholds.candidate_cosine) & detailed)
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
    """Indices of pairs with different DCT signatures of which one picture may be the other under an overlay."""
    contrast = numpy.minimum(descriptors_a[:, 0], descriptors_b[:, 0])
    near = numpy.asarray(distances) <= thresholds.covered_radius
    checked = numpy.flatnonzero(near & (cosines < thresholds.review_cosine) & (contrast >= _COVERED_MIN_CONTRAST))
    a, b = _reconstruct(descriptors_a[checked]), _reconstruct(descriptors_b[checked])
    difference = b - a
    difference = numpy.abs(difference - numpy.median(difference, axis=1, keepdims=True))
    # half a standard deviation; the contrast is in half grey levels
    uncovered = (difference <= contrast[checked, None] / 4).mean(axis=1) >= thresholds.uncovered_share
    checked, a, b, difference = checked[uncovered], a[uncovered], b[uncovered], difference[uncovered]
    kept = numpy.argsort(difference, axis=1)[:, : _RECONSTRUCTED_SIDE_PX**2 * 7 // 8]
    a, b = numpy.take_along_axis(a, kept, 1), numpy.take_along_axis(b, kept, 1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    lengths = numpy.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    alike = (a * b).sum(axis=1) >= thresholds.uncovered_correlation * numpy.maximum(lengths, 1)
    covered: NDArray[numpy.intp] = checked[alike]
    return covered


def _reconstruct(descriptors: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """Pictures of the DCT signatures, in grey levels around their mean, shape (n, _RECONSTRUCTED_SIDE_PX ** 2)."""
    coefficients = _coefficients(descriptors) / emphasis()
    lengths = numpy.maximum(numpy.sqrt(numpy.einsum("ij,ij->i", coefficients, coefficients)), 1e-6)
    strength = descriptors[:, 0].astype(numpy.float32) / 2 * _RECONSTRUCTED_SIDE_PX / lengths
    pictures: NDArray[numpy.float32] = (coefficients * strength[:, None]) @ _waves()
    return pictures


def _sign_maps_agree(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8], thresholds: Thresholds
) -> NDArray[numpy.bool_]:
    """Whether the sign maps may be of the same picture, shape (n,)."""
    correlation, busy = sign_map_agreement(descriptors_a, descriptors_b, thresholds.busy)
    contradicts = busy & (correlation < thresholds.sign_map_agreement)
    agree: NDArray[numpy.bool_] = (busy.sum(axis=1) >= thresholds.blocks) & ~contradicts.any(axis=1)
    return agree


def sign_map_agreement(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8], busy: int
) -> tuple[NDArray[numpy.float32], NDArray[numpy.bool_]]:
    """The correlation of two sign maps block by block, -1 to 1, and whether the block is busy in either.

    Args:
        descriptors_a, descriptors_b: shape (n, DESCRIPTOR_BYTES).
        busy: pixels of a block's 64 that must stand out for it to be busy.

    Returns:
        Two arrays of shape (n, SIGN_MAP_BLOCKS ** 2).
    """
    (up_a, down_a), (up_b, down_b) = _sign_maps(descriptors_a), _sign_maps(descriptors_b)
    count = numpy.bitwise_count
    same = count(up_a & up_b).astype(numpy.float32) + count(down_a & down_b)
    opposite = count(up_a & down_b).astype(numpy.float32) + count(down_a & up_b)
    set_a, set_b = count(up_a | down_a).astype(numpy.float32), count(up_b | down_b).astype(numpy.float32)
    correlation: NDArray[numpy.float32] = (same - opposite) / numpy.sqrt(numpy.maximum(set_a * set_b, 1))
    return correlation, numpy.maximum(set_a, set_b) >= busy


def _sign_maps(descriptors: NDArray[numpy.uint8]) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64]]:
    """The words of the brighter and of the darker map, shape (n, SIGN_MAP_BLOCKS ** 2) each."""
    words = numpy.ascontiguousarray(descriptors[:, DCT_BYTES:SIGN_MAP_END]).view(numpy.uint64)
    return words[:, : SIGN_MAP_BLOCKS**2], words[:, SIGN_MAP_BLOCKS**2 :]


def cosine_similarity(
    descriptors_a: NDArray[numpy.uint8], descriptors_b: NDArray[numpy.uint8]
) -> NDArray[numpy.float32]:
    """The cosine between the coefficients of descriptors, both of shape (n, DESCRIPTOR_BYTES): -1 to 1, shape (n,).

    It does not depend on brightness and contrast; it is 0 for a picture of one grey.
    """
    a, b = _coefficients(descriptors_a), _coefficients(descriptors_b)
    lengths = numpy.sqrt(numpy.einsum("ij,ij->i", a, a) * numpy.einsum("ij,ij->i", b, b))
    cosines: NDArray[numpy.float32] = numpy.einsum("ij,ij->i", a, b) / numpy.maximum(lengths, 1)
    return cosines


def _coefficients(descriptors: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return numpy.ascontiguousarray(descriptors[:, 1:DCT_BYTES]).view(numpy.int8).astype(numpy.float32)


def _has_detail(descriptors: NDArray[numpy.uint8], thresholds: Thresholds) -> NDArray[numpy.bool_]:
    """Which have enough contrast and detail (participation ratio of the coefficients), shape (n,)."""
    squares = _coefficients(descriptors) ** 2
    detail = squares.sum(axis=1) ** 2 / numpy.maximum((squares**2).sum(axis=1), 1)
    enough: NDArray[numpy.bool_] = (descriptors[:, 0] >= 2 * thresholds.contrast) & (detail >= thresholds.detail)
    return enough
