# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small copies of pictures: for people to look at, and for the proof."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy
from PIL import Image

from mobius.dhash._grids import bands
from mobius.dhash._hash import MAX_PIXELS, Transform, eight_bits, open_picture, refuse_bombs, upright
from mobius.dhash.errors import BrokenPictureError, NotAPictureError

SIDE: Final = 256
"""Pixels of the longer side."""

_LOSSLESS: Final = ("PNG", "GIF", "BMP", "TIFF")
_TURNS: Final[dict[Transform, Image.Transpose]] = {
    "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
    "flip": Image.Transpose.FLIP_TOP_BOTTOM,
    "rotate90": Image.Transpose.ROTATE_90,
    "rotate180": Image.Transpose.ROTATE_180,
    "rotate270": Image.Transpose.ROTATE_270,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}
_Box = tuple[float, float, float, float]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Seen:
    """A picture as the proof looks at it.

    Attributes:
        colours: a small copy, upright, on white, mode RGB.
        alpha: of the small copy, mode L; None when the picture has none.
        size: of the whole picture in pixels, the longer side first.
        pixels: a digest of all its pixels as they are shown, when they are stored without loss; else "".
        alone: whether it is all that its file holds: no animation, no further pages.
    """

    colours: Image.Image
    alpha: Image.Image | None
    size: tuple[int, int]
    pixels: str
    alone: bool

    def turned(self, transform: Transform) -> Seen:
        """With that done to it; it is no longer what its file holds."""
        if transform == "none":
            return self
        way = _TURNS[transform]
        alpha = None if self.alpha is None else self.alpha.transpose(way)
        return replace(
            self, colours=self.colours.transpose(way), alpha=alpha, pixels=self.pixels and f"{transform} {self.pixels}"
        )


def thumbnail_of(picture: bytes | Path, side: int = SIDE, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A WebP of the picture, upright, on white, at most `side` pixels wide and high, without any of its metadata.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """

    def written(image: Image.Image, _: object, box: _Box | None) -> bytes:
        buffer = io.BytesIO()
        _on_white(upright(image, _reduced(image, side, box))).save(buffer, "WEBP", quality=75)
        return buffer.getvalue()

    return _decoded(picture if isinstance(picture, bytes) else picture.read_bytes(), side, max_pixels, written)


def see(data: bytes, side: int = SIDE, *, max_pixels: int = MAX_PIXELS) -> Seen:
    """An encoded picture with a small copy at most `side` pixels wide and high, never enlarged.

    Raises:
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """

    def seen(image: Image.Image, size: tuple[int, int], box: _Box | None) -> Seen:
        kept = image.format in _LOSSLESS or (image.format == "WEBP" and b"VP8L" in data)
        small = upright(image, _reduced(image, side, box))
        return Seen(
            _on_white(small), small.getchannel("A") if small.mode == "RGBA" else None,
            (max(size), min(size)), _pixels(image) if kept else "",
            not getattr(image, "is_animated", False),
        )  # fmt: skip

    return _decoded(data, side, max_pixels, seen)


def _decoded(
    data: bytes, side: int, max_pixels: int, work: Callable[[Image.Image, tuple[int, int], _Box | None], _T]
) -> _T:
    """What `work` makes of a picture, decoded no smaller than `side`, its whole size, and what it covers of that."""
    try:
        image = open_picture(io.BytesIO(data))
    except NotAPictureError:
        raise
    except Exception as error:
        raise NotAPictureError("This is not a picture in a format that is read here.") from error
    with image:
        refuse_bombs(image, max_pixels)
        try:
            size = image.size
            drafted = image.draft("RGB", (side, side))
            image.load()
            # a picture of 501 pixels at 1/4 is 126 wide, and covers 125.25 of them
            return work(image, size, None if drafted is None else drafted[1])
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's readers raise whatever their parsing stumbles over
            raise BrokenPictureError(f"The picture is cut short or damaged: {error}.") from error


def _reduced(image: Image.Image, side: int, box: _Box | None) -> Image.Image:
    """What is in `box`, all by default, as a small copy of mode RGB or RGBA."""
    image = _plain(image)
    across, down = (0.0 + image.width, 0.0 + image.height) if box is None else (box[2] - box[0], box[3] - box[1])
    scale = min(1.0, side / max(across, down))
    size = max(1, round(across * scale)), max(1, round(down * scale))
    return image.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def _plain(image: Image.Image) -> Image.Image:
    """As RGB, or RGBA when it may be transparent."""
    if _is_deep(image):
        clear = _clear(image)
        shown = None if clear is None else Image.fromarray(numpy.asarray(image) != clear)
        image = eight_bits(image)
        if shown is not None:
            image = image.convert("RGB")
            image.putalpha(shown.convert("L"))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _pixels(image: Image.Image) -> str:
    """A digest of all pixels, upright, however they are stored; the colour under a clear one does not count.

    More than eight bits a channel count all."""
    deep = _is_deep(image)
    shown = upright(image, image if deep else _plain(image))
    digest = hashlib.sha256(f"{shown.mode if deep else ''} {shown.size} {_clear(image) if deep else ''}".encode())
    for _, band in bands(shown):
        digest.update((band if deep else band.convert("RGBA").convert("RGBa")).tobytes())
    return digest.hexdigest()


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _clear(image: Image.Image) -> int | None:
    """The one grey that is transparent in a picture of more than eight bits."""
    value = image.info.get("transparency")
    return value if isinstance(value, int) else None
