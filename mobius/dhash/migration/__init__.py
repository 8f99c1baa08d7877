# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Migrations of an index and its pictures: backed up first, resumable, and undone by a rollback.

A migration works beside the live index, which one transaction then changes. Until `finish` everything from before is
kept: `roll_back` restores it.
"""

from mobius.dhash.migration._engine import finish, migrate, plan, read_status, roll_back
from mobius.dhash.migration._foreign import ForeignImport
from mobius.dhash.migration._move import Move
from mobius.dhash.migration._rehash import Rehash
from mobius.dhash.migration._schema_change import SchemaChange
from mobius.dhash.migration._workspace import Migration, MigrationReport, Record, Workspace

__all__ = [
    "ForeignImport",
    "Migration",
    "MigrationReport",
    "Move",
    "Record",
    "Rehash",
    "SchemaChange",
    "Workspace",
    "finish",
    "migrate",
    "plan",
    "read_status",
    "roll_back",
]
