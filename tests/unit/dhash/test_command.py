# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash`, as a person and as a program meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mobius.dhash import hash_file
from mobius.dhash.command import dhash
from mobius.errors import MobiusError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(dhash, [str(argument) for argument in arguments])


def hash_error(path: Path) -> str:
    with pytest.raises(MobiusError) as caught:
        hash_file(path)
    return caught.value.reason


def test_hash_prints_one_line_for_each_picture(photographs: dict[str, Path]) -> None:
    result = call("hash", photographs["rocket"], photographs["coffee"], "--mode", "exact")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{hash_file(photographs[name], 'exact').dhash.hex}  {photographs[name]}" for name in ("rocket", "coffee")
    ]


def test_hash_speaks_json_to_programs(photographs: dict[str, Path]) -> None:
    result = call("hash", "--format", "json", photographs["rocket"])
    answer = json.loads(result.stdout)
    assert answer.pop("path") == str(photographs["rocket"])
    assert answer == hash_file(photographs["rocket"]).as_dict()
    assert answer["algorithm"] == "fast-2"


def test_hash_names_what_it_cannot_read_and_prints_the_rest(photographs: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    result = call("hash", text, tmp_path / "missing.jpg", photographs["rocket"])
    assert isinstance(result.exception, MobiusError)
    assert result.exception.reason == "2 of 3 files cannot be hashed."
    assert len(result.stdout.splitlines()) == 1
    assert "text.jpg: This is not a picture" in result.stderr
    assert "missing.jpg: It cannot be read: No such file or directory." in result.stderr
    lines = call("hash", "--format", "json", text, photographs["rocket"]).stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    assert answers[0] == {"path": str(text), "error": hash_error(text)}
    assert answers[1]["path"] == str(photographs["rocket"])
    assert "error" not in answers[1]


def test_scan_and_duplicates(photographs: dict[str, Path], tmp_path: Path) -> None:
    folder, index = tmp_path / "library", tmp_path / "index.sqlite"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes(photographs["camera"].read_bytes())
    (folder / "bad.jpg").write_text("hello")
    result = call("scan", folder, "--index", index, "--release", "1.0.0-aaaaaaaaaaaa")
    assert "2 pictures: 2 hashed, 0 unchanged, 0 removed, 1 unreadable" in result.stdout
    assert "unreadable  bad.jpg: This is not a picture" in result.stdout
    answer = json.loads(call("scan", folder, "--index", index, "--format", "json").stdout)
    assert (answer["images"], answer["hashed"], answer["in_index"]) == (2, 0, 2)
    assert answer["unreadable"][0]["path"] == "bad.jpg"
    found = call("duplicates", "--index", index, "--format", "json")
    assert [entry["distance"] for entry in json.loads(found.stdout)] == [0, 0]
    assert isinstance(call("duplicates", "--index", tmp_path / "none").exception, MobiusError)
    assert not (tmp_path / "none").exists()
