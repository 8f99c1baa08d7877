# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verdicts on pixels in an index: found once, kept, never doubled, and doubtful is what nobody could see."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from mobius.dhash import (
    Library,
    VerificationImage,
    _verifier,
    hash_bytes,
    hash_file,
    load_for_verification,
    thumbnail_of,
)
from mobius.dhash._decoder import InProcessDecoder
from tests.unit.dhash.library_tools import picture

Row = tuple[str, str, int, bool]


def verdicts(library: Library) -> list[Row]:
    """SHA-256 of both, rule and verdict."""
    with library._database.reading() as connection:
        rows = connection.execute(
            "SELECT one.sha256, other.sha256, rule, proven FROM proofs"
            " JOIN pictures AS one ON one.id=first JOIN pictures AS other ON other.id=second"
        ).fetchall()
    return sorted((min(one, other), max(one, other), rule, bool(proven)) for one, other, rule, proven in rows)


def copies(root: Path, count: int) -> Path:
    """A folder of pictures, each with a copy and with one that differs in one place."""
    root.mkdir()
    for seed in range(count):
        (root / f"{seed}.jpg").write_bytes(picture(seed, 256))
        with Image.open(root / f"{seed}.jpg") as image:
            image.save(root / f"{seed}-copy.jpg", quality=85)
            ImageDraw.Draw(image).rectangle((100, 100, 118, 118), fill="red")
            image.save(root / f"{seed}-other.jpg", quality=90)
        for age, name in enumerate((f"{seed}.jpg", f"{seed}-copy.jpg", f"{seed}-other.jpg")):
            os.utime(root / name, ns=(0, 10**18 + age))  # the first one is kept
    return root


