# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verification: whether the pixels of two files show the same picture.

Both are scaled to one size, neither enlarged. Changes to the whole picture (brightness, contrast, a mild blur, a shift
by part of a pixel) are modelled by one filter of 3 x 3 weights and an offset. The fit is robust: it ignores pixels that
differ strongly. The residual is measured in windows of 8 x 8 pixels, and the worst window decides: compression noise
and scaling leave a little everywhere; another word, a marker or a closed eye leaves much in one window.

That is done twice: at no more than `OVERVIEW_SIDE_PX` pixels a side, which is cheap and rejects most pairs, then at no
more than `DETAIL_MAX_SIDE_PX`, where a letter of a screenshot is more than a speck. The second pass also counts detail
that only one picture shows because the other is clipped at white or black there: a soft edge may be lost that way, a
line of text may not.

Two pictures of one size that are both stored without loss are the same only if every pixel is: such a copy changes
nothing, and the frames of an animation differ in little. In small pictures (icons, sprites, flags) any difference may
be meant, so they are compared pixel by pixel as well, within the rounding of another file format.

The result depends on the two pictures alone. A change of the rule raises `VERIFICATION_RULE`, so that indexes verify
their pairs again. docs/matching.md has the measurements behind the constants.
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
"""Number of the rule, stored with each verdict; verdicts of another rule are ignored."""

DETAIL_MAX_SIDE_PX: Final = 2048
"""Pixels a side at which pairs that passed at `OVERVIEW_SIDE_PX` are compared again."""

DETAIL_MAX_RATIO: Final = 2.0
"""Limit of the size of both pictures, as a multiple of `DETAIL_MAX_SIDE_PX`: text of 14 pixels is then still 7 high,
which shows another word, though not every digit."""

SMALL_MAX_SIDE_PX: Final = 256
"""Longer side below which two pictures are compared pixel by pixel."""

NARROW_MAX_SIDE_PX: Final = 96
"""Shorter side below which they are."""

SMALL_TOLERANCE_GREYS: Final = 2
"""Difference allowed in each pixel of a small picture."""

MIN_TEXTURED_WINDOWS: Final = 16
"""Windows with texture (a standard deviation of at least 4 grey levels) that a pair needs to be confirmed."""

RESIDUAL_BASE: Final = 0.12
"""Residual allowed in the worst window when most windows have none."""

RESIDUAL_SLOPE: Final = 4.0
"""Further residual allowed in the worst window, as a multiple of the median residual."""

RESIDUAL_MAX: Final = 0.3
"""Largest residual allowed in the worst window."""

LOSSLESS_RESIDUAL_MAX: Final = 0.15
"""The same for two pictures that are both stored without loss: scaling alone leaves less."""

GAIN_MAX: Final = 2.0
"""Largest ratio of the contrasts."""

COLOUR_TOLERANCE: Final = (2.5, 0.15)
"""Residual allowed in the colours (root mean square): grey levels, plus a share of the colours' own contrast."""

_CONTRAST_FLOOR_GREYS: Final = 12.0
"""Added to a window's own contrast, so that noise in a flat window weighs little."""

_CELL_PX: Final = 4
"""Half the side of a window; windows overlap by it."""

_CLIPPING_WEIGHT: Final = 0.35
"""Weight of clipped detail: a copy of slightly higher contrast loses some of its texture."""
_STRIP_ROWS: Final = 32 * _CELL_PX
_FIT_SAMPLES: Final = 1 << 14
_FIT_REGULARIZATION: Final = 0.3
"""Ridge penalty per pixel, towards the identity: keeps the fit of black-and-white pictures stable."""
_LUMA: Final = numpy.array([0.299, 0.587, 0.114], numpy.float32)
_BLUR: Final = ImageFilter.BoxBlur(_CELL_PX)
_SOFT: Final = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))

MemoryBudget = Callable[[int], AbstractContextManager[None]]
"""Called with a number of pixels; the context it returns holds the memory that a picture of that size needs."""

_Pixels = NDArray[numpy.floating[Any]]


class Residual(NamedTuple):
    """The difference of two pictures that no change of the whole picture explains, relative to each window's contrast.

    Attributes:
        worst: of the window with the largest.
        typical: median over the windows with texture.
        textured: number of windows with texture.
        gain: ratio of the contrasts, as fitted.
        colour: of the colours of the whole picture, as a share of what `COLOUR_TOLERANCE` allows.
    """

    worst: float
    typical: float
    textured: int
    gain: float
    colour: float


