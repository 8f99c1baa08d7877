# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index as a file for people and other programs (`library.json`, or CSV), and back.

One object (or line) an image. Beside the keys of `Picture.as_dict` there are those that an index needs to import it
without decoding: `modified_ns`, `look` (the descriptor), `warnings`, `posted`, `path_hex` when the path is not UTF-8,
and `decisions` about this picture and others with a greater SHA-256.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal, TextIO

from mobius.dhash._database import Database
from mobius.dhash._decisions import Decision
from mobius.dhash._descriptor import DESCRIPTOR_BYTES, upgrade_descriptor
from mobius.dhash._picture import Picture, signed
from mobius.errors import MobiusError

ExportFormat = Literal["json", "csv"]

_COLUMNS: Final = (
    "path", "sha256", "dhash", "dhash_vertical", "algorithm", "width", "height", "format", "size", "release",
    "confidence", "modified_ns", "posted", "look", "warnings", "path_hex", "decisions",
)  # fmt: skip
_INT64_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True)
class ImportReport:
    """The result of an import: images in the file, pictures and files new to the index, decisions added or replaced."""

    images: int
    pictures: int
    files: int
    decisions: int


def write(pictures: Iterable[Picture], decisions: Iterable[Decision], stream: TextIO, form: ExportFormat) -> int:
    """Write pictures and the decisions about them; returns the number of pictures."""
    about = defaultdict(list)
    for made in decisions:
        about[made.first].append({"sha256": made.second, "decision": made.decision, "by": made.by, "at": made.at})
        about[made.second].append({"sha256": made.first, "decision": made.decision, "by": made.by, "at": made.at})
    count = 0
    table = csv.writer(stream)
    if form == "csv":
        table.writerow(_COLUMNS)
    else:
        stream.write("[")
    for picture in pictures:
        image = _object(picture, about.get(picture.sha256, []))
        if form == "csv":
            table.writerow(_cell(image.get(name)) for name in _COLUMNS)
        else:
            stream.write(("," if count else "") + "\n" + json.dumps(image, ensure_ascii=False))
        count += 1
    if form == "json":
        stream.write("\n]\n")
    return count


def _object(picture: Picture, decisions: list[dict[str, str]]) -> dict[str, Any]:
    image = picture.as_dict()
    image["modified_ns"] = picture.modified_ns
    image["posted"] = picture.posted
    image["look"] = None if picture.descriptor is None else picture.descriptor.hex()
    image["warnings"] = list(picture.warnings)
    if picture.raw_path is not None and picture.raw_path != os.fsencode(picture.path or ""):
        image["path_hex"] = picture.raw_path.hex()
    if decisions:
        image["decisions"] = decisions
    return image


def _cell(value: Any) -> str:
    if value is None or value == []:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else str(value)


def read(database: Database, stream: TextIO, form: ExportFormat) -> ImportReport:
    """Import what `write` wrote. Everything is checked before anything is written, in one transaction.

    What the index has itself stays as it is; of two decisions about one pair the later one holds.

    Raises:
        MobiusError: something is wrong with the file; the reason names the image.
    """
    images = [_parse_image(number, image) for number, image in enumerate(_objects(stream, form), 1)]
    _check_consistency(images)
    with database.writing() as connection:
        return _insert(connection, images)


def _objects(stream: TextIO, form: ExportFormat) -> Iterator[Any]:
    try:
        if form == "json":
            library_list = json.load(stream)
            if not isinstance(library_list, list):
                raise MobiusError("invalid_input", "This is no library: a list of images is expected.")
            yield from library_list
            return
        csv.field_size_limit(1 << 24)
        table = csv.DictReader(stream, restkey="more", restval="", strict=True)
        missing = {"path", "sha256"} - set(table.fieldnames or ())
        if missing:
            raise MobiusError("invalid_input", f"This is no library: there is no column {min(missing)}.")
        for row in table:
            yield {name: _value(name, text) for name, text in row.items() if text != ""}
    except (ValueError, csv.Error, RecursionError) as error:
        raise MobiusError("invalid_input", f"This cannot be read as {form.upper()}: {error}.") from error


