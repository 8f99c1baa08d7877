# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A scan may be killed, run twice at once, or meet files that move, change and vanish under it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobius.dhash import Library, hash_file
from mobius.dhash import _hash_processes as hashers_module
from mobius.dhash import _scan as scan_module
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import exported, linux_only, make_folder, picture, posix_only

SCAN = """
import sys
from mobius.dhash import Library, _hash_processes, _scan
_scan._BATCH = int(sys.argv[3])
_hash_processes.MIN_FILES_FOR_PROCESSES = int(sys.argv[4])
with Library(sys.argv[1]) as library:
    report = library.scan(sys.argv[2], threads=2, progress=lambda done, total: print(done, flush=True))
print("finished", report.images, flush=True)
"""


def start(index: Path, folder: Path, batch: int = 7, *, processes: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCAN, str(index), str(folder), str(batch), "0" if processes else "1000"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "processes"), [(1, False), (2, True)], ids=["threads", "processes"])
def test_a_scan_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, seed: int, processes: bool) -> None:
    folder = make_folder(tmp_path / "library", 120)
    with Library(tmp_path / "whole.sqlite") as library:
        whole = library.scan(folder)
        wanted = exported(library)
    chance, kills, kept = random.Random(seed), 0, 0
    index = tmp_path / "killed.sqlite"
    while kept < 100:
        with start(index, folder, processes=processes) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(10, 50)):
                if process.stdout.readline().startswith("finished"):
                    break
            process.kill()
        kills += 1
        with Library(index) as library:
            assert len(library) >= kept, "what was done stays done"
            kept = len(library)
    assert kills >= 3
    with Library(index) as library:
        report = library.scan(folder)
        assert (report.images, report.unreadable) == (whole.images, whole.unreadable)
        assert report.unchanged >= 100, "and is not done again"
        assert exported(library) == wanted
        assert library.duplicates()[0].others


@pytest.mark.slow
def test_two_processes_scan_the_same_folder_into_one_index(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 60)
    with Library(tmp_path / "alone.sqlite") as library:
        library.scan(folder)
        wanted = exported(library)
    processes = [start(tmp_path / "index.sqlite", folder, 3, processes=number > 0) for number in range(3)]
    for process in processes:
        with process:
            assert process.stdout is not None
            assert process.stdout.read().endswith("finished 60\n")
        assert process.returncode == 0
    with Library(tmp_path / "index.sqlite") as library:
        assert exported(library) == wanted
        assert library.scan(folder).unchanged == 61


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing is to be decoded")

    monkeypatch.setattr(hashers_module, "hash_file", decode)


def test_a_renamed_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "library", 12)
    (folder / "broken.png").unlink()
    with Library(tmp_path / "index.sqlite", release="old") as library:
        library.scan(folder)
        before = {entry["sha256"]: entry for entry in exported(library)}
        (folder / "0/0000.jpg").rename(folder / "renamed.jpg")
        (folder / "1").rename(folder / "moved")
        forbid_decoding(monkeypatch)
        monkeypatch.setattr(scan_module.hashlib, "file_digest", None)
        library.release = "new"
        report = library.scan(folder)
        after = {entry["sha256"]: entry for entry in exported(library)}
    assert (report.renamed, report.removed, report.hashed, report.known, report.images) == (3, 0, 0, 3, 12)
    assert {digest: entry["release"] for digest, entry in after.items()} == dict.fromkeys(before, "old")
    assert {Path(entry["path"]).name for entry in after.values()} >= {"renamed.jpg"}


def test_a_file_with_known_bytes_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "library", 12)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder)
        forbid_decoding(monkeypatch)
        shutil.copyfile(folder / "0/0000.jpg", folder / "copy.jpg")
        shutil.copyfile(folder / "1/0001.jpg", folder / "moved away and back.jpg")
        (folder / "1/0001.jpg").unlink()
        report = library.scan(folder)
    assert (report.known, report.hashed, report.renamed, report.removed, report.images) == (2, 0, 1, 0, 13)


def test_a_removed_file_takes_its_picture_along_and_leaves_its_copies(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 12)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder)
        one, copy = hash_file(folder / "1/0001.jpg").sha256, hash_file(folder / "0/0000.jpg").sha256
        assert hash_file(folder / "2/0009.jpg").sha256 == copy
        (folder / "1/0001.jpg").unlink()
        (folder / "0/0000.jpg").unlink()
        report = library.scan(folder)
        assert (report.removed, report.images) == (2, 10)
        assert library.get(one) is None
        left = library.get(copy)
        assert left is not None
        assert left.path == str(folder / "2/0009.jpg")
        (folder / "2/0009.jpg").write_bytes(picture(500))
        assert library.scan(folder).hashed == 1
        assert library.get(copy) is None, "a file with other bytes is gone as well"


def test_a_file_that_changes_while_it_is_read_is_indexed_as_it_is_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 3)
    victim, restless = folder / "1/0001.jpg", folder / "2/0002.jpg"
    changes = iter([picture(700)])

    def changing(path: str, *arguments: object, **options: object) -> object:
        found = hash_file(path, *arguments, **options)
        if Path(path) == victim:
            for data in changes:
                victim.write_bytes(data)
        if Path(path) == restless:
            restless.write_bytes(picture(random.randint(1000, 1 << 30)))
        return found

    monkeypatch.setattr(hashers_module, "hash_file", changing)
    with Library(tmp_path / "index.sqlite") as library:
        report = library.scan(folder)
        monkeypatch.undo()
        assert {entry.path: entry.reason for entry in report.unreadable}["2/0002.jpg"] == (
            "It changed each time while it was read."
        )
        assert library.get(hash_file(victim).sha256) is not None
        assert library.scan(folder).hashed == 1, "the restless one is tried again, unchanged or not"
        assert library.get(hash_file(restless).sha256) is not None


