# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof: whether the pixels of two pictures show one picture.

Both are brought to one size, neither enlarged. What may have been done to a whole copy (brightness, contrast, a mild
blur, a shift by part of a pixel) is one filter of 3 x 3 weights and an offset, fitted to most of the pixels and so
blind to what differs in a few. What is then left is looked at in windows of 8 x 8 pixels, and the worst window
decides: a coder's noise and a coarser scale leave something everywhere, another word, a marker or a closed eye leaves
much in one place. That is done twice, first at no more than `OVERVIEW_SIDE_PX` pixels a side, which refuses most pairs and costs
little, then at no more than `DETAIL_MAX_SIDE_PX`, where a letter of a screenshot is more than a speck. Then also what only the paler
one shows, because the other is cut off at white or black there, counts as left: a soft edge may be lost so, a line of
text may not.

Two pictures of one size that are both stored without loss are one when every pixel is the same: whoever copies so
changes nothing, and the frames of an animation differ in little. Pictures of few pixels (icons, sprites, small flags)
have no place where a difference would be small: they are compared pixel for pixel, too, and only another file format
is forgiven.

The result depends on the two pictures alone. Whoever changes what is proven raises `VERIFICATION_RULE`, so that indexes look again.
docs/matching.md has the figures by which the constants were chosen.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mobius.dhash._verification_image import OVERVIEW_SIDE_PX, VerificationImage

VERIFICATION_RULE: Final = 3
"""Written beside each verdict; those of another rule do not count."""

DETAIL_MAX_SIDE_PX: Final = 2048
"""Pixels a side at which what passed at `OVERVIEW_SIDE_PX` is looked at again."""

DETAIL_MAX_RATIO: Final = 2.0
"""How much larger than `DETAIL_MAX_SIDE_PX` both may be: text of 14 pixels is then still seven high, of which a word is seen, though
not every digit."""

SMALL_MAX_SIDE_PX: Final = 256
"""Pixels of the longer side below which two pictures are compared pixel for pixel."""

NARROW_MAX_SIDE_PX: Final = 96
"""Pixels of the shorter side, likewise."""

SMALL_TOLERANCE_GREYS: Final = 2
"""Grey levels that a pixel of a small picture may differ by."""

MIN_TEXTURED_WINDOWS: Final = 16
"""Windows with something in them (a standard deviation of 4 grey levels) that a proof needs."""

RESIDUAL_BASE: Final = 0.12
"""What may be left in the worst window when nothing is left in most of them."""

RESIDUAL_SLOPE: Final = 4.0
"""What may be left in the worst window besides, as a multiple of what is left in the one in the middle."""

RESIDUAL_MAX: Final = 0.3
"""What may be left in the worst window at most."""

LOSSLESS_RESIDUAL_MAX: Final = 0.15
"""The same of two pictures that are both stored without loss: scaling alone leaves less."""

GAIN_MAX: Final = 2.0
"""How much more contrast one of the two may have."""

COLOUR_TOLERANCE: Final = (2.5, 0.15)
"""What may be left of the colours (their mean square root), in grey levels and as a share of their own contrast."""

_CONTRAST_FLOOR_GREYS: Final = 12.0
"""Grey levels added to a window's own contrast, so that noise in a flat one counts little."""

_CELL_PX: Final = 4
"""Half the side of a window, by which they overlap."""

_CLIPPING_WEIGHT: Final = 0.35
"""What counts of what was cut off: a copy that is a little harder loses some of its texture."""
_STRIP: Final = 32 * _CELL_PX
_SAMPLES: Final = 1 << 14
_FIT_REGULARIZATION: Final = 0.3
"""Pull of the fit towards no change, a pixel, so that pictures in black and white do not run away."""
_LUMA: Final = numpy.array([0.299, 0.587, 0.114], numpy.float32)
_BLUR: Final = ImageFilter.BoxBlur(_CELL_PX)
_SOFT: Final = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))

MemoryBudget = Callable[[int], AbstractContextManager[None]]
"""Makes room for what so many pixels of a picture in work take."""

_Pixels = NDArray[numpy.floating[Any]]


class Residual(NamedTuple):
    """What is left of the difference of two pictures, as a share of the windows' own contrast.

    Attributes:
        worst: in the window where most is left.
        typical: in the window in the middle of those with something in them.
        busy: how many those are.
        gain: how much more contrast the one has.
        colour: in the colours of the whole picture, as a share of what `COLOUR_TOLERANCE` allows.
    """

    worst: float
    typical: float
    textured: int
    gain: float
    colour: float


class _Fit(NamedTuple):
    """What makes the one picture of the other, all in all and pixel by pixel."""

    gain: float
    offset: float
    kernel: ImageFilter.Kernel


