# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is exported can be imported and is the same then; what is not quite right is refused whole."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobius.dhash import ExportFormat, Library, hash_file
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import digest, entry, exported, fill, make_folder, picture, posted

FORMS: tuple[ExportFormat, ...] = ("json", "csv")
KEYS = (
    "path", "sha256", "dhash", "dhash_vertical", "algorithm", "width", "height", "format", "size", "release",
    "confidence",
)  # fmt: skip

LINE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
IMAGES = st.lists(
    st.builds(
        lambda number, rows, seed, path, warnings: entry(
            number % 5, rows, seed, path=None if path is None else f"/{path}"
        )
        | {"warnings": warnings},
        st.integers(0, 9), st.just(7), st.just(1), st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=9),
        st.just([]),
    ),
    unique_by=lambda image: image["path"],
    max_size=6,
)  # fmt: skip
DECISIONS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["same", "different"]), LINE), max_size=4
)


def written(library: Library, form: ExportFormat) -> str:
    stream = io.StringIO(newline="")
    library.export(stream, form)
    return stream.getvalue()


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(IMAGES, DECISIONS, st.sampled_from(FORMS))
def test_what_is_exported_comes_back_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[dict[str, Any]],
    decisions: list[tuple[int, int, Any, str]],
    form: ExportFormat,
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    known = {image["sha256"] for image in images}
    with Library(folder / "one") as one, Library(folder / "two") as two:
        fill(one, images)
        for first, second, decision, by in decisions:
            if first != second and {digest(first), digest(second)} <= known:
                one.decide("-".join((digest(first)[:16], digest(second)[:16])), decision, by)
        text = written(one, form)
        report = two.import_(io.StringIO(text, newline=""), form)
        assert (report.images, report.files, report.decisions) == (len(images), len(images), len(one.decisions()))
        assert written(two, form) == text
        assert two.decisions() == one.decisions()
        again = two.import_(io.StringIO(text, newline=""), form)
        assert (again.pictures, again.files, again.decisions) == (0, 0, 0)
        assert [*two.pictures()] == [*one.pictures()]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_scanned_library_moves_to_another_index_without_being_decoded_again(
    tmp_path: Path, form: ExportFormat
) -> None:
    folder = make_folder(tmp_path / "library", 20)
    (folder / "caf\udce9.jpg").write_bytes(picture(50))
    with Library(tmp_path / "one") as one, Library(tmp_path / "two") as two:
        one.scan(folder)
        one.add(posted(60))
        text = written(one, form)
        report = two.import_(io.StringIO(text, newline=""), form)
        assert (report.images, report.pictures, report.files) == (22, 20, 21)
        assert written(two, form) == text
        assert (two.scan(folder).hashed, two.duplicates()) == (0, one.duplicates())
        assert two.get(posted(60).sha256) == one.get(posted(60).sha256)


def test_an_export_has_one_object_an_image_with_the_promised_keys(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "library", 3)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        images = exported(library)
        rows = list(csv.DictReader(io.StringIO(written(library, "csv"))))
    alone = hash_file(folder / "1/0001.jpg")
    found = next(image for image in images if image["path"].endswith("0001.jpg"))
    assert tuple(found)[: len(KEYS)] == KEYS
    assert {key: value for key, value in alone.as_dict().items() if key != "warnings"}.items() <= found.items()
    assert found["confidence"] in ("confident", "doubtful")
    assert [row["path"] for row in rows] == [image["path"] for image in images]
    assert rows[1]["dhash"] == images[1]["dhash"]


def test_what_an_index_knows_itself_stays(tmp_path: Path) -> None:
    with Library(tmp_path / "index") as library:
        fill(library, [entry("one", 1), entry("two", 2)])
        library.decide("-".join((digest("one")[:16], digest("two")[:16])), "same", "Ada")
        later = {"sha256": digest("two"), "decision": "different", "by": "Bob", "at": "2999-01-01T00:00:00+00:00"}
        earlier = later | {"by": "Eve", "at": "1999-01-01T00:00:00+00:00"}
        fill(library, [entry("one", 9) | {"decisions": [earlier]}, entry("other", 5, path="/library/two.jpg")])
        assert {image["path"]: image["dhash"][-1] for image in exported(library)} == {
            "/library/one.jpg": "1",
            "/library/two.jpg": "2",
        }
        assert [made.by for made in library.decisions()] == ["Ada"]
        fill(library, [entry("one", 1) | {"decisions": [later]}])
        assert [made.by for made in library.decisions()] == ["Bob"]


