# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fingerprints as values: the hash of 128 bits, its distance, and the hashes of mirrored and turned copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy
import numpy.typing

Mode = Literal["exact", "fast"]
Transform = Literal["none", "mirror", "flip", "rotate90", "rotate180", "rotate270", "transpose", "transverse"]
_Pixels = numpy.typing.NDArray[numpy.uint8]

ALGORITHMS: Final[dict[Mode, str]] = {"exact": "exact-1", "fast": "fast-2"}
"""The name that is recorded for the hashes of each mode. A change of any bit of any hash needs a new name."""
_MASK: Final = (1 << 64) - 1

# the two grids of the transformed picture, from those of the picture; a quarter turn swaps them
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
        algorithm: of `ALGORITHMS`, for example `exact-1`.
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
    """A picture's hash, and what decoding it showed.

    Attributes:
        width, height: pixels, after the orientation tag was applied.
        format: as Pillow names it, for example `JPEG` (`MPO` is a JPEG with several pictures in it).
        sha256: of the encoded bytes, 64 hexadecimal digits.
        size: of the encoded bytes.
        grids: the 9x8 and the 8x9 pixels that were compared, 72 bytes each, row by row.
        warnings: a sentence for each fault that was repaired.
        descriptor: what re-ranking compares (`mobius.dhash._descriptor`); None unless requested.
    """

    dhash: Dhash
    width: int
    height: int
    format: str
    sha256: str
    size: int
    grids: tuple[bytes, bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()
    descriptor: bytes | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The keys of the response of `POST /v1/hash` and of `mobius dhash hash --format json`."""
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
        """The hashes of mirrored and turned copies of this picture (within about a bit), without decoding again.

        A name says what was done to this picture to get the copy, in Pillow's words: `rotate90` is counter-clockwise.
        """
        wide = numpy.frombuffer(self.grids[0], numpy.uint8).reshape(8, 9)
        tall = numpy.frombuffer(self.grids[1], numpy.uint8).reshape(9, 8)
        return {name: compare_grids(*turn(wide, tall), self.dhash.algorithm) for name, turn in _TURNS.items()}


def compare_grids(wide: _Pixels, tall: _Pixels, algorithm: str) -> Dhash:
    """The hash of two grids: each pixel compared with its left neighbour, and with the one above."""
    return Dhash(_number(wide[:, 1:] > wide[:, :-1]), _number(tall[1:] > tall[:-1]), algorithm)


def _number(bits: numpy.typing.NDArray[numpy.bool_]) -> int:
    """64 bits, the first in the highest."""
    return int.from_bytes(numpy.packbits(bits).tobytes(), "big")
