"""`make help` names every target of the contract, one line each."""

from __future__ import annotations

import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TARGETS = ("setup", "demo", "test", "test-unit", "soak", "lint", "lab", "lab-down", "clean")


def test_make_help_has_one_line_for_each_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    named = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(named) == len(set(named))
    assert set(TARGETS) <= set(named)


def test_ci_runs_setup_and_test() -> None:
    script = (CHECKOUT / ".ci/run").read_text(encoding="utf-8")
    assert [line for line in script.splitlines() if line.startswith("make ")] == [
        "make setup PYTHON=/usr/bin/python3",
        "make test PYTHON=/usr/bin/python3",
    ]
