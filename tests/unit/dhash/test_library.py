# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The index of a library: incremental, honest about what it cannot read, and never a victim of strange names."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from mobius.dhash import Library, Unreadable, hash_file
from mobius.errors import MobiusError


@pytest.fixture
def folder(photographs: dict[str, Path], tmp_path: Path) -> Path:
    """Six pictures, one of them a smaller JPEG of another, and two files that are none."""
    root = tmp_path / "library"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("camera", "chelsea", "coffee", "rocket"):
        shutil.copy(photographs[name], root / photographs[name].name)
    shutil.copy(photographs["brick"], root / "deep" / "er" / "BRICK.PNG")
    with Image.open(photographs["chelsea"]) as picture:
        picture.convert("RGB").resize((300, 200)).save(root / "deep" / "chelsea-small.jpg")
    (root / "notes.txt").write_text("not for us")
    (root / "broken.jpg").write_bytes((root / "rocket.jpg").read_bytes()[:9000])
    return root


def test_a_scan_indexes_every_picture_with_the_release_that_wrote_it(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Library(tmp_path / "index.sqlite", release="1.0.0-aaaaaaaaaaaa") as library:
        report = library.scan(folder, progress=lambda done, total: seen.append((done, total)))
        rows = {row["path"]: row for row in library.images()}
    assert (report.images, report.hashed, report.unchanged, report.removed) == (6, 6, 0, 0)
    assert [entry.path for entry in report.unreadable] == ["broken.jpg"]
    assert "cut short" in report.unreadable[0].reason
    assert seen[-1] == (7, 7)
    assert {row["release"] for row in rows.values()} == {"1.0.0-aaaaaaaaaaaa"}
    for name, row in rows.items():
        alone = hash_file(folder / name)
        assert (row["dhash"], row["sha256"], row["width"]) == (alone.dhash.hex, alone.sha256, alone.width)


def test_a_second_scan_reads_only_what_changed(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite", release="old") as library:
        library.scan(folder)
    shutil.copy(folder / "camera.png", folder / "coffee.png")
    (folder / "rocket.jpg").unlink()
    (folder / "broken.jpg").chmod(0)
    with Library(tmp_path / "index.sqlite", release="new") as library:
        report = library.scan(folder)
        releases = {row["path"]: row["release"] for row in library.images()}
        assert (report.hashed, report.removed, report.images) == (1, 1, 5)
        assert [entry.path for entry in report.unreadable] == ["broken.jpg"], "known, and not forgotten"
        assert (releases["coffee.png"], releases["camera.png"]) == ("new", "old")
        again = library.scan(folder)
        assert (again.hashed, again.removed, again.unchanged) == (0, 0, 6)


def test_another_algorithm_hashes_everything_again(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder, mode="fast")
        assert library.scan(folder, mode="exact").hashed == 6
        assert {row["algorithm"] for row in library.images()} == {"exact-1"}


def test_a_file_that_becomes_good_or_bad_changes_sides(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder)
        shutil.copy(folder / "rocket.jpg", folder / "broken.jpg")
        (folder / "camera.png").write_bytes(b"no longer a picture")
        report = library.scan(folder)
        assert [entry.path for entry in report.unreadable] == ["camera.png"]
        assert "broken.jpg" in {row["path"] for row in library.images()}
        assert "camera.png" not in {row["path"] for row in library.images()}


def test_strange_files_are_listed_and_not_fatal(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.gif").touch()
    strange = os.fsencode(folder) + b"/caf\xe9 \n.png"
    shutil.copy(folder / "camera.png", strange)
    with Library(tmp_path / "index.sqlite") as library:
        report = library.scan(folder)
        assert Unreadable("pipe.jpg", "It is not a regular file.") in report.unreadable
        reasons = {entry.path: entry.reason for entry in report.unreadable}
        assert set(reasons) == {"pipe.jpg", "dangling.png", "empty.gif", "broken.jpg"}
        assert "0 bytes" in reasons["empty.gif"]
        assert "caf\\xe9 \n.png" in {row["path"] for row in library.images()}
        assert library.scan(folder).hashed == 0


def test_a_scan_that_was_stopped_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise StopError

    with Library(tmp_path / "index.sqlite") as library:
        with pytest.raises(StopError):
            library.scan(folder, threads=1, progress=stop)
        kept = len(library)
        assert kept >= 2
        assert library.scan(folder).hashed == 6 - kept


def test_duplicates_are_found_within_the_radius(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "camera.png", folder / "copy.png")
    with Library(tmp_path / "index.sqlite") as library:
        assert list(library.duplicates()) == []
        library.scan(folder)
        exact = list(library.duplicates(0))
        near = list(library.duplicates(10))
        everything = list(library.duplicates(128))
    assert [(Path(match.first).name, Path(match.second).name) for match in exact] == [("camera.png", "copy.png")]
    assert {"chelsea.png", "chelsea-small.jpg"} in [{Path(m.first).name, Path(m.second).name} for m in near]
    assert len(near) == 2
    assert len(everything) == 7 * 6 // 2
    for match in everything:
        first, second = hash_file(match.first).dhash, hash_file(match.second).dhash
        assert match.distance == first.distance(second)


def test_two_folders_live_in_one_index(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder / "deep")
        library.scan(folder)
        assert len(library) == 8
        shutil.rmtree(folder / "deep" / "er")
        assert library.scan(folder).removed == 1
        assert len(library) == 7


def test_what_cannot_be_an_index_is_refused(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is no database, whatever its name may be" * 100)
    with pytest.raises(MobiusError, match="is not an index"):
        Library(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE customers (name)")
    database.close()
    with pytest.raises(MobiusError, match="database of something else"):
        Library(other)
    newer = tmp_path / "newer.sqlite"
    Library(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(MobiusError, match="schema 99"):
        Library(newer)
    with pytest.raises(MobiusError, match="cannot be opened"):
        Library(tmp_path / "missing" / "index.sqlite")
    with Library(tmp_path / "index.sqlite") as library:
        with pytest.raises(MobiusError, match="is not a folder"):
            library.scan(tmp_path / "missing")
        assert library._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
