# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof: whether the pixels of two pictures show one picture.

Both are brought to one size, neither enlarged. What may have been done to a whole copy (brightness, contrast, a mild
blur, a shift by part of a pixel) is one filter of 3 x 3 weights and an offset, fitted to most of the pixels and so
blind to what differs in a few. What is then left is looked at in windows of 8 x 8 pixels, and the worst window
decides: a coder's noise and a coarser scale leave something everywhere, another word, a marker or a closed eye leaves
much in one place. That is done twice, first at no more than `SIDE` pixels a side, which refuses most pairs and costs
little, then at no more than `CLOSE`, where a letter of a screenshot is more than a speck. Then also what only the paler
one shows, because the other is cut off at white or black there, counts as left: a soft edge may be lost so, a line of
text may not.

Two pictures of one size that are both stored without loss are one when every pixel is the same: whoever copies so
changes nothing, and the frames of an animation differ in little. Pictures of few pixels (icons, sprites, small flags)
have no place where a difference would be small: they are compared pixel for pixel, too, and only another file format
is forgiven.

The result depends on the two pictures alone. Whoever changes what is proven raises `RULE`, so that indexes look again.
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

from mobius.dhash._thumbnail import SIDE
from mobius.dhash._verification_image import Seen

RULE: Final = 3
"""Written beside each verdict; those of another rule do not count."""

CLOSE: Final = 2048
"""Pixels a side at which what passed at `SIDE` is looked at again."""

FAR: Final = 2.0
"""How much larger than `CLOSE` both may be: text of 14 pixels is then still seven high, of which a word is seen, though
not every digit."""

FEW: Final = 256
"""Pixels of the longer side below which two pictures are compared pixel for pixel."""

NARROW: Final = 96
"""Pixels of the shorter side, likewise."""

ROUNDED: Final = 2
"""Grey levels that a pixel of a small picture may differ by."""

BUSY: Final = 16
"""Windows with something in them (a standard deviation of 4 grey levels) that a proof needs."""

SURE: Final = 0.12
"""What may be left in the worst window when nothing is left in most of them."""

SLOPE: Final = 4.0
"""What may be left in the worst window besides, as a multiple of what is left in the one in the middle."""

WORST: Final = 0.3
"""What may be left in the worst window at most."""

SCALED: Final = 0.15
"""The same of two pictures that are both stored without loss: scaling alone leaves less."""

HARDER: Final = 2.0
"""How much more contrast one of the two may have."""

PALER: Final = (2.5, 0.15)
"""What may be left of the colours (their mean square root), in grey levels and as a share of their own contrast."""

_FLOOR: Final = 12.0
"""Grey levels added to a window's own contrast, so that noise in a flat one counts little."""

_CELL: Final = 4
"""Half the side of a window, by which they overlap."""

_CUT: Final = 0.35
"""What counts of what was cut off: a copy that is a little harder loses some of its texture."""
_STRIP: Final = 32 * _CELL
_SAMPLES: Final = 1 << 14
_STEADY: Final = 0.3
"""Pull of the fit towards no change, a pixel, so that pictures in black and white do not run away."""
_LUMA: Final = numpy.array([0.299, 0.587, 0.114], numpy.float32)
_BLUR: Final = ImageFilter.BoxBlur(_CELL)
_SOFT: Final = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))

Room = Callable[[int], AbstractContextManager[None]]
"""Makes room for what so many pixels of a picture in work take."""

_Pixels = NDArray[numpy.floating[Any]]


class Remainder(NamedTuple):
    """What is left of the difference of two pictures, as a share of the windows' own contrast.

    Attributes:
        worst: in the window where most is left.
        typical: in the window in the middle of those with something in them.
        busy: how many those are.
        gain: how much more contrast the one has.
        colour: in the colours of the whole picture, as a share of what `PALER` allows.
    """

    worst: float
    typical: float
    busy: int
    gain: float
    colour: float


class _Fit(NamedTuple):
    """What makes the one picture of the other, all in all and pixel by pixel."""

    gain: float
    offset: float
    kernel: ImageFilter.Kernel


