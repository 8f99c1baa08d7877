# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The history of runs as text: one line a run, everything of one run, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from mobius.control.history.query import COLUMNS


def run_line(run: Mapping[str, Any]) -> str:
    """A run in one line: id, playbook, outcome, releases, actor."""
    outcome = run["outcome"] or "running or lost"
    check = "  check" if run["check"] else ""
    moved = f"{_release(run['from_release'])} -> {_release(run['to_release'])}"
    return f"{run['run']}  {run['playbook']}  {outcome}  {moved}  {run['actor']}{check}"


def _release(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{host}: {release or 'nothing'}" for host, release in sorted(value.items()))
    return value or "nothing"


def run_lines(run: Mapping[str, Any]) -> list[str]:
    """Everything that is recorded of a run."""
    lines = [run_line(run)]
    for name, value in run["intent"].items():
        if value not in (None, "", [], {}) and name != "holder":
            lines.append(f"  {name:<18}  {json.dumps(value) if isinstance(value, dict | list) else value}")
    for result in run["results"]:
        outcome = {"outcome": result["outcome"]} if "outcome" in result else {}
        facts = json.dumps({**result.get("fields", {}), **outcome})
        lines.append(f"  {result['at']}  {result['host']}  {result['status']:<11}  {result['task']}  {facts}")
    for decision in run["decisions"]:
        facts = json.dumps({name: value for name, value in decision.items() if name not in ("at", "seq")})
        lines.append(f"  {decision['at']}  decided for all hosts (record {decision['seq']})  {facts}")
    if run["unwitnessed"]:
        lines.append(f"  without the final head  {', '.join(run['unwitnessed'])}")
    return lines


def csv_text(runs: Iterable[Mapping[str, Any]]) -> str:
    """The runs as CSV; lists and objects as JSON, and no cell that a spreadsheet would take for a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow((*COLUMNS, "check", "ticket", "commit", "clean"))
    for run in runs:
        change = run["intent"].get("change") or {}
        more = (run["check"], change.get("ticket"), run["intent"].get("commit"), run["intent"].get("clean"))
        writer.writerow([_cell(value) for value in (*(run[name] for name in COLUMNS), *more)])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, sort_keys=True) if isinstance(value, bool | dict | list) else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
