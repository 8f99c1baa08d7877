# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checklist as text: what is ticked, by whom, and what is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from mobius.control.checklist.boxes import Box
from mobius.control.checklist.session import Answer, counts


def box_lines(boxes: Sequence[Box], answers: Mapping[str, Answer], now: datetime) -> list[str]:
    """A line for each box: its mark, when, whose, what; and who has answered, or the command that checks it."""
    lines = []
    for box in boxes:
        answer = answers.get(box.name)
        mark = "x" if counts(box, answer, now) else " "
        gate = "  (go or no-go)" if box.is_gate else ""
        lines.append(f"[{mark}] {box.at:<6} {box.role:<15} {box.name}: {box.text}{gate}")
        if answer is not None:
            verdict = "yes" if answer.is_good else "NO"
            expired = "" if mark == "x" or not answer.is_good else "; too old, so it is checked again"
            note = f": {answer.note}" if answer.note else ""
            lines.append(f"           {verdict}, {answer.by}, {answer.at[:16]}Z, run {answer.run}{note}{expired}")
    return lines
