# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Search, groups, the review queue and what is posted, over made-up pictures and several processes."""

from __future__ import annotations

import io
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mobius.dhash import (
    Dhash,
    Library,
    SearchMatch,
    _candidates,
    _verification,
    hash_bytes,
    hash_file,
    load_for_verification,
    thumbnail_of,
)
from mobius.dhash._descriptor import transform_descriptor
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import (
    descriptor,
    digest,
    entry,
    exported,
    fill,
    fingerprint,
    mark_verified,
    picture,
    posted,
)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    with Library(tmp_path / "index.sqlite", release="1.0.0-aaaaaaaaaaaa") as opened:
        yield opened


def grouped(library: Library) -> list[list[tuple[str | None, int]]]:
    """Each group as its paths and distances, the kept one first."""
    return [
        [(group.keeper.path, 0), *((other.picture.path, other.distance) for other in group.others)]
        for group in library.duplicates()
    ]


# -- groups ------------------------------------------------------------------------------------------------------------

ENTRIES = st.lists(
    st.builds(
        lambda rows, seed, width, modified: {"rows": rows, "seed": seed, "width": width, "modified": modified},
        st.sampled_from([0, 1, 3, 7, 255, 65_535, (1 << 40) - 1]),
        st.integers(0, 2),
        st.sampled_from([100, 200]),
        st.integers(0, 2),
    ),
    max_size=12,
).map(lambda found: [entry(number, **values) for number, values in enumerate(found)])


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES, st.randoms(use_true_random=False))
def test_groups_and_questions_do_not_depend_on_the_order_of_insertion(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("order")
    mixed = list(entries)
    chance.shuffle(mixed)
    with Library(folder / "one") as one, Library(folder / "other") as other:
        fill(one, entries)
        for found in mixed:
            fill(other, [found])
            if chance.random() < 0.3:
                other.duplicates()  # so that the rest is followed step by step
        mark_verified(one), mark_verified(other)
        assert grouped(one) == grouped(other)
        assert [pair.id for pair in one.review()] == [pair.id for pair in other.review()]
        assert one.figures() == other.figures()


def test_the_keeper_is_the_largest_then_the_oldest_then_by_path(library: Library) -> None:
    fill(
        library,
        [
            entry("small", 0, width=90, modified=1),
            entry("b", 1, modified=5),
            entry("a", 3, modified=5),
            entry("old", 7, modified=4),
            entry("copy of old", 7, modified=3, path="/library/zz.jpg") | {"sha256": digest("old")},
        ],
    )
    (group,) = grouped(mark_verified(library))
    assert group == [
        ("/library/zz.jpg", 0),
        ("/library/old.jpg", 0),
        ("/library/a.jpg", 1),
        ("/library/b.jpg", 2),
        ("/library/small.jpg", 3),
    ]


def test_a_posted_or_damaged_picture_is_no_keeper_beside_a_good_file(library: Library) -> None:
    library.add(fingerprint("posted", 0, width=1000))
    fill(library, [entry("damaged", 1, width=500) | {"warnings": ["No end."]}, entry("file", 3)])
    (group,) = grouped(mark_verified(library))
    assert group == [("/library/file.jpg", 0), ("/library/damaged.jpg", 1), (None, 2)]


def test_pictures_of_different_descriptors_are_no_duplicates_whatever_their_hash(library: Library) -> None:
    fill(library, [entry("one", 0, seed=1), entry("other", 0, seed=2), entry("far", (1 << 50) - 1, seed=1)])
    assert library.duplicates() == []
    assert library.review() == []


def test_a_picture_without_a_descriptor_needs_review_at_best(library: Library) -> None:
    fill(library, [entry("one", 0), entry("other", 1) | {"look": None}, entry("third", (1 << 20) - 1) | {"look": None}])
    assert library.duplicates() == []
    assert [(pair.distance, pair.score) for pair in library.review()] == [(1, None)]


# -- review ------------------------------------------------------------------------------------------------------------


def near(seed: int, missing: int = 1) -> str:
    """A descriptor similar to `descriptor(seed)`, but not enough for a candidate."""
    data = bytearray(descriptor(seed))
    data[missing : missing + 30] = bytes(30)
    return data.hex()


def doubtful(library: Library) -> None:
    """Three pictures, each a doubtful match of the first."""
    fill(
        library,
        [entry("one", 0, width=200), entry("two", 1) | {"look": near(0)}, entry("three", 7) | {"look": near(0, 60)}],
    )


def test_what_is_called_the_same_becomes_a_group(library: Library) -> None:
    doubtful(library)
    first, second = library.review()
    assert (first.distance, first.first.path, first.second.path) == (1, "/library/one.jpg", "/library/two.jpg")
    assert second.second.path == "/library/three.jpg"
    assert 0.6 < (first.score or 0) < 0.95
    decision = library.decide(first.id, "same", "Ada")
    assert (decision.decision, decision.by) == ("same", "Ada")
    assert decision.at.endswith("+00:00")
    assert first.id not in {pair.id for pair in library.review()}
    assert grouped(library) == [[("/library/one.jpg", 0), ("/library/two.jpg", 1)]]
    assert library.decisions() == [decision]


def test_a_pair_decided_different_is_not_listed_again(library: Library) -> None:
    doubtful(library)
    asked = []
    while pairs := library.review():
        assert pairs[0].id not in asked
        asked.append(pairs[0].id)
        library.decide(pairs[0].id, "different", "Ada")
    assert 2 <= len(asked) <= 3
    assert library.figures()["review"] == 0
    assert library.duplicates() == []
    library.decide(asked[0], "same", "Bob")
    assert len(library.duplicates()) == 1, "a later word replaces an earlier one"
    assert {made.by for made in library.decisions()} == {"Ada", "Bob"}


def test_a_confident_duplicate_can_be_decided_different(library: Library) -> None:
    fill(library, [entry("one", 0), entry("two", 1)])
    ((member,),) = [group.others for group in mark_verified(library).duplicates()]
    library.decide(str(member.pair), "different", "Ada")
    assert library.duplicates() == []
    assert library.review() == []


def test_decisions_outlive_the_pictures(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    data = picture(1)
    (folder / "one.jpg").write_bytes(data)
    (folder / "two.jpg").write_bytes(data + b"\0")
    library.scan(folder)
    assert library.verify_pairs() == 0
    ((member,),) = [group.others for group in library.duplicates()]
    library.decide(str(member.pair), "different", "Ada")
    (folder / "one.jpg").rename(tmp_path / "one.jpg")
    library.scan(folder)
    assert len(library.decisions()) == 1
    (tmp_path / "one.jpg").rename(folder / "back.jpg")
    library.scan(folder)
    library.verify_pairs()
    assert library.duplicates() == [], "the picture came back, and what was said of it still holds"


def test_the_queue_is_read_page_by_page_while_it_is_worked_off(library: Library) -> None:
    entries = []
    for number in range(9):
        rows = int.from_bytes(random.Random(number).randbytes(8), "big")
        entries += [entry(number, rows, number), entry(f"{number}?", rows ^ 1, number) | {"look": near(number)}]
    fill(library, entries)
    whole = [pair.id for pair in library.review()]
    assert len(whole) == 9 == library.figures()["review"]
    read, after = [], None
    while page := library.review(after=after, limit=2):
        read += [pair.id for pair in page]
        after = page[-1].id
        library.decide(after, "different", "Ada")
    assert read == whole
    with pytest.raises(MobiusError, match="There is no pair 'nonsense'"):
        library.review(after="nonsense")


@pytest.mark.parametrize(
    ("identity", "decision", "by"),
    [
        ("0" * 16 + "-" + "1" * 16, "same", "Ada"),
        ("%' OR 1=1 --", "same", "Ada"),
        ("good", "perhaps", "Ada"),
        ("good", "same", " "),
        ("good", "same", "A\nda"),
        ("good", "same", "x" * 201),
        ("twice", "same", "Ada"),
    ],
)
def test_a_wrong_decision_is_refused_and_not_stored(library: Library, identity: str, decision: Any, by: str) -> None:
    doubtful(library)
    good = library.review()[0].id
    with pytest.raises(MobiusError) as caught:
        library.decide({"good": good, "twice": f"{good[:16]}-{good[:16]}"}.get(identity, identity), decision, by)
    assert caught.value.outcome == "invalid_input"
    assert library.decisions() == []


# -- search ------------------------------------------------------------------------------------------------------------


def test_search_finds_matches_confident_ones_first(library: Library) -> None:
    fill(
        library,
        [
            entry("far", 0xFF, seed=1),
            entry("doubt", 1, seed=1) | {"look": near(1)},
            entry("other", 0, seed=2),
            entry("same", 3, seed=1),
        ],
    )
    query = fingerprint("query", 0, seed=1)
    library.add(query)
    assert {one.confidence for one in library.search(query)[1:]} == {"doubtful"}, "nobody has looked at them"
    mark_verified(library)
    found = [(Path(str(one.picture.path)).stem, one.distance, one.confidence) for one in library.search(query)[1:]]
    assert found == [("same", 2, "confident"), ("far", 8, "confident"), ("doubt", 1, "doubtful")]
    assert len(library.search(query, limit=1)) == 1
    everything = library.search(query, max_distance=2)
    assert [(Path(str(one.picture.path)).stem, one.confidence) for one in everything[1:]] == [
        ("same", "confident"),
        ("other", "doubtful"),
        ("doubt", "doubtful"),
    ]
    by_hash = library.search(Dhash(0, 0))
    assert {one.confidence for one in by_hash} == {"doubtful"}
    with pytest.raises(MobiusError, match="by a picture, not by a hash"):
        library.search(Dhash(0, 0), transforms=True)


def test_a_search_opens_pictures_in_its_second_step_only_and_for_so_long(library: Library) -> None:
    fill(library, [entry(f"copy{number}", number, seed=1) for number in range(3)])
    opened = []

    def load(side: int) -> None:
        opened.append(side)

    query = fingerprint("query", 0, seed=1)
    search = library.begin_search(query, load_query=load)
    assert (search.needs_pixels, opened) == (True, [])
    assert {match.confidence for match in search.finish()} == {"doubtful"}
    assert opened
    opened.clear()
    assert len(library.search(query, load_query=load, verify_seconds=0)) == 3
    assert opened == []
    assert not library.begin_search(query).needs_pixels, "nobody could open the query"
    library.add(query)
    mark_verified(library)
    assert not library.begin_search(query, load_query=load).needs_pixels, "all are verified"


@pytest.mark.slow
def test_a_wide_search_finds_the_nearest_of_all_transforms(library: Library) -> None:
    chance = random.Random(1)
    fill(library, [entry(f"{number}", chance.getrandbits(64), seed=number % 5) for number in range(3000)])
    found = library.search(fingerprint("query", 0, seed=1), max_distance=64, limit=5, transforms=True)
    hashes = {Path(str(picture.path)).stem: picture.dhash for picture in library.pictures()}
    turned = fingerprint("query", 0, seed=1).transforms().values()
    nearest = sorted(min(one.distance(other) for one in turned) for other in hashes.values())
    assert [match.distance for match in found] == nearest[:5]


def jpeg_of(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.slow
def test_turned_copies_are_found_when_transforms_are_requested(
    library: Library, photographs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "turned"
    folder.mkdir()
    with Image.open(photographs["chelsea"]) as image:
        for name in ("FLIP_LEFT_RIGHT", "ROTATE_90", "TRANSVERSE"):
            path = folder / f"{name}.jpg"
            image.transpose(Image.Transpose[name]).save(path, quality=90)
            library.add(hash_file(path, descriptor=True), thumbnail=thumbnail_of(path))
    query, data = hash_file(photographs["chelsea"], descriptor=True), photographs["chelsea"].read_bytes()
    assert library.search(query) == []

    def found() -> list[SearchMatch]:
        return library.search(query, transforms=True, load_query=lambda side: load_for_verification(data, side))

    assert {one.confidence for one in found()} == {"doubtful"}, "a thumbnail proves nothing"
    library.scan(folder)
    assert {one.transform for one in found()} == {"mirror", "rotate90", "transverse"}
    assert {one.confidence for one in found()} == {"confident"}
    (folder / "PNG.png").write_bytes(data)
    library.scan(folder)
    query = hash_file(folder / "ROTATE_90.jpg", descriptor=True)
    data = (folder / "ROTATE_90.jpg").read_bytes()
    stored = next(one for one in found() if one.picture.format == "PNG")
    assert (stored.transform, stored.confidence) == ("rotate270", "confident"), "what is turned is not stored so"
    assert transform_descriptor(descriptor(1), "none") == descriptor(1)


@pytest.mark.slow
def test_a_pair_whose_comparison_fails_needs_review(
    library: Library, photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.png").write_bytes(photographs["chelsea"].read_bytes())
    library.scan(tmp_path)
    data = jpeg_of(photographs["chelsea"])
    query = hash_bytes(data, descriptor=True)
    assert [
        one.confidence for one in library.search(query, load_query=lambda side: load_for_verification(data, side))
    ] == ["confident"]

    def too_little(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(_verification, "measure_residual", too_little)
    assert [
        one.confidence for one in library.search(query, load_query=lambda side: load_for_verification(data, side))
    ] == ["doubtful"]


def test_an_index_without_pictures_answers_everything(library: Library) -> None:
    assert library.search(fingerprint("query", 0)) == []
    assert library.duplicates() == []
    assert library.review() == []
    assert library.get("0" * 64) is None
    assert library.thumbnail("0" * 64) is None
    assert not library.remove("0" * 64)
    assert library.figures()["pictures"] == 0
    assert exported(library) == []


# -- what is posted ----------------------------------------------------------------------------------------------------


def test_a_posted_picture_is_stored_once_with_its_thumbnail_and_removed(library: Library) -> None:
    found = posted(1)
    small = thumbnail_of(picture(1), 64)
    assert library.add(found, thumbnail=small)
    assert not library.add(found)
    kept = library.get(found.sha256)
    assert kept is not None
    assert (kept.path, kept.posted, kept.release, kept.copies) == (None, True, "1.0.0-aaaaaaaaaaaa", 0)
    assert library.thumbnail(found.sha256) == small
    assert [one.picture.sha256 for one in library.search(found)] == [found.sha256]
    assert library.remove(found.sha256)
    assert not library.remove(found.sha256)
    assert library.search(found) == []
    assert library.thumbnail(found.sha256) is None
    assert library.add(found), "it may come again"
    assert library.thumbnail(found.sha256) is None, "without what was removed with it"
    with pytest.raises(ValueError, match="descriptor=True"):
        library.add(hash_bytes(picture(2)))


def test_a_posted_picture_that_is_a_file_as_well(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(picture(1))
    library.scan(folder)
    found = posted(1)
    assert not library.add(found), "it is there already"
    with pytest.raises(MobiusError, match=r"The picture is a file of the library: .*one\.jpg"):
        library.remove(found.sha256)
    assert library.thumbnail(found.sha256) is not None
    (folder / "one.jpg").write_bytes(picture(2))
    assert library.thumbnail(found.sha256) is None, "the file is another picture by now"
    library.scan(folder)
    assert library.get(found.sha256) is not None, "it was posted, so it outlives the file"
    assert library.remove(found.sha256)


# -- several at once ---------------------------------------------------------------------------------------------------

OTHER = """
import sys
from mobius.dhash import Library
from tests.unit.dhash.library_tools import posted
with Library(sys.argv[1]) as library:
    for line in sys.stdin:
        what, seed = line.split()
        found = posted(int(seed))
        print(library.add(found) if what == "add" else library.remove(found.sha256), flush=True)
"""


@pytest.mark.slow
def test_what_another_process_writes_is_found_at_once(library: Library) -> None:
    assert library.search(posted(1)) == []
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, library.index],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[3],
    ) as other:  # fmt: skip
        assert other.stdin is not None
        assert other.stdout is not None

        def tell(line: str) -> str:
            print(line, file=other.stdin, flush=True)
            return other.stdout.readline().strip()

        assert tell("add 1") == "True"
        assert [one.distance for one in library.search(posted(1))] == [0]
        assert library.figures()["pictures"] == 1
        library.add(posted(2))
        assert tell("add 2") == "False"
        assert tell("remove 1") == "True"
        assert library.search(posted(1)) == []
        assert len(library.search(posted(2))) == 1
        other.stdin.close()


def test_a_process_that_fell_far_behind_reads_the_whole_index(library: Library, tmp_path: Path) -> None:
    fill(library, [entry("one", 0)])
    assert len(library.search(fingerprint("query", 0))) == 1
    library.duplicates()
    with Library(library.index) as other:
        with other._database.writing() as connection:
            connection.execute("DELETE FROM pictures")
            connection.execute("DELETE FROM files")
        fill(other, [entry("two", 1), entry("three", 3)])
        with other._database.writing() as connection:
            connection.execute("DELETE FROM changes WHERE number < (SELECT max(number) FROM changes)")
    assert {one.picture.sha256 for one in library.search(fingerprint("query", 0))} == {digest("two"), digest("three")}
    assert len(mark_verified(library).duplicates()) == 1


@pytest.mark.slow
def test_matches_found_step_by_step_are_those_found_at_once(library: Library, tmp_path: Path) -> None:
    chance = random.Random(5)
    names = []
    for step in range(30):
        if names and chance.random() < 0.3:
            gone = names.pop(chance.randrange(len(names)))
            library.remove(digest(gone))
        else:
            rows = chance.choice([0, 1 << 40]) | chance.getrandbits(6)
            library.add(fingerprint(step, rows, chance.randrange(2), width=chance.choice([100, 200])))
            names.append(step)
        if step % 3:
            library.figures()
    mark_verified(library)
    with Library(library.index) as fresh:
        assert grouped(fresh) == grouped(library)
        assert {(g.keeper.sha256, *(o.picture.sha256 for o in g.others)) for g in fresh.duplicates()} == {
            (g.keeper.sha256, *(o.picture.sha256 for o in g.others)) for g in library.duplicates()
        }
        assert fresh.review() == library.review()
        assert len(fresh.duplicates()) > 1


@pytest.mark.slow
def test_descriptors_are_read_in_blocks_and_only_for_near_pictures(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(library, [entry(number, number, number // 3) for number in range(9)])
    fill(library, [entry("other", 0xFFFF_FFFF_FFFF_0000, 9)])
    together = library._candidates.pairs()
    asked: list[set[int]] = []

    def spied(connection: sqlite3.Connection, ids: set[int]) -> _candidates.Descriptors:
        asked.append(ids)
        return read_descriptors(connection, ids)

    read_descriptors = _candidates.read_descriptors
    monkeypatch.setattr(_candidates, "read_descriptors", spied)
    monkeypatch.setattr(_candidates, "_PAIRS_PER_BLOCK", 5)
    with Library(library.index) as fresh:
        found = fresh._candidates.pairs()
    assert len(together.first) == 9
    for name in ("first", "second", "distance", "verdict"):
        assert getattr(found, name).tolist() == getattr(together, name).tolist()
    assert len(asked) == 8, "36 pairs are near each other"
    assert max(len(ids) for ids in asked) <= 10
    assert len(set.union(*asked)) == 9


@pytest.mark.slow
def test_many_threads_add_search_and_remove(library: Library) -> None:
    failed: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for number in range(12):
                found = fingerprint((own, number), own << 32 | number, own)
                assert library.add(found)
                assert found.sha256 in {one.picture.sha256 for one in library.search(found, limit=50)}
                library.review()
                if number % 3 == 0:
                    assert library.remove(found.sha256)
                    assert found.sha256 not in {one.picture.sha256 for one in library.search(found, limit=50)}
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(library) == 32
