# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Each benchmark runs on a tiny sample and gives its table. No figure is asserted: those belong to quiet machines.

Those that need peers belong to the long series: `make soak` installs the peers, and fails where one is missing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]


def answer(script: str, *options: str | Path) -> object:
    command = [sys.executable, CHECKOUT / "bench" / script, "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, out of the wheel of scikit-image, and a copy of one that is another file."""
    data = Path(str(importlib.util.find_spec("skimage").origin)).parent / "data"
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        shutil.copy(data / name, tmp_path)
    copy = (data / "rocket.jpg").read_bytes()
    (tmp_path / "copy.jpg").write_bytes(copy[:2] + b"\xff\xfe\x00\x04hi" + copy[2:])
    return tmp_path


@pytest.mark.soak
def test_hashing_is_measured_beside_every_peer(folder: Path) -> None:
    rows = answer("dhash.py", "--file", folder / "rocket.jpg", "--sizes", "small", "--rounds", "1")
    assert {row["threads"] for row in rows} == {1, 2}
    assert {row["way"] for row in rows} >= {"decode alone", "mobius fast", "imagehash", "imagededup", "pdqhash"}
    assert {row["format"] for row in rows} == {"baseline", "progressive", "PNG", "WebP"}
    assert all(row["milliseconds"] > 0 for row in rows)


@pytest.mark.soak
def test_searching_is_measured_beside_every_peer_and_every_answer_is_exact(folder: Path) -> None:
    rows = answer("search.py", "--folder", folder, "--counts", "2000", "--queries", "5", "--pairs-up-to", "0")
    assert {row["way"] for row in rows} == {"faiss flat", "faiss multi-hash", "BK-tree", "numpy scan", "mobius"}
    assert {row["bits"] for row in rows} == {64, 128}
    assert all(row["exact"] for row in rows)


@pytest.mark.slow
def test_the_calibration_finds_the_copy_and_says_where_copies_are_lost(folder: Path) -> None:
    found = answer("confidence.py", "--folder", folder, "--sample", "2")
    natural = found["right"]["natural"]
    assert (found["right"]["pictures"], natural["confident"], natural["right"]) == (5, 1, 1)
    assert {shares["confident"] for shares in found["changed"].values()} == {0}
    assert found["recall"]["aspect 4:3"]["confident"] == 1
    assert found["recall"]["mirrored"]["confident"] == 0
    assert found["recall"]["mirrored"]["transforms"] == 1


@pytest.mark.soak
@pytest.mark.lab
def test_a_release_is_measured_in_every_step() -> None:
    rows = answer("release.py", "--hosts", "1", "--rounds", "1", "--alone")
    ways = {"mobius, one batch", "mobius, three batches"}
    steps = {(step, way) for step in ("deploy", "promote", "release") for way in ways}
    assert {(row["step"], row["way"]) for row in rows} == steps | {
        ("rollback", "mobius, one batch"),
        ("rollback", "mobius-host, on the hosts"),
    }
    assert all(row["hosts"] == 1 and row["seconds"] > 0 for row in rows)
