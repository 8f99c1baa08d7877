# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all migrations of an index have in common: backup, resumption, the switch, rollback and finish.

While one is open, `<index>.migration/` lies beside the index, with `record.json` (what it is and how far it has come),
`backup.sqlite` (the index that the switch replaces) and what the kind of migration keeps there. One transaction changes
the live index: the switch. Killed before it, a migration goes on where it was; killed after it, its record shows by the
content of the index that it was done.
"""

from __future__ import annotations

import dataclasses
import datetime
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mobius.dhash._library import Library
from mobius.dhash._scan import Progress
from mobius.dhash._schema import SCHEMA, schema_of
from mobius.dhash.migration._copies import (
    connected,
    content_digest,
    copy_index,
    remove_index,
    require_copy,
    restore_index,
)
from mobius.dhash.migration._foreign import ForeignImport
from mobius.dhash.migration._move import Move
from mobius.dhash.migration._rehash import Rehash
from mobius.dhash.migration._schema_change import SchemaChange
from mobius.dhash.migration._workspace import Migration, MigrationReport, Record, Workspace, counted, locked
from mobius.errors import MobiusError

KINDS: Final[dict[str, Callable[..., Migration]]] = {
    kind.kind: kind for kind in (ForeignImport, Move, Rehash, SchemaChange)
}
"""Kind to what makes a migration of its recorded arguments."""

_SWITCH_ATTEMPTS: Final = 5
_ROLL_BACK: Final = "`mobius dhash migrate rollback`"


def plan(index: Path, migration: Migration) -> MigrationReport:
    """What `migrate` would do now. Changes nothing.

    Raises:
        MobiusError: what `migrate` would be refused for.
    """
    record = Workspace(index).read()
    _require_same(record, migration)
    if record is not None and record.phase == "switched":
        return _done_before(migration)
    _require_index(index, migration)
    return migration.plan(index, resumed=record is not None)


def migrate(
    index: Path, migration: Migration, *, progress: Progress | None = None, stop_before_switch: bool = False
) -> MigrationReport:
    """Run a migration, or go on with one that was stopped or killed.

    Args:
        stop_before_switch: leave the results beside the index, for a person to examine.

    Raises:
        MobiusError: the arguments are wrong, another migration is open, the disk has not enough free space.
    """
    if not index.parent.is_dir():
        raise MobiusError("invalid_input", f"There is no folder {index.parent} for the index.")
    planned = plan(index, migration)
    if not planned.actions and Workspace(index).read() is None:
        return planned
    with locked(index) as workspace:
        record = workspace.read()
        _require_same(record, migration)
        if record is not None and record.phase == "switched":
            return _done_before(migration)
        if record is None:
            workspace.clear()  # a killed one may have left files without a record
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            record = Record(migration.kind, _arguments(migration), now, created=not index.exists())
            if not record.created:
                backup = copy_index(index, workspace.backup)
                record = dataclasses.replace(record, backup=backup.sha256, before=backup.content)
            record = workspace.write(record)
        problems = (*planned.problems, *migration.prepare(workspace, progress))
        report = dataclasses.replace(planned, problems=problems)
        if stop_before_switch and record.phase == "begun":
            return report
        _switch(workspace, record, migration)
    return dataclasses.replace(report, done=True)


def roll_back(index: Path, *, accept_loss: bool = False) -> MigrationReport:
    """Undo the open migration, done or not; a rollback that was killed goes on.

    Args:
        accept_loss: restore the index although it was written to since; what it is now is kept beside it.

    Raises:
        MobiusError: there is none, the index was written to since, or the backup is damaged; nothing is changed then.
    """
    _require_open(Workspace(index))
    with locked(index) as workspace:
        record = _require_open(workspace)
        if record.phase == "finishing":
            raise MobiusError(
                "invalid_input", "The migration is being finished, so its old state is no longer complete.",
                do_next="Run `mobius dhash migrate finish` again.",
            )  # fmt: skip
        notes: tuple[str, ...] = ()
        if record.phase != "rolling_back":
            restores, notes = _prepare_restore(workspace, record, accept_loss=accept_loss)
            record = workspace.write(dataclasses.replace(record, phase="rolling_back", restores=restores))
        migration = _migration_of(workspace, record)
        done = "unchanged"
        if record.restores and record.created:
            remove_index(index)
            done = "removed"
        elif record.restores:
            restore_index(workspace.backup, record.backup, index)
            done = "restored"
        notes += migration.undo(workspace)
        workspace.clear()
    return MigrationReport(record.kind, True, {"index": done}, notes)


def finish(index: Path) -> MigrationReport:
    """End the open migration for good: what was kept for a rollback is removed.

    Raises:
        MobiusError: there is none, it is not done, or what it made is no longer what was verified; nothing is removed.
    """
    _require_open(Workspace(index))
    with locked(index) as workspace:
        record = _require_open(workspace)
        if record.phase not in ("switched", "finishing"):
            raise MobiusError(
                "invalid_input", f"The migration ({record.kind}) is not done, so it cannot be finished.",
                do_next=f"Run it again, which goes on where it was, or {_ROLL_BACK}.",
            )  # fmt: skip
        migration = _migration_of(workspace, record)
        if record.phase == "switched":
            migration.verify(workspace)
            workspace.write(dataclasses.replace(record, phase="finishing"))
        notes = migration.finish(workspace)
        workspace.clear()
    return MigrationReport(record.kind, True, {}, notes)


def read_status(index: Path) -> Record | None:
    """The open migration of an index; None when there is none."""
    return Workspace(index).read()


_SWITCHED: Final = f"It is done already; `mobius dhash migrate finish` makes it final, {_ROLL_BACK} undoes it."


def _done_before(migration: Migration) -> MigrationReport:
    return MigrationReport(migration.kind, False, {}, (_SWITCHED,))


def _arguments(migration: Migration) -> dict[str, str]:
    return {field.name: getattr(migration, field.name) for field in dataclasses.fields(migration)}  # type: ignore[arg-type]


def _migration_of(workspace: Workspace, record: Record) -> Migration:
    try:
        return KINDS[record.kind](**record.arguments)
    except (KeyError, TypeError) as error:
        raise workspace.damaged() from error


def _require_open(workspace: Workspace) -> Record:
    record = workspace.read()
    if record is None:
        raise MobiusError("invalid_input", f"No migration of {workspace.index} is open.")
    return record


def _require_same(record: Record | None, migration: Migration) -> None:
    if record is None:
        return
    same = (record.kind, record.arguments) == (migration.kind, _arguments(migration))
    if not same or record.phase in ("rolling_back", "finishing"):
        raise MobiusError(
            "invalid_input",
            f"Another migration of this index is open: {record.kind}, {record.phase.replace('_', ' ')}.",
            do_next=f"See `mobius dhash migrate status`; end it with `mobius dhash migrate finish` or {_ROLL_BACK}.",
        )


def _require_index(index: Path, migration: Migration) -> None:
    """Refuse a missing index, another program's, and one of another schema, but for those who may have it."""
    if not index.exists():
        if migration.needs_index:
            raise MobiusError(
                "invalid_input", f"There is no index {index}.", do_next="Make it with `mobius dhash scan`."
            )
        return
    with connected(index) as connection:
        schema = schema_of(connection, str(index))
    if schema != SCHEMA and migration.kind != SchemaChange.kind:
        raise MobiusError(
            "invalid_input", f"The index {index} has schema {schema}, and this migration works on schema {SCHEMA}.",
            do_next="Bring it there first: `mobius dhash migrate schema`.",
        )  # fmt: skip


