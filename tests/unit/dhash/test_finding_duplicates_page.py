# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every command of docs/finding-duplicates.md, run from the first to the last on real photographs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from mobius.cli import cli
from mobius.dhash import Library

PAGE = Path(__file__).resolve().parents[3] / "docs" / "finding-duplicates.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_every_command_of_the_page_does_what_the_page_says(
    photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "Pictures"
    pictures.mkdir()
    shutil.copy(photographs["rocket"], pictures / "rocket.jpg")
    for name in ("astronaut", "coffee"):
        with Image.open(photographs[name]) as photograph:
            photograph.save(pictures / f"{name}.png")
            photograph.resize((200, 150)).save(tmp_path / "holiday.jpg")
            # a copy whose edges were cut off is one to look at
            cut = photograph.crop((14, 14, photograph.width - 14, photograph.height - 14))
            cut.save(pictures / f"{name} cut.jpg")
    with Image.open(photographs["rocket"]) as photograph:
        photograph.resize((320, 214)).save(pictures / "rocket small.png")
    before = {path: path.stat() for path in pictures.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MOBIUS_INDEX", raising=False)

    def run(line: str, stdin: str | None = None) -> str:
        words = [os.path.expanduser(word) for word in shlex.split(line)]
        assert words.pop(0) == "mobius"
        result = CliRunner().invoke(cli, words, input=stdin)
        assert result.exit_code == 0, f"{line}: {result.output}"
        return result.stdout

    said: dict[str, str] = {}
    for line in commands():
        if "--decide" in line:
            first = json.loads(run("mobius dhash review --format json"))[0]["id"]
            line = re.sub(r"[0-9a-f]{16}-[0-9a-f]{16}", first, line)
        # one pair is put off, so that there is one left for the commands that come later on the page
        said[line] = run(line, "n\nq\n" if "--ask" in line else None)

    assert len(said) == len(commands()) >= 8
    assert Path("duplicates.html").read_text(encoding="utf-8").count("<figure") >= 2
    (group,) = json.loads(run("mobius dhash duplicates --format json"))[:1]
    assert "rocket.jpg" in json.dumps(group)
    assert "coffee.png" in said["mobius dhash search holiday.jpg"]
    assert {"Ada Lovelace"} == {entry["by"] for entry in decisions(tmp_path / "other.sqlite")}
    assert {path: path.stat().st_mtime_ns for path in pictures.iterdir()} == {
        path: status.st_mtime_ns for path, status in before.items()
    }


def decisions(index: Path) -> list[dict[str, str]]:
    """What was decided, as another index knows it by the import alone."""
    target = index.with_suffix(".json")
    with Library(index) as library:
        assert library.figures()["review"] >= 0
    result = CliRunner().invoke(cli, ["dhash", "export", str(target), "--index", str(index)])
    assert result.exit_code == 0, result.output
    images = json.loads(target.read_text(encoding="utf-8"))
    found = [entry for image in images for entry in image.get("decisions", [])]
    assert found
    return found
