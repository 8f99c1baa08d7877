# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The block that every ending has. It knows no run: hosts have this file too, and `mobius.control` they have not."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from mobius.cli.render.text import TextStyle, duration
from mobius.errors import OUTCOMES, TEAMS, ExitCode, MobiusError

_MARKS = MappingProxyType({"good": "✓", "bad": "✗", "warning": "!"})
_UNFINISHED = ("interrupted", "locked", "outside_window")  # nothing is wrong, and the work is not done
_REFUSED = frozenset(
    (
        *("golden_mismatch", "rolled_back", "gate_inconclusive", "instance_failed", "instance_not_ready", "locked"),
        *("outside_window", "drill_outdated", "not_provisioned", "host_tool_mismatch", "bundle_platform", "disk_full"),
        *("source_damaged", "hook_failed", "held_back", "history_failed"),
        *(outcome.name for outcome in OUTCOMES.values() if outcome.code == ExitCode.INPUT),
    )
)
"""Outcomes after which every host serves what it served before, because something was in the way."""
_VERBS = MappingProxyType({"interrupted": "stopped", "timeout": "timed out", "diverged": "incomplete"})
SWITCHING_COMMANDS = ("release", "deploy", "promote", "rollback")


def verb_of(outcome: str) -> str:
    """What became of a command that did not end well: `refused`, `stopped`, `failed`."""
    return "refused" if outcome in _REFUSED else _VERBS.get(outcome, "failed")


def team_of(outcome: str) -> str:
    """The team that acts on an outcome: nobody after a success, nor after a person has stopped the run."""
    return TEAMS[ExitCode.SUCCESS if outcome == "interrupted" else OUTCOMES[outcome].code]


def ending_block(
    style: TextStyle,
    outcome: str,
    headline: str,
    *,
    fields: Sequence[tuple[str, Sequence[str]]],
    do_next: str,
    run: str = "",
    seconds: float | None = None,
) -> list[str]:
    """The lines of an ending: the headline in the colour of its meaning, the fields, the next command, and the rest."""
    code, team = OUTCOMES[outcome].code, team_of(outcome)
    is_success = code == ExitCode.SUCCESS
    meaning = "good" if is_success else "warning" if outcome in _UNFINISHED else "bad"
    head = style.wrapped(f"{_MARKS[meaning]} {headline}", indent=2, first=0)
    lines = [style.paint(line, meaning) for line in head]
    for label, values in fields:
        lines += style.field(label, values)
    if not is_success:
        lines += style.field("next", [do_next])
    name = outcome if team == TEAMS[ExitCode.SUCCESS] else f"{team}, {outcome}"
    took = [] if seconds is None else [duration(seconds)]
    closing = [*took, *([f"run {run}"] if run else []), f"exit {int(code)}{'' if is_success else f' ({name})'}"]
    return [*lines, *style.field("took", [", ".join(closing)])]


def failure_headline(command: str, outcome: str) -> str:
    """The first line of a command that was refused, or has failed, before any run."""
    where = ": no host was contacted" if command in SWITCHING_COMMANDS else ""
    return f"{command} {verb_of(outcome)}{where}"


def failure_lines(error: MobiusError, command: str, seconds: float, style: TextStyle) -> list[str]:
    """The block of a command that was refused, or has failed, before any run."""
    headline = failure_headline(command, error.outcome)
    fields = [("why", [error.reason])]
    return ending_block(style, error.outcome, headline, fields=fields, do_next=error.do_next, seconds=seconds)


def failure_dict(error: MobiusError, command: str, seconds: float) -> dict[str, Any]:
    """The same as fields: those of every ending."""
    return {
        "run": "",
        "command": command,
        "check": False,
        "outcome": error.outcome,
        "exit_code": int(error.code),
        "team": team_of(error.outcome),
        "headline": failure_headline(command, error.outcome),
        "release": None,
        "hosts": {},
        "reason": error.reason,
        "why": [{"reason": error.reason, "hosts": []}],
        "do_next": error.do_next,
        "failures": [],
        "changed": {},
        "seconds": round(seconds, 1),
    }