def _switch(workspace: Workspace, record: Record, migration: Migration) -> None:
    """Change the index in one transaction, when the backup is what that replaces."""
    for _ in range(_SWITCH_ATTEMPTS):
        if record.created:
            Library(workspace.index).close()
        with connected(workspace.index) as connection:
            if workspace.work.exists():
                connection.execute("ATTACH ? AS work", (str(workspace.work),))
            connection.execute("BEGIN IMMEDIATE")
            now = content_digest(connection)
            if record.created and not record.before and _is_empty(connection):
                record = dataclasses.replace(record, before=now)
            # after a kill in the middle of it, the backup is the one of that time
            if record.phase == "switching" or now == record.before:
                if now != record.after:
                    migration.apply(connection, workspace)
                record = dataclasses.replace(
                    record, phase="switching", after=record.after or content_digest(connection)
                )
                workspace.write(record)
                connection.execute("COMMIT")
                workspace.write(dataclasses.replace(record, phase="switched"))
                return
            connection.execute("ROLLBACK")
        # somebody wrote meanwhile: that belongs into the backup
        backup = copy_index(workspace.index, workspace.backup)
        record = workspace.write(
            dataclasses.replace(record, backup=backup.sha256, before=backup.content, created=False)
        )
    raise MobiusError(
        "timeout", f"The index {workspace.index} changes faster than it is backed up.",
        do_next="Stop what writes to it, and run the same command again.",
    )  # fmt: skip


def _prepare_restore(workspace: Workspace, record: Record, *, accept_loss: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether the index must be restored, with the present one kept beside it when it was written to since."""
    if not workspace.index.exists():
        return record.phase != "begun" and not record.created, ()
    with connected(workspace.index) as connection:
        now = content_digest(connection)
        if record.created and _is_empty(connection):
            return True, ()
    if record.phase == "begun" or now == record.before:
        return False, ()
    if not record.created:
        require_copy(workspace.backup, record.backup)
    if now == record.after:
        return True, ()
    if not accept_loss:
        raise MobiusError(
            "invalid_input",
            f"The index {workspace.index} was written to since the migration; a rollback would lose that.",
            do_next="To roll back all the same: `mobius dhash migrate rollback --accept-loss`; a copy of it is kept.",
        )
    kept = workspace.index.with_name(f"{workspace.index.name}.before-rollback-{now[:12]}")
    copy_index(workspace.index, kept)
    return True, (f"The index as it was before the rollback is kept as {kept}.",)


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether an index of this release's schema holds nothing that a person would miss."""
    return not counted(
        connection,
        "SELECT (SELECT count(*) FROM pictures) + (SELECT count(*) FROM files) + (SELECT count(*) FROM decisions)",
    )
