# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Leave what a series of checks found, and on which commit: `mobius pr` claims nothing else.

`python -m tools.evidence lint` is what `make lint` ends with; `tests/conftest.py` does it for each series of tests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from mobius import durable

CHECKOUT = Path(__file__).resolve().parents[1]


def checkout_state(folder: Path = CHECKOUT) -> dict[str, Any]:
    """`{commit, is_clean}` of a checkout; both null where git does not know it."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "is_clean": None if changes is None else changes == ""}


def record(path: Path, before: dict[str, Any], **facts: Any) -> None:
    """Write the evidence of a series that began in the state `before`; a checkout that changed since is not clean."""
    state = checkout_state()
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_json(path, {**before, "is_clean": bool(before["is_clean"]) and before == state, **facts})


if __name__ == "__main__":
    record(CHECKOUT / "test-results" / f"{sys.argv[1]}.evidence.json", checkout_state(), exit_code=0)
