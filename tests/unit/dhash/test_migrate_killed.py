# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A migration killed before any line of its code: no picture is lost, it goes on where it was, and a rollback undoes it."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mobius.dhash import Library
from mobius.dhash.migration import (
    ForeignImport,
    Migration,
    Move,
    Rehash,
    SchemaChange,
    finish,
    migrate,
    read_status,
    roll_back,
)
from mobius.dhash.migration._workspace import locked
from tests.unit.dhash.library_tools import linux_only, make_folder, picture
from tests.unit.dhash.migration_tools import (
    everything,
    killed_at,
    left_over,
    lines_of,
    rows,
    run_process,
    scanned,
)
from tests.unit.dhash.test_migrate import czkawka, pictures_of

pytestmark = [linux_only, pytest.mark.slow]

POINTS = 7
"""Places of each run at which it is killed."""


@dataclass
class Bench:
    """A library and its index, which can be made as they were at the beginning, with their times."""

    top: Path

    def __post_init__(self) -> None:
        self.folder, self.new, self.index = (
            self.top / "live/library",
            self.top / "live/new",
            self.top / "live/dhash.sqlite",
        )
        make_folder(self.folder, 6)
        (self.folder / "large.jpg").write_bytes(picture(1, 256))
        (self.folder / "larger.jpg").write_bytes(picture(1, 256) + b"\0")
        (self.folder / "link").symlink_to("large.jpg")
        more = self.top / "live/more"
        more.mkdir()
        (more / "late.jpg").write_bytes(picture(50))
        self.cache = czkawka(self.top / "live/cache.json", [*pictures_of(self.folder), more / "late.jpg"])
        scanned(self.index, self.folder)
        shutil.copytree(self.top / "live", self.top / "pristine", symlinks=True)
        self.rows, self.files = rows(self.index), everything(self.folder)

    def reset(self) -> None:
        shutil.rmtree(self.top / "live")
        shutil.copytree(self.top / "pristine", self.top / "live", symlinks=True)

    def migration(self, kind: str) -> Migration:
        return {
            "schema": lambda: SchemaChange("2"),
            "move": lambda: Move(str(self.folder), str(self.new)),
            "rehash": lambda: Rehash("exact"),
            "import": lambda: ForeignImport.of(self.cache, "czkawka"),
        }[kind]()

    def run(self, kind: str) -> Callable[[], object]:
        migration = self.migration(kind)
        return lambda: migrate(self.index, migration)

    def pictures(self) -> list[tuple[object, ...]]:
        """What a person sees of the index, read without bringing it to another schema."""
        found = rows(self.index)
        files = {row[4]: row[0] for row in found["files"]}
        return [(row[1], row[3], row[4], row[5], files.get(row[0])) for row in found["pictures"]] + found["version"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def points(total: int, step: int = 7) -> list[int]:
    """Places spread over a run, and each `step` lines of its end, where the switch is."""
    spread = [1 + total * number // POINTS for number in range(POINTS)]
    return sorted({*spread, *(max(1, total - number) for number in range(0, 50, step))})


KINDS = ["schema", "move", "rehash", "import"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_migration_killed_anywhere_goes_on_or_is_undone(bench: Bench, kind: str) -> None:
    bench.run(kind)()
    expected = bench.pictures()
    total = lines_of(bench.reset, bench.run(kind))
    kills = 0
    # the lines of the switch are the same for every kind, so one is enough for each of them
    for number in points(total, step=1 if kind == "schema" else 7):
        for ending in ("resume", "rollback") if number % 3 == 0 or kind != "schema" else ("resume",):
            bench.reset()
            kills += killed_at(number, bench.run(kind))
            assert everything(bench.folder) == bench.files, "no picture was touched"
            if ending == "resume":
                bench.run(kind)()
                assert bench.pictures() == expected, number
                if kind == "move":
                    assert everything(bench.new) == bench.files, number
            if read_status(bench.index) is not None:
                roll_back(bench.index)
            assert rows(bench.index) == bench.rows, number
            assert not bench.new.exists()
            assert everything(bench.folder) == bench.files
            if ending == "resume":
                assert left_over(bench.index) == []
    assert kills >= POINTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollback_killed_anywhere_goes_on(bench: Bench, kind: str) -> None:
    def prepared() -> None:
        bench.reset()
        bench.run(kind)()

    total = lines_of(prepared, lambda: roll_back(bench.index))
    for number in points(total):
        prepared()
        if killed_at(number, lambda: roll_back(bench.index)) and read_status(bench.index) is not None:
            roll_back(bench.index)
        assert rows(bench.index) == bench.rows, number
        assert everything(bench.folder) == bench.files, number
        assert not bench.new.exists()


def test_a_finish_killed_anywhere_never_leaves_a_picture_nowhere(bench: Bench) -> None:
    def prepared() -> None:
        bench.reset()
        bench.run("move")()

    total = lines_of(prepared, lambda: finish(bench.index))
    for number in points(total):
        prepared()
        if killed_at(number, lambda: finish(bench.index)) and read_status(bench.index) is not None:
            assert everything(bench.new) == bench.files, number
            finish(bench.index)
        assert everything(bench.new) == bench.files, number
        assert not bench.folder.exists(), number
        with Library(bench.index) as library:
            assert library.scan(bench.new).hashed == 0


def test_the_command_itself_is_killed_and_goes_on(bench: Bench) -> None:
    """A process of its own, at moments that its copies show."""
    for number in range(40, 140):
        (bench.folder / f"{number}.bin").write_bytes(bytes([number]) * 200_000)
    files = everything(bench.folder)
    arguments = ("move", bench.folder, bench.new, "--index", bench.index)
    for copies in (1, 20, 60):
        process = run_process(*arguments)
        deadline = time.monotonic() + 60
        while process.poll() is None and len(list(bench.new.rglob("*.*") if bench.new.exists() else ())) < copies:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
        process.communicate()
        assert everything(bench.folder) == files
        assert rows(bench.index) == bench.rows
    process = run_process(*arguments)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert everything(bench.new) == files == everything(bench.folder)
    undone = run_process("rollback", "--index", bench.index)
    undone.communicate(timeout=120)
    assert (undone.returncode, rows(bench.index), everything(bench.folder)) == (0, bench.rows, files)
    assert not bench.new.exists()


def test_a_second_process_is_refused_while_one_is_at_work(bench: Bench) -> None:
    with locked(bench.index):
        second = run_process("move", bench.folder, bench.new, "--index", bench.index)
        _, error = second.communicate(timeout=60)
    assert (second.returncode, b"  why       A migration of" in error) == (3, True), error
    assert not bench.new.exists()
