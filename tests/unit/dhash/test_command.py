# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash`, as a person and as a program meet it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mobius.cli import dhash as dhash_command
from mobius.cli.dhash import dhash
from mobius.dhash import ALGORITHMS, Library, hash_file
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import (
    descriptor,
    entry,
    exported,
    fill,
    linux_only,
    make_folder,
    mark_verified,
    picture,
)


def call(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(dhash, [str(argument) for argument in arguments], input=stdin)


def answer(*arguments: object) -> Any:
    """What a command that succeeds says to a program."""
    result = call(*arguments, "--format", "json")
    assert result.exception is None, result.output
    return json.loads(result.stdout)


def failure(result: Result) -> tuple[str, str]:
    assert isinstance(result.exception, MobiusError), result.output
    return result.exception.outcome, result.exception.reason


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default index, with two certain duplicates and a doubtful pair; the working folder is its."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOBIUS_INDEX", raising=False)
    almost = bytearray(descriptor(2))
    almost[1:31] = bytes(30)
    with Library(tmp_path / "dhash.sqlite") as library:
        fill(
            library,
            [
                entry("small", 1, 1, width=50), entry("large", 0, 1),
                entry("maybe", 1 << 60, 2, width=50), entry("other", 3 << 60, 2) | {"look": almost.hex()},
            ],
        )  # fmt: skip
        mark_verified(library)
    return tmp_path / "dhash.sqlite"


# -- hash --------------------------------------------------------------------------------------------------------------


def test_hash_prints_one_line_for_each_picture(photographs: dict[str, Path]) -> None:
    result = call("hash", photographs["rocket"], photographs["coffee"], "--mode", "exact")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{hash_file(photographs[name], 'exact').dhash.hex}  {photographs[name]}" for name in ("rocket", "coffee")
    ]


def test_hash_speaks_json_to_programs(photographs: dict[str, Path]) -> None:
    found = answer("hash", photographs["rocket"])
    assert found.pop("path") == str(photographs["rocket"])
    assert found == hash_file(photographs["rocket"]).as_dict()
    assert re.fullmatch("[0-9a-f]{16}", found["dhash"])


def test_hash_names_what_it_cannot_read_and_prints_the_rest(photographs: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "te\nxt.jpg"
    text.write_text("hello")
    files = (text, tmp_path / "missing.jpg", photographs["rocket"])
    result = call("hash", *files)
    assert failure(result) == ("files_failed", "2 of 3 files cannot be hashed.")
    assert len(result.stdout.splitlines()) == 1
    assert "te\\nxt.jpg: This is not a picture" in result.stderr
    assert "missing.jpg: It cannot be read: No such file or directory." in result.stderr
    lines = [json.loads(line) for line in call("hash", "--format", "json", *files).stdout.splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in files]
    assert ["error" in line for line in lines] == [True, True, False]
    assert failure(call("hash", text)) == ("invalid_input", "1 of 1 file cannot be hashed.")


# -- scan --------------------------------------------------------------------------------------------------------------


def test_scan_tells_what_it_did_and_what_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "library", 10)
    result = call("scan", folder, "--release", "1.0.0-aaaaaaaaaaaa")
    assert failure(result) == ("files_failed", "1 file could not be read.")
    assert "10 pictures: 10 hashed, 0 known by their bytes, 0 unchanged, 0 renamed, 0 removed, 1 unreadable" in (
        result.stdout
    )
    assert re.search(r"^unreadable  broken\.png: .*\.$", result.stdout, re.MULTILINE)
    assert result.stderr == "", "no bar where there is no terminal"
    assert (tmp_path / "dhash.sqlite").exists(), "the index is in the working folder unless told otherwise"
    (folder / "broken.png").unlink()
    report = answer("scan", folder)
    assert (report["images"], report["hashed"], report["unchanged"], report["removed"]) == (10, 0, 10, 1)
    assert (report["in_index"], report["unreadable"], report["algorithm"]) == (10, [], ALGORITHMS["fast"])
    assert failure(call("scan", tmp_path / "none"))[0] == "invalid_input"


def test_the_environment_names_the_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBIUS_INDEX", str(tmp_path / "by environment.sqlite"))
    call("scan", make_folder(tmp_path / "library", 2))
    assert len(answer("export", tmp_path / "out.json")) == 2
    assert (tmp_path / "by environment.sqlite").exists()


