# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each host keeps and serves, as text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def release_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    lines = [f"{host}  serving {result.get('confirmed') or 'nothing'}"]
    if maintenance := result.get("maintenance"):
        why = f": {maintenance['reason']}" if maintenance.get("reason") else ""
        lines.append(f"  maintenance  clients get 503 since {maintenance['since']}, by {maintenance['actor']}{why}")
    pending = result.get("pending")
    if pending:
        lines.append(f"  {pending['release']}  provisional, stage {pending.get('stage', 'unknown')}")
    for item in result.get("releases", []):
        why = f"  {item['reason']}" if item.get("reason") else ""
        lines.append(f"  {item['release']:<32}  {item['state']:<8}  {item.get('activated') or '':<25}{why}".rstrip())
    lines += [f"  problem  {item['problem']} {item['heal']}" for item in result.get("problems", [])]
    return lines


def maintenance_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    """What clients of a host get; nothing where it failed, which the end of the run reports."""
    return [f"{host}  {result['note']}"] if result.get("note") else []


def rollback_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    """What a rollback did on a host; nothing where it failed, which the end of the run reports."""
    return [f"{host}  {result['note']}"] if result.get("note") else []


# An instance that starts or drains does not serve.
_STATE_WORDS = {"serving": "serving", "standby": "standby", "draining": "standby", "starting": "standby"}


def kept_releases(host: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`{host, release, state, activated, reason}` of each release that the host keeps, the newest activation first.

    `state` is serving, standby, kept or bad; one that is marked bad is bad unless it serves.
    """
    rows = []
    for item in result.get("releases", []):
        if not item["staged"]:
            continue
        state = _STATE_WORDS.get(item["state"], "kept")
        if item["bad"] and state != "serving":
            state = "bad"
        dated = {"activated": item["activated"], "reason": item["reason"]}
        rows.append({"host": host, "release": item["release"], "state": state, **dated})
    return sorted(rows, key=lambda row: row["activated"] or "", reverse=True)


def kept_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    rows = kept_releases(host, result)
    now = datetime.now(UTC)
    lines = [f"{host}  {'nothing is kept' if not rows else f'{len(rows)} kept'}"]
    for row in rows:
        age = age_of(row["activated"], now)
        lines.append(f"  {row['release']:<32}  {row['state']:<8}  {age:<10}  {row['reason'] or ''}".rstrip())
    return lines


def age_of(activated: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in its largest unit; "never" for none."""
    if activated is None:
        return "never"
    seconds = max(0.0, (now - datetime.fromisoformat(activated)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
