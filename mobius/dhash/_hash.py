# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The difference hash: a picture's luma on a 9x8 grid, compared with its neighbour, by rows and by columns.

`exact` is bit-identical to `imagehash.dhash` and `imagehash.dhash_vertical` (ImageHash 4.3) for opaque 8-bit pictures
without an orientation tag. What that library gets wrong is defined here, for both modes:

- the orientation tag is applied first;
- 16-bit and float pictures are brought to 8 bits by their own white level instead of being clipped to white;
- transparent pictures are laid on white, so that the invisible colour under a clear pixel does not count.

`fast` lets a JPEG decode straight to luma at 1/2, 1/4 or 1/8 of its size, as long as both sides keep 72 px, and reads
of a progressive one no more than that needs; anything else takes the exact way. docs/performance.md says how many bits
it differs by.
"""

from __future__ import annotations

import functools
import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy
import numpy.typing
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from mobius.dhash._confidence import look_of
from mobius.dhash._grids import bands, grids
from mobius.dhash._jpeg import MOST_SCANS, early_scans, mended, too_many_scans
from mobius.dhash.errors import BrokenPictureError, MislabelledError, NotAPictureError, TooManyPixelsError
from mobius.errors import MobiusError

Mode = Literal["exact", "fast"]
Transform = Literal["none", "mirror", "flip", "rotate90", "rotate180", "rotate270", "transpose", "transverse"]
_Pixels = numpy.typing.NDArray[numpy.uint8]

ALGORITHMS: Final[dict[Mode, str]] = {"exact": "exact-1", "fast": "fast-2"}
"""What each mode is recorded as. A change of any bit of any hash is a new name."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF")
"""The formats read, as Pillow names them. Its other fifty readers are surface for attacks and nothing else here.

HEIF (the HEIC files of telephones) needs the extra `heic`, AVIF a Pillow built with it.
"""

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
    "image/heic": "HEIF",
    "image/heif": "HEIF",
}

MAX_PIXELS: Final = 80_000_000
"""Pictures of more pixels are refused (Pillow itself only warns at 89 million and refuses at 179)."""

DRAFT_SIDE: Final = 72
"""Pixels that a side keeps at least when a JPEG is decoded small. Drafted down to the grid itself, 9 bits change."""

_READ_WHOLE: Final = 1 << 26
"""Files of up to so many bytes are read at once; larger ones as their reader asks for them."""

_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


class _Turn(NamedTuple):
    """How a picture is turned upright: the method, whether its axes change places, and which sides do afterwards."""

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
        look: what the second look compares (`mobius.dhash._confidence`), when it was asked for.
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


@dataclass(frozen=True)
class _Decoded:
    """A picture ready to be hashed.

    Attributes:
        luma: upright, mode L, small where the fast way was taken.
        span: width and height of what the picture covers of `luma`, from its upper left: a picture of 501 pixels at
            1/4 is 126 wide, but covers 125.25 of them.
        corner: where that begins, when the picture was turned.
        width, height: of the picture itself, upright.
    """

    luma: Image.Image
    span: tuple[float, float]
    corner: tuple[float, float]
    width: int
    height: int

    def grids(self) -> tuple[_Pixels, _Pixels]:
        """The pixels compared by rows, shape (8, 9), and those compared by columns, (9, 8)."""
        left, top = self.corner
        return grids(self.luma, (left, top, left + self.span[0], top + self.span[1]))


def hash_image(image: Image.Image, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS) -> Dhash:
    """Hash a picture that Pillow holds.

    In `fast` mode a JPEG that Pillow has opened but not yet decoded is decoded small, and `image` may stay that size
    afterwards; pass `image.copy()` to keep the original.

    Raises:
        TooManyPixelsError: more than `max_pixels`.
        BrokenPictureError: the data is cut short or damaged.
    """
    return _compared(*_decoded(image, mode, max_pixels).grids(), ALGORITHMS[mode])


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
    if not data:
        raise NotAPictureError("The picture is empty: 0 bytes.")
    options = _Options(mode, max_pixels, declared, look, formats)
    return _hash_stream(io.BytesIO(data), hashlib.sha256(data).hexdigest(), len(data), options)