@linux_only
@pytest.mark.slow
def test_a_scan_at_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    import pty  # not on Windows

    folder = make_folder(tmp_path / "library", 40)
    (folder / "broken.png").unlink()
    main, side = pty.openpty()
    program = "import time; from mobius.dhash import _hash_processes as s; h = s.hash_file\n" \
        "s.hash_file = lambda *a, **k: (time.sleep(0.06), h(*a, **k))[1]\n" \
        "from mobius.cli import main; main()"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program, "dhash", "scan", folder, "--index", tmp_path / "index", "--threads", "1"],
        stderr=side, stdout=subprocess.PIPE, text=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        os.close(side)
        said = b""
        while True:
            try:
                said += os.read(main, 65536)
            except OSError:  # Linux's end of file of a terminal
                break
        assert process.stdout.read().startswith("40 pictures")
    os.close(main)
    assert process.returncode == 0
    text = said.decode()
    assert "40/40" in text
    assert re.search(r"\d+ pictures/s", text)
    assert re.search(r"\d\d:\d\d:\d\d", text), "the time left"


@pytest.mark.slow
@pytest.mark.parametrize("room", [8, 60, 150])
def test_a_full_disk_ends_with_5_and_one_sentence(tmp_path: Path, room: int) -> None:
    folder = make_folder(tmp_path / "library", 250)
    small = tmp_path / "small"
    small.mkdir()
    program = "from mobius.dhash import _scan; _scan._BATCH = 20; from mobius.cli import main; main()"
    script = f'mount -t tmpfs -o size={room}k none "$1" && exec "$2" -c "$3" dhash scan "$4" --index "$1/index"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", small, sys.executable, program, folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine gives no file system of one's own")
    assert done.returncode == 5, done.stderr
    assert "  why       There is no space left for the index" in done.stderr
    assert "Traceback" not in done.stderr


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_duplicates_are_groups_with_the_kept_one_first(index: Path) -> None:
    ((kept, other),) = answer("duplicates")
    assert kept == {
        "path": "/library/large.jpg", "distance": 0, "confidence": "confident", "keep": True, "pair": None,
    }  # fmt: skip
    assert (other["path"], other["distance"], other["confidence"], other["keep"]) == (
        "/library/small.jpg", 1, "confident", False,
    )  # fmt: skip
    result = call("duplicates")
    assert result.stdout.splitlines() == [
        "keep        /library/large.jpg  100 x 100, 1.0 KB",
        "1 bits      /library/small.jpg  50 x 100, 1.0 KB".replace("1 bits", "1 bit "),
        "",
    ]
    assert result.stderr == "1 group, 1 copy beside what to keep, 1 pair to review\n"


def test_duplicates_write_a_page_in_one_step(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "duplicates.html"
    page.write_text("old")
    assert call("duplicates", "--html", page).exit_code == 0
    assert "/library/large.jpg" in page.read_text()
    assert "To review" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"dhash.sqlite", "duplicates.html"}
    assert isinstance(call("duplicates", "--html", tmp_path / "none" / "page.html").exception, OSError)


@pytest.mark.parametrize("command", [["duplicates"], ["search", "x"], ["review"], ["export"]])
def test_an_index_that_is_not_there_is_not_made(tmp_path: Path, command: list[str]) -> None:
    outcome, reason = failure(call(*command, "--index", tmp_path / "none"))
    assert (outcome, reason) == ("invalid_input", f"There is no index {tmp_path / 'none'}.")
    assert not (tmp_path / "none").exists()


# -- search ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_search_takes_a_picture_or_a_hash(index: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pictures", 12)
    call("scan", folder)
    one = folder / "0/0000.jpg"
    found = answer("search", one)
    assert {"path": str(one), "distance": 0, "confidence": "confident", "transform": "none"}.items() <= found[0].items()
    line = call("search", one, "--transforms").stdout.splitlines()[0]
    assert line.startswith(f"confident    0  {one}  96 x 96")
    digits = hash_file(one).dhash.hex
    (by_hash,) = answer("search", digits, "--max-distance", "0")
    assert (by_hash["path"], by_hash["confidence"]) == (str(one), "doubtful")
    assert failure(call("search", digits, "--transforms"))[0] == "invalid_input"
    assert failure(call("search", tmp_path / "none.jpg"))[0] == "invalid_input"
    assert failure(call("search", folder / "broken.png"))[0] == "invalid_input"
    assert answer("search", "f" * 32) == []


