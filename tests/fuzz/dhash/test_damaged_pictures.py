# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures with bytes cut, flipped and swapped: a hash or a typed error, no crash, and no more memory than is allowed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mobius.dhash import FORMATS

MUTATIONS = Path(__file__).with_name("mutations.py")


@pytest.mark.parametrize("count", [60, pytest.param(20_000, marks=pytest.mark.soak)])
def test_a_damaged_picture_is_hashed_or_refused(count: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("MOBIUS_FUZZ_SEED", 1 if count < 1000 else random.randrange(1 << 32)))
    journal = tmp_path / "last"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(MUTATIONS), str(seed), str(count), str(journal)],
        capture_output=True,
        text=True,
        check=False,
    )
    last = journal.read_text().strip() if journal.exists() else "before the first"
    assert done.returncode == 0, f"{last}: exit code {done.returncode}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout)
    assert {name.split(",")[0] for name in found["outcomes"]} == {*FORMATS, "MPO"}
    for name, outcomes in found["outcomes"].items():
        assert sum(outcomes.values()) == count
        assert outcomes.get("hashed", 0) < count, f"{name}: no fault was noticed"
    kinds = sum(map(Counter, found["outcomes"].values()), Counter())
    assert {"hashed", "BrokenPictureError", "NotAPictureError", "TooManyPixelsError"} <= set(kinds)
    assert found["peak"] - found["before"] <= found["allowed"], f"seed {seed}"
