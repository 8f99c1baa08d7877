# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decode a picture to upright 8-bit luma, within limits of memory and time.

16-bit and float pictures are brought to 8 bits by their own white level; transparent ones are composited on white.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from mobius.dhash._fingerprint import Mode
from mobius.dhash._grids import Grids, bands, grids
from mobius.dhash._jpeg import MAX_SCANS, decode_small, has_too_many_scans
from mobius.dhash.errors import BrokenPictureError, DecodingLimitError, TooManyPixelsError
from mobius.errors import MobiusError

MAX_PIXELS: Final = 80_000_000
"""Pictures of more pixels are refused (Pillow itself only warns at 89 million and refuses at 179)."""

_PILLOW_BYTES: Final = 5
"""Memory of a pixel that Pillow holds: four bytes, and its luma."""
_COEFFICIENT_BYTES: Final = 2
"""Memory of a sample of a progressive JPEG while libjpeg collects its scans."""
_DECODER_BYTES: Final = {"WEBP": 18, "AVIF": 12, "HEIF": 12}
"""Memory of a pixel where a decoder hands over the whole picture, which Pillow then copies."""


class _Turn(NamedTuple):
    """How a picture is turned upright: the method, whether that swaps its axes, and whether it mirrors and flips it."""

    method: Image.Transpose
    swaps: bool
    mirrors: bool
    flips: bool