def proves(
    one: Seen | None,
    other: Seen | None,
    closer: Callable[[], tuple[Seen | None, Seen | None]],
    room: Room | None = None,
) -> bool | None:
    """Whether two pictures are one, or one a copy of the other; None when one cannot be seen.

    Args:
        one, other: as `see` makes them at `SIDE`.
        closer: gives both at `CLOSE`; asked when that can change the answer.
        room: entered for the comparison of those, which takes the memory of a picture of so many pixels.
    """
    if one is None or other is None:
        return None
    whole = _smaller(one, other) <= SIDE or _stored_alike(one, other)
    verdict = _alike(one, other, last=whole)
    if whole or not verdict:
        return verdict
    pictures = closer()
    with contextlib.nullcontext() if room is None else room(2 * CLOSE**2):
        return _alike(*pictures, last=True)


def _smaller(one: Seen, other: Seen) -> int:
    """Pixels of the longer side of the smaller one."""
    return min(one.size[0], other.size[0])


def _stored_alike(one: Seen, other: Seen) -> bool:
    """Whether every pixel decides: both are of one size, and stored without loss."""
    return bool(one.pixels and other.pixels) and one.size == other.size


def _alike(one: Seen | None, other: Seen | None, *, last: bool) -> bool | None:
    if one is None or other is None:
        return None
    if not (one.alone and other.alone):
        return False
    if _stored_alike(one, other):
        return one.pixels == other.pixels
    if _smaller(one, other) > FAR * CLOSE:
        return False
    size = _common(one, other)
    if max(size) < FEW or min(size) < NARROW:
        return one.colours.size == other.colours.size and max(_largest(one, other)) <= ROUNDED
    left = remainder(one, other, cut_off=last)
    steady = left.busy >= BUSY and left.gain <= HARDER and left.colour <= 1
    most = SCALED if one.pixels and other.pixels else WORST
    return steady and left.worst <= min(most, SURE + SLOPE * left.typical)


def _common(one: Seen, other: Seen) -> tuple[int, int]:
    a, b = one.colours, other.colours
    return min(a.width, b.width), min(a.height, b.height)


def _largest(one: Seen, other: Seen) -> tuple[int, int]:
    """The largest difference in any pixel's colours and alpha, in grey levels."""
    colours, alphas = (one.colours, other.colours), (_alpha(one), _alpha(other))
    return _apart(*colours), _apart(*alphas)


def _apart(one: Image.Image, other: Image.Image) -> int:
    return int(numpy.abs(numpy.asarray(one, numpy.int16) - numpy.asarray(other, numpy.int16)).max())


def _alpha(seen: Seen) -> Image.Image:
    return Image.new("L", seen.colours.size, 255) if seen.alpha is None else seen.alpha


def remainder(one: Seen, other: Seen, *, cut_off: bool = True) -> Remainder:
    """What no change of the whole picture explains.

    Args:
        cut_off: count what one of them shows where the other is cut off at white or black. Of a picture made small that
            is too much: an edge is steep there that was soft.
    """
    size = _common(one, other)
    low, high = sorted((_softened(seen.colours, size) for seen in (one, other)), key=_contrast)
    made = _fitted(low, high)
    if made.gain < 1:
        # what the brighter or harder one cut off at black and white, only a filter that makes it cuts off as well
        low, high = high, low
        made = _fitted(low, high)
    planes = [low.filter(made.kernel), high, *(_cut_off(low, made) if cut_off else ())]
    if one.alpha is not None or other.alpha is not None:
        planes += (_softened(_alpha(seen), size) for seen in (one, other))
    cells = numpy.concatenate([_measured(planes, top) for top in range(0, size[1], _STRIP)])
    left = numpy.sqrt(_fours(cells[:, :, 0] + (cells[:, :, 1:4] ** 2).mean(axis=2)))
    luma, squares = _fours(cells[:, :, 4]), _fours(cells[:, :, 5])
    allowed = PALER[0] + PALER[1] * float(numpy.sqrt(cells[:, :, 6:].var(axis=(0, 1)).mean()))
    contrast = numpy.sqrt(numpy.maximum(squares - luma * luma, 0))
    shares, busy = left / (contrast + _FLOOR), contrast >= 4
    typical = float(numpy.median(shares[busy])) if busy.any() else 0.0
    colour = float(numpy.sqrt((cells[:, :, 1:4] ** 2).mean())) / allowed
    return Remainder(float(shares.max()), typical, int(busy.sum()), made.gain, colour)


