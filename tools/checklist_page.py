# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes DEPLOYMENT_CHECKLIST.md from the one table: `python -m tools.checklist_page > DEPLOYMENT_CHECKLIST.md`."""

# ruff: noqa: E501 - whole lines of the page

from __future__ import annotations

from mobius.control.checklist.boxes import ROLES, boxes_of

_STAGES = {
    "before": "Before: T-60 to T-10",
    "after": "After: T to T+45",
    "48h": "The 48 hours after",
}
_TEXTS = {
    "before": "`mobius checklist --bundle FILE -i INVENTORY` goes through these. No box open: go. One open at T-10: no-go,\n"
    "and the release waits for the next window.",
    "after": "At T the deploy operator runs `mobius apply PLAN`, or `mobius release --bundle FILE -i INVENTORY`. It backs up,\n"
    "stages, promotes behind its gate, and reverts by itself when that fails. Then `mobius checklist --stage after`.\n"
    "A box that cannot be ticked: `mobius rollback --reason TEXT -i INVENTORY`, which needs no approval and takes\n"
    "seconds.",
    "48h": "`mobius checklist --stage 48h`.",
}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# Which boxes are ticked before and after a release?",
        "",
        "The change window is 23:00 to 00:00 UTC; T is 23:00. `mobius checklist` runs the boxes with a command, prompts",
        "for the others, records who answered what in the history, and prints what is open. Made from",
        "`mobius/control/checklist/boxes.py`; a test compares them, and runs each command.",
        "",
        "| role | |",
        "|---|---|",
        *(f"| {role} | {duty} |" for role, duty in ROLES.items()),
    ]
    for stage, title in _STAGES.items():
        lines += ["", f"## {title}", "", _TEXTS[stage], ""]
        for box in boxes_of(stage):
            gate = " **Go or no-go.**" if box.is_gate else ""
            command = " ".join(box.arguments("FILE", "INVENTORY"))
            check = f" `mobius {command}`" if box.command else ""
            lines.append(f"- [ ] **{box.at}**, {box.role} (`{box.name}`): {box.text}{gate}{check}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page(), end="")
