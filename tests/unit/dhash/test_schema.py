# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index of an older schema becomes one of this: whole or not at all, and by whoever comes first."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobius.dhash import Library, hash_file
from mobius.dhash._confidence import LOOK_BYTES
from mobius.dhash._database import signed
from mobius.dhash._schema import APPLICATION, MIGRATIONS, SCHEMA, statements
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import digest, exported, fill, make_folder

OPEN = "import sys; from mobius.dhash import Library; Library(sys.argv[1]).close()"


def first_schema(path: Path, rows: list[tuple[object, ...]], unreadable: list[tuple[object, ...]] = ()) -> Path:
    """An index as the first release wrote it."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        for statement in statements(MIGRATIONS[1]):
            database.execute(statement)
        database.executemany(f"INSERT INTO images VALUES ({','.join('?' * 13)})", rows)
        database.executemany(f"INSERT INTO unreadable VALUES ({','.join('?' * 7)})", unreadable)
        database.execute("PRAGMA user_version=1")
    return path


def row(root: str, path: str, name: object, written: str = "2026-01-01") -> tuple[object, ...]:
    return (root, path, 10, 20, digest(name), "fast-1", -1, 5, 30, 40, "JPEG", "old", written)


def test_the_first_schema_becomes_this_one_and_keeps_every_picture(tmp_path: Path) -> None:
    rows = [
        row("/photos", "a.jpg", "a"),
        row("/photos", "deep/b.jpg", "b"),
        row("/photos/deep", "b.jpg", "b", "2026-02-02"),
        row("/", "copy.jpg", "a"),
    ]
    bad = [("/photos", "bad.jpg", 1, 2, "It is damaged.", "old", "2026-01-01")]
    with Library(first_schema(tmp_path / "index.sqlite", rows, bad)) as library:
        found = [(picture.path, picture.sha256, picture.release) for picture in library.pictures()]
        figures = library.figures()
        assert next(library.pictures()).dhash.rows == (1 << 64) - 1
    assert found == [
        ("/copy.jpg", digest("a"), "old"),
        ("/photos/a.jpg", digest("a"), "old"),
        ("/photos/deep/b.jpg", digest("b"), "old"),
    ], "a file is one, whichever folder above it was scanned"
    assert (figures["schema"], figures["pictures"], figures["unreadable"], figures["to_hash_again"]) == (2, 2, 1, 2)


def test_what_the_first_schema_held_gets_its_second_look_by_the_next_scan(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 8)
    rows = []
    for path in sorted(folder.rglob("*.jpg")):
        found, status = hash_file(path), path.stat()
        bits = (signed(found.dhash.rows), signed(found.dhash.columns))
        rows.append(
            (str(folder), str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, found.sha256, "fast-1",
             *bits, found.width, found.height, found.format, "old", "2026-01-01")
        )  # fmt: skip
    with Library(first_schema(tmp_path / "index.sqlite", rows), release="new") as library:
        assert {picture.look for picture in library.pictures()} == {None}
        assert {found.confidence for found in library.search(hash_file(folder / "0/0000.jpg", look=True))} == {
            "confident"
        }, "the same bytes are certain without any look"
        assert library.scan(folder).hashed == 8
        assert None not in {picture.look for picture in library.pictures()}
        assert {picture.release for picture in library.pictures()} == {"new"}
        assert library.scan(folder).hashed == 0


def test_a_look_without_its_flatness_keeps_its_matches_as_doubtful_until_the_next_scan(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 3)
    with Library(tmp_path / "new", release="new") as library:
        library.scan(folder)
        library.add(dataclasses.replace(hash_file(folder / "0/0000.jpg", look=True), sha256="f" * 64))
        images = exported(library)
        assert [len(group.others) for group in library.duplicates()] == [1]
    for image in images:
        image["look"] = image["look"][:-2]
    with Library(tmp_path / "old", release="new") as library:
        fill(library, images)
        assert [image["look"] for image in exported(library)] == [image["look"] for image in images]
        assert (library.duplicates(), len(library.review())) == ([], 1)
        assert {picture.confidence for picture in library.pictures()} == {"doubtful"}
        # the one that is no file of the folder has nothing to be looked at again
        assert library.scan(folder).hashed == 3
        assert {len(picture.look or b"") for picture in library.pictures()} == {LOOK_BYTES - 1, LOOK_BYTES}


def test_a_migration_killed_anywhere_is_done_or_not(tmp_path: Path) -> None:
    rows = [row("/photos", f"{number:06}.jpg", number) for number in range(10_000)]
    old = first_schema(tmp_path / "old.sqlite", rows)
    started = time.monotonic()
    shutil.copy(old, tmp_path / "timed.sqlite")
    subprocess.run([sys.executable, "-c", OPEN, tmp_path / "timed.sqlite"], check=True)
    whole, chance, seen = time.monotonic() - started, random.Random(2), set()
    for attempt in range(8):
        index = tmp_path / f"{attempt}.sqlite"
        shutil.copy(old, index)
        process = subprocess.Popen([sys.executable, "-c", OPEN, index])
        time.sleep(whole * chance.uniform(0.3, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with contextlib.closing(sqlite3.connect(index)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
        assert ({"images", "unreadable"} <= tables) == (version == 1)
        assert ({"pictures", "files"} <= tables) == (version == SCHEMA)
        seen.add(version)
        with Library(index) as library:
            assert len(library) == len(rows)
            assert sum(1 for _ in library.pictures()) == len(rows)
    assert seen <= {1, SCHEMA}


def test_many_processes_open_an_old_and_a_missing_index_at_the_same_time(tmp_path: Path) -> None:
    rows = [row("/photos", f"{number:05}.jpg", number) for number in range(2000)]
    for index, count in ((first_schema(tmp_path / "old.sqlite", rows), 2000), (tmp_path / "new.sqlite", 0)):
        processes = [subprocess.Popen([sys.executable, "-c", OPEN, index]) for _ in range(6)]
        assert [process.wait(60) for process in processes] == [0] * 6
        with Library(index) as library:
            assert len(library) == count


def test_a_newer_schema_is_refused_unless_it_says_that_this_release_may_go_on(tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    Library(index).close()
    with contextlib.closing(sqlite3.connect(index)) as database, database:
        database.execute("ALTER TABLE pictures ADD COLUMN later TEXT")
        database.execute("PRAGMA user_version=99")
    with pytest.raises(MobiusError, match="has schema 99; this release knows schemas up to 2"):
        Library(index)
    with contextlib.closing(sqlite3.connect(index)) as database, database:
        database.execute("INSERT INTO compatible VALUES (99, 3)")
    with pytest.raises(MobiusError, match="schema 99"):
        Library(index)
    with contextlib.closing(sqlite3.connect(index)) as database, database:
        database.execute("UPDATE compatible SET oldest=2 WHERE schema=99")
    with Library(index) as library:
        assert library.scan(make_folder(tmp_path / "library", 3)).hashed == 3, "added columns are in nobody's way"


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, version: int) -> None:
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as database, database:
        database.execute("CREATE TABLE customers (name)")
        database.execute(f"PRAGMA user_version={version}")
    with pytest.raises(MobiusError, match="is a database of something else"):
        Library(other)
    with contextlib.closing(sqlite3.connect(other)) as database:
        assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("customers",)]
        assert database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION
