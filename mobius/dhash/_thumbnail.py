# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small copies of pictures, for people to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from mobius.dhash._hash import MAX_PIXELS, eight_bits, open_picture, refuse_bombs
from mobius.dhash.errors import BrokenPictureError, NotAPictureError

SIDE = 256
"""Pixels of the longer side."""


def thumbnail_of(picture: bytes | Path, side: int = SIDE, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A WebP of the picture, upright, on white, at most `side` pixels wide and high, without any of its metadata.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    try:
        image = open_picture(io.BytesIO(data))
    except NotAPictureError:
        raise
    except Exception as error:
        raise NotAPictureError("This is not a picture in a format that is read here.") from error
    with image:
        refuse_bombs(image, max_pixels)
        try:
            image.draft("RGB", (side, side))
            small = _flat(ImageOps.exif_transpose(image), side)
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's readers raise whatever their parsing stumbles over
            raise BrokenPictureError(f"The picture is cut short or damaged: {error}.") from error
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()


def _flat(image: Image.Image, side: int) -> Image.Image:
    """A small opaque copy, mode L or RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        image = eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image.thumbnail((side, side))
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    image.thumbnail((side, side))
    return image