def _value(name: str, text: Any) -> Any:
    """A cell as the JSON value; other text stays as it is and is refused later."""
    if name in ("width", "height", "size", "modified_ns") and re.fullmatch(r"-?[0-9]{1,19}", text):
        return int(text)
    if name in ("posted", "warnings", "decisions"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


@dataclass(frozen=True)
class _Image:
    number: int
    sha256: str
    columns: tuple[Any, ...]
    """size, algorithm, rows, columns, look, width, height, format, warnings, release: as `pictures` has them."""
    raw_path: bytes | None
    modified_ns: int
    posted: bool
    decisions: list[tuple[str, str, str, str, str]]


def _is_line(value: Any, limit: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()


def _is_integer(value: Any, least: int, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= limit


def _is_absolute(path: str) -> bool:
    """Whether it is absolute on any platform, as an index may come from another one."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _is_path_hex(value: Any) -> bool:
    if value is None:
        return True
    is_hex = isinstance(value, str) and re.fullmatch(r"(?:(?!00)[0-9a-f]{2})+", value) is not None
    return is_hex and _is_absolute(bytes.fromhex(value).decode("latin-1"))


def _is_path(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, str) and _is_absolute(value) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


_Checks = dict[str, tuple[Callable[[Any], bool], str]]
_POSITIVE: Final = (lambda value: _is_integer(value, 1, (1 << 31) - 1), "a positive whole number")
_SHA256: Final = (_matches("[0-9a-f]{64}"), "64 hexadecimal digits")
_HASH: Final = (_matches("[0-9a-f]{16}"), "16 hexadecimal digits")
_BYTES: Final = _matches("(?:[0-9a-f]{2})+")
_CHECKS: Final[_Checks] = {
    "sha256": _SHA256,
    "dhash": _HASH,
    "dhash_vertical": _HASH,
    "algorithm": (_matches("(exact|fast)-[0-9]{1,4}"), "the name of an algorithm, for example fast-2"),
    "width": _POSITIVE,
    "height": _POSITIVE,
    "size": (lambda value: _is_integer(value, 1, _INT64_MAX), "a positive whole number"),
    "format": (lambda value: _is_line(value, 20), "a name of at most 20 characters"),
    "release": (lambda value: _is_line(value, 200), "a name of at most 200 characters"),
    "path": (_is_path, "an absolute path or null"),
    "path_hex": (_is_path_hex, "an absolute path as hexadecimal digits"),
    "modified_ns": (lambda value: value is None or _is_integer(value, -_INT64_MAX, _INT64_MAX), "nanoseconds or null"),
    "posted": (lambda value: isinstance(value, bool), "true or false"),
    "look": (
        lambda value: value is None or (_BYTES(value) and upgrade_descriptor(bytes.fromhex(value)) is not None),
        f"{2 * DESCRIPTOR_BYTES} hexadecimal digits or null",
    ),
    "warnings": (lambda value: isinstance(value, list) and all(_is_line(item, 1000) for item in value), "sentences"),
    "decisions": (lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value), "objects"),
}
_DECISION_CHECKS: Final[_Checks] = {
    "sha256": _SHA256,
    "decision": (lambda value: value in ("same", "different"), "same or different"),
    "by": (lambda value: _is_line(value, 200), "a name of at most 200 characters"),
    "at": (_matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "a time in UTC"),
}
_DEFAULTS: Final[dict[str, Any]] = {
    "release": "none", "modified_ns": None, "posted": False, "look": None, "path_hex": None, "warnings": [],
    "decisions": [], "path": None,
}  # fmt: skip


def _error(number: int, what: str) -> MobiusError:
    return MobiusError(
        "invalid_input", f"Image {number}: {what}", do_next="Correct the file and import it again; nothing was written."
    )


def _check(number: int, value: dict[str, Any], checks: _Checks) -> None:
    for name, (is_valid, expected) in checks.items():
        if name not in value:
            raise _error(number, f"{name} is missing.")
        if not is_valid(value[name]):
            raise _error(number, f"{name} must be {expected}, not {str(value[name])[:60]!r}.")


def _parse_image(number: int, entry: Any) -> _Image:
    if not isinstance(entry, dict):
        raise _error(number, "it must be an object.")
    image = {**_DEFAULTS, **entry}
    _check(number, image, _CHECKS)
    decisions = []
    for made in image["decisions"]:
        _check(number, made, _DECISION_CHECKS)
        first, second = sorted((image["sha256"], made["sha256"]))
        if first == second:
            raise _error(number, "a decision is about the picture and itself.")
        decisions.append((first, second, made["decision"], made["by"], made["at"]))
    raw_path = bytes.fromhex(image["path_hex"]) if image["path_hex"] else None
    if raw_path is None and image["path"] is not None:
        raw_path = image["path"].encode()
    if raw_path is not None and image["modified_ns"] is None:
        image["modified_ns"] = 0  # no file has this time, so the next scan looks at it
    descriptor = None if image["look"] is None else bytes.fromhex(image["look"])
    columns = (
        image["size"], image["algorithm"], signed(int(image["dhash"], 16)), signed(int(image["dhash_vertical"], 16)),
        descriptor, image["width"], image["height"], image["format"], "\n".join(image["warnings"]), image["release"],
    )  # fmt: skip
    return _Image(
        number,
        image["sha256"],
        columns,
        raw_path,
        image["modified_ns"] or 0,
        image["posted"] or raw_path is None,
        decisions,
    )


def _check_consistency(images: list[_Image]) -> None:
    """One picture has one hash, and one path one picture."""
    first_with: dict[str | bytes, _Image] = {}
    for image in images:
        other = first_with.setdefault(image.sha256, image)
        if other.columns != image.columns:
            raise _error(image.number, f"it has the SHA-256 of image {other.number}, and another hash or size.")
        if image.raw_path is not None and first_with.setdefault(image.raw_path, image) is not image:
            raise _error(image.number, f"it has the path of image {first_with[image.raw_path].number}.")


def _insert(connection: sqlite3.Connection, images: list[_Image]) -> ImportReport:
    def changed(statement: str, rows: Iterable[tuple[Any, ...]]) -> int:
        before = connection.total_changes
        connection.executemany(statement, rows)
        return connection.total_changes - before

    pictures = _counted(connection, "pictures")
    connection.executemany(
        "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, warnings, release,"
        " written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'))"
        " ON CONFLICT (sha256) DO NOTHING",
        ((image.sha256, *image.columns) for image in images),
    )
    connection.executemany(
        "UPDATE pictures SET posted=1 WHERE sha256=?", ((image.sha256,) for image in images if image.posted)
    )
    files = _counted(connection, "files")
    connection.executemany(
        "INSERT INTO files (path, size, mtime_ns, inode, picture) SELECT ?, size, ?, 0, id FROM pictures WHERE sha256=?"
        " ON CONFLICT (path) DO NOTHING",
        ((image.raw_path, image.modified_ns, image.sha256) for image in images if image.raw_path is not None),
    )
    # a path that the index has itself keeps its picture; the imported picture then has no path, and is dropped
    connection.execute(
        "DELETE FROM pictures WHERE NOT posted AND NOT EXISTS (SELECT 1 FROM files WHERE picture=pictures.id)"
    )
    decisions = changed(
        "INSERT INTO decisions (first, second, decision, decided_by, decided_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (first, second) DO UPDATE SET (decision, decided_by, decided_at) ="
        " (excluded.decision, excluded.decided_by, excluded.decided_at) WHERE excluded.decided_at > decided_at",
        (made for image in images for made in image.decisions),
    )
    return ImportReport(
        len(images), _counted(connection, "pictures") - pictures, _counted(connection, "files") - files, decisions
    )


def _counted(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
