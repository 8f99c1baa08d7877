# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every picture hashed again by another algorithm, beside the hashes that serve; the switch exchanges them."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from mobius.dhash._fingerprint import ALGORITHMS, Mode
from mobius.dhash._library import Library
from mobius.dhash._scan import Progress
from mobius.dhash.migration._copies import connected, copy_index
from mobius.dhash.migration._workspace import MigrationReport, Workspace, counted, spacious

_COLUMNS = "algorithm, rows, columns, look, width, height, format, warnings, release, written_at"
_WITH_FILE = "EXISTS (SELECT 1 FROM files WHERE picture=pictures.id)"


@dataclass(frozen=True)
class Rehash:
    """Hash with the algorithm of `mode`. Decisions and verdicts stay: they are about pixels, not hashes."""

    kind: ClassVar[str] = "rehash"
    needs_index: ClassVar[bool] = True
    mode: str

    @property
    def _algorithm(self) -> str:
        return ALGORITHMS[cast(Mode, self.mode)]

    def plan(self, index: Path, *, resumed: bool) -> MigrationReport:
        """How many pictures are hashed, and how many keep their hash as they have no file."""
        with connected(index) as connection:
            total = counted(connection, "SELECT count(*) FROM pictures WHERE algorithm != ?", (self._algorithm,))
            hashed = counted(
                connection,
                f"SELECT count(*) FROM pictures WHERE algorithm != ? AND {_WITH_FILE}",  # noqa: S608
                (self._algorithm,),
            )
        left = total - hashed
        notes = (f"Pictures that were posted, and so have no file, keep their hash: {left}.",) if left else ()
        if not hashed and not resumed:
            return MigrationReport(self.kind, False, {}, ("No file's hash is of another algorithm.", *notes))
        return MigrationReport(self.kind, False, {"to_hash": hashed, "algorithm": self._algorithm}, notes)

    def prepare(self, workspace: Workspace, progress: Progress | None) -> tuple[str, ...]:
        """Hash into a copy of the index."""
        if not workspace.work.exists():
            copy_index(workspace.index, workspace.work)
        with connected(workspace.work) as connection:
            paths = [row[0] for row in connection.execute("SELECT path FROM files WHERE picture IS NOT NULL")]
        with Library(workspace.work) as beside:
            report = beside.scan(
                os.sep, files=paths, mode=cast(Mode, self.mode), progress=spacious(workspace.folder, progress)
            )
        return tuple(f"{entry.path} keeps its hash: {entry.reason}" for entry in report.unreadable)

    def apply(self, connection: sqlite3.Connection, workspace: Workspace) -> None:  # noqa: ARG002
        connection.execute(
            f"UPDATE main.pictures SET ({_COLUMNS}) = (SELECT {_COLUMNS} FROM work.pictures AS new"  # noqa: S608
            " WHERE new.sha256=main.pictures.sha256) WHERE algorithm != :algorithm AND sha256 IN"
            " (SELECT sha256 FROM work.pictures WHERE algorithm=:algorithm)",
            {"algorithm": self._algorithm},
        )

    def undo(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def verify(self, workspace: Workspace) -> None:
        """Nothing but the index was made."""

    def finish(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()
