# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each host keeps and serves, as text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mobius.cli.render.text import TextStyle, duration


def release_lines(
    host: str, result: Mapping[str, Any], style: TextStyle | None = None, now: datetime | None = None
) -> list[str]:
    """What a host serves and since when, what a rollback goes to, what is under way, and what a person should know."""
    style, now = style or TextStyle(), now or datetime.now(UTC)
    if result.get("provisioned") is False:
        return style.wrapped(f"{host}  not provisioned", indent=2, first=0)
    releases = {item["release"]: item for item in result.get("releases", [])}
    confirmed = result.get("confirmed")
    since = _since(releases.get(confirmed, {}), now)
    lines = style.wrapped(f"{host}  serves {confirmed or 'nothing'}{since}", indent=2, first=0)
    for label, value in (
        ("previous", _previous(result["previous"], releases) if "previous" in result else ""),
        ("pending", _pending(result.get("pending"))),
        ("watch", _watch(result.get("watch"))),
        ("health", _health(confirmed, releases)),
        ("lock", _lock(result.get("lease"))),
        ("closed", _maintenance(result.get("maintenance"))),
        ("backup", _backup(result, now)),
        ("disk", _disk_text(result.get("disks"))),
    ):
        lines += style.field(label, [value]) if value else []
    others = [item for name, item in releases.items() if name not in (confirmed, result.get("previous"))]
    lines += style.field("others", [_other(item) for item in others])
    problems = [f"{item['problem']} {item['heal']}" for item in result.get("problems", [])]
    return [*lines, *style.field("problem", problems)]


def _since(item: Mapping[str, Any], now: datetime) -> str:
    confirmed = item.get("confirmed")
    if not confirmed:
        return ""
    return f" since {datetime.fromisoformat(confirmed).astimezone(UTC):%Y-%m-%d %H:%M} UTC ({age_of(confirmed, now)})"


def _previous(release: str | None, releases: Mapping[str, Mapping[str, Any]]) -> str:
    if release is None:
        return "none: there is nothing to roll back to"
    return f"{release}, {releases.get(release, {}).get('state', 'kept')}: `mobius rollback` goes there"


def _pending(pending: Mapping[str, Any] | None) -> str:
    if not pending:
        return ""
    stage, left = pending.get("stage", "unknown"), duration(max(0.0, float(pending.get("remaining", 0))))
    return f"{pending['release']} is provisional (stage {stage}); reverted in {left}, unless it is confirmed"


def _watch(watch: Mapping[str, Any] | None) -> str:
    left = duration(float(watch["remaining"])) if watch else ""
    return f"{watch['release']} is watched for another {left}" if watch else ""


_HEALTH = {
    "serving": "it answers its health path",
    "silent": "it runs, and does not answer its health path",
    "failed": "its unit has failed",
}


def _health(confirmed: str | None, releases: Mapping[str, Mapping[str, Any]]) -> str:
    state = releases.get(confirmed or "", {}).get("state")
    return _HEALTH.get(str(state), f"it is {state}") if state else ""


def _lock(lease: Mapping[str, Any] | None) -> str:
    return f"held by run {lease['run']} of {lease['actor']} since {lease['since']}" if lease else ""


def _maintenance(maintenance: Mapping[str, Any] | None) -> str:
    if not maintenance:
        return ""
    why = f": {maintenance['reason']}" if maintenance.get("reason") else ""
    return f"clients get 503 since {maintenance['since']}, by {maintenance['actor']}{why}"


def _backup(result: Mapping[str, Any], now: datetime) -> str:
    if "backup" not in result:
        return ""
    if (item := result["backup"]) is None:
        return "none"
    if problem := item["damaged"] or item["source_damage"]:
        return f"{item['id']} is damaged: {problem}"
    proof = f"verified {age_of(item['verified'], now)}" if item["verified"] else "not verified"
    return f"{item['id']}, {proof}"


def _disk_text(disks: Any) -> str:
    return "; ".join(
        f"{disk['free'] / 1e9:.1f} of {disk['total'] / 1e9:.1f} GB free ({disk['folder']})" for disk in disks or ()
    )


def _other(item: Mapping[str, Any]) -> str:
    why = f": {item['reason']}" if item.get("reason") else ""
    state = f"{item['state']}, marked bad" if item["bad"] and item["state"] != "bad" else item["state"]
    return f"{item['release']}, {state}{why}"


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