def test_a_query_is_seen_as_the_bytes_that_were_hashed_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "pictures", 2)
    one, other = folder / "0/0000.jpg", folder / "1/0001.jpg"
    query = hash_file(one, descriptor=True)
    assert dhash_command._load_query(one, query, 64) is not None
    assert dhash_command._load_query(other, query, 64) is None, "another picture has taken its place"
    monkeypatch.setattr(dhash_command, "VERIFIED_FILE_MAX_BYTES", query.size - 1)
    assert dhash_command._load_query(one, query, 64) is None, "it would be read at once"


# -- review ------------------------------------------------------------------------------------------------------------


def test_review_lists_pairs_and_takes_decisions(index: Path) -> None:
    (pair,) = answer("review")
    assert set(pair) == {"id", "distance", "score", "first", "second"}
    assert (pair["first"]["path"], pair["second"]["path"]) == ("/library/other.jpg", "/library/maybe.jpg")
    result = call("review")
    assert result.stdout.startswith(f"{pair['id']}  1 of 128 bits differ, ")
    assert result.stderr == "1 of 1 pair to review\n"
    (made,) = answer("review", "--decide", pair["id"], "different", "--by", "Ada")
    assert (made["decision"], made["by"]) == ("different", "Ada")
    assert answer("review") == []
    assert call("review", "--decide", pair["id"], "same", "--by", "Bob").stdout == "1 decided by Bob\n"
    assert len(answer("duplicates")) == 2
    assert failure(call("review", "--decide", "nonsense", "same"))[0] == "invalid_input"
    assert call("review", "--decide", pair["id"], "perhaps").exit_code == 2


@pytest.mark.parametrize(("keys", "left"), [("s\n", 0), ("d\n", 0), ("n\n", 1), ("q\n", 1), ("x\ns\n", 0)])
def test_review_asks_one_by_one(index: Path, keys: str, left: int) -> None:
    result = call("review", "--ask", "--by", "Ada", stdin=keys)
    assert result.exit_code == 0
    assert len(answer("review")) == left


# -- export and import -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["library.json", "library.csv", "LIBRARY.CSV", "library"])
def test_an_export_is_a_file_that_import_takes(index: Path, tmp_path: Path, name: str) -> None:
    assert call("export", tmp_path / name).stdout == "4 images exported\n"
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"path,sha256" if "csv" in name.lower() else b"[\n{")
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data)
    result = call("import", tmp_path / name, "--index", "copy.sqlite")
    assert result.stdout == "4 images read; new: 4 pictures, 4 files, 0 decisions\n"
    with Library(index) as one, Library(tmp_path / "copy.sqlite") as two:
        assert exported(one) == exported(two)


def test_an_export_goes_to_standard_output_and_import_reads_standard_input(index: Path, tmp_path: Path) -> None:
    result = call("export")
    assert len(json.loads(result.stdout)) == 4
    assert result.stderr == "4 images exported\n"
    as_csv = call("export", "--as", "csv").stdout
    assert as_csv.startswith("path,sha256")
    done = call("import", "-", "--as", "csv", "--index", "copy.sqlite", "--format", "json", stdin=as_csv)
    assert json.loads(done.stdout) == {"images": 4, "pictures": 4, "files": 4, "decisions": 0}


def test_what_cannot_be_imported_is_refused_and_no_index_made(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe[]")
    assert failure(call("import", tmp_path / "bad.json", "--index", tmp_path / "new"))[0] == "invalid_input"
    assert failure(call("import", tmp_path / "none.json", "--index", tmp_path / "new"))[0] == "invalid_input"
    assert call("import", tmp_path, "--index", tmp_path / "new").exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] in (["bad.json"], ["bad.json", "new"], ["new", "bad.json"])


def test_every_command_speaks_both_languages_and_shows_an_example() -> None:
    assert set(dhash.commands) >= {"hash", "scan", "duplicates", "search", "review", "export", "import"}
    for name, command in dhash.commands.items():
        if name in ("serve", "token", "migrate"):  # neither has a --format
            continue
        text = call(name, "--help").stdout
        assert "--format [text|json]" in text
        assert f"mobius dhash {name}" in text
        assert command.help


def test_names_that_are_not_utf8_do_not_break_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    for name in ("a\x1b[2J.jpg", "b.jpg"):
        (folder / name).write_bytes(picture(1))
    assert call("scan", folder).exit_code == 0
    text = call("duplicates").stdout
    assert "caf\\xe9" in text
    assert "\x1b" not in text
    assert call("hash", folder / "b.jpg").exit_code == 0
    assert call("export", "library.json").exit_code == 0
    assert failure(call("scan", folder / "none"))[0] == "invalid_input"
