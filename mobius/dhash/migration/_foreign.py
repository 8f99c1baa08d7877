# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pictures that another tool knew, taken into the index: by czkawka's cache as JSON, or by a CSV file.

Another tool's hashes cannot be compared with ours, so each file is read and hashed; what its database is worth is the
list: none of the files is forgotten, and one that is gone, or not what it was, is named.

czkawka writes `cache_similar_images_*.json` beside its binary cache when it is set to save that as JSON, too: a list of
objects with `path`, `size`, `modified_date` (seconds since 1970), and more that is not used here (qarmin/czkawka,
`czkawka_core/src/tools/similar_images/mod.rs`, struct `ImagesEntry`). Its caches of duplicates have these three, too.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from mobius.dhash._fingerprint import Mode
from mobius.dhash._folder import list_files
from mobius.dhash._library import Library
from mobius.dhash._picture import printable
from mobius.dhash._scan import Progress
from mobius.dhash.migration._copies import connected, copy_index
from mobius.dhash.migration._copying import file_sha256
from mobius.dhash.migration._workspace import MigrationReport, Workspace, spacious
from mobius.errors import MobiusError

ForeignForm = Literal["czkawka", "csv"]

_PICTURE: str = "sha256, size, algorithm, rows, columns, look, width, height, format, warnings, release, written_at"
_EXCLUDED = ", ".join(f"excluded.{name}" for name in _PICTURE.split(", "))
_FILE = "size, mtime_ns, inode, picture, reason, readers"


@dataclass(frozen=True)
class _Entry:
    """A file as the other tool knew it; None for what it did not note."""

    path: bytes
    size: int | None
    modified: int | None
    sha256: str | None


