# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The candidate pairs of a large index, kept in a file beside it, so that a restart need not compare all pictures.

The file can be deleted at any time, and is never trusted further than it can be compared: with the pairs it has a mark
of each picture (what the pairs follow from), and pictures whose mark is another now are compared again. So it does not
matter when it was written, nor whether the index was restored or exchanged since.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy
from loguru import logger
from numpy.typing import NDArray

from mobius import durable
from mobius.dhash._descriptor import DESCRIPTOR_BYTES
from mobius.dhash._reranking import DEFAULT_THRESHOLDS

MIN_PICTURES: Final = 5000
"""The pairs of smaller libraries are not kept: these are compared in less than a second."""
MAX_PAIRS: Final = 5_000_000
"""Pairs that are kept at most: 90 MB."""
_SUFFIX: Final = "-pairs"
_RULE: Final = f"1 {DESCRIPTOR_BYTES} {DEFAULT_THRESHOLDS}"
"""What decides which pairs there are; those of another rule are not used."""

PairArrays = tuple[NDArray[numpy.int64], NDArray[numpy.int64], NDArray[numpy.uint8], NDArray[numpy.uint8]]
"""First and second picture, distance and verdict, shapes (n,)."""


@dataclass(frozen=True)
class PictureMarks:
    """What the pairs of each picture follow from.

    Attributes:
        ids: shape (n,), ascending.
        marks: shape (n, 4): both words of the hash, 60 bits of the SHA-256, and the length of the descriptor.
    """

    ids: NDArray[numpy.int64]
    marks: NDArray[numpy.int64]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> PictureMarks:
        rows = connection.execute(
            "SELECT id, rows, columns, coalesce(length(look), 0), substr(sha256, 1, 15) FROM pictures ORDER BY id"
        ).fetchall()
        numbers = numpy.array([row[:4] for row in rows], numpy.int64).reshape(-1, 4)
        digests = numpy.frombuffer(bytes.fromhex("".join(f"0{row[4]}" for row in rows)), ">i8")
        return cls(numbers[:, 0].copy(), numpy.column_stack([numbers[:, 1:], digests]).astype(numpy.int64))

    def changed_since(self, earlier: PictureMarks) -> set[int]:
        """The pictures that are new, gone or different."""
        common, here, there = numpy.intersect1d(self.ids, earlier.ids, assume_unique=True, return_indices=True)
        differs = (self.marks[here] != earlier.marks[there]).any(axis=1)
        single = numpy.setxor1d(self.ids, earlier.ids, assume_unique=True)
        return {*common[differs].tolist(), *single.tolist()}


class PairStore:
    """The file of an index.

    Args:
        index: the path of the index.
    """

    def __init__(self, index: Path) -> None:
        self._path = Path(f"{index}{_SUFFIX}")

    def save(self, marks: PictureMarks, pairs: PairArrays) -> None:
        """Write the pairs of the pictures with these marks. When that fails, the next start compares all."""
        if len(pairs[0]) > MAX_PAIRS:
            return
        stream = io.BytesIO()
        first, second, distance, verdict = pairs
        numpy.savez(
            stream, rule=numpy.array(_RULE), ids=marks.ids, marks=marks.marks, first=first, second=second,
            distance=distance, verdict=verdict,
        )  # fmt: skip
        try:
            durable.write_bytes(self._path, stream.getvalue(), mode=0o640)
        except OSError as error:
            logger.warning("The candidate pairs cannot be kept in {}: {}", self._path, error.strerror)

    def load(self) -> tuple[PictureMarks, PairArrays] | None:
        """What was written last; None when there is nothing that can be used."""
        # what is wrong with the file is none of a user's concern: it is written again
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with self._path.open("rb") as stream, numpy.load(stream, allow_pickle=False) as arrays:
                if str(arrays["rule"]) != _RULE:
                    return None
                marks = PictureMarks(arrays["ids"], arrays["marks"])
                pairs = (arrays["first"], arrays["second"], arrays["distance"], arrays["verdict"])
            if _is_well_formed(marks, pairs):
                return marks, pairs
        return None


def _is_well_formed(marks: PictureMarks, pairs: PairArrays) -> bool:
    first, second, distance, verdict = pairs
    return (
        marks.ids.dtype == first.dtype == second.dtype == marks.marks.dtype == numpy.int64
        and distance.dtype == verdict.dtype == numpy.uint8
        and marks.ids.ndim == 1
        and marks.marks.shape == (len(marks.ids), 4)
        and first.shape == second.shape == distance.shape == verdict.shape == (len(first),)
    )
