# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index brought up or down to a schema: for an older release, or back."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mobius.dhash._scan import Progress
from mobius.dhash._schema import OLDEST_SCHEMA, SCHEMA, change_schema, schema_of
from mobius.dhash.migration._copies import connected, has_table
from mobius.dhash.migration._workspace import MigrationReport, Workspace, counted
from mobius.errors import MobiusError


@dataclass(frozen=True)
class SchemaChange:
    """Bring an index to the schema `target`. Down, it loses only what is made of the pictures again."""

    kind: ClassVar[str] = "schema"
    needs_index: ClassVar[bool] = True
    target: str = str(SCHEMA)

    def plan(self, index: Path, *, resumed: bool) -> MigrationReport:  # noqa: ARG002
        """From which schema to which, and how many verdicts on pairs are lost.

        Raises:
            MobiusError: the target is no schema, or the index is of a newer one than this release knows.
        """
        target = int(self.target)
        if not OLDEST_SCHEMA <= target <= SCHEMA:
            raise MobiusError(
                "invalid_input", f"An index is brought to schema {OLDEST_SCHEMA} to {SCHEMA}, not {target}."
            )
        with connected(index) as connection:
            present = schema_of(connection, str(index))
            if present > SCHEMA:
                raise MobiusError(
                    "invalid_input", f"The index {index} has schema {present}; this release knows up to {SCHEMA}.",
                    do_next="Use the release that wrote the index.",
                )  # fmt: skip
            lost = counted(connection, "SELECT count(*) FROM proofs") if has_table(connection, "proofs") else 0
        if present == target:
            return MigrationReport(self.kind, False, {}, (f"The index has schema {target} already.",))
        actions = {"from": present, "to": target, "verdicts_dropped": lost if target < 3 else 0}
        newer = ("A release of a newer schema brings the index up again when it opens it.",) if target < SCHEMA else ()
        return MigrationReport(self.kind, False, actions, newer)

    def prepare(self, workspace: Workspace, progress: Progress | None) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def apply(self, connection: sqlite3.Connection, workspace: Workspace) -> None:
        change_schema(connection, str(workspace.index), int(self.target))

    def undo(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def verify(self, workspace: Workspace) -> None:
        """Nothing but the index was made."""

    def finish(self, workspace: Workspace) -> tuple[str, ...]:  # noqa: ARG002
        return ()