@dataclass(frozen=True)
class ForeignImport:
    """Take in the files that `file` lists; `sha256` is that file's, so that another one is another migration."""

    kind: ClassVar[str] = "import"
    needs_index: ClassVar[bool] = False
    file: str
    form: str
    mode: str
    sha256: str

    @classmethod
    def of(cls, file: Path, form: ForeignForm, mode: Mode = "fast") -> ForeignImport:
        """The import of a file as it is now.

        Raises:
            MobiusError: it cannot be read.
        """
        path = file.absolute()
        return cls(str(path), form, mode, hashlib.sha256(_read(path)).hexdigest())

    def plan(self, index: Path, *, resumed: bool) -> MigrationReport:  # noqa: ARG002
        """How many files are hashed, are known, were changed since, and which cannot be taken in.

        Raises:
            MobiusError: the file is no such list; the reason names the entry.
        """
        entries = self._entries()
        listing = list_files(entry.path for entry in entries)
        problems = [f"{printable(path)}: {reason}" for path, reason in listing.unusable.items()]
        known: dict[bytes, tuple[int, int]] = {}
        if index.exists():
            with connected(index) as connection:
                rows = connection.execute("SELECT path, size, mtime_ns FROM files WHERE picture IS NOT NULL")
                known = {row[0]: (row[1], row[2]) for row in rows}
        changed = usable = unread = 0
        for entry in entries:
            if (status := listing.files.get(entry.path)) is None:
                continue
            changed += entry.size not in (None, status.size) or entry.modified not in (
                None,
                status.mtime_ns // 1_000_000_000,
            )
            usable += 1
            if known.get(entry.path) == (status.size, status.mtime_ns):
                unread += 1
            if entry.sha256 is not None and file_sha256(entry.path) != entry.sha256:
                problems.append(f"{printable(entry.path)}: It has another SHA-256 than the list says.")
                usable -= 1
        actions = {"entries": len(entries), "files": usable, "known": unread, "changed_since": changed}
        if not usable:
            return MigrationReport(self.kind, False, {}, ("None of the files can be taken in.",), tuple(problems))
        return MigrationReport(self.kind, False, actions, (), tuple(problems))

    def prepare(self, workspace: Workspace, progress: Progress | None) -> tuple[str, ...]:
        """Hash the files into a copy of the index, and note there which they are."""
        if workspace.index.exists() and not workspace.work.exists():
            copy_index(workspace.index, workspace.work)
        paths = [
            entry.path
            for entry in self._entries()
            if os.path.isfile(entry.path) and (entry.sha256 is None or file_sha256(entry.path) == entry.sha256)
        ]
        with Library(workspace.work) as beside:
            report = beside.scan(
                os.sep, files=paths, mode=cast(Mode, self.mode), progress=spacious(workspace.folder, progress)
            )
        with connected(workspace.work) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS imported (path BLOB PRIMARY KEY) WITHOUT ROWID")
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO imported VALUES (?)", ((path,) for path in paths))
            connection.execute("COMMIT")
        return tuple(f"{entry.path}: {entry.reason}" for entry in report.unreadable)

    def apply(self, connection: sqlite3.Connection, workspace: Workspace) -> None:  # noqa: ARG002
        connection.execute(
            f"INSERT INTO main.pictures ({_PICTURE}) SELECT {_PICTURE} FROM work.pictures"  # noqa: S608
            " WHERE id IN (SELECT picture FROM work.files JOIN work.imported USING (path))"
            f" ON CONFLICT (sha256) DO UPDATE SET ({_PICTURE}) = ({_EXCLUDED})"
            " WHERE algorithm != excluded.algorithm OR look IS NOT excluded.look"
        )
        connection.execute(
            f"INSERT INTO main.files (path, {_FILE})"  # noqa: S608
            " SELECT path, size, mtime_ns, inode, (SELECT ours.id FROM main.pictures AS ours JOIN work.pictures AS new"
            " USING (sha256) WHERE new.id=found.picture), reason, readers"
            " FROM work.files AS found JOIN work.imported USING (path) WHERE TRUE"
            f" ON CONFLICT (path) DO UPDATE SET ({_FILE}) = (excluded.size, excluded.mtime_ns, excluded.inode,"
            " excluded.picture, excluded.reason, excluded.readers)"
        )

    def undo(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def verify(self, workspace: Workspace) -> None:
        """Nothing but the index was made."""

    def finish(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def _entries(self) -> list[_Entry]:
        """The files of the list, each once."""
        data = _read(Path(self.file))
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise MobiusError("invalid_input", f"{self.file} was changed since the migration began.")
        rows = _czkawka_rows(data, self.file) if self.form == "czkawka" else _csv_rows(data, self.file)
        entries: dict[bytes, _Entry] = {}
        for number, row in enumerate(rows, 1):
            entry = _parse(row, number)
            if entries.setdefault(entry.path, entry) != entry:
                raise _error(number, f"{printable(entry.path)} is listed twice, with another size, time or SHA-256.")
        return list(entries.values())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MobiusError("invalid_input", f"{path} cannot be read: {error.strerror}.") from error


def _czkawka_rows(data: bytes, name: str) -> list[Any]:
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MobiusError(
            "invalid_input", f"{name} is not JSON, so it is not a cache that czkawka has saved as JSON.",
            do_next="czkawka's binary cache (.bin) cannot be read here: let czkawka save its cache as JSON, too, scan "
            "once with it, and give the .json file.",
        ) from error  # fmt: skip
    if not isinstance(rows, list):
        raise MobiusError("invalid_input", f"{name} is not a cache of czkawka: a list of files is expected.")
    return rows


def _csv_rows(data: bytes, name: str) -> Iterator[dict[str, Any]]:
    try:
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restkey="more", strict=True)
        if "path" not in (table.fieldnames or ()):
            raise MobiusError("invalid_input", f"{name} has no column path in its first line.")
        for row in table:
            size = row.get("size") or None
            yield {
                "path": row["path"],
                "size": int(size) if size and re.fullmatch("[0-9]{1,18}", size) else size,
                "sha256": row.get("sha256") or None,
            }
    except (ValueError, csv.Error) as error:
        raise MobiusError("invalid_input", f"{name} cannot be read as CSV in UTF-8: {error}.") from error


def _parse(row: Any, number: int) -> _Entry:
    if not isinstance(row, dict):
        raise _error(number, "it is not an object.")
    path = row.get("path")
    try:
        if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
            raise _error(number, f"its path must be an absolute one, not {str(path)[:60]!r}.")
        raw = os.fsencode(_resolved(os.path.dirname(path)) / os.path.basename(path))
    except (UnicodeEncodeError, OSError, RuntimeError) as error:  # half a character; a loop of links
        raise _error(number, "its path cannot be one of this system.") from error
    sha256 = row.get("sha256")
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        raise _error(number, f"its sha256 must be 64 hexadecimal digits, not {str(sha256)[:60]!r}.")
    for key in ("size", "modified_date"):
        value = row.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise _error(number, f"its {key} must be a whole number, not {str(value)[:60]!r}.")
    return _Entry(raw, row.get("size"), row.get("modified_date"), sha256.lower() if sha256 else None)


@functools.lru_cache(1024)
def _resolved(folder: str) -> Path:
    """A folder as a scan of it would name it."""
    return Path(folder).resolve()


def _error(number: int, what: str) -> MobiusError:
    return MobiusError(
        "invalid_input", f"Entry {number}: {what}", do_next="Correct the file and run it again; nothing was changed."
    )
