# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pictures of an index as values, and their rows."""

from __future__ import annotations

import datetime
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mobius.dhash._descriptor import DESCRIPTOR_BYTES, upgrade_descriptor
from mobius.dhash._fingerprint import Dhash, Fingerprint
from mobius.dhash._reranking import has_enough_detail

Confidence = Literal["confident", "doubtful"]
KeeperRank = tuple[bool, bool, int, int, bytes, str]


@dataclass(frozen=True)
class Picture:
    """A picture of the index, at one of its paths.

    Attributes:
        path: absolute, as it is printed: bytes that are not UTF-8 show as \\xNN. None when it was only posted.
        modified_ns: the file's modification time in nanoseconds since 1970; None when it was only posted.
        warnings: a sentence for each fault that it could be hashed in spite of.
        copies: files with these very bytes.
        raw_path: the path in the file system's bytes; None when it was only posted.
    """

    sha256: str
    dhash: Dhash
    width: int
    height: int
    format: str
    size: int
    release: str
    path: str | None
    modified_ns: int | None
    posted: bool
    warnings: tuple[str, ...]
    copies: int
    descriptor: bytes | None = field(repr=False)
    raw_path: bytes | None = field(repr=False)

    @property
    def confidence(self) -> Confidence:
        """`doubtful` when it has too little detail for any match to be confirmed."""
        return "confident" if self.descriptor is not None and has_enough_detail(self.descriptor) else "doubtful"

    @property
    def keeper_rank(self) -> KeeperRank:
        """Sorts the keeper first: a file before a posted picture, undamaged before damaged, then the largest in pixels,
        then the oldest, then by path."""
        return (
            self.raw_path is None,
            bool(self.warnings),
            -self.width * self.height,
            self.modified_ns or 0,
            self.raw_path or b"",
            self.sha256,
        )

    def as_dict(self) -> dict[str, Any]:
        """The keys of an export and of the API."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "dhash": self.dhash.hex[:16],
            "dhash_vertical": self.dhash.hex[16:],
            "algorithm": self.dhash.algorithm,
            "width": self.width,
            "height": self.height,
            "format": self.format,
            "size": self.size,
            "release": self.release,
            "confidence": self.confidence,
        }


def iterate_pictures(
    connection: sqlite3.Connection, where: str = "TRUE", values: Sequence[Any] = ()
) -> Iterator[tuple[int, Picture]]:
    """Picture ids with their pictures at each path, by id and path; a posted picture without a file has no path."""
    # every `where` is written in this package
    for row in connection.execute(
        "SELECT id, sha256, algorithm, rows, columns, width, height, format, pictures.size, release, posted, warnings,"  # noqa: S608
        " look, path, mtime_ns, (SELECT count(*) FROM files WHERE picture=pictures.id)"
        f" FROM pictures LEFT JOIN files ON picture=id WHERE {where} ORDER BY id, path",
        values,
    ):
        yield (
            row[0],
            Picture(
                sha256=row[1], dhash=Dhash(unsigned(row[3]), unsigned(row[4]), row[2]), width=row[5], height=row[6],
                format=row[7], size=row[8], release=row[9], posted=bool(row[10]), warnings=tuple(row[11].splitlines()),
                descriptor=None if upgrade_descriptor(row[12]) is None else row[12],
                raw_path=row[13], path=None if row[13] is None else printable(row[13]), modified_ns=row[14],
                copies=row[15],
            ),
        )  # fmt: skip


def pictures_by_id(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, list[Picture]]:
    """Picture id to the picture at each of its paths, the one to keep first."""
    pictures: dict[int, list[Picture]] = {}
    numbers = json.dumps([int(number) for number in ids])
    for number, picture in iterate_pictures(connection, "id IN (SELECT value FROM json_each(?))", (numbers,)):
        pictures.setdefault(number, []).append(picture)
    return {number: sorted(copies, key=lambda picture: picture.keeper_rank) for number, copies in pictures.items()}


def picture_ids(connection: sqlite3.Connection, digests: set[str]) -> dict[str, int]:
    """SHA-256 to picture id, for those in the index."""
    return dict(
        connection.execute(
            "SELECT sha256, id FROM pictures WHERE sha256 IN (SELECT value FROM json_each(?))",
            (json.dumps([*digests]),),
        ).fetchall()
    )


def read_keeper_ranks(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, KeeperRank]:
    """Picture id to `Picture.keeper_rank` at its best path, without making pictures of all the rows."""
    ranks: dict[int, KeeperRank] = {}
    for number, digest, warnings, pixels, mtime_ns, path in connection.execute(
        "SELECT id, sha256, warnings, width * height, mtime_ns, path FROM pictures LEFT JOIN files ON picture=id"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([*ids]),),
    ):
        keeper_rank = (path is None, bool(warnings), -pixels, mtime_ns or 0, path or b"", digest)
        ranks[number] = min(ranks.get(number, keeper_rank), keeper_rank)
    return ranks


def unchanged_file(picture: Picture) -> Path | None:
    """The picture's file, if it exists and its size and time are as indexed."""
    if picture.raw_path is None:
        return None
    path = Path(os.fsdecode(picture.raw_path))
    try:
        status = path.stat()
    except OSError:
        return None
    return path if (status.st_size, status.st_mtime_ns) == (picture.size, picture.modified_ns) else None


USABLE: Final = f"(length(look) IS {DESCRIPTOR_BYTES})"
"""SQL condition on `pictures`: rows that need not be hashed again."""


def store(
    connection: sqlite3.Connection, fingerprints: Iterable[Fingerprint], release: str, *, replace_algorithm: bool
) -> None:
    """Write pictures. A known one keeps its row, unless that must be hashed again (see `USABLE`) or, with
    `replace_algorithm`, is of another algorithm."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    connection.executemany(
        "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, warnings,"  # noqa: S608
        " release, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (sha256) DO UPDATE SET (algorithm, rows, columns, look, width, height, format, warnings,"
        " release, written_at) = (excluded.algorithm, excluded.rows, excluded.columns, excluded.look,"
        " excluded.width, excluded.height, excluded.format, excluded.warnings, excluded.release,"
        f" excluded.written_at) WHERE NOT {USABLE} OR (? AND algorithm != excluded.algorithm)",
        (
            (
                one.sha256, one.size, one.dhash.algorithm, signed(one.dhash.rows), signed(one.dhash.columns),
                one.descriptor, one.width, one.height, one.format, "\n".join(one.warnings), release, now,
                replace_algorithm,
            )
            for one in fingerprints
        ),
    )  # fmt: skip


def printable(raw_path: bytes) -> str:
    """A path that can be printed: bytes that are not UTF-8 are escaped as \\xNN."""
    return raw_path.decode("utf-8", "backslashreplace")


def signed(value: int) -> int:
    """An unsigned 64-bit number as SQLite stores it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    return value % (1 << 64)