def names(library: Library) -> set[frozenset[str]]:
    """The groups of duplicates, by the names of their files."""
    return {
        frozenset(Path(str(one.path)).name for one in (group.keeper, *(other.picture for other in group.others)))
        for group in library.duplicates()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copies(tmp_path / "library", 6)


@pytest.mark.slow
def test_a_candidate_needs_review_until_it_is_verified(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        assert (library.duplicates(), library.figures()["review"]) == ([], 12)
        assert library.verify_pairs(progress=lambda done, total: seen.append((done, total))) == 0
        assert names(library) == {frozenset({f"{seed}.jpg", f"{seed}-copy.jpg"}) for seed in range(6)}
        assert library.figures()["review"] == 6
        assert len(verdicts(library)) == 12, "of each keeper with the other two"
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*pair: object) -> bool:
        raise AssertionError("nothing is to be compared")

    monkeypatch.setattr(_verifier, "verify", compare)


@pytest.mark.slow
def test_a_pair_is_verified_once_and_a_new_picture_only_with_its_candidates(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        library.verify_pairs()
        with monkeypatch.context() as patch:
            forbid(patch)
            assert library.verify_pairs() == 0
        (folder / "new.jpg").write_bytes(picture(2, 256) + b"\0")
        library.scan(folder)
        before = verdicts(library)
        assert library.verify_pairs() == 0
        assert len(set(verdicts(library)) - set(before)) == 1, "with the keeper"
        assert frozenset({"2.jpg", "2-copy.jpg", "new.jpg"}) in names(library)


PROVE = """
import sys
from mobius.dhash import Library, _verifier
_verifier._BATCH_SECONDS = 0
with Library(sys.argv[1]) as library:
    left = library.verify_pairs(threads=2, progress=lambda done, total: print(done, flush=True))
print("finished", left, flush=True)
"""


def start(index: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROVE, str(index)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_like_one_that_was_not(tmp_path: Path) -> None:
    folder = copies(tmp_path / "library", 21)
    with Library(tmp_path / "whole") as library:
        library.scan(folder)
        library.verify_pairs()
        wanted, groups = verdicts(library), names(library)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
    kills, kept = 0, 0
    while kept < 25:
        with start(tmp_path / "index") as process:
            assert process.stdout is not None
            for _ in range(9):
                assert not process.stdout.readline().startswith("finished")
            process.kill()
        kills += 1
        with Library(tmp_path / "index") as library:
            found = verdicts(library)
        assert len(found) > kept, "what was seen stays seen"
        assert set(found) < set(wanted)
        kept = len(found)
    assert kills >= 2
    with Library(tmp_path / "index") as library:
        todo: list[int] = []
        assert library.verify_pairs(progress=lambda done, total: todo.append(total)) == 0
        assert todo[-1] == len(wanted) - kept, "and is not looked at again"
        assert (verdicts(library), names(library)) == (wanted, groups)


@pytest.mark.slow
def test_two_processes_at_once_keep_one_verdict_of_each_pair(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        for process in [start(tmp_path / "index") for _ in range(2)]:
            with process:
                assert process.stdout is not None
                assert process.stdout.read().endswith("finished 0\n")
            assert process.returncode == 0
        assert len(verdicts(library)) == 12 == len({row[:3] for row in verdicts(library)})
        assert len(names(library)) == 6


@pytest.mark.slow
def test_a_file_that_is_gone_changed_damaged_or_too_large_needs_review(folder: Path, tmp_path: Path) -> None:
    data = (folder / "3.jpg").read_bytes()
    (folder / "3.jpg").write_bytes(data[:-2])  # hashed in spite of its missing end
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        (folder / "0.jpg").unlink()
        (folder / "1.jpg").write_bytes(picture(77, 256))
        assert library.verify_pairs(max_pixels=256 * 256 - 1) == 18
        assert verdicts(library) == []
    with Library(tmp_path / "index") as library:
        assert library.verify_pairs() == 6
        assert names(library) == {frozenset({f"{seed}.jpg", f"{seed}-copy.jpg"}) for seed in (2, 4, 5)}
        assert library.verify_pairs() == 6
        (folder / "0.jpg").write_bytes(picture(0, 256))
        (folder / "3.jpg").write_bytes(data)
        library.scan(folder)
        assert library.verify_pairs() == 0
        assert {frozenset({f"{seed}.jpg", f"{seed}-copy.jpg"}) for seed in (0, 2, 3, 4, 5)} <= names(library)


def test_a_posted_picture_needs_review(tmp_path: Path) -> None:
    with Library(tmp_path / "index") as library:
        for size in (300, 280):
            data = picture(1, size)
            assert library.add(hash_bytes(data, descriptor=True), thumbnail=thumbnail_of(data))
        assert library.verify_pairs() == 1, "a thumbnail proves nothing"
        assert (library.duplicates(), verdicts(library)) == ([], [])
        assert len(library.review()) == 1


def test_what_is_not_the_indexed_bytes_gives_no_verdict(tmp_path: Path) -> None:
    folder = copies(tmp_path / "library", 1)
    (folder / "0-other.jpg").unlink()
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        path, other = folder / "0-copy.jpg", picture(7, 128)
        data, status = path.read_bytes(), path.stat()
        assert len(other) < len(data)
        path.write_bytes(other + bytes(len(data) - len(other)))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert library.verify_pairs() == 1
        assert verdicts(library) == []
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert library.verify_pairs() == 1, "it was tried just now"
        library.scan(folder)
        assert library.verify_pairs() == 0
        assert len(verdicts(library)) == 1


def test_a_picture_that_was_hashed_in_spite_of_a_fault_gives_no_verdict(tmp_path: Path) -> None:
    folder = copies(tmp_path / "library", 1)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        with library._database.writing() as connection:
            connection.execute(
                "UPDATE pictures SET warnings='Its end is missing.'"
                " WHERE id=(SELECT picture FROM files WHERE CAST(path AS TEXT) LIKE '%-copy.jpg')"
            )
        assert library.verify_pairs() == 2
        assert len(verdicts(library)) == 1, "of the two others"


@pytest.mark.slow
def test_a_pair_that_fails_every_time_stops_none_of_those_behind_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = _verifier.verify, []

    def verify(*pair: Any) -> bool | None:
        asked.append(pair)
        if len(asked) == 1:
            raise RuntimeError("the first of all")
        return real(*pair)

    monkeypatch.setattr(_verifier, "verify", verify)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        assert library.verify_pairs(threads=1) == 1
        assert len(verdicts(library)) == 12, "the copy without a keeper is compared with the third one"
        assert library.verify_pairs(threads=1) == 1
        assert len(asked) == 13, "and is left alone for a while"
        library.scan(folder)
        assert library.verify_pairs(threads=1) == 0


@pytest.mark.slow
def test_a_time_limit_leaves_the_rest_to_the_next_time_pair_by_pair(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _verifier.verify

    def slow(*pair: Any) -> bool | None:
        time.sleep(1)
        return real(*pair)

    with Library(tmp_path / "index") as library:
        library.scan(folder)
        assert library.verify_pairs(seconds=0) == 18
        with monkeypatch.context() as patch:
            patch.setattr(_verifier, "verify", slow)
            assert library.verify_pairs(threads=1, seconds=0.9) == 17
        assert library.verify_pairs(seconds=3600) == 0


@pytest.mark.slow
def test_copies_are_verified_with_their_keeper_and_decoded_once_for_each_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, count = tmp_path / "library", 10
    folder.mkdir()
    (folder / "0.jpg").write_bytes(picture(3, 600))
    with Image.open(folder / "0.jpg") as image:
        for number in range(1, count):
            image.save(folder / f"{number}.jpg", quality=96 - number)
    shutil.copyfile(folder / "0.jpg", folder / "0-again.jpg")
    compared: list[object] = []
    decoded: list[tuple[str, int]] = []
    real, load = _verifier.verify, load_for_verification

    def verify(*pair: Any) -> bool | None:
        compared.append(pair)
        return real(*pair)

    class Decoder(InProcessDecoder):
        def load_for_verification(self, data: bytes, side: int, *, max_pixels: int) -> VerificationImage:
            decoded.append((hashlib.sha256(data).hexdigest(), side))
            return load(data, side, max_pixels=max_pixels)

    monkeypatch.setattr(_verifier, "verify", verify)
    with Library(tmp_path / "index", decoder=Decoder()) as library:
        library.scan(folder)
        assert library.verify_pairs(threads=2) == 0
        assert [1 + len(group.others) for group in library.duplicates()] == [count + 1]
        assert library.figures()["review"] == 0
    assert len(compared) == count - 1, "files of the same bytes are one picture"
    assert len(decoded) == len(set(decoded)) == 2 * count


@pytest.mark.slow
def test_every_decoding_enters_the_memory_budget(folder: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    @contextlib.contextmanager
    def budget(pixels: int) -> object:
        asked.append(pixels)
        yield

    with Library(tmp_path / "index") as library:
        library.scan(folder)
        assert library.verify_pairs(threads=1, memory_budget=budget) == 0
    assert asked == [256 * 256] * 18, "each picture once"


def test_a_large_file_of_few_pixels_is_budgeted_by_its_bytes_and_one_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copies(tmp_path / "library", 1)
    (folder / "0-other.jpg").unlink()
    with (folder / "0.jpg").open("ab") as file:
        file.write(bytes(900_000))
    asked: list[int] = []

    @contextlib.contextmanager
    def budget(pixels: int) -> object:
        asked.append(pixels)
        yield

    with Library(tmp_path / "index") as library:
        library.scan(folder)
        monkeypatch.setattr(_verifier, "VERIFIED_FILE_MAX_BYTES", 900_000)
        assert library.verify_pairs(threads=1, memory_budget=budget) == 1
        assert max(asked, default=0) <= 256 * 256
        library.scan(folder)
        monkeypatch.setattr(_verifier, "VERIFIED_FILE_MAX_BYTES", 1_000_000)
        assert library.verify_pairs(threads=1, memory_budget=budget) == 0
        assert max(asked) == (folder / "0.jpg").stat().st_size // 3


@pytest.mark.slow
def test_another_rule_verifies_again_and_leaves_the_verdicts_of_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        library.verify_pairs()
        before = verdicts(library)
        monkeypatch.setattr(_verifier, "VERIFICATION_RULE", _verifier.VERIFICATION_RULE + 1)
        with Library(tmp_path / "index") as newer:
            assert newer.duplicates() == []
            assert newer.verify_pairs() == 0
            assert len(names(newer)) == 6
        assert set(before) < set(verdicts(library))
        assert len(verdicts(library)) == 24


@pytest.mark.slow
def test_verdicts_are_deleted_with_their_pictures(folder: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "index", release="first") as library:
        library.scan(folder)
        library.release = "second"
        library.verify_pairs()
        (folder / "0.jpg").unlink()
        library.scan(folder)
        (folder / "1-copy.jpg").unlink()
        library.scan(folder)
        with library._database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM proofs").fetchone() == (9,), "first or second of a pair"
        assert len(verdicts(library)) == 9
        assert library.verify_pairs() == 0
        assert len(verdicts(library)) == 10, "the others of the first, whose keeper is gone"
        assert len(names(library)) == 4


@pytest.mark.slow
def test_drawings_are_confident_when_they_are_the_same_and_need_review_when_a_detail_differs(tmp_path: Path) -> None:
    from tests.unit.dhash.test_verification import page, sprite

    folder = tmp_path / "library"
    folder.mkdir()
    for number, drawing in enumerate((page("Yes"), page("No"), sprite(1), sprite(2))):
        drawing.save(folder / f"{number}.png")
    page("Yes").save(folder / "0.bmp")
    sprite(1).save(folder / "2.webp", lossless=True)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        assert library.verify_pairs() == 0
        assert names(library) == {frozenset({"0.png", "0.bmp"}), frozenset({"2.png", "2.webp"})}
        assert len(library.review()) == 2


@pytest.mark.slow
def test_a_search_is_confident_of_what_it_could_verify(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "query.jpg").write_bytes(picture(4, 400))
    query, data = hash_file(tmp_path / "query.jpg", descriptor=True), (tmp_path / "query.jpg").read_bytes()
    asked: list[int] = []

    def seen(side: int) -> VerificationImage:
        asked.append(side)
        return load_for_verification(data, side)

    def found(**options: object) -> dict[str, str]:
        return {Path(str(one.picture.path)).name: one.confidence for one in library.search(query, **options)}

    with Library(tmp_path / "index") as library:
        library.scan(folder)
        certain = {"4.jpg": "confident", "4-copy.jpg": "confident", "4-other.jpg": "doubtful"}
        assert found() == dict.fromkeys(certain, "doubtful")
        assert found(load_query=seen) == certain
        assert asked == [256], "once, as the pictures are no larger"
        assert found(load_query=lambda side: None) == dict.fromkeys(certain, "doubtful"), "the query cannot be seen"
        assert found(load_query=seen, max_pixels=100) == dict.fromkeys(certain, "doubtful")
        (tmp_path / "query.jpg").rename(folder / "query.jpg")
        library.scan(folder)
        library.verify_pairs()
        assert found() == {"query.jpg": "confident", **certain}, "of what the index knows, as its duplicates say"
