# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The difference hash: a picture's luma on a 9x8 grid, compared with its neighbour, by rows and by columns.

`exact` is bit-identical to `imagehash.dhash` and `imagehash.dhash_vertical` (ImageHash 4.3) for opaque 8-bit pictures
without an orientation tag. Where that library is wrong, both modes differ from it:

- the orientation tag is applied first;
- 16-bit and float pictures are brought to 8 bits by their own white level instead of being clipped to white;
- transparent pictures are composited on white, so that the invisible colour of a clear pixel does not count.

`fast` decodes a JPEG straight to luma at 1/2, 1/4 or 1/8 of its size, as long as both sides keep 72 px, and reads of a
progressive one no more than that needs; for other formats it is `exact`. docs/performance.md says by how many bits the
two differ.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from mobius.dhash._decoding import MAX_PIXELS, DecodedLuma, broken_picture, decode_luma, out_of_memory
from mobius.dhash._descriptor import compute_descriptor
from mobius.dhash._fingerprint import ALGORITHMS, Dhash, Fingerprint, Mode, compare_grids
from mobius.dhash._formats import FORMATS, check_declared_format, open_picture
from mobius.dhash._jpeg import restore_end_marker
from mobius.dhash.errors import BrokenPictureError, NotAPictureError, TooManyPixelsError
from mobius.errors import MobiusError

_READ_WHOLE_MAX_BYTES: Final = 1 << 26
"""Largest file that is read at once; a larger one is read as its decoder needs it."""


def hash_image(image: Image.Image, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS) -> Dhash:
    """Hash a picture that Pillow holds.

    In `fast` mode a JPEG that Pillow has opened but not yet decoded is decoded small, and `image` may stay that size
    afterwards; pass `image.copy()` to keep the original.

    Raises:
        TooManyPixelsError: more than `max_pixels`.
        BrokenPictureError: the data is cut short or damaged.
    """
    return compare_grids(*decode_luma(image, mode, max_pixels).grids(), ALGORITHMS[mode])


def hash_bytes(
    data: bytes,
    mode: Mode = "fast",
    *,
    max_pixels: int = MAX_PIXELS,
    declared: str | None = None,
    descriptor: bool = False,
    formats: tuple[str, ...] = FORMATS,
    memory_bytes: int | None = None,
) -> Fingerprint:
    """Hash an encoded picture.

    Args:
        declared: a format of `FORMATS` that the data must have.
        formats: those of `FORMATS` that are read; the decoders of others never get the data.
        descriptor: compute the descriptor as well, which re-ranking compares.

    Raises:
        NotAPictureError, MislabelledError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    if not data:
        raise NotAPictureError("The picture is empty: 0 bytes.")
    options = _Options(mode, max_pixels, declared, descriptor, formats, memory_bytes)
    return _hash_stream(io.BytesIO(data), hashlib.sha256(data).hexdigest(), len(data), options)


def hash_file(
    path: Path | str, mode: Mode = "fast", *, max_pixels: int = MAX_PIXELS, descriptor: bool = False
) -> Fingerprint:
    """Hash a picture in a file. Its content decides the format, not its name; `descriptor` as in `hash_bytes`.

    Raises:
        OSError: the file cannot be read.
        NotAPictureError, BrokenPictureError, TooManyPixelsError: as their names say.
    """
    with open(path, "rb", buffering=0) as stream:
        data = stream.read(_READ_WHOLE_MAX_BYTES)
        if len(data) < _READ_WHOLE_MAX_BYTES:
            return hash_bytes(data, mode, max_pixels=max_pixels, descriptor=descriptor)
    del data
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        options = _Options(mode, max_pixels, None, descriptor, FORMATS, None)
        return _hash_stream(stream, digest, stream.tell(), options)


class _Options(NamedTuple):
    """The arguments of `hash_bytes`."""

    mode: Mode
    max_pixels: int
    declared: str | None
    descriptor: bool
    formats: tuple[str, ...]
    memory_bytes: int | None


def _hash_stream(stream: BinaryIO, digest: str, size: int, options: _Options) -> Fingerprint:
    try:
        decoded, actual_format, warnings = _read(stream, options)
        wide, tall = decoded.grids()
        return Fingerprint(
            compare_grids(wide, tall, ALGORITHMS[options.mode]),
            decoded.width,
            decoded.height,
            actual_format,
            digest,
            size,
            grids=(wide.tobytes(), tall.tobytes()),
            warnings=warnings,
            descriptor=compute_descriptor(decoded.luma) if options.descriptor else None,
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
        raise out_of_memory() from error
    except Exception as error:
        # Pillow's decoders raise exceptions of any type on damaged data (struct.error, KeyError, SyntaxError, ...)
        raise broken_picture(error) from error


def _read(stream: BinaryIO, options: _Options) -> tuple[DecodedLuma, str, tuple[str, ...]]:
    """The picture, its format, and a warning for each fault that was repaired."""
    with open_picture(stream, options.formats, memory_bytes=options.memory_bytes) as image:
        actual_format = image.format or "unknown"
        check_declared_format(options.declared, actual_format)
        try:
            decoded = decode_luma(image, options.mode, options.max_pixels, memory_bytes=options.memory_bytes)
            return decoded, actual_format, ()
        except BrokenPictureError:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                raise
            stream.seek(0)
            if (repaired := restore_end_marker(stream.read())) is None:
                raise
    with Image.open(io.BytesIO(repaired), formats=("JPEG",)) as image:
        warning = "The JPEG has no end marker; its last pixels may be missing."
        return decode_luma(image, options.mode, options.max_pixels), actual_format, (warning,)