GOOD = entry("good", 1)
WRONG: list[tuple[Any, str]] = [
    ({"images": []}, "a list of images is expected"),
    ([1], "Image 1: it must be an object."),
    ([GOOD, {}], "Image 2: sha256 is missing."),
    *(
        ([entry("first", 1), GOOD | {key: value}], f"Image 2: {key} must be")
        for key, value in [
            ("sha256", "ABC"), ("sha256", 5), ("dhash", "0" * 15), ("dhash_vertical", "g" * 16), ("algorithm", "magic-1"),
            ("algorithm", None), ("width", 0), ("width", True), ("width", 1.5), ("width", 1 << 70), ("height", "9"),
            ("size", -1), ("format", ""), ("format", "A\nB"), ("release", "x" * 201), ("path", "relative"),
            ("path", "/a\0b"), ("path", "/\ud800"), ("path_hex", "00"), ("path_hex", "2f00"), ("modified_ns", "now"),
            ("posted", 1), ("look", "00"), ("warnings", "none"), ("warnings", [1]), ("decisions", {}),
            ("decisions", ["same"]),
        ]
    ),
    *(
        (
            [GOOD | {"decisions": [{"sha256": digest("x"), "decision": "same", "by": "A", "at": "2026-01-01T00:00:00+00:00"}
                                   | {key: value}]}],
            f"Image 1: {key} must be",
        )
        for key, value in [("sha256", "x"), ("decision", "maybe"), ("by", ""), ("at", "yesterday")]
    ),
    ([GOOD | {"decisions": [{"sha256": digest("good"), "decision": "same", "by": "A", "at": "2026-01-01T00:00:00+00:00"}]}],
     "about the picture and itself"),
    ([GOOD, GOOD], "Image 2: it has the path of image 1."),
    ([GOOD, entry("good", 2, path="/b")], "Image 2: it has the SHA-256 of image 1, and another hash"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("images", "expected"), WRONG)
def test_a_file_with_anything_wrong_is_refused_whole(tmp_path: Path, images: Any, expected: str) -> None:
    with Library(tmp_path / "index") as library:
        with pytest.raises(MobiusError) as caught:
            library.import_(io.StringIO(json.dumps(images)))
        assert expected in caught.value.reason
        assert caught.value.outcome == "invalid_input"
        assert (len(library), library.decisions()) == (0, [])


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", "json"), ("[", "json"), ("[" * 100_000, "json"), ('[{"width": ' + "9" * 5000 + "}]", "json"),
        ("", "csv"), ("path,size\n/a,1\n", "csv"), ('path,sha256\n"/a', "csv"), ("path,sha256\n/a,b,c,d\n", "csv"),
        ("path,sha256,width\n/a," + "0" * 64 + ",1e9\n", "csv"), ("path,sha256,posted\n/a,x,[[[\n", "csv"),
    ],
)  # fmt: skip
def test_what_is_no_library_is_refused_in_a_sentence(tmp_path: Path, text: str, form: ExportFormat) -> None:
    with Library(tmp_path / "index") as library:
        with pytest.raises(MobiusError) as caught:
            library.import_(io.StringIO(text, newline=""), form)
        assert caught.value.outcome == "invalid_input"
        assert len(library) == 0


@pytest.mark.slow
def test_an_import_that_meets_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with Library(tmp_path / "index") as library:
        fill(library, [entry("before", 1)])
        pages = library._database._writer.execute("PRAGMA page_count").fetchone()[0]
        library._database._writer.execute(f"PRAGMA max_page_count={pages + 4}")
        with pytest.raises(MobiusError) as caught:
            fill(library, [entry(number, number) for number in range(2000)])
        assert caught.value.outcome == "disk_full"
        assert len(library) == 1
