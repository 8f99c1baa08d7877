# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of migrations share: the command, all bytes of a folder, and all rows of an index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mobius.cli.migrate import migrate
from mobius.dhash import Library
from mobius.errors import MobiusError
from tests.killing import die_before_line, killed

CHECKOUT = Path(__file__).resolve().parents[3]
SOURCES = {str(path) for path in (CHECKOUT / "mobius/dhash/migration").glob("*.py")}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(migrate, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    """What a command that succeeds reports to a program."""
    result = call(*arguments, "--format", "json")
    assert result.exception is None, (result.output, result.exception)
    return json.loads(result.stdout)


def failure(*arguments: object) -> tuple[str, str]:
    error = call(*arguments).exception
    assert isinstance(error, MobiusError), error
    return error.outcome, error.reason


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Every path below a folder with its mode, its time, and the SHA-256 of its bytes or its target."""
    entries: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        time = status.st_mtime_ns if path.is_file() else 0
        entries[path.relative_to(folder).as_posix()] = (oct(status.st_mode), time, content)
    return entries


def rows(index: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that is not derived, and what made the tables."""
    with contextlib.closing(sqlite3.connect(index)) as database:
        names = [
            name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
        ]
        found = {
            name: database.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in names
            if name not in ("changes", "sqlite_sequence")
        }
        found["schema"] = database.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
        ).fetchall()
        found["version"] = database.execute("PRAGMA user_version").fetchall()
        return found


def left_over(index: Path) -> list[str]:
    """What a migration has left beside the index, without its lock."""
    folder = index.with_name(f"{index.name}.migration")
    return sorted(path.name for path in folder.iterdir() if path.name != "lock") if folder.exists() else []


def scanned(index: Path, folder: Path) -> Path:
    with Library(index) as library:
        library.scan(folder)
        library.verify_pairs()
    return index


def lines_of(prepare: Callable[[], object], work: Callable[[], object]) -> int:
    """About how many lines of the migration's code some work executes; `prepare` makes all as it was before."""

    def is_killed_at(number: int) -> bool:
        prepare()
        return killed_at(number, work)

    high = 64
    while is_killed_at(high):
        high *= 2
    low = high // 2
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (middle, high) if is_killed_at(middle) else (low, middle)
    return high


def _work_until(number: int, work: Callable[[], object]) -> None:
    die_before_line(number, SOURCES)
    work()


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before the n-th line of the migration's code."""
    return killed(lambda: _work_until(number, work))


def run_process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "mobius.cli", "dhash", "migrate", *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
