# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A folder of pictures moved to another folder or disk: copied, verified by SHA-256, only then followed by the index.

The old folder stays until `finish`. `files.jsonl` in the workspace has a line for each file that was copied: the
SHA-256 of the bytes that were read, and the size and time of both files. The last line for a path holds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mobius.dhash._folder import SEPARATOR, below
from mobius.dhash._picture import printable, signed
from mobius.dhash._scan import Progress
from mobius.dhash.migration._copies import connected, require_free_space
from mobius.dhash.migration._copying import (
    TEMPORARY_NAME,
    CopiedFile,
    FileList,
    Tree,
    copy_file,
    copy_link,
    describe_folders,
    file_sha256,
    list_tree,
    same_file,
)
from mobius.dhash.migration._workspace import MigrationReport, Workspace, counted, spacious
from mobius.errors import MobiusError

_ROUNDS = 3
"""How often files are copied that changed while the others were."""


@dataclass(frozen=True)
class Move:
    """Move what is in the folder `source` to `destination`, both absolute paths; the index follows."""

    kind: ClassVar[str] = "move"
    needs_index: ClassVar[bool] = True
    source: str
    destination: str

    def plan(self, index: Path, *, resumed: bool) -> MigrationReport:
        """Files, links and bytes to be copied, and how many files the index knows.

        Raises:
            MobiusError: a folder is missing, in use, or within the other; a file is no regular one; a disk is too full.
        """
        source, destination = Path(self.source), Path(self.destination)
        if not source.is_dir():
            raise MobiusError("invalid_input", f"{_text(source)} is not a folder.")
        if source == destination or source in destination.parents or destination in source.parents:
            raise MobiusError("invalid_input", f"{_text(source)} and {_text(destination)} lie within each other.")
        if index.is_relative_to(source):
            raise MobiusError(
                "invalid_input", f"The index {_text(index)} lies in the folder that is to be moved.",
                do_next="Move the index out of it first, with nothing using it, and give its new path with --index.",
            )  # fmt: skip
        if not destination.parent.is_dir():
            raise MobiusError("invalid_input", f"There is no folder {_text(destination.parent)}.")
        if not resumed and destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise MobiusError(
                "invalid_input", f"{_text(destination)} exists and is not an empty folder.",
                do_next="Give a folder that does not exist yet, or an empty one.",
            )  # fmt: skip
        tree = list_tree(source)
        size = sum(status.st_size for status in tree.files.values())
        if not resumed:
            require_free_space(destination if destination.exists() else destination.parent, size)
        with connected(index) as connection:
            query = "SELECT count(*) FROM files WHERE path >= ? AND path < ?"
            indexed = counted(connection, query, below(os.fsencode(source)))
        actions = {"files": len(tree.files), "links": len(tree.links), "bytes": size, "index_rows": indexed}
        return MigrationReport(self.kind, False, actions)

    def prepare(self, workspace: Workspace, progress: Progress | None) -> tuple[str, ...]:
        """Copy every file, then read each copy again and compare its SHA-256.

        Raises:
            MobiusError: files_differ, when a copy is not what was read; environment_failed, when the files never rest.
        """
        source, destination = os.fsencode(self.source), os.fsencode(self.destination)
        require_free_space(Path(self.destination).parent)
        os.makedirs(destination, exist_ok=True)
        report = spacious(Path(self.destination), progress)
        with FileList(workspace.folder / "files.jsonl") as copied:
            for _ in range(_ROUNDS):
                tree = list_tree(Path(self.source))
                stale = {
                    name: status for name, status in tree.files.items() if not copied.holds(name, status, destination)
                }
                if not stale and self._is_complete(tree, destination, copied):
                    break
                self._copy(tree, stale, copied, report)
            else:
                raise MobiusError(
                    "environment_failed", f"Files of {_text(self.source)} change while they are copied.",
                    do_next="Stop what writes to the folder, and run the same command again.",
                )  # fmt: skip
            describe_folders(tree, source, destination)
            self._verify(copied, copied.forget)
        return ()

    def _copy(self, tree: Tree, stale: dict[bytes, os.stat_result], copied: FileList, report: Progress) -> None:
        source, destination = os.fsencode(self.source), os.fsencode(self.destination)
        for name in tree.folders:
            os.makedirs(os.path.join(destination, name), exist_ok=True)
        for name in set(copied.files) - set(tree.files):  # it has left the old folder meanwhile
            _remove_copy(destination, name, copied.files[name])
            copied.forget(name)
        for name in tree.links:
            copy_link(os.path.join(source, name), os.path.join(destination, name))
        done = len(tree.files) - len(stale)
        for number, name in enumerate(stale, 1):
            require_free_space(Path(self.destination), stale[name].st_size)
            temporary = os.path.join(destination, TEMPORARY_NAME)
            copied.add(name, copy_file(os.path.join(source, name), os.path.join(destination, name), temporary))
            report(done + number, len(tree.files))
        copied.sync(destination, tree.folders)

    def _is_complete(self, tree: Tree, destination: bytes, copied: FileList) -> bool:
        """Whether nothing is missing beside files: folders, links, and no file too many."""
        names = (*tree.folders, *tree.links)
        return set(copied.files) == set(tree.files) and all(
            os.path.lexists(os.path.join(destination, name)) for name in names
        )

    def _verify(self, copied: FileList, on_difference: Callable[[bytes], None] | None = None) -> None:
        destination = os.fsencode(self.destination)
        for name, file in list(copied.files.items()):
            path = os.path.join(destination, name)
            # one that somebody changed since is not the copy any more: its original stays
            if file.is_at(path, copy=True) and (actual := file_sha256(path)) != file.sha256:
                if on_difference is not None:
                    on_difference(name)
                raise MobiusError(
                    "files_differ",
                    f"{printable(path)} has SHA-256 {actual[:12] or 'none'}, and was copied from"
                    f" bytes with {file.sha256[:12]}; the old folder is complete.",
                )

    def apply(self, connection: sqlite3.Connection, workspace: Workspace) -> None:
        """Give each row its new path, and what its file is there; rows that knew the new folder before are replaced."""
        with FileList(workspace.folder / "files.jsonl") as copied:
            files = copied.files
        source, destination = os.fsencode(self.source), os.fsencode(self.destination)
        rows = connection.execute(
            "SELECT path, size, mtime_ns FROM files WHERE path >= ? AND path < ?", below(source)
        ).fetchall()
        if not rows:
            return
        connection.execute("DELETE FROM files WHERE path >= ? AND path < ?", below(destination))
        for path, *status in rows:
            name = path[len(below(source)[0]) :]
            new = os.path.join(destination, name)
            if (file := files.get(name)) is not None and status == [file.size, file.mtime_ns]:
                values = (new, file.copy_mtime_ns, signed(file.copy_inode), path)
                connection.execute("UPDATE files SET path=?, mtime_ns=?, inode=? WHERE path=?", values)
            else:  # it is gone, or another one than was indexed: the next scan reads it
                connection.execute("UPDATE files SET path=?, inode=0 WHERE path=?", (new, path))

    def undo(self, workspace: Workspace) -> tuple[str, ...]:
        """Remove the copies whose originals are still there."""
        return self._remove(workspace, os.fsencode(self.destination), os.fsencode(self.source), copies=True)

    def verify(self, workspace: Workspace) -> None:
        """Read every copy again before an original goes.

        Raises:
            MobiusError: files_differ, when one is not what was copied.
        """
        with FileList(workspace.folder / "files.jsonl") as copied:
            self._verify(copied)

    def finish(self, workspace: Workspace) -> tuple[str, ...]:
        """Remove the originals that are still what was copied."""
        return self._remove(workspace, os.fsencode(self.source), os.fsencode(self.destination), copies=False)

    def _remove(self, workspace: Workspace, folder: bytes, other: bytes, *, copies: bool) -> tuple[str, ...]:
        """Remove from a folder what is unchanged, and is in the other folder, too; a note for each file that stays."""
        if not os.path.isdir(folder):
            return ()
        notes = []
        with FileList(workspace.folder / "files.jsonl") as copied:
            files = dict(copied.files)
        for name in list_tree(Path(os.fsdecode(folder)), strict=False).files:
            path = os.path.join(folder, name)
            if name == TEMPORARY_NAME and copies:
                os.unlink(path)
            elif (file := files.get(name)) is None or not file.is_at(path, copy=copies):
                notes.append(f"{printable(path)} stays: it is new or was changed since it was copied.")
            elif not file.is_at(os.path.join(other, name), copy=not copies):
                notes.append(f"{printable(path)} stays: the file in the other folder is gone or was changed.")
            else:
                os.unlink(path)
        tree = list_tree(Path(os.fsdecode(folder)), strict=False)
        for name in tree.links:
            if same_file(os.path.join(folder, name), os.path.join(other, name)):
                os.unlink(os.path.join(folder, name))
        for name in (*reversed(tree.folders), b""):
            try:
                os.rmdir(os.path.join(folder, name).rstrip(SEPARATOR))
            except OSError:  # something stays in it, or it is a mount
                continue
        return tuple(notes)


def _remove_copy(destination: bytes, name: bytes, file: CopiedFile) -> None:
    path = os.path.join(destination, name)
    if file.is_at(path, copy=True):
        os.unlink(path)


def _text(path: Path | str) -> str:
    return printable(os.fsencode(path))
