# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius dhash migrate` prints for people."""

from __future__ import annotations

from collections.abc import Iterator

from mobius.cli.render.dhash import path_text
from mobius.cli.render.page import size
from mobius.dhash.migration import MigrationReport, Record


def report_lines(report: MigrationReport) -> Iterator[str]:
    """What was done to how much, then what to know, then the files that could not be dealt with."""
    for name, value in report.actions.items():
        yield f"{name.replace('_', ' '):<18}{size(int(value)) if name == 'bytes' else value}"
    for note in report.notes:
        yield path_text(note)
    for problem in report.problems:
        yield f"problem  {path_text(problem)}"


def record_lines(record: Record) -> Iterator[str]:
    """What the open migration is, and how far it has come."""
    arguments = ", ".join(f"{name} {path_text(value)}" for name, value in record.arguments.items())
    yield f"{record.kind} ({arguments})"
    yield f"{record.phase.replace('_', ' ')}, begun {record.begun_at}"
