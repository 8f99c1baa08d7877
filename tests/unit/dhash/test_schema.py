# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index of an older schema becomes one of this: whole or not at all, and by whoever comes first."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobius.dhash import Dhash, Library, hash_file
from mobius.dhash._picture import signed
from mobius.dhash._schema import APPLICATION, MIGRATIONS, SCHEMA, statements
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import digest, exported, fill, make_folder, picture

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
    assert (figures["schema"], figures["pictures"], figures["unreadable"], figures["to_hash_again"]) == (
        SCHEMA,
        2,
        1,
        2,
    )


def test_pictures_of_the_first_schema_get_their_descriptors_in_the_next_scan(tmp_path: Path) -> None:
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
        assert {picture.descriptor for picture in library.pictures()} == {None}
        assert {found.confidence for found in library.search(hash_file(folder / "0/0000.jpg", descriptor=True))} == {
            "confident"
        }, "the same bytes are certain without any look"
        assert library.scan(folder).hashed == 8
        assert None not in {picture.descriptor for picture in library.pictures()}
        assert {picture.release for picture in library.pictures()} == {"new"}
        assert library.scan(folder).hashed == 0


def second_schema(path: Path) -> Path:
    """An index as releases of schema 2 made it."""
    with contextlib.closing(sqlite3.connect(first_schema(path, []))) as database, database:
        for statement in statements(MIGRATIONS[2]):
            database.execute(statement)
        database.execute("PRAGMA user_version=2")
    return path


def test_matches_of_the_second_schema_need_review_until_they_are_verified(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(picture(1, 256))
    (folder / "two.jpg").write_bytes(picture(1, 256) + b"\0")
    with Library(tmp_path / "new", release="new") as library:
        library.scan(folder)
        images = exported(library)
    with Library(second_schema(tmp_path / "old"), release="new") as library:
        fill(library, images)
        assert (library.duplicates(), len(library.review())) == ([], 1)
        assert library.scan(folder).hashed == 0, "what they saw is as good"
        assert library.verify_pairs() == 0
        assert (len(library.duplicates()), library.review()) == (1, [])
    with contextlib.closing(sqlite3.connect(tmp_path / "old")) as database:
        oldest = database.execute("SELECT oldest FROM compatible WHERE schema=?", (SCHEMA,)).fetchone()
        assert oldest == (2,), "they may go on beside this one"


def third_schema(path: Path) -> Path:
    """An index as releases of schema 3 made it."""
    with contextlib.closing(sqlite3.connect(second_schema(path))) as database, database:
        for statement in statements(MIGRATIONS[3]):
            database.execute(statement)
        database.execute("PRAGMA user_version=3")
    return path


@pytest.mark.slow
def test_an_index_of_the_third_schema_keeps_its_pictures_and_verdicts(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(picture(number // 2, 256) + bytes(number))
    with Library(tmp_path / "new", release="new") as library:
        library.scan(folder)
        images = exported(library)
    with contextlib.closing(sqlite3.connect(third_schema(tmp_path / "old"))) as database, database:
        database.execute(
            "INSERT INTO decisions VALUES (?, ?, 'different', 'ada', '2026-01-01T00:00:00+00:00')",
            sorted((images[0]["sha256"], images[3]["sha256"])),
        )
    with Library(tmp_path / "old", release="new") as library:
        fill(library, images)
        assert library.scan(folder).hashed == 0
        assert library.verify_pairs() == 0
        assert (len(library.duplicates()), len(library.decisions()), library.figures()["schema"]) == (2, 1, SCHEMA)


@pytest.mark.slow
def test_a_picture_that_somebody_quarantined_is_hashed_again(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(picture(number // 2, 256) + bytes(number))
    with Library(tmp_path / "new", release="new") as library:
        library.scan(folder)
        images = exported(library)
    old = third_schema(tmp_path / "old")
    with contextlib.closing(sqlite3.connect(old)) as database, database:
        database.execute(
            "INSERT INTO pictures (sha256, size, algorithm, rows, columns, width, height, format, quarantined, release,"
            " written_at) VALUES (?, ?, 'fast-2', 0, 0, 1, 1, 'JPEG', 1, 'bad', '2026-01-01T00:00:00+00:00')",
            (images[0]["sha256"], images[0]["size"]),
        )
    with Library(old, release="new") as library:
        fill(library, images)
        assert library.figures()["to_hash_again"] == 1
        assert library.scan(folder).hashed == 1
        assert library.figures()["to_hash_again"] == 0
        assert library.verify_pairs() == 0
        assert len(library.duplicates()) == 2


@pytest.mark.slow
def test_a_release_of_the_third_schema_works_on_an_index_of_this_one(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(picture(number // 2, 256) + bytes(number))
    with Library(tmp_path / "index", release="new") as library:
        library.scan(folder)
        assert library.verify_pairs() == 0
        sha256 = min(one.sha256 for one in library.pictures())
        with contextlib.closing(sqlite3.connect(tmp_path / "index")) as old, old:
            assert old.execute("SELECT oldest FROM compatible WHERE schema=?", (SCHEMA,)).fetchone() == (2,)
            # the very statement by which that release writes a picture again
            old.execute(
                "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, warnings,"
                " release, written_at) VALUES (?, 1, 'fast-3', 7, 7, NULL, 1, 1, 'JPEG', '', 'old', 'now')"
                " ON CONFLICT (sha256) DO UPDATE SET (algorithm, rows, columns, look, width, height, format, warnings,"
                " quarantined, release, written_at) = (excluded.algorithm, excluded.rows, excluded.columns,"
                " excluded.look, excluded.width, excluded.height, excluded.format, excluded.warnings, 0,"
                " excluded.release, excluded.written_at) WHERE NOT (NOT quarantined AND length(look) IS 1) OR"
                " (? AND algorithm != excluded.algorithm)",
                (sha256, True),
            )
        (changed,) = library.search(Dhash(7, 7), max_distance=0)
        assert changed.picture.sha256 == sha256, "the change reached this process"
        assert library.scan(folder).hashed == 1
        with contextlib.closing(sqlite3.connect(tmp_path / "index")) as old, old:
            old.execute("DELETE FROM files WHERE picture=(SELECT id FROM pictures WHERE sha256=?)", (sha256,))
        with library._database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM proofs").fetchone() == (1,), "of the other pair"


@pytest.mark.slow
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
        process.kill()
        process.wait()
        with contextlib.closing(sqlite3.connect(index)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
        assert ({"images", "unreadable"} <= tables) == (version == 1)
        assert ({"pictures", "files"} <= tables) == (version >= 2)
        assert ("proofs" in tables) == (version == SCHEMA)
        seen.add(version)
        with Library(index) as library:
            assert len(library) == len(rows)
            assert sum(1 for _ in library.pictures()) == len(rows)
    assert seen <= {1, 2, SCHEMA}


@pytest.mark.slow
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
    with pytest.raises(MobiusError, match="has schema 99; this release knows schemas up to 4"):
        Library(index)
    with contextlib.closing(sqlite3.connect(index)) as database, database:
        database.execute("INSERT INTO compatible VALUES (99, 5)")
    with pytest.raises(MobiusError, match="schema 99"):
        Library(index)
    with contextlib.closing(sqlite3.connect(index)) as database, database:
        database.execute("UPDATE compatible SET oldest=4 WHERE schema=99")
    with Library(index) as library:
        assert library.scan(make_folder(tmp_path / "library", 3)).hashed == 3, "added columns are in nobody's way"


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5])
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
