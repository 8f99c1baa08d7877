# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small copies of pictures: for people to look at, and for verification."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import numpy
from PIL import Image

from mobius.dhash._decoding import MAX_PIXELS, eight_bits, refuse_bombs, upright
from mobius.dhash._formats import open_picture
from mobius.dhash.errors import BrokenPictureError, NotAPictureError, UnopenedPictureError

THUMBNAIL_SIDE_PX: Final = 256
"""Longer side of a thumbnail by default."""
_SMALL_SIDE_PX: Final = 512
"""A JPEG of which no more than this is needed is decoded at a part of its size, if it is large."""
Box = tuple[float, float, float, float]
_T = TypeVar("_T")


def thumbnail_of(
    picture: bytes | Path,
    side: int = THUMBNAIL_SIDE_PX,
    *,
    max_pixels: int = MAX_PIXELS,
    memory_bytes: int | None = None,
) -> bytes:
    """A WebP of the picture, upright, on white, at most `side` pixels wide and high, without any of its metadata.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
        DecodingLimitError: it needs more than `memory_bytes`.
    """

    def encode(image: Image.Image, _: object, box: Box | None) -> bytes:
        buffer = io.BytesIO()
        on_white(upright(image, small_copy(image, side, box))).save(buffer, "WEBP", quality=75)
        return buffer.getvalue()

    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    return decode_at_side(data, side, max_pixels, encode, memory_bytes=memory_bytes)


def decode_at_side(
    data: bytes,
    side: int,
    max_pixels: int,
    work: Callable[[Image.Image, tuple[int, int], Box | None], _T],
    *,
    memory_bytes: int | None = None,
) -> _T:
    """Decode a picture no smaller than `side`; returns `work` of it, its whole size, and the box that it covers."""
    try:
        image = open_picture(io.BytesIO(data), memory_bytes=memory_bytes)
    except (NotAPictureError, UnopenedPictureError):
        raise
    except Exception as error:
        raise NotAPictureError("This is not a picture in a format that is read here.") from error
    with image:
        refuse_bombs(image, max_pixels, memory_bytes=memory_bytes, decodes_small=side <= _SMALL_SIDE_PX)
        try:
            size = image.size
            drafted = image.draft("RGB", (side, side))
            image.load()
            # a picture of 501 pixels at 1/4 is 126 wide, and covers 125.25 of them
            return work(image, size, None if drafted is None else drafted[1])
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's decoders raise exceptions of any type on damaged data
            raise BrokenPictureError(f"The picture is cut short or damaged: {error}.") from error


def small_copy(image: Image.Image, side: int, box: Box | None) -> Image.Image:
    """A small copy of the part in `box`, by default of all, in mode RGB or RGBA."""
    image = to_rgb(image)
    across, down = (0.0 + image.width, 0.0 + image.height) if box is None else (box[2] - box[0], box[3] - box[1])
    scale = min(1.0, side / max(across, down))
    size = max(1, round(across * scale)), max(1, round(down * scale))
    return image.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, or RGBA if it may be transparent."""
    if is_deep(image):
        clear = clear_grey(image)
        printable = None if clear is None else Image.fromarray(numpy.asarray(image) != clear)
        image = eight_bits(image)
        if printable is not None:
            image = image.convert("RGB")
            image.putalpha(printable.convert("L"))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def clear_grey(image: Image.Image) -> int | None:
    """The one grey that is transparent in a picture of more than eight bits; None if there is none."""
    value = image.info.get("transparency")
    return value if isinstance(value, int) else None
