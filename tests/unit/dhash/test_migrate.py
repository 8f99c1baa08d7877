# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash migrate`: what it does, what it refuses, and that a rollback undoes it."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mobius.dhash import ALGORITHMS, Dhash, Library
from mobius.dhash._schema import SCHEMA
from mobius.dhash.migration import _copies, _copying
from tests.unit.dhash.library_tools import linux_only, make_folder, picture
from tests.unit.dhash.migration_tools import answer, call, everything, failure, left_over, rows, scanned
from tests.unit.dhash.test_schema import first_schema, row, second_schema, third_schema

pytestmark = pytest.mark.slow

READABLE = 14


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_folder(tmp_path / "library", READABLE - 2)
    (made / "large.jpg").write_bytes(picture(1, 256))
    (made / "large copy.jpg").write_bytes(picture(1, 256) + b"\0")
    (made / "notes.txt").write_text("about the pictures")
    (made / "empty").mkdir()
    if hasattr(os, "symlink"):
        (made / "link.jpg").symlink_to("0/0000.jpg")
    return made


@pytest.fixture
def index(tmp_path: Path, folder: Path) -> Path:
    made = scanned(tmp_path / "dhash.sqlite", folder)
    with Library(made) as library:
        first, second = sorted({picture.sha256 for picture in library.pictures()})[:2]
        library.decide(f"{first[:16]}-{second[:16]}", "different", "ada")
    return made


def predicted(*arguments: object) -> Any:
    """What `--check` says; the run itself must do the same."""
    checked = answer(*arguments, "--check")
    done = answer(*arguments)
    assert (checked["done"], done["done"]) == (False, True)
    assert checked["actions"] == done["actions"]
    return done


# -- schema ------------------------------------------------------------------------------------------------------------


def fresh(version: int, path: Path) -> Path:
    """An index of a schema as its release made it."""
    if version == SCHEMA:
        Library(path).close()
        return path
    return {2: second_schema, 3: third_schema}[version](path)


