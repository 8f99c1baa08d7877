# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every command of MIGRATION_RUNBOOK.md that needs no host, run from the first to the last."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mobius.cli import cli
from mobius.dhash import ALGORITHMS, Library
from tests.unit.dhash.library_tools import picture
from tests.unit.dhash.migration_tools import everything, left_over
from tests.unit.dhash.test_migrate import czkawka

PAGE = Path(__file__).resolve().parents[3] / "MIGRATION_RUNBOOK.md"


def commands() -> list[str]:
    """The lines of the page's blocks, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("mobius dhash ")]


@pytest.mark.slow
def test_every_command_of_the_runbook_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, disk = tmp_path / "home", tmp_path / "disk"
    pictures, more = home / "Pictures", tmp_path / "more"
    for folder in (pictures, disk, more):
        folder.mkdir(parents=True)
    for number in range(4):
        (pictures / f"{number}.jpg").write_bytes(picture(number, 256))
        (more / f"{number}.jpg").write_bytes(picture(20 + number, 256))
    (pictures / "copy.jpg").write_bytes(picture(1, 256) + b"\0")
    files = everything(pictures)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("MOBIUS_INDEX", raising=False)
    czkawka(home / "cache_similar_images_16_Gradient_Nearest_100.json", sorted(more.iterdir()))
    (home / "pictures.csv").write_text("path\n" + "".join(f"{path}\n" for path in more.iterdir()), encoding="utf-8")

    printed: dict[str, list[str]] = {}
    for line in commands():
        words = [os.path.expanduser(word).replace("/mnt/disk", str(disk)) for word in shlex.split(line)]
        assert words.pop(0) == "mobius"
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception}"
        printed.setdefault(line, []).append(result.stdout)

    assert len(commands()) >= 20
    assert printed["mobius dhash migrate status"][0] == "No migration is open.\n"
    assert "switched" in printed["mobius dhash migrate status"][1]
    assert "0 hashed" in printed["mobius dhash scan /mnt/disk/Pictures"][0]
    assert "0 hashed" in printed["mobius dhash scan /mnt/disk/Pictures --mode exact"][0]
    assert not pictures.exists()
    assert everything(disk / "Pictures") == files
    with Library("dhash.sqlite") as library:
        assert len(library) == 9
        assert {
            picture.dhash.algorithm for picture in library.pictures() if str(picture.path).startswith(str(disk))
        } == {ALGORITHMS["exact"]}
    assert left_over(home / "dhash.sqlite") == []


def test_the_runbook_names_every_command_of_the_group() -> None:
    group = cli.get_command(None, "dhash").get_command(None, "migrate")  # type: ignore[arg-type, union-attr]
    named = {line.split()[3] for line in commands() if line.startswith("mobius dhash migrate ")}
    assert named >= {name for name in group.commands if name != "host"}  # type: ignore[attr-defined]
