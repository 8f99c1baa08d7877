# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The folder of an index's open migration, what is recorded there, and what every kind of migration is made of."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

from mobius.dhash._scan import Progress
from mobius.dhash.migration._copies import require_free_space
from mobius.durable import fsync_dir, write_json
from mobius.errors import MobiusError

Phase = Literal["begun", "switching", "switched", "rolling_back", "finishing"]


@dataclass(frozen=True)
class Record:
    """How far a migration has come.

    Attributes:
        kind, arguments: of the `Migration`.
        created: whether there was no index before.
        backup: the SHA-256 of `backup.sqlite`.
        before, after: the content of the index that the switch replaces, and of what it made.
        restores: whether a rollback that is under way restores the index, too.
    """

    kind: str
    arguments: Mapping[str, str]
    begun_at: str
    phase: Phase = "begun"
    created: bool = False
    backup: str = ""
    before: str = ""
    after: str = ""
    restores: bool = False


@dataclass(frozen=True)
class MigrationReport:
    """What a migration, a rollback or a finish did.

    Attributes:
        done: whether this call did it; False when an earlier one had.
        actions: counts of what is done, as `plan` gives them.
        notes: a sentence for each thing that a person should know.
        problems: each file that could not be dealt with, and why; all else is done.
    """

    kind: str
    done: bool
    actions: Mapping[str, int | str]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Workspace:
    """The folder of an index's open migration."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.folder = index.with_name(f"{index.name}.migration")
        self.backup = self.folder / "backup.sqlite"
        self.work = self.folder / "work.sqlite"
        self._record = self.folder / "record.json"

    def read(self) -> Record | None:
        """The open migration; None when there is none.

        Raises:
            MobiusError: state_damaged, when its record cannot be parsed.
        """
        try:
            record = Record(**json.loads(self._record.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise self.damaged() from error
        texts = [value for name, value in vars(record).items() if name not in ("arguments", "created", "restores")]
        if record.phase not in get_args(Phase) or not all(isinstance(text, str) for text in texts):
            raise self.damaged()
        return record

    def damaged(self) -> MobiusError:
        """The failure for a record that is not what was written."""
        return MobiusError(
            "state_damaged", f"The record {self._record} of a migration cannot be parsed.",
            do_next=f"The index from before is {self.backup}; keep it, and remove the folder to begin again.",
        )  # fmt: skip

    def write(self, record: Record) -> Record:
        """Make a record durable."""
        write_json(self._record, dataclasses.asdict(record))
        return record

    def clear(self) -> None:
        """Forget the migration: first its record, so that a kill leaves nothing but what the next one removes."""
        self._record.unlink(missing_ok=True)
        if self.folder.exists():
            fsync_dir(self.folder)
        for path in self.folder.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class Migration(Protocol):
    """A kind of migration with its arguments, which are its dataclass fields and texts."""

    kind: ClassVar[str]
    needs_index: ClassVar[bool]
    """Whether there must be an index, of this release's schema."""

    def plan(self, index: Path, *, resumed: bool) -> MigrationReport:
        """What a run does, from what is there; an empty `actions` when there is nothing to do."""

    def prepare(self, workspace: Workspace, progress: Progress | None) -> tuple[str, ...]:
        """Do beside the index all that the switch needs, or go on with it; returns problems of files."""

    def apply(self, connection: sqlite3.Connection, workspace: Workspace) -> None:
        """Change the index, in the transaction of the switch; doing it again changes nothing."""

    def undo(self, workspace: Workspace) -> tuple[str, ...]:
        """Remove what `prepare` made outside of the workspace; notes for people."""

    def verify(self, workspace: Workspace) -> None:
        """Refuse to finish when what it made is no longer what it was."""

    def finish(self, workspace: Workspace) -> tuple[str, ...]:
        """Remove what was kept for a rollback outside of the workspace; notes for people."""


@contextlib.contextmanager
def locked(index: Path) -> Iterator[Workspace]:
    """Hold the workspace of an index alone. SQLite has the lock: it ends with its holder, on Windows, too."""
    workspace = Workspace(index)
    workspace.folder.mkdir(exist_ok=True)
    fsync_dir(index.parent)
    with contextlib.closing(sqlite3.connect(workspace.folder / "lock", timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise MobiusError(
                "locked", f"A migration of {index} is at work in another process.",
                do_next="Wait until it has ended: `mobius dhash migrate status`.",
            ) from error  # fmt: skip
        yield workspace


def counted(connection: sqlite3.Connection, query: str, values: tuple[Any, ...] = ()) -> int:
    """The one number of a query."""
    return int(connection.execute(query, values).fetchone()[0])


def spacious(folder: Path, progress: Progress | None) -> Progress:
    """The progress, which stops the work when less than a tenth of the folder's disk is free.

    Raises:
        MobiusError: disk_full.
    """

    def checked(done: int, total: int) -> None:
        require_free_space(folder)
        if progress is not None:
            progress(done, total)

    return checked