def verify(
    one: VerificationImage | None,
    other: VerificationImage | None,
    load_detail: Callable[[], tuple[VerificationImage | None, VerificationImage | None]],
    memory_budget: MemoryBudget | None = None,
) -> bool | None:
    """Whether two pictures are one, or one a copy of the other; None when one cannot be seen.

    Args:
        one, other: as `load_for_verification` makes them at `OVERVIEW_SIDE_PX`.
        closer: gives both at `DETAIL_MAX_SIDE_PX`; asked when that can change the answer.
        room: entered for the comparison of those, which takes the memory of a picture of so many pixels.
    """
    if one is None or other is None:
        return None
    whole = _smaller_long_side(one, other) <= OVERVIEW_SIDE_PX or _is_lossless_pair(one, other)
    verdict = _is_same(one, other, last=whole)
    if whole or not verdict:
        return verdict
    pictures = load_detail()
    with contextlib.nullcontext() if memory_budget is None else memory_budget(2 * DETAIL_MAX_SIDE_PX**2):
        return _is_same(*pictures, last=True)


def _smaller_long_side(one: VerificationImage, other: VerificationImage) -> int:
    """Pixels of the longer side of the smaller one."""
    return min(one.size[0], other.size[0])


def _is_lossless_pair(one: VerificationImage, other: VerificationImage) -> bool:
    """Whether every pixel decides: both are of one size, and stored without loss."""
    return bool(one.pixel_digest and other.pixel_digest) and one.size == other.size


def _is_same(one: VerificationImage | None, other: VerificationImage | None, *, last: bool) -> bool | None:
    if one is None or other is None:
        return None
    if not (one.is_single and other.is_single):
        return False
    if _is_lossless_pair(one, other):
        return one.pixel_digest == other.pixel_digest
    if _smaller_long_side(one, other) > DETAIL_MAX_RATIO * DETAIL_MAX_SIDE_PX:
        return False
    size = _common_size(one, other)
    if max(size) < SMALL_MAX_SIDE_PX or min(size) < NARROW_MAX_SIDE_PX:
        return one.colours.size == other.colours.size and max(_largest_differences(one, other)) <= SMALL_TOLERANCE_GREYS
    left = measure_residual(one, other, count_clipping=last)
    steady = left.textured >= MIN_TEXTURED_WINDOWS and left.gain <= GAIN_MAX and left.colour <= 1
    residual_max = LOSSLESS_RESIDUAL_MAX if one.pixel_digest and other.pixel_digest else RESIDUAL_MAX
    return steady and left.worst <= min(residual_max, RESIDUAL_BASE + RESIDUAL_SLOPE * left.typical)


def _common_size(one: VerificationImage, other: VerificationImage) -> tuple[int, int]:
    a, b = one.colours, other.colours
    return min(a.width, b.width), min(a.height, b.height)


def _largest_differences(one: VerificationImage, other: VerificationImage) -> tuple[int, int]:
    """The largest difference in any pixel's colours and alpha, in grey levels."""
    colours, alphas = (one.colours, other.colours), (_alpha(one), _alpha(other))
    return _largest_difference(*colours), _largest_difference(*alphas)


def _largest_difference(one: Image.Image, other: Image.Image) -> int:
    return int(numpy.abs(numpy.asarray(one, numpy.int16) - numpy.asarray(other, numpy.int16)).max())


def _alpha(image: VerificationImage) -> Image.Image:
    return Image.new("L", image.colours.size, 255) if image.alpha is None else image.alpha


def measure_residual(one: VerificationImage, other: VerificationImage, *, count_clipping: bool = True) -> Residual:
    """What no change of the whole picture explains.

    Args:
        cut_off: count what one of them shows where the other is cut off at white or black. Of a picture made small that
            is too much: an edge is steep there that was soft.
    """
    size = _common_size(one, other)
    low, high = sorted((_resample_blurred(image.colours, size) for image in (one, other)), key=_contrast)
    made = _fit_filter(low, high)
    if made.gain < 1:
        # what the brighter or harder one cut off at black and white, only a filter that makes it cuts off as well
        low, high = high, low
        made = _fit_filter(low, high)
    planes = [low.filter(made.kernel), high, *(_clipped_planes(low, made) if count_clipping else ())]
    if one.alpha is not None or other.alpha is not None:
        planes += (_resample_blurred(_alpha(image), size) for image in (one, other))
    cells = numpy.concatenate([_measure_cells(planes, top) for top in range(0, size[1], _STRIP)])
    left = numpy.sqrt(_window_means(cells[:, :, 0] + (cells[:, :, 1:4] ** 2).mean(axis=2)))
    luma, squares = _window_means(cells[:, :, 4]), _window_means(cells[:, :, 5])
    allowed = COLOUR_TOLERANCE[0] + COLOUR_TOLERANCE[1] * float(numpy.sqrt(cells[:, :, 6:].var(axis=(0, 1)).mean()))
    contrast = numpy.sqrt(numpy.maximum(squares - luma * luma, 0))
    shares, textured = left / (contrast + _CONTRAST_FLOOR_GREYS), contrast >= 4
    typical = float(numpy.median(shares[textured])) if textured.any() else 0.0
    colour = float(numpy.sqrt((cells[:, :, 1:4] ** 2).mean())) / allowed
    return Residual(float(shares.max()), typical, int(textured.sum()), made.gain, colour)