_ORIENTATIONS: Final = {
    2: _Turn(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: _Turn(Image.Transpose.ROTATE_180, False, True, True),
    4: _Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: _Turn(Image.Transpose.TRANSPOSE, True, False, False),
    6: _Turn(Image.Transpose.ROTATE_270, True, True, False),
    7: _Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: _Turn(Image.Transpose.ROTATE_90, True, False, True),
}


@dataclass(frozen=True)
class DecodedLuma:
    """A decoded picture, ready to be hashed.

    Attributes:
        luma: upright, mode L; small if a JPEG was decoded small.
        span: width and height of the part of `luma` that the picture covers: a picture of 501 pixels at 1/4 is 126
            wide, but covers 125.25 of them.
        corner: left and top of that part; not 0 if the picture was turned.
        width, height: of the picture itself, upright.
    """

    luma: Image.Image
    span: tuple[float, float]
    corner: tuple[float, float]
    width: int
    height: int

    def grids(self) -> Grids:
        """The pixels compared by rows, shape (8, 9), and those compared by columns, (9, 8)."""
        left, top = self.corner
        return grids(self.luma, (left, top, left + self.span[0], top + self.span[1]))


def decode_luma(image: Image.Image, mode: Mode, max_pixels: int, *, memory_bytes: int | None = None) -> DecodedLuma:
    """Decode a picture.

    Raises:
        TooManyPixelsError: it has more than `max_pixels`.
        DecodingLimitError: it needs more than `memory_bytes`.
        BrokenPictureError: the data is cut short or damaged.
    """
    refuse_bombs(image, max_pixels, memory_bytes=memory_bytes, decodes_small=mode == "fast")
    width, height = image.size
    try:
        small = decode_small(image) if mode == "fast" else None
        if small is None:
            image.load()
            width, height = image.size  # a TIFF was turned by Pillow itself
            small = to_luma(image), float(width), float(height)
        # after load(): a PNG may have the tag after its pixels
        turn = _ORIENTATIONS.get(_orientation_of(image))
        return _upright(*small, turn, width, height)
    except MemoryError as error:
        raise out_of_memory() from error
    except Exception as error:
        raise broken_picture(error) from error


def refuse_bombs(
    image: Image.Image, max_pixels: int, *, memory_bytes: int | None = None, decodes_small: bool = False
) -> None:
    """Refuse a picture, before it is decoded, that says itself that it takes more memory or time than allowed.

    What a picture says may be wrong. A process with limits of its own (`_worker`) does not depend on it.

    Args:
        memory_bytes: what decoding may take; None for no limit.
        decodes_small: whether a JPEG is decoded at a part of its size.

    Raises:
        TooManyPixelsError: the picture, or a tile of it, has more than `max_pixels`.
        DecodingLimitError: it needs more than `memory_bytes`.
        BrokenPictureError: a JPEG has too many scans.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"The picture has {width} x {height} pixels; at most {max_pixels} are allowed.")
    if memory_bytes is not None and width * height * _bytes_per_pixel(image, decodes_small) > memory_bytes:
        raise too_much_memory(memory_bytes)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # a tile is decoded whole, however little of it the picture shows
        try:
            tile = image.tag_v2.get(ExifTags.Base.TileWidth, 0) * image.tag_v2.get(ExifTags.Base.TileLength, 0)
        except Exception as error:
            raise broken_picture(error) from error
        if tile > max_pixels:
            raise TooManyPixelsError(f"The picture has tiles of {tile} pixels; at most {max_pixels} are allowed.")
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile and image.fp:
        image.fp.seek(0)
        if has_too_many_scans(image.fp.read()):
            raise BrokenPictureError(f"The JPEG has more than the {MAX_SCANS} scans allowed.")


def _bytes_per_pixel(image: Image.Image, decodes_small: bool) -> float:
    """The memory that decoding takes for each pixel: what the decoder and Pillow hold at the same time (measured)."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _samples_per_pixel(image) * _COEFFICIENT_BYTES + (0 if decodes_small else _PILLOW_BYTES)
    return _DECODER_BYTES.get(image.format or "", _PILLOW_BYTES)


def _samples_per_pixel(image: JpegImagePlugin.JpegImageFile) -> float:
    """Samples that libjpeg keeps of each pixel: none of a baseline JPEG, 1.5 with colours at half the size."""
    if "progressive" not in image.info:
        return 0.0
    factors = [across * down for _, across, down, _ in image.layer]
    return sum(factors) / max(factors, default=1)


def _upright(luma: Image.Image, across: float, down: float, turn: _Turn | None, width: int, height: int) -> DecodedLuma:
    """The picture turned by its orientation tag; it covers `across` x `down` pixels of `luma`."""
    if turn is None:
        return DecodedLuma(luma, (across, down), (0, 0), width, height)
    luma = luma.transpose(turn.method)
    if turn.swaps:
        across, down, width, height = down, across, height, width
    corner = (luma.width - across if turn.mirrors else 0, luma.height - down if turn.flips else 0)
    return DecodedLuma(luma, (across, down), corner, width, height)


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or the block is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def upright(image: Image.Image, small: Image.Image) -> Image.Image:
    """A small copy turned by the orientation tag of `image`, which must be loaded."""
    turn = _ORIENTATIONS.get(_orientation_of(image))
    return small if turn is None else small.transpose(turn.method)


def to_luma(image: Image.Image) -> Image.Image:
    """The picture in Pillow's mode L."""
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image.getchannel("L") if image.mode == "LAB" else image.convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    """The luma of a transparent picture, composited on white."""
    luma = Image.new("L", image.size)
    for top, band in bands(image):
        layered = band.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        luma.paste(Image.alpha_composite(white, layered).convert("L"), (0, top))
    return luma


def eight_bits(image: Image.Image) -> Image.Image:
    """Bring a picture of wide pixels to 8 bits.

    Whole numbers are scaled by the smallest bit depth of at least 8 that holds the brightest of them, so a 16-bit copy
    of an 8-bit picture has the same hash and a 12-bit scan in a 16-bit file does not turn black. Floats and negative
    numbers have no defined white: they are stretched from their darkest to their brightest finite value.
    """
    extrema: list[float] = []
    for _, band in bands(image):
        values = numpy.asarray(band)
        finite = values[numpy.isfinite(values)]
        if finite.size:
            extrema += float(finite.min()), float(finite.max())
    low, high = (min(extrema), max(extrema)) if extrema else (0.0, 0.0)
    if image.mode != "F" and low >= 0:
        low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    luma = Image.new("L", image.size)
    if high > low:
        for top, band in bands(image):
            values = numpy.nan_to_num(numpy.asarray(band).astype(numpy.float64), nan=low, posinf=high, neginf=low)
            scaled = numpy.rint((values - low) * (255.0 / (high - low))).astype(numpy.uint8)
            luma.paste(Image.fromarray(scaled), (0, top))
    return luma


def broken_picture(error: Exception) -> BrokenPictureError:
    words = " ".join(str(error).split()).rstrip(".")  # the decoder's message, on one line
    return BrokenPictureError(f"The picture is cut short or damaged: {words or type(error).__name__}.")


def too_much_memory(memory_bytes: int) -> DecodingLimitError:
    return DecodingLimitError(f"Decoding the picture needs more than the {memory_bytes >> 20} MB of memory allowed.")


def out_of_memory() -> MobiusError:
    return MobiusError("out_of_memory", "There was not enough memory to decode the picture.")