class _Fit(NamedTuple):
    """The filter that makes one picture from the other: its gain and offset in all, and its kernel."""

    gain: float
    offset: float
    kernel: ImageFilter.Kernel


def verify(
    one: VerificationImage | None,
    other: VerificationImage | None,
    load_detail: Callable[[], tuple[VerificationImage | None, VerificationImage | None]],
    memory_budget: MemoryBudget | None = None,
) -> bool | None:
    """Whether two files show the same picture; None when one of them cannot be loaded.

    Args:
        one, other: as `load_for_verification` makes them at `OVERVIEW_SIDE_PX`.
        load_detail: loads both at `DETAIL_MAX_SIDE_PX`; called only when that can change the result.
        memory_budget: entered for the comparison at that size.
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
    """The longer side of the smaller picture, in pixels."""
    return min(one.size[0], other.size[0])


def _is_lossless_pair(one: VerificationImage, other: VerificationImage) -> bool:
    """Whether both are of one size and stored without loss, so that every pixel decides."""
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
    residual = measure_residual(one, other, count_clipping=last)
    comparable = residual.textured >= MIN_TEXTURED_WINDOWS and residual.gain <= GAIN_MAX and residual.colour <= 1
    residual_max = LOSSLESS_RESIDUAL_MAX if one.pixel_digest and other.pixel_digest else RESIDUAL_MAX
    return comparable and residual.worst <= min(residual_max, RESIDUAL_BASE + RESIDUAL_SLOPE * residual.typical)


def _common_size(one: VerificationImage, other: VerificationImage) -> tuple[int, int]:
    a, b = one.colours, other.colours
    return min(a.width, b.width), min(a.height, b.height)


def _largest_differences(one: VerificationImage, other: VerificationImage) -> tuple[int, int]:
    """The largest difference of any pixel in colour and in alpha, in grey levels."""
    colours, alphas = (one.colours, other.colours), (_alpha(one), _alpha(other))
    return _largest_difference(*colours), _largest_difference(*alphas)


def _largest_difference(one: Image.Image, other: Image.Image) -> int:
    return int(numpy.abs(numpy.asarray(one, numpy.int16) - numpy.asarray(other, numpy.int16)).max())


def _alpha(image: VerificationImage) -> Image.Image:
    return Image.new("L", image.colours.size, 255) if image.alpha is None else image.alpha


def measure_residual(one: VerificationImage, other: VerificationImage, *, count_clipping: bool = True) -> Residual:
    """Fit the change of the whole picture, and measure what it does not explain.

    Args:
        count_clipping: count detail of one picture where the other is clipped at white or black. For small copies
            that is too strict: scaling makes soft edges steep.
    """
    size = _common_size(one, other)
    low, high = sorted((_resample_blurred(image.colours, size) for image in (one, other)), key=_contrast)
    fit = _fit_filter(low, high)
    if fit.gain < 1:
        # only a filter that makes the picture of higher contrast clips at black and white as that picture does
        low, high = high, low
        fit = _fit_filter(low, high)
    planes = [low.filter(fit.kernel), high, *(_clipped_planes(low, fit) if count_clipping else ())]
    if one.alpha is not None or other.alpha is not None:
        planes += (_resample_blurred(_alpha(image), size) for image in (one, other))
    cells = numpy.concatenate([_measure_cells(planes, top) for top in range(0, size[1], _STRIP_ROWS)])
    residuals = numpy.sqrt(_window_means(cells[:, :, 0] + (cells[:, :, 1:4] ** 2).mean(axis=2)))
    luma, squares = _window_means(cells[:, :, 4]), _window_means(cells[:, :, 5])
    allowed = COLOUR_TOLERANCE[0] + COLOUR_TOLERANCE[1] * float(numpy.sqrt(cells[:, :, 6:].var(axis=(0, 1)).mean()))
    contrast = numpy.sqrt(numpy.maximum(squares - luma * luma, 0))
    shares, textured = residuals / (contrast + _CONTRAST_FLOOR_GREYS), contrast >= 4
    typical = float(numpy.median(shares[textured])) if textured.any() else 0.0
    colour = float(numpy.sqrt((cells[:, :, 1:4] ** 2).mean())) / allowed
    return Residual(float(shares.max()), typical, int(textured.sum()), fit.gain, colour)


def _measure_cells(planes: list[Image.Image], top: int) -> _Pixels:
    """Measure the cells of one strip; a whole picture at once would take forty times its own memory.

    Args:
        planes: the filtered picture and its target, then further planes in pairs that should be equal.

    Returns:
        Shape (rows, columns, 9): the squared difference in luma and in the further planes, the difference of the three
        chroma planes, the target's luma and its square, and its three chroma planes.
    """
    filtered, high, *others = (
        numpy.asarray(plane)[2:-2, 2:-2][top : top + _STRIP_ROWS].astype(numpy.float32) for plane in planes
    )
    difference, luma = filtered - high, high @ _LUMA
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


def _clipped_planes(low: Image.Image, fit: _Fit) -> list[Image.Image]:
    """By how much the filter exceeds white and black, and the same without detail; both mode L, empty when it never
    does."""
    excess = [max(0.0, level - 255, -level) for level in (fit.gain * grey + fit.offset for grey in range(256))]
    plane = low.convert("L").point([min(255, round(_CLIPPING_WEIGHT * levels)) for levels in excess])
    return [plane, plane.filter(_BLUR)] if plane.getextrema()[1] else []


def _resample_blurred(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at that size, slightly blurred to suppress scaling artefacts, with a border of 2 pixels."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    border = ((2, 2), (2, 2), (0, 0))[: 3 if image.mode == "RGB" else 2]
    return Image.fromarray(numpy.pad(numpy.asarray(image), border, mode="edge")).filter(_SOFT)


def _contrast(image: Image.Image) -> float:
    return float(numpy.asarray(image.convert("L")).std())


def _chroma_cells(pixels: _Pixels) -> _Pixels:
    """The three channels less the luma, as means of cells, since encoders store colour more coarsely."""
    luma = pixels @ _LUMA
    return numpy.stack([_cell_means(pixels[:, :, channel] - luma) for channel in range(3)], axis=2)


def _fit_filter(source: Image.Image, target: Image.Image) -> _Fit:
    """The filter that makes target from source, by least squares over the inliers."""
    low, high = (numpy.asarray(image)[1:-1, 1:-1] for image in (source, target))
    step = max(1, math.isqrt(low.size // _FIT_SAMPLES))  # whole pixels, in both directions

    def shifted(down: int, across: int) -> _Pixels:
        rows, columns = (
            slice(1 + down, low.shape[0] - 1 + down, step),
            slice(1 + across, low.shape[1] - 1 + across, step),
        )
        return low[rows, columns].astype(numpy.float64).ravel()

    centre, left, right, above, below = shifted(0, 0), shifted(0, -1), shifted(0, 1), shifted(-1, 0), shifted(1, 0)
    laplacian = left + right + above + below - 4 * centre
    table = numpy.stack([centre, numpy.ones_like(centre), right - left, below - above, laplacian], axis=1)
    target_levels = high[1:-1:step, 1:-1:step].astype(numpy.float64).ravel()
    usable = (target_levels > 4) & (target_levels < 251)  # the others may be clipped
    table, target_levels = table[usable], target_levels[usable]
    identity = numpy.array([1.0, 0, 0, 0, 0])
    weights, inliers = identity, numpy.ones(len(target_levels), numpy.bool_)
    for _ in range(3 if len(target_levels) else 0):
        rows = table[inliers]
        penalty = _FIT_REGULARIZATION * numpy.diag([1.0, 0, 1, 1, 1]) * len(rows)
        misfit = target_levels[inliers] - rows @ identity
        weights = identity + numpy.linalg.solve(rows.T @ rows + penalty, rows.T @ misfit)
        error = numpy.abs(target_levels - table @ weights)
        inliers = error <= max(2.0, 2.5 * float(numpy.median(error[inliers])))
    gain, offset, across, down, blur = weights.tolist()
    kernel = (
        *(0.0, blur - down, 0.0),
        *(blur - across, gain - 4 * blur, blur + across),
        *(0.0, blur + down, 0.0),
    )
    return _Fit(gain, offset, ImageFilter.Kernel((3, 3), kernel, 1, offset))


def _cell_means(values: _Pixels) -> _Pixels:
    """The mean of each cell of 4 x 4 pixels; a partial cell at the edge is padded."""
    tall, wide = values.shape
    padded = numpy.pad(values, ((0, -tall % _CELL_PX), (0, -wide % _CELL_PX)), mode="edge")
    means: _Pixels = padded.reshape(padded.shape[0] // _CELL_PX, _CELL_PX, -1, _CELL_PX).mean(axis=(1, 3))
    return means


def _window_means(cells: _Pixels) -> _Pixels:
    """The mean of each window of 2 x 2 cells, over the first two axes."""
    means: _Pixels = (cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]) / 4
    return means
