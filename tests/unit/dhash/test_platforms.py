# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash` where Python lacks what it has on Linux. `make test-platforms` runs all tests of the package so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobius.dhash import hash_file
from tests.unit.dhash.library_tools import linux_only, make_folder
from tests.unit.dhash.migration_tools import everything, rows

ROOT = Path(__file__).resolve().parents[3]

pytestmark = [linux_only, pytest.mark.parametrize("platform", ["macos", "windows"])]


def mobius(platform: str, *arguments: object) -> str:
    environment = {**os.environ, "MOBIUS_TEST_PLATFORM": platform, "PYTHONPATH": str(ROOT / "tests/platforms")}
    command = [sys.executable, "-m", "mobius.cli", "dhash", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_library_is_scanned_and_searched_and_exported(tmp_path: Path, platform: str) -> None:
    folder = make_folder(tmp_path / "library", 4)
    (folder / "broken.png").unlink()
    index = ("--index", tmp_path / "index.sqlite")
    assert mobius(platform, "scan", folder, *index).startswith("4 pictures")
    mobius(platform, "duplicates", *index, "--html", tmp_path / "duplicates.html")
    assert "</html>" in (tmp_path / "duplicates.html").read_text()
    mobius(platform, "export", tmp_path / "library.json", *index)
    assert len(json.loads((tmp_path / "library.json").read_text())) == 4
    hashed = json.loads(mobius(platform, "hash", folder / "0/0000.jpg", "--format", "json"))
    assert hashed["dhash"] == hash_file(folder / "0/0000.jpg").as_dict()["dhash"]


@pytest.mark.slow
def test_a_library_is_moved_and_hashed_again_and_rolled_back(tmp_path: Path, platform: str) -> None:
    folder = make_folder(tmp_path / "library", 4)
    (folder / "broken.png").unlink()
    files = everything(folder)
    index = ("--index", tmp_path / "index.sqlite")
    mobius(platform, "scan", folder, *index)
    before = rows(index[1])
    mobius(platform, "migrate", "move", folder, tmp_path / "new", *index)
    assert everything(tmp_path / "new") == files
    mobius(platform, "migrate", "rollback", *index)
    mobius(platform, "migrate", "rehash", "--mode", "exact", *index)
    mobius(platform, "migrate", "rollback", *index)
    assert (rows(index[1]), everything(folder)) == (before, files)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_simulation_hides_what_that_platform_lacks(platform: str) -> None:
    """Or the test above would show nothing."""
    program = "import os, sys; exec(compile(sys.argv[1], 'x', 'exec'), {'__name__': 'mobius.x', '__builtins__': __builtins__})"
    environment = {**os.environ, "MOBIUS_TEST_PLATFORM": platform, "PYTHONPATH": str(ROOT / "tests/platforms")}

    def fails(code: str) -> bool:
        return (
            subprocess.run([sys.executable, "-c", program, code], env=environment, capture_output=True).returncode != 0
        )

    assert fails("import os; os.sched_getaffinity(0)")
    assert not fails("import os; os.getpid()")
    assert fails("import fcntl") == (platform == "windows")
