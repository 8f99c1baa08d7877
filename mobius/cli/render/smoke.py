# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of a host's smoke test, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def smoke_lines(host: str, report: Mapping[str, Any]) -> list[str]:
    checks = report["checks"]
    lines = [f"{host}  {report['release']}: {len(checks) - report['failed']} of {len(checks)} checks passed"]
    return lines + [
        f"  {'ok  ' if one['ok'] else 'FAIL'}  {one['topic']:<7}  {one['name']}: {one['seen']}" for one in checks
    ]
