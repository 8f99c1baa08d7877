# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a run ended, as text."""

from __future__ import annotations

from collections.abc import Mapping

from mobius.control.run.outcome import Ending
from mobius.errors import TEAMS, ExitCode


def outcome_lines(ending: Ending, run: str | None = None) -> list[str]:
    """The block at the end of a run."""
    team = "" if ending.code == ExitCode.SUCCESS else f", team {TEAMS[ending.code]}"
    lines = [f"outcome  {ending.outcome} (exit code {int(ending.code)}{team})"]
    if run:
        lines.append(f"run      {run}")
    if ending.code == ExitCode.SUCCESS:
        return lines
    lines.append(f"reason   {ending.reason}")
    lines += [f"{failure.host}: {failure.outcome}: {failure.reason} [{failure.task}]" for failure in ending.failures]
    lines.append(f"do next  {ending.do_next}")
    return lines


def changes_line(changed: Mapping[str, int], *, check: bool) -> str:
    """How many tasks changed each host, or in check mode would change it."""
    word = "would change" if check else "changed"
    return ", ".join(f"{host}: {count} {word}" for host, count in changed.items())
