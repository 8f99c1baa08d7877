# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The difference hash: a picture's luma on a 9x8 grid, compared with its neighbour, by rows and by columns.

`exact` is bit-identical to `imagehash.dhash` and `imagehash.dhash_vertical` (ImageHash 4.3) for opaque 8-bit pictures
without an orientation tag. What that library gets wrong is defined here, for both modes:

- the orientation tag is applied first;
- 16-bit and float pictures are brought to 8 bits by their own white level instead of being clipped to white;
- transparent pictures are laid on white, so that the invisible colour under a clear pixel does not count.

`fast` lets a JPEG decode straight to luma at 1/2, 1/4 or 1/8 of its size, as long as both sides keep 72 px; anything
else takes the exact way. On photographs it differs from `exact` by 0 to 2 of the 128 bits as a rule,
by up to 10 at worst.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy
import numpy.typing
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from mobius.dhash.errors import BrokenPictureError, MislabelledError, NotAPictureError, TooManyPixelsError
from mobius.errors import MobiusError

Mode = Literal["exact", "fast"]
Transform = Literal["none", "mirror", "flip", "rotate90", "rotate180", "rotate270", "transpose", "transverse"]
_Pixels = numpy.typing.NDArray[numpy.uint8]

ALGORITHMS: Final[dict[Mode, str]] = {"exact": "exact-1", "fast": "fast-1"}
"""What each mode is recorded as. A change of any bit of any hash is a new name."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")
"""The formats read, as Pillow names them. Its other fifty readers are surface for attacks and nothing else here."""

CONTENT_TYPES: Final[dict[str, str]] = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
}

MAX_PIXELS: Final = 80_000_000
"""Pictures of more pixels are refused (Pillow itself only warns at 89 million and refuses at 179)."""

DRAFT_SIDE: Final = 72
"""Pixels that a side keeps at least when a JPEG is decoded small. Drafted down to the grid itself, 9 bits change."""

_TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MASK: Final = (1 << 64) - 1

# what becomes of the two grids when the picture is turned: rows and columns change places with it
_TURNS: Final[dict[Transform, Callable[[_Pixels, _Pixels], tuple[_Pixels, _Pixels]]]] = {
    "none": lambda wide, tall: (wide, tall),
    "mirror": lambda wide, tall: (wide[:, ::-1], tall[:, ::-1]),
    "flip": lambda wide, tall: (wide[::-1], tall[::-1]),
    "rotate90": lambda wide, tall: (tall.T[::-1], wide.T[::-1]),
    "rotate180": lambda wide, tall: (wide[::-1, ::-1], tall[::-1, ::-1]),
    "rotate270": lambda wide, tall: (tall.T[:, ::-1], wide.T[:, ::-1]),
    "transpose": lambda wide, tall: (tall.T, wide.T),
    "transverse": lambda wide, tall: (tall.T[::-1, ::-1], wide.T[::-1, ::-1]),
}


@dataclass(frozen=True)
class Dhash:
    """A fingerprint of 128 bits.

    Attributes:
        rows: 64 bits, the first compared pair in the highest; set where a pixel is brighter than its left neighbour.
        columns: 64 bits, likewise; set where a pixel is brighter than the one above.
        algorithm: what made it, for example `exact-1`.
    """

    rows: int
    columns: int
    algorithm: str = ALGORITHMS["exact"]

    def __post_init__(self) -> None:
        if not (0 <= self.rows <= _MASK and 0 <= self.columns <= _MASK):
            raise ValueError("rows and columns are unsigned 64-bit numbers")

    @property
    def hex(self) -> str:
        """32 hexadecimal digits: rows, then columns."""
        return f"{self.rows:016x}{self.columns:016x}"

    @classmethod
    def from_hex(cls, text: str, algorithm: str = ALGORITHMS["exact"]) -> Dhash:
        """The inverse of `hex`. Raises ValueError for anything but 32 hexadecimal digits."""
        if len(text) != 32:
            raise ValueError(f"A dhash has 32 hexadecimal digits, not {len(text)}.")
        return cls(int(text[:16], 16), int(text[16:], 16), algorithm)

    def distance(self, other: Dhash) -> int:
        """The number of differing bits, 0 to 128. Exact and fast hashes may be compared with each other."""
        return (self.rows ^ other.rows).bit_count() + (self.columns ^ other.columns).bit_count()


@dataclass(frozen=True)
class Fingerprint:
    """A picture's hash and what was learned on the way.

    Attributes:
        width, height: pixels, after the orientation tag was applied.
        format: as Pillow names it, for example `JPEG` (`MPO` is a JPEG with several pictures in it).
        sha256: of the encoded bytes, 64 hexadecimal digits.
        size: of the encoded bytes.
        grids: the 9x8 and the 8x9 pixels that were compared, 72 bytes each, row by row.
        warnings: a sentence for each fault that the picture could be hashed in spite of.
        look: what the second look compares (`mobius.dhash.look_of`), when it was asked for.
    """

    dhash: Dhash
    width: int
    height: int
    format: str
    sha256: str
    size: int
    grids: tuple[bytes, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()
    look: bytes | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The keys that `POST /v1/hash` answers with and that `mobius dhash hash --format json` prints."""
        return {
            "sha256": self.sha256,
            "dhash": f"{self.dhash.rows:016x}",
            "dhash_vertical": f"{self.dhash.columns:016x}",
            "algorithm": self.dhash.algorithm,
            "width": self.width,
            "height": self.height,
            "format": self.format,
            "size": self.size,
            "warnings": list(self.warnings),
        }

    def transforms(self) -> dict[Transform, Dhash]:
        """The hashes that mirrored and turned copies of this picture have (within a bit or so), without decoding again.

        A name says what was done to this picture to get the copy, in Pillow's words: `rotate90` is counter-clockwise.
        """
        wide = numpy.frombuffer(self.grids[0], numpy.uint8).reshape(8, 9)
        tall = numpy.frombuffer(self.grids[1], numpy.uint8).reshape(9, 8)
        return {name: _compared(*turn(wide, tall), self.dhash.algorithm) for name, turn in _TURNS.items()}


