# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The picture formats that are read, and opening a picture of one."""

from __future__ import annotations

import contextlib
import functools
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from mobius.dhash.errors import MislabelledError, NotAPictureError, UnopenedPictureError

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF")
"""The formats read, as Pillow names them. Its fifty other decoders would only add attack surface.

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

_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


@functools.cache
def _supported(formats: tuple[str, ...]) -> tuple[str, ...]:
    """`formats` without those that the installed Pillow does not have (AVIF came with 11.3), and without HEIF."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN and name != "HEIF")


def open_picture(
    stream: BinaryIO, formats: tuple[str, ...] = FORMATS, *, memory_bytes: int | None = None
) -> Image.Image:
    """The picture, not yet decoded. Raises what Pillow raises, and NotAPictureError for HEIC without its decoder.

    Args:
        memory_bytes: what this process may allocate; with it, UnopenedPictureError is raised for a WebP that cannot be
            opened, since its decoder allocates the whole picture before it tells the size.
    """
    head = stream.read(64)
    stream.seek(0)
    if "HEIF" in formats and _is_heif(head):
        _register_heif()
        return Image.open(stream, formats=("HEIF",))
    try:
        return Image.open(stream, formats=_supported(formats))
    except UnidentifiedImageError:
        raise
    except Exception as error:
        if memory_bytes is None or not (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
            raise
        raise UnopenedPictureError(
            f"The WebP is damaged, or needs more than the {memory_bytes >> 20} MB of memory allowed."
        ) from error


def _is_heif(head: bytes) -> bool:
    """Whether the head of a file is one of HEIF and not of AVIF, which shares its container (ISO 14496-12, 4.3)."""
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = {head[offset : offset + 4] for offset in (8, *range(16, end, 4))}
    return head[4:8] == b"ftyp" and not brands & {b"avif", b"avis"} and bool(brands & _HEIF_BRANDS)


@functools.cache
def _register_heif() -> None:
    """Let Pillow read HEIF through pillow-heif, which takes 30 ms to load and is not installed everywhere."""
    try:
        import pillow_heif
    except ImportError as error:
        raise NotAPictureError(
            "This is a HEIC picture, and its decoder is not installed.",
            do_next="Install mobius-dhash[heic].",
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)


def load_decoders() -> None:
    """Load every decoder now, for a process that can load none later."""
    _supported(FORMATS)
    with contextlib.suppress(NotAPictureError):
        _register_heif()


def check_declared_format(declared: str | None, actual: str) -> None:
    if declared is not None and declared != {"MPO": "JPEG"}.get(actual, actual):
        raise MislabelledError(f"The picture is declared as {declared}, but its bytes are {actual}.")
