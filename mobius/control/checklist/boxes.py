# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The boxes of the checklist: when, who, what, and the command that checks it.

The one source of DEPLOYMENT_CHECKLIST.md (`python -m tools.checklist_page`) and of `mobius checklist`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mobius.manifest import release_of

STAGES = ("before", "after", "48h")
"""Before the release, from its start to T+45, and the 48 hours after it."""

ROLES = {
    "release owner": "owns the release, and decides go or no-go",
    "deploy operator": "runs the commands",
    "media engineer": "checks what the service answers",
    "triage lead": "knows who is on call, and takes over when something fails",
}


@dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
        name: what answers and records name it by.
        stage: one of `STAGES`.
        at: when it is due, relative to the release's start: `T-60`, `T+24h`.
        role: whose it is, one of `ROLES`.
        text: what is true when it is ticked.
        command: arguments of `mobius` that check it, by exit code; {bundle} and {inventory} are filled in. Empty for a
            box that a person answers.
        demand: what must hold besides for every host in the JSON of that command (`mobius status`), one of `DEMANDS`.
        is_gate: whether the release stops there when it is not ticked.
    """

    name: str
    stage: str
    at: str
    role: str
    text: str
    command: tuple[str, ...] = ()
    demand: str = ""
    is_gate: bool = False

    def arguments(self, bundle: str, inventory: str) -> list[str]:
        """The command with its names filled in."""
        return [part.format(bundle=bundle, inventory=inventory) for part in self.command]


_ON_INVENTORY = ("-i", "{inventory}")
_STATUS = ("status", "--format", "json", *_ON_INVENTORY)

BOXES = (
    Box("bundle", "before", "T-60", "deploy operator", "The bundle is whole, and is what was built.",
        ("bundle", "verify", "{bundle}")),
    Box("history", "before", "T-60", "triage lead", "The history of runs is whole.",
        ("history", "verify", *_ON_INVENTORY)),
    Box("hosts", "before", "T-60", "deploy operator", "Every host answers and serves a confirmed release.",
        _STATUS, demand="confirmed"),
    Box("backups", "before", "T-60", "deploy operator", "Every backup on the hosts reads back as it was written.",
        ("backup", "verify", *_ON_INVENTORY)),
    Box("rollback-target", "before", "T-50", "deploy operator", "Every host has a release to roll back to.",
        _STATUS, demand="rollback target"),
    Box("smoke-before", "before", "T-50", "media engineer", "The serving release does what it promises.",
        ("smoke", *_ON_INVENTORY)),
    Box("check-run", "before", "T-45", "deploy operator", "The check run ends well; its plan names no surprise.",
        ("release", "--bundle", "{bundle}", "--check", *_ON_INVENTORY), is_gate=True),
    Box("plan-read", "before", "T-40", "release owner", "The plan was read by somebody who did not write the change."),
    Box("matches", "before", "T-40", "media engineer", "The doubtful matches of the sample library were reviewed."),
    Box("on-call", "before", "T-30", "triage lead", "Each team of docs/EXIT_CODES.md has somebody on call."),
    Box("users", "before", "T-30", "release owner", "Those who use the service know of the window."),
    Box("go", "before", "T-10", "release owner", "Go: nothing stands against the release.", is_gate=True),
    Box("status-after", "after", "T+5", "deploy operator", "Every host serves the new release, and no other.",
        _STATUS, demand="bundle"),
    Box("smoke-after", "after", "T+10", "media engineer", "The new release does what it promises.",
        ("smoke", *_ON_INVENTORY), is_gate=True),
    Box("answers", "after", "T+20", "media engineer", "Searches for known duplicates give the known answers."),
    Box("alerts", "after", "T+30", "triage lead", "No alert of this service fired since the release began."),
    Box("history-after", "after", "T+40", "triage lead", "The history has the release, and is whole.",
        ("history", "verify", *_ON_INVENTORY)),
    Box("close", "after", "T+45", "release owner", "The release stays: the window is closed.", is_gate=True),
    Box("status-24h", "48h", "T+24h", "triage lead", "Every host still serves the release.",
        _STATUS, demand="bundle"),
    Box("backups-24h", "48h", "T+24h", "deploy operator", "The night's backups read back as they were written.",
        ("backup", "verify", *_ON_INVENTORY)),
    Box("smoke-48h", "48h", "T+48h", "media engineer", "The release does what it promises.",
        ("smoke", *_ON_INVENTORY)),
    Box("done", "48h", "T+48h", "release owner", "No incident is open; the change is done."),
)  # fmt: skip


DEMANDS: Mapping[str, Callable[[Mapping[str, Any], str], str]] = {
    "confirmed": lambda host, _: "" if host.get("confirmed") else "serves nothing that is confirmed",
    "rollback target": lambda host, _: "" if host.get("previous") else "has no release to roll back to",
    "bundle": lambda host, digest: (
        ""
        if [release_of(str(release))[-12:] for release in host.get("serving") or ()] == [digest[:12]]
        else _serves(host)
    ),
}
"""What a host's status must show, given the bundle's SHA-256: why it does not, or an empty text."""


def _serves(host: Mapping[str, Any]) -> str:
    return f"serves {', '.join(map(str, host.get('serving') or ())) or 'nothing'}"


def boxes_of(stage: str) -> tuple[Box, ...]:
    """The boxes of a stage, in their order."""
    return tuple(box for box in BOXES if box.stage == stage)
