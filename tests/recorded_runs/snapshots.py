# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a terminal shows of each recorded run, at three widths: `python -m tests.recorded_runs.snapshots` renews it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from mobius.cli.render.outcome import outcome_lines
from mobius.cli.render.status import release_lines
from mobius.cli.render.text import TextStyle
from mobius.control.run.fleet_state import fleet_ending
from tests.recorded_runs.replay import NAMES, RUNS, replay

SNAPSHOTS = RUNS.parent / "snapshots"
WIDTHS = (60, 80, 120)


NOW = datetime(2026, 1, 31, 23, 5, 6, tzinfo=UTC)


def snapshot(name: str, width: int) -> str:
    """The text of a recorded run on a terminal of that width, without colours."""
    summary, style = replay(name), TextStyle(width)
    lines: list[str] = []
    if summary.playbook == "status.yml":
        summary = dataclasses.replace(summary, ending=fleet_ending(summary.ending, summary.results))
        for host, facts in sorted(summary.results.items()):
            lines += release_lines(host, facts, style, NOW)
    return "\n".join([*lines, *outcome_lines(summary.account, style)]) + "\n"


if __name__ == "__main__":
    SNAPSHOTS.mkdir(exist_ok=True)
    for path in SNAPSHOTS.glob("*.txt"):
        path.unlink()
    for name in NAMES:
        for width in WIDTHS:
            (SNAPSHOTS / f"{name}.{width}.txt").write_text(snapshot(name, width), encoding="utf-8")
