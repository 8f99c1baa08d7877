# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of `mobius try`, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MARKS = {"kept": "✓", "broken": "✗", "not tried": "–"}


def trial_lines(service: str, report: Mapping[str, Any]) -> list[str]:
    """A head, and a line for each check, with the advice below what is broken."""
    checks = report["checks"]
    counts = {result: sum(one["result"] == result for one in checks) for result in _MARKS}
    front = f"behind HAProxy {report['front']}" if report["front"] else "without HAProxy"
    head = f"{service}: {counts['kept']} kept, {counts['broken']} broken, {counts['not tried']} not tried"
    lines = [f"{head}; {front}, {report['seconds']:.0f} s"]
    for one in checks:
        lines.append(f"  {_MARKS[one['result']]} {one['name']:<16}{one['detail']}".rstrip())
        if one["advice"]:
            lines.append(f"    {'':<16}→ {one['advice']}")
    return lines