def test_a_file_that_vanishes_before_it_is_read_is_reported_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 3)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(folder)
        victim = folder / "1/0001.jpg"
        victim.write_bytes(picture(900))

        def vanish(path: str, *arguments: object, **options: object) -> object:
            victim.unlink(missing_ok=True)
            return hash_file(path, *arguments, **options)

        monkeypatch.setattr(hashers_module, "hash_file", vanish)
        report = library.scan(folder)
        assert "It cannot be read: No such file or directory." in {entry.reason for entry in report.unreadable}
        assert library.scan(folder).images == 2


@posix_only
def test_links_are_no_copies(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 3)
    (folder / "link.jpg").symlink_to(folder / "1/0001.jpg")
    (folder / "folder").symlink_to(folder / "2")
    (folder / "nowhere.jpg").symlink_to("nothing")
    with Library(tmp_path / "index.sqlite") as library:
        report = library.scan(folder)
        assert (report.images, report.links) == (3, 1)
        assert "nowhere.jpg" in {entry.path for entry in report.unreadable}
        assert library.duplicates() == []
        through = tmp_path / "through"
        through.symlink_to(folder)
        assert library.scan(through).hashed == 0, "the folder itself may be given by a link"


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """pytest's own folders are for its user only."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


HIDDEN = """
import os, sys
import PIL.Image
from mobius.dhash import Library, hash_file
hash_file(sys.argv[2] + "/0/0000.jpg", descriptor=True)  # all that is imported late, while it may be read
PIL.Image.init()
os.setgid(65534); os.setuid(65534)
with Library(sys.argv[1]) as library:
    report = library.scan(sys.argv[2])
    print(report.images, report.removed, [(entry.path, entry.reason) for entry in report.unreadable])
"""


@pytest.mark.slow
@linux_only
@pytest.mark.root("only root can become somebody else")
def test_a_file_without_permission_to_read_is_reported_and_not_removed(open_to_all: Path) -> None:
    folder = make_folder(open_to_all / "library", 10)

    def scan_as_nobody() -> str:
        command = [sys.executable, "-c", HIDDEN, open_to_all / "index.sqlite", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert scan_as_nobody().startswith("10 0 [('broken.png'")
    (folder / "1").chmod(0)
    (folder / "0/0000.jpg").chmod(0)
    os.utime(folder / "0/0000.jpg", (1, 1))
    said = scan_as_nobody()
    assert said.startswith("9 0 "), "what cannot be looked into is not known to be gone"
    assert "('1', 'It cannot be listed: Permission denied.')" in said
    assert "('0/0000.jpg', 'It cannot be read: Permission denied.')" in said
    (folder / "1").chmod(0o755)
    (folder / "0/0000.jpg").chmod(0o644)
    assert scan_as_nobody().startswith("10 0 [('broken.png'"), "and what opens again is read without having changed"


@linux_only
def test_names_that_are_not_utf8_stay_distinct(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    for number, name in enumerate((b"caf\xe9.jpg", b"caf\\xe9.jpg", "café.jpg".encode(), b"a\nb.jpg")):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture(number))
    with Library(tmp_path / "index.sqlite") as library:
        assert library.scan(folder).images == 4
        assert len({found.raw_path for found in library.pictures()}) == 4
        assert all(library.thumbnail(found.sha256) for found in library.pictures())
        assert library.scan(folder).unchanged == 4


def test_unreadable_files_are_tried_again_when_what_reads_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 2)
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with Library(tmp_path / "index.sqlite") as library:
        assert {entry.path for entry in library.scan(folder).unreadable} == {"broken.png", "phone.heic"}
        seen = []
        monkeypatch.setattr(hashers_module, "hash_file", lambda path, *_, **__: seen.append(path) or hash_file(path))
        library.scan(folder)
        assert seen == []
        monkeypatch.setattr(scan_module, "_readers", lambda: "better ones")
        library.scan(folder)
        assert {Path(path).name for path in seen} == {"broken.png", "phone.heic"}


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_was_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "library", 200)
    monkeypatch.setattr(scan_module, "_BATCH", 5)
    with Library(tmp_path / "index.sqlite") as library:
        pages = library._database._writer.execute("PRAGMA page_count").fetchone()[0]
        library._database._writer.execute(f"PRAGMA max_page_count={pages + 6}")
        with pytest.raises(MobiusError, match="There is no space left for the index") as caught:
            library.scan(folder)
        assert caught.value.outcome == "disk_full"
        kept = len(library)
        assert 0 < kept < 200
        library._database._writer.execute("PRAGMA max_page_count=1000000")
        assert library.scan(folder).images == 200


@pytest.mark.slow
def test_searching_goes_on_while_a_scan_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "library", 150)
    monkeypatch.setattr(scan_module, "_BATCH", 5)
    query, failed, counts = hash_file(folder / "0/0000.jpg", descriptor=True), [], set()
    with Library(tmp_path / "index.sqlite") as library:
        done = threading.Event()

        def ask() -> None:
            try:
                while not done.is_set():
                    counts.add(len(library._candidates.hashes()))
                    for found in library.search(query):
                        assert library.get(found.picture.sha256) is not None
                    library.duplicates()
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        library.scan(folder, threads=2)
        done.set()
        for thread in threads:
            thread.join()
        assert not failed
        assert len(counts) > 3, "they saw it grow"
        assert library.search(query)[0].distance == 0
        assert len(library.duplicates()) == 15
