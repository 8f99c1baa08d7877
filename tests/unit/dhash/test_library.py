# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The index of a library: incremental, with every unreadable file listed, and safe with unusual file names."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from PIL import Image

from mobius.dhash import Library, Picture, Unreadable, hash_file
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import linux_only, posix_only


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


def placed(library: Library, folder: Path) -> dict[str, Picture]:
    """The library's pictures by their path below the folder."""
    return {os.path.relpath(picture.path or "", folder): picture for picture in library.pictures()}


def names(picture: Picture) -> str:
    return Path(picture.path or "").name


@pytest.mark.slow
def test_a_scan_indexes_every_picture_with_the_release_that_wrote_it(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Library(tmp_path / "index.sqlite", release="1.0.0-aaaaaaaaaaaa") as library:
        report = library.scan(folder, progress=lambda done, total: seen.append((done, total)))
        pictures = placed(library, folder)
    assert (report.images, report.hashed, report.unchanged, report.removed) == (6, 6, 0, 0)
    assert [entry.path for entry in report.unreadable] == ["broken.jpg"]
    assert "cut short" in report.unreadable[0].reason
    assert seen[-1] == (7, 7)
    assert {picture.release for picture in pictures.values()} == {"1.0.0-aaaaaaaaaaaa"}
    assert len(pictures) == 6
    for name, picture in pictures.items():
        alone = hash_file(folder / name, descriptor=True)
        assert (picture.dhash, picture.sha256, picture.descriptor) == (alone.dhash, alone.sha256, alone.descriptor)
        assert (picture.width, picture.height, picture.size) == (alone.width, alone.height, alone.size)


@posix_only
def test_a_second_scan_reads_only_what_changed(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite", release="old") as library:
        library.scan(folder)
    shutil.copy(folder / "camera.png", folder / "coffee.png")
    (folder / "rocket.jpg").unlink()
    (folder / "broken.jpg").chmod(0)
    with Library(tmp_path / "index.sqlite", release="new") as library:
        report = library.scan(folder)
        releases = {name: picture.release for name, picture in placed(library, folder).items()}
        assert (report.hashed, report.known, report.removed, report.images) == (0, 1, 1, 5)
        assert [entry.path for entry in report.unreadable] == ["broken.jpg"], "known, and not forgotten"
        assert releases["coffee.png"] == "old", "its bytes are camera.png's, hashed by the old release"
        # root could read it all the time; whoever could not, reads it now
        (folder / "broken.jpg").chmod(0o644)
        library.scan(folder)
        again = library.scan(folder)
        assert (again.hashed, again.removed, again.unchanged) == (0, 0, 6)


@pytest.mark.slow
def test_another_algorithm_hashes_everything_again(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder, mode="fast")
        assert library.scan(folder, mode="exact").hashed == 6
        assert {picture.dhash.algorithm for picture in library.pictures()} == {"exact-1"}


def test_a_file_that_becomes_good_or_bad_changes_sides(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder)
        shutil.copy(folder / "rocket.jpg", folder / "broken.jpg")
        (folder / "camera.png").write_bytes(b"no longer a picture")
        report = library.scan(folder)
        assert [entry.path for entry in report.unreadable] == ["camera.png"]
        assert "broken.jpg" in placed(library, folder)
        assert "camera.png" not in placed(library, folder)


@linux_only
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
        assert "leads nowhere" in reasons["dangling.png"]
        assert "0 bytes" in reasons["empty.gif"]
        assert "caf\\xe9 \n.png" in placed(library, folder)
        assert library.scan(folder).hashed == 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_duplicates_are_groups_around_the_keeper(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "camera.png", folder / "copy.png")
    os.utime(folder / "camera.png", (1_000_000_000, 1_000_000_000))
    with Library(tmp_path / "index.sqlite") as library:
        assert library.duplicates() == []
        library.scan(folder)
        assert library.verify_pairs() == 0
        groups = {names(group.keeper): group.others for group in library.duplicates()}
    assert set(groups) == {"camera.png", "chelsea.png"}, "the older of two copies, the larger of two sizes"
    ((camera,), (chelsea,)) = groups["camera.png"], groups["chelsea.png"]
    assert (names(camera.picture), camera.distance, camera.confidence) == ("copy.png", 0, "confident")
    assert (names(chelsea.picture), chelsea.confidence) == ("chelsea-small.jpg", "confident")
    first, second = hash_file(folder / "chelsea.png").dhash, hash_file(folder / "deep" / "chelsea-small.jpg").dhash
    assert chelsea.distance == first.distance(second)


def test_a_file_is_one_file_whichever_folder_above_it_is_scanned(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder / "deep")
        assert len(library) == 2
        assert library.scan(folder).hashed == 4
        assert len(library) == 6
        shutil.rmtree(folder / "deep" / "er")
        assert library.scan(folder / "deep").removed == 1
        assert len(library) == 5


def test_what_cannot_be_an_index_is_refused(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is no database, whatever its name may be" * 100)
    with pytest.raises(MobiusError, match="is not an index") as refused:
        Library(text)
    if sys.platform == "linux":
        assert text not in [path.resolve() for path in Path("/proc/self/fd").iterdir()], refused
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as database, database:
        database.execute("CREATE TABLE customers (name)")
    with pytest.raises(MobiusError, match="database of something else"):
        Library(other)
    newer = tmp_path / "newer.sqlite"
    Library(newer).close()
    with contextlib.closing(sqlite3.connect(newer)) as database, database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(MobiusError, match="schema 99"):
        Library(newer)
    with pytest.raises(MobiusError, match="cannot be opened"):
        Library(tmp_path / "missing" / "index.sqlite")
    with Library(tmp_path / "index.sqlite") as library:
        with pytest.raises(MobiusError, match="is not a folder"):
            library.scan(tmp_path / "missing")
        assert library._database._version_reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
