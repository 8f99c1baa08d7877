# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures as verification compares them: a small copy, and a digest of all pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image

from mobius.dhash._decoding import MAX_PIXELS, upright
from mobius.dhash._fingerprint import Transform
from mobius.dhash._grids import bands
from mobius.dhash._thumbnail import (
    Box,
    clear_grey,
    decode_at_side,
    is_deep,
    on_white,
    small_copy,
    to_rgb,
)

OVERVIEW_SIDE_PX: Final = 256
"""Pixels of the longer side of the copies that are compared first."""

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


@dataclass(frozen=True)
class VerificationImage:
    """A picture as verification compares it.

    Attributes:
        colours: a small copy, upright, on white, mode RGB.
        alpha: of the small copy, mode L; None when the picture has none.
        size: of the whole picture in pixels, the longer side first.
        pixel_digest: a digest of all pixels as displayed, if they are stored without loss; else "".
        is_single: whether the file has no other pictures: no animation, no further pages.
    """

    colours: Image.Image
    alpha: Image.Image | None
    size: tuple[int, int]
    pixel_digest: str
    is_single: bool

    def transformed(self, transform: Transform) -> VerificationImage:
        """The transformed picture; its digest is none that a file has."""
        if transform == "none":
            return self
        way = _TURNS[transform]
        alpha = None if self.alpha is None else self.alpha.transpose(way)
        return replace(
            self,
            colours=self.colours.transpose(way),
            alpha=alpha,
            pixel_digest=self.pixel_digest and f"{transform} {self.pixel_digest}",
        )


def load_for_verification(
    data: bytes, side: int = OVERVIEW_SIDE_PX, *, max_pixels: int = MAX_PIXELS, memory_bytes: int | None = None
) -> VerificationImage:
    """Load an encoded picture, with a small copy at most `side` pixels wide and high, never enlarged.

    Raises:
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
        DecodingLimitError: it needs more than `memory_bytes`.
    """

    def make(image: Image.Image, size: tuple[int, int], box: Box | None) -> VerificationImage:
        lossless = image.format in _LOSSLESS or (image.format == "WEBP" and b"VP8L" in data)
        small = upright(image, small_copy(image, side, box))
        return VerificationImage(
            on_white(small), small.getchannel("A") if small.mode == "RGBA" else None,
            (max(size), min(size)), _digest_pixels(image) if lossless else "",
            not getattr(image, "is_animated", False),
        )  # fmt: skip

    return decode_at_side(data, side, max_pixels, make, memory_bytes=memory_bytes)


def _digest_pixels(image: Image.Image) -> str:
    """A digest of all pixels, upright, whatever their encoding; the colour of a clear pixel does not count.

    All bits of a channel count, also more than eight."""
    deep = is_deep(image)
    printable = upright(image, image if deep else to_rgb(image))
    digest = hashlib.sha256(
        f"{printable.mode if deep else ''} {printable.size} {clear_grey(image) if deep else ''}".encode()
    )
    for _, band in bands(printable):
        digest.update((band if deep else band.convert("RGBA").convert("RGBa")).tobytes())
    return digest.hexdigest()