def _measured(planes: list[Image.Image], top: int) -> _Pixels:
    """Of each cell of a strip of both pictures, and of planes that should be the same by twos: the square of what
    differs in luma and in those, what differs in the three colours, luma and its square, and the three colours; shape
    (rows, columns, 9). Strip by strip, as all of it at once would be forty times the picture."""
    made, high, *others = (
        numpy.asarray(plane)[2:-2, 2:-2][top : top + _STRIP].astype(numpy.float32) for plane in planes
    )
    apart, luma = made - high, high @ _LUMA
    squares = (apart @ _LUMA) ** 2
    for one, other in zip(others[::2], others[1::2], strict=True):
        squares += (one - other) ** 2
    return numpy.dstack([_cells(squares), _colours(apart), _cells(luma), _cells(luma * luma), _colours(high)])


def _cut_off(low: Image.Image, made: _Fit) -> list[Image.Image]:
    """By how much the filter takes a picture past white and black, and the same without any detail; both mode L, none
    when it stays between them."""
    lost = [max(0.0, level - 255, -level) for level in (made.gain * grey + made.offset for grey in range(256))]
    plane = low.convert("L").point([min(255, round(_CUT * much)) for much in lost])
    return [plane, plane.filter(_BLUR)] if plane.getextrema()[1] else []


def _softened(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at that size, a little blurred against what scaling leaves, with a border of 2 pixels."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    border = ((2, 2), (2, 2), (0, 0))[: 3 if image.mode == "RGB" else 2]
    return Image.fromarray(numpy.pad(numpy.asarray(image), border, mode="edge")).filter(_SOFT)


def _contrast(image: Image.Image) -> float:
    return float(numpy.asarray(image.convert("L")).std())


def _colours(pixels: _Pixels) -> _Pixels:
    """What the three channels have beside the luma, cell by cell, as coders keep less of it."""
    luma = pixels @ _LUMA
    return numpy.stack([_cells(pixels[:, :, channel] - luma) for channel in range(3)], axis=2)


def _fitted(source: Image.Image, target: Image.Image) -> _Fit:
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
    wanted = high[1:-1:step, 1:-1:step].astype(numpy.float64).ravel()
    usable = (wanted > 4) & (wanted < 251)  # the others were cut off
    table, wanted = table[usable], wanted[usable]
    same = numpy.array([1.0, 0, 0, 0, 0])
    found, kept = same, numpy.ones(len(wanted), numpy.bool_)
    for _ in range(3 if len(wanted) else 0):
        chosen = table[kept]
        pull = numpy.diag([_STEADY, 0, _STEADY, _STEADY, _STEADY]) * len(chosen)
        found = same + numpy.linalg.solve(chosen.T @ chosen + pull, chosen.T @ (wanted[kept] - chosen @ same))
        error = numpy.abs(wanted - table @ found)
        kept = error <= max(2.0, 2.5 * float(numpy.median(error[kept])))
    gain, offset, across, down, blur = found.tolist()
    weights = (
        *(0.0, blur - down, 0.0),
        *(blur - across, gain - 4 * blur, blur + across),
        *(0.0, blur + down, 0.0),
    )
    return _Fit(gain, offset, ImageFilter.Kernel((3, 3), weights, 1, offset))


def _cells(values: _Pixels) -> _Pixels:
    """The mean of each cell of 4 x 4; what is over at the edge counts as a whole one."""
    tall, wide = values.shape
    padded = numpy.pad(values, ((0, -tall % _CELL), (0, -wide % _CELL)), mode="edge")
    means: _Pixels = padded.reshape(padded.shape[0] // _CELL, _CELL, -1, _CELL).mean(axis=(1, 3))
    return means


def _fours(cells: _Pixels) -> _Pixels:
    """The mean of each square of four cells, over the first two axes."""
    means: _Pixels = (cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]) / 4
    return means
