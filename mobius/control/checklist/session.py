# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who has ticked which box for a bundle on an inventory: read from the history, and recorded in it at once.

A session is a run of the history like any other, with the playbook `checklist`, and a record of each answer. So a
session that is killed keeps what it has, and the next one asks for the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mobius import __version__
from mobius.control.checklist.boxes import Box
from mobius.control.history.intent import origin
from mobius.control.history.writer import History, Holder
from mobius.control.run.run_id import new_run_id
from mobius.errors import OUTCOMES

PLAYBOOK = "checklist"
CHECK_VALID_SECONDS = 2 * 3600.0
"""How long what a command found counts: from T-60 to a release that begins late. A person's answer has no limit."""


@dataclass(frozen=True)
class Answer:
    """The last answer to a box: whether it is ticked, by whom, when (RFC 3339) and in which run."""

    box: str
    is_good: bool
    by: str
    at: str
    run: str
    note: str = ""


def read_answers(runs: Iterable[Mapping[str, Any]], bundle_sha256: str, inventory: str) -> dict[str, Answer]:
    """The last answer to each box for this bundle on this inventory.

    Args:
        runs: as `mobius.control.history.query.read_runs` gives them, oldest first.
        bundle_sha256: the digest or its first 12 digits, as a release id has them.
        inventory: as the intents of runs name it.
    """
    answers = {}
    for run in runs:
        intent = run["intent"]
        if intent.get("playbook") != PLAYBOOK or not str(intent.get("bundle_sha256")).startswith(bundle_sha256):
            continue
        if intent.get("inventory") != inventory:
            continue
        for result in run["results"]:
            fields, name = result.get("fields") or {}, str(result.get("task"))
            is_good = result.get("status") == "ok"
            by, note = str(fields.get("by")), str(fields.get("note") or "")
            answers[name] = Answer(name, is_good, by, str(result["at"]), str(run["run"]), note)
    return answers


def counts(box: Box, answer: Answer | None, now: datetime) -> bool:
    """Whether a box is ticked: by a person, or by a command that was run within `CHECK_VALID_SECONDS`."""
    if answer is None or not answer.is_good:
        return False
    age = (now - datetime.fromisoformat(answer.at)).total_seconds()
    return not box.command or age <= CHECK_VALID_SECONDS


def open_boxes(boxes: Iterable[Box], answers: Mapping[str, Answer], now: datetime) -> list[Box]:
    """The boxes that are not ticked."""
    return [box for box in boxes if not counts(box, answers.get(box.name), now)]


class ChecklistSession:
    """A session that is open in the history.

    Raises:
        MobiusError: history_failed, disk_full or history_damaged, when it cannot be recorded.
    """

    def __init__(
        self, history: History, actor: str, bundle_name: str, bundle_sha256: str, inventory: str, stage: str
    ) -> None:
        self._history = history
        self._actor = actor
        self.run = new_run_id()
        intent = {
            "actor": actor,
            "from": origin(os.environ),
            "via": "mobius",
            "playbook": PLAYBOOK,
            "inventory": inventory,
            "bundle": bundle_name,
            "bundle_sha256": bundle_sha256,
            "hosts": [],
            "check": False,
            "tags": [stage],
            "versions": {"mobius": __version__},
        }
        history.open(self.run, Holder.of(os.getpid()), intent)

    def record(self, box: Box, *, is_good: bool, by: str, note: str = "") -> Answer:
        """Record an answer, and give it."""
        fields = {"by": by, "role": box.role, "at": box.at, **({"note": note} if note else {})}
        data: dict[str, Any] = {
            "host": "control",
            "task": box.name,
            "module": PLAYBOOK,
            "status": "ok" if is_good else "failed",
            "fields": fields,
        }
        if not is_good:
            data["outcome"] = "checklist_open"
        self._history.add(self.run, data)
        return Answer(box.name, is_good, by, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", self.run, note)

    def close(self, outcome: str) -> None:
        """Record the end."""
        assert outcome in OUTCOMES
        self._history.close(self.run, outcome, {"hosts": {}})