def hash_image(image: Image.Image, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS) -> Dhash:
    """Hash a picture that Pillow holds.

    In `fast` mode a JPEG that Pillow has opened but not yet decoded is decoded small, and `image` stays that size
    afterwards; pass `image.copy()` to keep the original.

    Raises:
        TooManyPixelsError: more than `max_pixels`.
        BrokenPictureError: the data is cut short or damaged.
    """
    luma, _, _ = _decoded(image, mode, max_pixels)
    return _compared(*_grids(luma), ALGORITHMS[mode])


def hash_bytes(
    data: bytes,
    mode: Mode = "fast",
    *,
    max_pixels: int = MAX_PIXELS,
    declared: str | None = None,
    look: bool = False,
    formats: tuple[str, ...] = FORMATS,
) -> Fingerprint:
    """Hash an encoded picture.

    Args:
        declared: a format of `FORMATS` that the data must have.
        formats: those of `FORMATS` that are read; the readers of the others never see the data.
        look: take the second look as well, which tells a duplicate from a picture that only hashes alike.

    Raises:
        NotAPictureError, MislabelledError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    digest = hashlib.sha256(data).hexdigest()
    return _hash_stream(io.BytesIO(data), digest, len(data), mode, max_pixels, declared, look, formats)


def hash_file(
    path: Path | str, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS, look: bool = False
) -> Fingerprint:
    """Hash a picture in a file. Its content decides the format, not its name; `look` as in `hash_bytes`.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
        stream.seek(0)
        return _hash_stream(stream, digest, size, mode, max_pixels, None, look, FORMATS)


