# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Candidate pairs that outlive a process: they are those of a library that is compared as a whole, or are not used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mobius.dhash import Library
from mobius.dhash import _candidates as candidates_module
from mobius.dhash._search import HammingIndex
from tests.unit.dhash.library_tools import entry, fill, fingerprint

COUNT = 60


@pytest.fixture(autouse=True)
def _kept_when_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "MIN_PICTURES", 1)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a library whose pairs were kept."""
    path = tmp_path / "index.sqlite"
    chance = random.Random(1)
    with Library(path) as library:
        fill(library, [entry(number, chance.choice([0, 1, 7, 1 << 40]), seed=number % 4) for number in range(COUNT)])
        assert pairs_of(library)
    assert Path(f"{path}-pairs").exists()
    return path


def pairs_of(library: Library) -> set[tuple[int, int, int, int]]:
    pairs = library._candidates.pairs()
    return set(zip(*(array.tolist() for array in pairs.arrays), strict=True))


def compared_as_a_whole(index: Path) -> set[tuple[int, int, int, int]]:
    copy = index.with_name("copy.sqlite")
    shutil.copy(index, copy)
    with Library(copy) as library:
        return pairs_of(library)


@pytest.fixture
def no_comparison_of_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse() -> None:
        def pairs(self: HammingIndex, radius: int) -> None:
            raise AssertionError(f"All {len(self)} pictures are compared within {radius}.")

        monkeypatch.setattr(HammingIndex, "pairs", pairs)

    return refuse


@pytest.mark.slow
def test_another_process_compares_nothing_again(index: Path, no_comparison_of_all: Callable[[], None]) -> None:
    expected = compared_as_a_whole(index)
    no_comparison_of_all()
    with Library(index) as library:
        assert pairs_of(library) == expected
        assert len(library.duplicates_page(limit=5)) == len(library.duplicates()[:5])


@pytest.mark.slow
def test_what_changed_in_between_is_compared_again(index: Path, no_comparison_of_all: Callable[[], None]) -> None:
    kept = Path(f"{index}-pairs").read_bytes()
    with Library(index) as library:
        library.add(fingerprint("new", 1, seed=2))
        with library._database.writing() as connection:
            connection.execute("DELETE FROM files WHERE picture = 3")
            connection.execute("UPDATE pictures SET rows = 7 WHERE id = 5")
            connection.execute("UPDATE pictures SET look = NULL WHERE id = 9")
    Path(f"{index}-pairs").write_bytes(kept)
    expected = compared_as_a_whole(index)
    no_comparison_of_all()
    with Library(index) as library:
        assert pairs_of(library) == expected


@pytest.mark.slow
def test_the_pairs_of_another_index_are_not_believed(index: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with Library(other) as library:
        fill(library, [entry(f"other {number}", number % 3, seed=number % 2) for number in range(COUNT)])
    expected = compared_as_a_whole(other)
    shutil.copy(f"{index}-pairs", f"{other}-pairs")
    with Library(other) as library:
        assert pairs_of(library) == expected


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "pickle"])
def test_a_damaged_file_is_not_used_and_written_again(index: Path, damage: str) -> None:
    expected = compared_as_a_whole(index)
    file = Path(f"{index}-pairs")
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    pickle = b"\x80\x04cos\nsystem\nX\x05\x00\x00\x00false\x85R."
    file.write_bytes(
        {"cut": data[: len(data) // 2], "flipped": bytes(flipped), "empty": b"", "text": b"hello", "pickle": pickle}[
            damage
        ]
    )
    with Library(index) as library:
        assert pairs_of(library) == expected
    assert file.read_bytes() == data


@pytest.mark.slow
def test_pages_follow_one_another_by_their_keepers(index: Path) -> None:
    with Library(index) as library:
        with library._database.writing() as connection:
            connection.execute(
                "INSERT INTO decisions (first, second, decision, decided_by, decided_at)"
                " SELECT min(a.sha256, b.sha256), max(a.sha256, b.sha256), 'same', 'Ada', ''"
                " FROM pictures AS a JOIN pictures AS b ON b.id = a.id + 1 WHERE a.id % 4 = 1"
            )
        everything = sorted(group.keeper.sha256 for group in library.duplicates())
        paged: list[str] = []
        while page := library.duplicates_page(after=paged[-1] if paged else None, limit=4):
            paged += [group.keeper.sha256 for group in page]
    assert len(everything) > 10
    assert paged == everything