@pytest.mark.parametrize("version", [2, 3])
def test_an_index_brought_down_is_what_a_release_of_that_schema_made_and_comes_up_with_every_row(
    index: Path, tmp_path: Path, version: int
) -> None:
    before = rows(index)
    verdicts = len(before["proofs"])
    assert verdicts >= 1
    done = predicted("schema", "--to", version, "--index", index)
    assert done["actions"] == {"from": SCHEMA, "to": version, "verdicts_dropped": 0 if version == 3 else verdicts}
    down, made = rows(index), rows(fresh(version, tmp_path / "fresh"))
    assert (down["schema"], down["version"]) == (made["schema"], made["version"]) == (made["schema"], [(version,)])
    assert down["compatible"] == made["compatible"]
    kept = ("pictures", "files", "decisions", "thumbnails", *(("proofs",) if version == 3 else ()))
    assert {name: down[name] for name in kept} == {name: before[name] for name in kept}
    assert not call("finish", "--index", index).exception
    assert predicted("schema", "--index", index)["actions"]["to"] == SCHEMA
    up = rows(index)
    assert (up["schema"], up["version"], up["compatible"]) == (before["schema"], [(SCHEMA,)], before["compatible"])
    assert {name: up[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.parametrize("version", [2, 3])
def test_a_rollback_restores_the_schema_and_the_verdicts(index: Path, version: int) -> None:
    before = rows(index)
    answer("schema", "--to", version, "--index", index)
    assert rows(index) != before
    answer("rollback", "--index", index)
    assert rows(index) == before
    assert left_over(index) == []


def test_the_first_schema_comes_up_and_is_restored_by_a_rollback(tmp_path: Path) -> None:
    index = first_schema(tmp_path / "index", [row("/photos", "a.jpg", "a")])
    before = rows(index)
    assert predicted("schema", "--index", index)["actions"] == {"from": 1, "to": SCHEMA, "verdicts_dropped": 0}
    answer("rollback", "--index", index)
    assert rows(index) == before


def test_a_schema_that_cannot_be_reached_is_refused(index: Path, tmp_path: Path) -> None:
    before = rows(index)
    for target in (-1, 0, 1, SCHEMA + 1):
        assert failure("schema", "--to", target, "--index", index) == (
            "invalid_input", f"An index is brought to schema 2 to {SCHEMA}, not {target}.",
        )  # fmt: skip
    assert answer("schema", "--index", index)["notes"] == [f"The index has schema {SCHEMA} already."]
    newer = tmp_path / "newer"
    shutil.copy(index, newer)
    with contextlib.closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version=99")
    assert failure("schema", "--to", 3, "--index", newer)[0] == "invalid_input"
    assert rows(index) == before
    assert not (tmp_path / "newer.migration").exists()


# -- move --------------------------------------------------------------------------------------------------------------


def test_a_moved_folder_is_the_same_byte_for_byte_and_nothing_is_hashed_again(
    index: Path, folder: Path, tmp_path: Path
) -> None:
    before, decided = everything(folder), rows(index)["decisions"]
    new = tmp_path / "disk" / "Pictures"
    new.parent.mkdir()
    done = predicted("move", folder, new, "--index", index)
    assert done["actions"]["files"] == len(
        [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    )
    assert everything(new) == before == everything(folder), "the old folder stays"
    with Library(index) as library:
        report = library.scan(new)
        assert (report.images, report.hashed, report.known, report.removed) == (READABLE, 0, 0, 0)
        assert all(str(picture.path).startswith(f"{new}{os.sep}") for picture in library.pictures())
    assert rows(index)["decisions"] == decided
    answer("finish", "--index", index)
    assert not folder.exists()
    assert everything(new) == before
    assert left_over(index) == []


def test_a_rollback_of_a_move_leaves_no_copy(index: Path, folder: Path, tmp_path: Path) -> None:
    before, files = rows(index), everything(folder)
    answer("move", folder, tmp_path / "new", "--index", index)
    answer("rollback", "--index", index)
    assert (rows(index), everything(folder)) == (before, files)
    assert not (tmp_path / "new").exists()
    assert left_over(index) == []


def test_a_copy_that_is_not_what_was_read_is_noticed_before_anything_is_switched_or_removed(
    index: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, new = rows(index), tmp_path / "new"
    real = os.replace

    def damage(source: Any, target: Any) -> None:
        real(source, target)
        if os.fsdecode(target).endswith("0003.jpg"):  # a disk that returns other bytes than were written
            status = os.stat(target)
            data = bytearray(Path(os.fsdecode(target)).read_bytes())
            data[-3] ^= 1
            Path(os.fsdecode(target)).write_bytes(data)
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    monkeypatch.setattr(_copying.os, "replace", damage)
    outcome, reason = failure("move", folder, new, "--index", index)
    assert outcome == "files_differ"
    assert "0003.jpg has SHA-256" in reason
    assert rows(index) == before
    monkeypatch.setattr(_copying.os, "replace", real)
    answer("move", folder, new, "--index", index)
    assert everything(new) == everything(folder)
    bad = new / "1/0001.jpg"
    status = bad.stat()
    bad.write_bytes(b"\0" * status.st_size)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert failure("finish", "--index", index)[0] == "files_differ"
    assert len(everything(folder)) == len(everything(new)), "nothing was removed"
    answer("rollback", "--index", index)
    assert rows(index) == before


def test_what_was_changed_since_the_copy_is_never_removed(index: Path, folder: Path, tmp_path: Path) -> None:
    answer("move", folder, tmp_path / "new", "--index", index)
    (folder / "0/0000.jpg").write_bytes(b"changed in the old folder")
    (folder / "late.jpg").write_bytes(b"new in the old folder")
    (tmp_path / "new/1/0001.jpg").write_bytes(b"changed in the new folder")
    notes = answer("finish", "--index", index)["notes"]
    assert sorted(path.split(" stays")[0] for path in notes) == sorted(
        str(folder / name) for name in ("0/0000.jpg", "late.jpg", "1/0001.jpg")
    )
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert left == ["0000.jpg", "0001.jpg", "late.jpg"]


def test_a_rollback_keeps_a_copy_whose_original_is_gone(index: Path, folder: Path, tmp_path: Path) -> None:
    answer("move", folder, tmp_path / "new", "--index", index)
    (folder / "0/0000.jpg").unlink()
    (note,) = answer("rollback", "--index", index)["notes"]
    assert note == f"{tmp_path / 'new/0/0000.jpg'} stays: the file in the other folder is gone or was changed."
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["0000.jpg"]


def test_a_file_that_changed_since_the_scan_is_read_again_after_the_move(
    index: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "0/0000.jpg").write_bytes(picture(99))
    answer("move", folder, tmp_path / "new", "--index", index)
    with Library(index) as library:
        assert library.scan(tmp_path / "new").hashed == 1


@linux_only
def test_names_that_no_text_has_are_moved(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    name = os.fsencode(folder) + b"/caf\xe9\n%_.jpg"
    with open(name, "wb") as stream:
        stream.write(picture(1))
    index = scanned(tmp_path / "dhash.sqlite", folder)
    answer("move", folder, tmp_path / "new%_", "--index", index)
    with Library(index) as library:
        assert library.scan(tmp_path / "new%_").hashed == 0
        assert [picture.raw_path for picture in library.pictures()] == [
            os.fsencode(tmp_path) + b"/new%_/caf\xe9\n%_.jpg"
        ]
    answer("finish", "--index", index)
    assert not folder.exists()


def test_folders_that_cannot_be_moved_are_refused(index: Path, folder: Path, tmp_path: Path) -> None:
    before, files = rows(index), everything(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for source, destination, reason in (
        (tmp_path / "none", tmp_path / "new", "is not a folder"),
        (folder / "notes.txt", tmp_path / "new", "is not a folder"),
        (folder, folder, "lie within each other"),
        (folder, folder / "below", "lie within each other"),
        (folder / "0", folder, "lie within each other"),
        (folder, tmp_path / "none/new", "There is no folder"),
        (folder, tmp_path / "full", "is not an empty folder"),
        (folder, index, "is not an empty folder"),
        (tmp_path, tmp_path.parent / "elsewhere", "lies in the folder that is to be moved"),
    ):
        for check in ((), ("--check",)):
            outcome, said = failure("move", source, destination, "--index", index, *check)
            assert (outcome, reason in said) == ("invalid_input", True), said
    shutil.rmtree(tmp_path / "full")
    assert (rows(index), everything(tmp_path)) == (before, files)


@linux_only
def test_a_pipe_in_the_folder_is_refused_with_its_name(index: Path, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    assert failure("move", folder, tmp_path / "new", "--index", index) == (
        "invalid_input", f"{folder / 'pipe.jpg'} is neither a file nor a folder nor a link.",
    )  # fmt: skip
    assert not (tmp_path / "new").exists()


# -- rehash ------------------------------------------------------------------------------------------------------------


def test_pictures_are_hashed_beside_then_switched_and_the_old_hashes_are_restored(index: Path, folder: Path) -> None:
    before = rows(index)
    beside = answer("rehash", "--mode", "exact", "--beside", "--index", index)
    assert not beside["done"]
    assert rows(index) == before, "the live index serves the old hashes"
    work = index.with_name(f"{index.name}.migration") / "work.sqlite"
    with Library(work) as library:
        assert {picture.dhash.algorithm for picture in library.pictures()} == {ALGORITHMS["exact"]}
    done = answer("rehash", "--mode", "exact", "--index", index)
    assert (done["done"], done["actions"]["algorithm"]) == (True, ALGORITHMS["exact"])
    with Library(index) as library:
        assert {picture.dhash.algorithm for picture in library.pictures()} == {ALGORITHMS["exact"]}
        assert library.scan(folder, mode="exact").hashed == 0
        assert library.verify_pairs() == 0
    assert rows(index)["decisions"] == before["decisions"]
    answer("rollback", "--index", index)
    assert rows(index) == before


def test_check_says_how_many_are_hashed(index: Path) -> None:
    with Library(index) as library:
        pictures = len({picture.sha256 for picture in library.pictures()})
    assert predicted("rehash", "--mode", "exact", "--index", index)["actions"] == {
        "to_hash": pictures, "algorithm": ALGORITHMS["exact"],
    }  # fmt: skip
    answer("finish", "--index", index)
    assert answer("rehash", "--mode", "exact", "--index", index)["actions"] == {}


def found(library: Library, text: str) -> set[str]:
    """The pictures with exactly this hash."""
    return {match.picture.sha256 for match in library.search(Dhash.from_hex(text), max_distance=0, limit=100)}


def test_a_process_that_has_the_index_open_follows_the_switch_and_the_rollback(index: Path) -> None:
    with Library(index) as library:

        def known() -> dict[str, str]:
            return {picture.sha256: picture.dhash.hex for picture in library.pictures()}

        fast = known()
        assert all(digest in found(library, text) for digest, text in fast.items())
        answer("rehash", "--mode", "exact", "--index", index)
        exact = known()
        for digest, text in exact.items():
            assert digest in found(library, text)
        answer("rollback", "--index", index)
        assert known() == fast
        for digest, text in fast.items():
            assert digest in found(library, text)


# -- import ------------------------------------------------------------------------------------------------------------


def czkawka(path: Path, files: list[Path], **changes: object) -> Path:
    """A cache as czkawka writes it as JSON."""
    entries = [
        {
            "path": str(file), "size": file.stat().st_size if file.exists() else 1, "width": 96, "height": 96,
            "modified_date": int(file.stat().st_mtime) if file.exists() else 1,
            "hash": [18, 52, 86, 120, 154, 188, 222, 240], "similarity": 0, **changes,
        }
        for file in files
    ]  # fmt: skip
    path.write_text(json.dumps(entries))
    return path


def pictures_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jpg") if not path.is_symlink())


def test_what_czkawka_knew_is_in_the_index_as_a_scan_would_have_it(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "new.sqlite"
    cache = czkawka(tmp_path / "cache_similar_images_16_Gradient_Nearest_100.json", pictures_of(folder))
    assert predicted("import", cache, "--index", index)["actions"] == {
        "entries": READABLE, "files": READABLE, "known": 0, "changed_since": 0,
    }  # fmt: skip
    with Library(index) as library:
        report = library.scan(folder)
        assert (report.images, report.hashed, report.unchanged) == (READABLE, 0, READABLE)
        assert library.verify_pairs() == 0
    assert failure("rollback", "--index", index)[0] == "invalid_input", "the scan would be lost"
    answer("rollback", "--index", index, "--accept-loss")
    assert not index.exists()
    assert len(list(tmp_path.glob("new.sqlite.before-rollback-*"))) == 1


def test_files_that_are_gone_or_broken_are_named_and_the_others_are_taken_in(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "new.sqlite"
    files = [*pictures_of(folder), folder / "gone.jpg", folder / "broken.png"]
    cache = czkawka(tmp_path / "cache.json", files)
    checked = call("import", cache, "--index", index, "--check")
    assert f"problem  {folder / 'gone.jpg'}: It cannot be read: No such file or directory." in checked.stdout
    assert not index.exists()
    assert failure("import", cache, "--index", index) == ("files_failed", "2 files could not be dealt with.")
    with Library(index) as library:
        assert len(library) == READABLE
        assert library.scan(folder).hashed == 0


def test_an_import_adds_to_an_index_and_a_rollback_leaves_that_as_it_was(index: Path, tmp_path: Path) -> None:
    before = rows(index)
    more = tmp_path / "more"
    more.mkdir()
    (more / "one.jpg").write_bytes(picture(77))
    (more / "copy.jpg").write_bytes(picture(1))
    assert (
        predicted("import", czkawka(tmp_path / "c.json", [*more.iterdir()]), "--index", index)["actions"]["known"] == 0
    )
    with Library(index) as library:
        assert library.scan(more).hashed == 0
        library.scan(more)
    assert {file[0] for file in rows(index)["files"]} - {file[0] for file in before["files"]} == {
        os.fsencode(path) for path in more.iterdir()
    }
    answer("rollback", "--index", index)
    assert rows(index) == before


def test_a_csv_file_is_compared_by_sha256(folder: Path, tmp_path: Path) -> None:
    index, table, files = tmp_path / "new.sqlite", tmp_path / "pictures.csv", pictures_of(folder)
    with table.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "size", "sha256", "rating"])
        for file in files:
            writer.writerow([file, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest().upper(), 5])
    wrong = table.read_text(encoding="utf-8-sig").splitlines()
    wrong[3] = f"{files[2]},,{'0' * 64},"
    (tmp_path / "wrong.csv").write_text("\n".join(wrong))
    for check in (("--check",), ()):
        result = call("import", tmp_path / "wrong.csv", "--index", index, *check)
        assert f"problem  {files[2]}: It has another SHA-256 than the list says." in result.stdout
    answer("rollback", "--index", index)
    assert answer("import", table, "--index", index)["actions"]["files"] == READABLE
    with Library(index) as library:
        assert len(library) == READABLE


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("c.json", b"\x01\x02czkawka binary", "is not JSON"),
        ("c.json", b"", "is not JSON"),
        ("c.json", b"[" * 100_000, "is not JSON"),
        ("c.json", b"{}", "a list of files is expected"),
        ("c.json", b"[1]", "Entry 1: it is not an object"),
        ("c.json", b'[{"size": 1}]', "Entry 1: its path must be an absolute one"),
        ("c.json", b'[{"path": "relative.jpg"}]', "Entry 1: its path must be an absolute one"),
        ("c.json", b'[{"path": "/a\\u0000b"}]', "Entry 1: its path must be an absolute one"),
        ("c.json", b'[{"path": "/\\ud800.jpg"}]', "Entry 1: its path cannot be one of this system"),
        ("c.json", b'[{"path": "/a", "size": "big"}]', "Entry 1: its size must be a whole number"),
        ("c.json", b'[{"path": "/a", "size": -1}]', "Entry 1: its size must be a whole number"),
        ("c.json", b'[{"path": "/a", "modified_date": 1.5}]', "Entry 1: its modified_date must be a whole number"),
        ("c.json", b'[{"path": "/a"}, {"path": "/a", "size": 3}]', "Entry 2: /a is listed twice"),
        ("c.csv", b"", "has no column path"),
        ("c.csv", b"file,size\n/a,1\n", "has no column path"),
        ("c.csv", b"path\nrelative.jpg\n", "Entry 1: its path must be an absolute one"),
        ("c.csv", b"path,sha256\n/a,xyz\n", "Entry 1: its sha256 must be 64 hexadecimal digits"),
        ("c.csv", b"path,size\n/a,many\n", "Entry 1: its size must be a whole number"),
        ("c.csv", b'path\n"/a\n', "cannot be read as CSV"),
        ("c.csv", b"path\n/\xff\n", "cannot be read as CSV"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_sentence(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    index = tmp_path / "dhash.sqlite"
    Library(index).close()
    before = rows(index)
    (tmp_path / name).write_bytes(data)
    for check in ((), ("--check",)):
        outcome, said = failure("import", tmp_path / name, "--index", index, *check)
        assert (outcome, reason in said, "\n" in said) == ("invalid_input", True, False), said
    assert rows(index) == before
    assert not index.with_name("dhash.sqlite.migration").exists()


# -- what all have in common -------------------------------------------------------------------------------------------


def test_only_one_migration_is_open_and_the_same_again_says_that_it_is_done(index: Path, tmp_path: Path) -> None:
    assert call("status", "--index", index).stdout == "No migration is open.\n"
    answer("rehash", "--mode", "exact", "--index", index)
    assert answer("rehash", "--mode", "exact", "--index", index)["done"] is False
    outcome, reason = failure("schema", "--to", 3, "--index", index)
    assert (outcome, reason) == ("invalid_input", "Another migration of this index is open: rehash, switched.")
    assert answer("status", "--index", index)["phase"] == "switched"
    answer("finish", "--index", index)
    for command in ("finish", "rollback"):
        assert failure(command, "--index", index) == ("invalid_input", f"No migration of {index} is open.")


def scan_a_late_picture(index: Path, folder: Path) -> dict[str, list[Any]]:
    """Write to the index as a scan does; its rows afterwards."""
    folder.mkdir()
    (folder / "late.jpg").write_bytes(picture(88))
    with Library(index) as library:
        library.scan(folder)
    return rows(index)


def test_what_was_written_since_is_lost_only_with_consent_and_is_kept_beside(index: Path, tmp_path: Path) -> None:
    before = rows(index)
    answer("rehash", "--mode", "exact", "--index", index)
    written = scan_a_late_picture(index, tmp_path / "more")
    outcome, reason = failure("rollback", "--index", index)
    assert (outcome, "was written to since the migration" in reason) == ("invalid_input", True)
    assert rows(index) == written
    (note,) = answer("rollback", "--index", index, "--accept-loss")["notes"]
    assert rows(index) == before
    (kept,) = tmp_path.glob("dhash.sqlite.before-rollback-*")
    assert str(kept) in note
    assert rows(kept) == written


def test_what_is_written_between_backup_and_switch_is_in_the_backup(index: Path, tmp_path: Path) -> None:
    answer("rehash", "--mode", "exact", "--beside", "--index", index)
    written = scan_a_late_picture(index, tmp_path / "more")
    answer("rehash", "--mode", "exact", "--index", index)
    answer("rollback", "--index", index)
    assert rows(index) == written


def test_a_damaged_backup_is_not_restored(index: Path) -> None:
    answer("schema", "--to", 3, "--index", index)
    after = rows(index)
    backup = index.with_name("dhash.sqlite.migration") / "backup.sqlite"
    backup.write_bytes(backup.read_bytes()[:-1] + b"!")
    outcome, reason = failure("rollback", "--index", index)
    assert (outcome, str(backup) in reason) == ("backup_damaged", True)
    assert rows(index) == after
    assert answer("status", "--index", index)["phase"] == "switched"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "move"}', '{"kind": 1, "arguments": {}, "begun_at": ""}',
                                  '{"kind": "none", "arguments": {}, "begun_at": ""}',
                                  '{"kind": "move", "arguments": {"x": "y"}, "begun_at": ""}'])  # fmt: skip
def test_a_record_that_cannot_be_parsed_is_named(index: Path, text: str) -> None:
    before = rows(index)
    record = index.with_name("dhash.sqlite.migration") / "record.json"
    record.parent.mkdir()
    record.write_text(text)
    outcome, reason = failure("rollback", "--index", index)
    assert (outcome, str(record) in reason) == ("state_damaged", True)
    assert rows(index) == before


def test_an_index_that_is_none_is_refused(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as database, database:
        database.execute("CREATE TABLE customers (name)")
    (tmp_path / "text").write_text("hello " * 1000)
    damaged = scanned(tmp_path / "damaged", folder)
    data = bytearray(damaged.read_bytes())
    data[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    damaged.write_bytes(data)
    arguments = (("schema",), ("move", folder, tmp_path / "new"), ("rehash", "--mode", "exact"))
    for command in arguments:
        assert failure(*command, "--index", tmp_path / "missing")[1] == f"There is no index {tmp_path / 'missing'}."
        assert failure(*command, "--index", other)[1] == f"{other} is a database of something else."
        assert failure(*command, "--index", tmp_path / "text")[0] == "invalid_input"
        outcome = failure(*command, *(("--to", 3) if command == ("schema",) else ()), "--index", damaged)[0]
        assert outcome in ("state_damaged", "invalid_input")
    assert not (tmp_path / "new").exists()
    assert failure("rollback", "--index", tmp_path / "none/index")[0] == "invalid_input"


def test_an_index_of_an_older_schema_comes_up_first(tmp_path: Path, folder: Path) -> None:
    index = third_schema(tmp_path / "index")
    outcome, reason = failure("move", folder, tmp_path / "new", "--index", index)
    assert (outcome, "has schema 3" in reason) == ("invalid_input", True)


def test_it_stops_below_a_tenth_of_free_disk_and_goes_on_when_there_is_space(
    index: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real disk in `test_a_real_disk_that_runs_full_stops_a_move`; here at any file."""
    before, real = rows(index), shutil.disk_usage
    copied = 0

    def usage(path: Any) -> Any:
        nonlocal copied
        copied += 1
        return real(path) if copied < 12 else shutil._ntuple_diskusage(1000, 901, 99)  # type: ignore[attr-defined]

    monkeypatch.setattr(_copies.shutil, "disk_usage", usage)
    outcome, reason = failure("move", folder, tmp_path / "new", "--index", index)
    assert (outcome, "leaves at least 10 % free" in reason) == ("disk_full", True)
    assert rows(index) == before
    monkeypatch.setattr(_copies.shutil, "disk_usage", real)
    answer("move", folder, tmp_path / "new", "--index", index)
    assert everything(tmp_path / "new") == everything(folder)


@linux_only
@pytest.mark.root("only root can mount a disk")
def test_a_real_disk_that_runs_full_stops_a_move(index: Path, folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (folder / "large.bin").write_bytes(os.urandom(1 << 20))
    before, files = rows(index), everything(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", disk], check=True)
    try:
        for check in (("--check",), ()):
            outcome, reason = failure("move", folder, disk / "Pictures", "--index", index, *check)
            assert (outcome, f"The disk of {disk} has" in reason) == ("disk_full", True)
        assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        answer("move", folder, disk / "Pictures", "--index", index)
        assert everything(disk / "Pictures") == files
        answer("rollback", "--index", index)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (rows(index), everything(folder)) == (before, files)