def _measure_cells(planes: list[Image.Image], top: int) -> _Pixels:
    """Of each cell of a strip of both pictures, and of planes that should be the same by twos: the square of what
    differs in luma and in those, what differs in the three colours, luma and its square, and the three colours; shape
    (rows, columns, 9). Strip by strip, as all of it at once would be forty times the picture."""
    made, high, *others = (
        numpy.asarray(plane)[2:-2, 2:-2][top : top + _STRIP].astype(numpy.float32) for plane in planes
    )
    difference, luma = made - high, high @ _LUMA
    squares = (difference @ _LUMA) ** 2
    for one, other in zip(others[::2], others[1::2], strict=True):
        squares += (one - other) ** 2
    return numpy.dstack(
        [
            _cell_means(squares),
            _chroma_cells(difference),
            _cell_means(luma),
            _cell_means(luma * luma),
            _chroma_cells(high),
        ]
    )


def _clipped_planes(low: Image.Image, made: _Fit) -> list[Image.Image]:
    """By how much the filter takes a picture past white and black, and the same without any detail; both mode L, none
    when it stays between them."""
    lost = [max(0.0, level - 255, -level) for level in (made.gain * grey + made.offset for grey in range(256))]
    plane = low.convert("L").point([min(255, round(_CLIPPING_WEIGHT * much)) for much in lost])
    return [plane, plane.filter(_BLUR)] if plane.getextrema()[1] else []


def _resample_blurred(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at that size, a little blurred against what scaling leaves, with a border of 2 pixels."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    border = ((2, 2), (2, 2), (0, 0))[: 3 if image.mode == "RGB" else 2]
    return Image.fromarray(numpy.pad(numpy.asarray(image), border, mode="edge")).filter(_SOFT)


def _contrast(image: Image.Image) -> float:
    return float(numpy.asarray(image.convert("L")).std())


def _chroma_cells(pixel_digest: _Pixels) -> _Pixels:
    """What the three channels have beside the luma, cell by cell, as coders keep less of it."""
    luma = pixel_digest @ _LUMA
    return numpy.stack([_cell_means(pixel_digest[:, :, channel] - luma) for channel in range(3)], axis=2)


def _fit_filter(source: Image.Image, target: Image.Image) -> _Fit:
    """The filter that makes the one out of the other, by least squares over the pixels that it can be right for."""
    low, high = (numpy.asarray(image)[1:-1, 1:-1] for image in (source, target))
    step = max(1, math.isqrt(low.size // _SAMPLES))  # whole pixels, in both directions

    def moved(down: int, across: int) -> _Pixels:
        rows, columns = (
            slice(1 + down, low.shape[0] - 1 + down, step),
            slice(1 + across, low.shape[1] - 1 + across, step),
        )
        return low[rows, columns].astype(numpy.float64).ravel()

    here, left, right, above, below = moved(0, 0), moved(0, -1), moved(0, 1), moved(-1, 0), moved(1, 0)
    around = left + right + above + below - 4 * here
    table = numpy.stack([here, numpy.ones_like(here), right - left, below - above, around], axis=1)
    target_levels = high[1:-1:step, 1:-1:step].astype(numpy.float64).ravel()
    usable = (target_levels > 4) & (target_levels < 251)  # the others were cut off
    table, target_levels = table[usable], target_levels[usable]
    same = numpy.array([1.0, 0, 0, 0, 0])
    found, kept = same, numpy.ones(len(target_levels), numpy.bool_)
    for _ in range(3 if len(target_levels) else 0):
        chosen = table[kept]
        pull = numpy.diag(
            [_FIT_REGULARIZATION, 0, _FIT_REGULARIZATION, _FIT_REGULARIZATION, _FIT_REGULARIZATION]
        ) * len(chosen)
        found = same + numpy.linalg.solve(chosen.T @ chosen + pull, chosen.T @ (target_levels[kept] - chosen @ same))
        error = numpy.abs(target_levels - table @ found)
        kept = error <= max(2.0, 2.5 * float(numpy.median(error[kept])))
    gain, offset, across, down, blur = found.tolist()
    weights = (
        *(0.0, blur - down, 0.0),
        *(blur - across, gain - 4 * blur, blur + across),
        *(0.0, blur + down, 0.0),
    )
    return _Fit(gain, offset, ImageFilter.Kernel((3, 3), weights, 1, offset))


def _cell_means(values: _Pixels) -> _Pixels:
    """The mean of each cell of 4 x 4; what is over at the edge counts as a whole one."""
    tall, wide = values.shape
    padded = numpy.pad(values, ((0, -tall % _CELL_PX), (0, -wide % _CELL_PX)), mode="edge")
    means: _Pixels = padded.reshape(padded.shape[0] // _CELL_PX, _CELL_PX, -1, _CELL_PX).mean(axis=(1, 3))
    return means


def _window_means(cells: _Pixels) -> _Pixels:
    """The mean of each square of four cells, over the first two axes."""
    means: _Pixels = (cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]) / 4
    return means