def hash_file(
    path: Path | str, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS, look: bool = False
) -> Fingerprint:
    """Hash a picture in a file. Its content decides the format, not its name; `look` as in `hash_bytes`.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    with open(path, "rb", buffering=0) as stream:
        data = stream.read(_READ_WHOLE)
        if len(data) < _READ_WHOLE:
            return hash_bytes(data, mode, max_pixels=max_pixels, look=look)
    del data
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        options = _Options(mode, max_pixels, None, look, FORMATS)
        return _hash_stream(stream, digest, stream.tell(), options)


class _Options(NamedTuple):
    """What `hash_bytes` was asked for."""

    mode: Mode
    max_pixels: int
    declared: str | None
    look: bool
    formats: tuple[str, ...]


@functools.cache
def _readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """`formats` without those that the installed Pillow knows nothing of (AVIF came with 11.3)."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN and name != "HEIF")


def _hash_stream(stream: BinaryIO, digest: str, size: int, options: _Options) -> Fingerprint:
    try:
        decoded, found, warnings = _read(stream, options)
        wide, tall = decoded.grids()
        return Fingerprint(
            _compared(wide, tall, ALGORITHMS[options.mode]),
            decoded.width,
            decoded.height,
            found,
            digest,
            size,
            grids=(wide.tobytes(), tall.tobytes()),
            warnings=warnings,
            look=look_of(decoded.luma) if options.look else None,
        )
    except MobiusError:
        raise
    except UnidentifiedImageError as error:
        raise NotAPictureError(
            f"This is not a picture in a format that is read here ({', '.join(options.formats)})."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(f"The picture has more than the {options.max_pixels} pixels allowed.") from error
    except MemoryError as error:
        raise _out_of_memory() from error
    except Exception as error:
        # Pillow's readers raise whatever their parsing stumbles over (struct.error, KeyError, SyntaxError, ...)
        raise _broken(error) from error


def _read(stream: BinaryIO, options: _Options) -> tuple[_Decoded, str, tuple[str, ...]]:
    """The picture, its format, and a sentence for each fault that it could be read in spite of."""
    with open_picture(stream, options.formats) as image:
        found = image.format or "unknown"
        _check_label(options.declared, found)
        try:
            return _decoded(image, options.mode, options.max_pixels), found, ()
        except BrokenPictureError:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                raise
            stream.seek(0)
            if (whole := mended(stream.read())) is None:
                raise
    with Image.open(io.BytesIO(whole), formats=("JPEG",)) as image:
        warning = "The JPEG has no end marker; its last pixels may be missing."
        return _decoded(image, options.mode, options.max_pixels), found, (warning,)


def open_picture(stream: BinaryIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture, not yet decoded. Raises what Pillow raises, and NotAPictureError for HEIC without its reader."""
    head = stream.read(64)
    stream.seek(0)
    if "HEIF" in formats and _is_heif(head):
        _register_heif()
        return Image.open(stream, formats=("HEIF",))
    return Image.open(stream, formats=_readable(formats))


def _is_heif(head: bytes) -> bool:
    """Whether a file that begins so says it is HEIF and not AVIF, which shares its container (ISO 14496-12, 4.3)."""
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = {head[place : place + 4] for place in (8, *range(16, end, 4))}
    return head[4:8] == b"ftyp" and not brands & {b"avif", b"avis"} and bool(brands & _HEIF_BRANDS)


@functools.cache
def _register_heif() -> None:
    """Let Pillow read HEIF through pillow-heif, which takes 30 ms to load and is not installed everywhere."""
    try:
        import pillow_heif
    except ImportError as error:
        raise NotAPictureError(
            "This is a HEIC picture, and what reads them is not installed.",
            do_next="Install mobius-dhash[heic].",
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)


def _check_label(declared: str | None, found: str) -> None:
    if declared is not None and declared != {"MPO": "JPEG"}.get(found, found):
        raise MislabelledError(f"The picture is declared as {declared}, but its bytes are {found}.")


def _decoded(image: Image.Image, mode: Mode, max_pixels: int) -> _Decoded:
    refuse_bombs(image, max_pixels)
    width, height = image.size
    try:
        small = _small_luma(image) if mode == "fast" else None
        if small is None:
            image.load()
            width, height = image.size  # a TIFF was turned by Pillow itself
            small = _luma(image), float(width), float(height)
        # after load(): a PNG may keep the tag behind its pixels
        turn = _ORIENTATIONS.get(_orientation(image))
        return _upright(*small, turn, width, height)
    except MemoryError as error:
        raise _out_of_memory() from error
    except Exception as error:
        raise _broken(error) from error


def refuse_bombs(image: Image.Image, max_pixels: int) -> None:
    """Refuse, before it is decoded, a picture that would take more memory or time than `max_pixels` are worth.

    Raises:
        TooManyPixelsError: the picture, or a tile of it, has more.
        BrokenPictureError: a JPEG goes over its pixels too often.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"The picture has {width} x {height} pixels; at most {max_pixels} are allowed.")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # a tile is decoded whole, however little of it the picture shows
        try:
            tile = image.tag_v2.get(ExifTags.Base.TileWidth, 0) * image.tag_v2.get(ExifTags.Base.TileLength, 0)
        except Exception as error:
            raise _broken(error) from error
        if tile > max_pixels:
            raise TooManyPixelsError(f"The picture has tiles of {tile} pixels; at most {max_pixels} are allowed.")
    if isinstance(image, JpegImagePlugin.JpegImageFile) and "progressive" in image.info and image.tile and image.fp:
        image.fp.seek(0)
        if too_many_scans(image.fp.read()):
            raise BrokenPictureError(f"The JPEG has more than the {MOST_SCANS} scans allowed.")


def _small_luma(image: Image.Image) -> tuple[Image.Image, float, float] | None:
    """A JPEG's luma at 1/2, 1/4 or 1/8, and the width and height that the picture covers of it.

    None for what is no JPEG, too small, or decoded already.
    """
    width, height = image.size
    denominator = next((part for part in (8, 4, 2) if min(width, height) >= part * DRAFT_SIDE), 1)
    if denominator == 1 or not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.tile:
        return None
    size = (width // denominator, height // denominator)
    covered = (width / denominator, height / denominator)
    if "progressive" in image.info and image.fp is not None:
        image.fp.seek(0)
        if (early := early_scans(image.fp.read(), denominator)) is not None:
            with Image.open(io.BytesIO(early), formats=("JPEG",)) as coarse:
                coarse.draft("L", size)
                return coarse.convert("L"), *covered
    image.draft("L", size)
    image.load()
    return _luma(image), *covered


def _upright(luma: Image.Image, across: float, down: float, turn: _Turn | None, width: int, height: int) -> _Decoded:
    """The picture turned as its tag says; `across` and `down` is what it covers of `luma`."""
    if turn is None:
        return _Decoded(luma, (across, down), (0, 0), width, height)
    luma = luma.transpose(turn.method)
    if turn.swaps:
        across, down, width, height = down, across, height, width
    corner = (luma.width - across if turn.mirrors else 0, luma.height - down if turn.flips else 0)
    return _Decoded(luma, (across, down), corner, width, height)


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


def upright(image: Image.Image, small: Image.Image) -> Image.Image:
    """A small copy turned as the tag of `image`, which is loaded, says."""
    turn = _ORIENTATIONS.get(_orientation(image))
    return small if turn is None else small.transpose(turn.method)


def _luma(image: Image.Image) -> Image.Image:
    """The picture in Pillow's mode L."""
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image.getchannel("L") if image.mode == "LAB" else image.convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    """The luma of a transparent picture on white paper."""
    luma = Image.new("L", image.size)
    for top, band in bands(image):
        layered = band.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        luma.paste(Image.alpha_composite(white, layered).convert("L"), (0, top))
    return luma


def eight_bits(image: Image.Image) -> Image.Image:
    """Bring a picture of wide pixels to 8 bits.

    Whole numbers are scaled by the smallest bit depth of at least 8 that holds the brightest of them, so a 16-bit copy
    of an 8-bit picture hashes like it and a 12-bit scan in a 16-bit file does not turn black. Floats and negative
    numbers have no agreed white: they are stretched from their darkest to their brightest finite value.
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


def _broken(error: Exception) -> BrokenPictureError:
    words = " ".join(str(error).split()).rstrip(".")  # the reader's own, on one line
    return BrokenPictureError(f"The picture is cut short or damaged: {words or type(error).__name__}.")


def _out_of_memory() -> MobiusError:
    return MobiusError("out_of_memory", "There was not enough memory to decode the picture.")