@functools.cache
def _readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """`formats` without those that the installed Pillow knows nothing of (AVIF came with 11.3)."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _hash_stream(
    stream: BinaryIO,
    digest: str,
    size: int,
    mode: Mode,
    max_pixels: int,
    declared: str | None,
    look: bool,
    formats: tuple[str, ...],
) -> Fingerprint:
    if size == 0:
        raise NotAPictureError("The picture is empty: 0 bytes.")
    try:
        with Image.open(stream, formats=_readable(formats)) as image:
            found = image.format or "unknown"
            _check_label(declared, found)
            luma, width, height = _decoded(image, mode, max_pixels)
        wide, tall = _grids(luma)
        dhash = _compared(wide, tall, ALGORITHMS[mode])
        seen = importlib.import_module("mobius.dhash._confidence").look_of(luma) if look else None
        return Fingerprint(dhash, width, height, found, digest, size, grids=(wide.tobytes(), tall.tobytes()), look=seen)
    except MobiusError:
        raise
    except UnidentifiedImageError as error:
        raise NotAPictureError(
            f"This is not a picture in a format that is read here ({', '.join(formats)})."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(f"The picture has more than the {max_pixels} pixels allowed.") from error
    except MemoryError as error:
        raise _out_of_memory() from error
    except Exception as error:
        # Pillow's readers raise whatever their parsing stumbles over (struct.error, KeyError, SyntaxError, ...)
        raise BrokenPictureError(f"The picture is cut short or damaged: {_words(error)}.") from error


def _check_label(declared: str | None, found: str) -> None:
    if declared is not None and declared != {"MPO": "JPEG"}.get(found, found):
        raise MislabelledError(f"The picture is declared as {declared}, but its bytes are {found}.")


def _decoded(image: Image.Image, mode: Mode, max_pixels: int) -> tuple[Image.Image, int, int]:
    """The upright luma (mode L, decoded small in `fast` mode), and the picture's own width and height, upright."""
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"The picture has {width} x {height} pixels; at most {max_pixels} are allowed.")
    if mode == "fast" and isinstance(image, JpegImagePlugin.JpegImageFile) and min(width, height) >= 2 * DRAFT_SIDE:
        image.draft("L", (DRAFT_SIDE, DRAFT_SIDE))
    drafted = image.size != (width, height)
    try:
        image.load()
        # After load(): a PNG may keep the tag behind its pixels, and a TIFF is turned by Pillow itself.
        transposition = _TRANSPOSITIONS.get(_orientation(image))
        if not drafted:
            width, height = image.size
        luma = _luma(image)
        if transposition is not None:
            luma = luma.transpose(transposition)
            if transposition in (
                Image.Transpose.TRANSPOSE,
                Image.Transpose.TRANSVERSE,
                Image.Transpose.ROTATE_90,
                Image.Transpose.ROTATE_270,
            ):
                width, height = height, width
        return luma, width, height
    except MemoryError as error:
        raise _out_of_memory() from error
    except Exception as error:
        raise BrokenPictureError(f"The picture is cut short or damaged: {_words(error)}.") from error


def _grids(luma: Image.Image) -> tuple[_Pixels, _Pixels]:
    """The pixels compared by rows, shape (8, 9), and those compared by columns, (9, 8)."""
    wide, tall = (numpy.asarray(luma.resize(size, Image.Resampling.LANCZOS)) for size in ((9, 8), (8, 9)))
    return wide, tall


def _compared(wide: _Pixels, tall: _Pixels, algorithm: str) -> Dhash:
    """Each pixel with its neighbour on the left, and with the one above."""
    return Dhash(_number(wide[:, 1:] > wide[:, :-1]), _number(tall[1:] > tall[:-1]), algorithm)


def _number(bits: numpy.typing.NDArray[numpy.bool_]) -> int:
    """64 bits, the first in the highest."""
    return int.from_bytes(numpy.packbits(bits).tobytes(), "big")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 when there is none or the block is damaged (the pixels are still good)."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _luma(image: Image.Image) -> Image.Image:
    """The picture in Pillow's mode L."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(numpy.asarray(image)))
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        # the extrema spare the common picture, whose alpha channel is full everywhere, a layer and any rounding
        if layered.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, layered).convert("L")
        image = layered
    return image.getchannel("L") if image.mode == "LAB" else image.convert("L")


def _eight_bits(pixels: numpy.typing.NDArray[Any]) -> numpy.typing.NDArray[numpy.uint8]:
    """Bring wide pixels, shape (height, width), to 8 bits.

    Whole numbers are scaled by the smallest bit depth of at least 8 that holds the brightest of them, so a 16-bit copy
    of an 8-bit picture hashes like it and a 12-bit scan in a 16-bit file does not turn black. Floats and negative
    numbers have no agreed white: they are stretched from their darkest to their brightest finite value.
    """
    values = pixels.astype(numpy.float32)
    finite = values[numpy.isfinite(values)]
    if finite.size == 0:
        return numpy.zeros(pixels.shape, numpy.uint8)
    low, high = float(finite.min()), float(finite.max())
    if numpy.issubdtype(pixels.dtype, numpy.integer) and low >= 0:
        low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    if high == low:
        return numpy.zeros(pixels.shape, numpy.uint8)
    clean = numpy.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled: numpy.typing.NDArray[numpy.uint8] = numpy.rint((clean - low) * (255.0 / (high - low))).astype(numpy.uint8)
    return scaled


def _words(error: Exception) -> str:
    """The reader's own words on one line, without the final stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if text else type(error).__name__


def _out_of_memory() -> MobiusError:
    return MobiusError("out_of_memory", "There was not enough memory to decode the picture.")
