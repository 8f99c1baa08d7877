# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that was opened in its history: recorded once, and known to every process of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius.control.history.intent import Intent
from mobius.control.history.writer import History, Holder
from mobius.control.run.outcome import Ending
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError


@dataclass(frozen=True)
class OpenedRun:
    """An opened run: its history, the head right after its intent, the intent, and its plan's path or empty."""

    run: str
    folder: Path
    key: Path | None
    head: dict[str, Any]
    intent: dict[str, Any]
    plan: str

    @classmethod
    def read(cls, workspace: RunWorkspace) -> OpenedRun | None:
        """What the first worker has kept; None when the run is not opened yet."""
        value = workspace.read_history_note()
        if value is None:
            return None
        key = value["key"]
        head, intent, plan = value["head"], value["intent"], value["plan"]
        return cls(value["run"], Path(value["folder"]), Path(key) if key else None, head, intent, plan)

    def write(self, workspace: RunWorkspace) -> None:
        """Keep it for the other processes of the run."""
        key = str(self.key) if self.key else None
        workspace.write_history_note({**vars(self), "folder": str(self.folder), "key": key})

    @property
    def history(self) -> History:
        """The history that it was opened in."""
        return History(self.folder, self.key)


def open_run(
    intent: Intent,
    history: History,
    holder: Holder,
    environment: Mapping[str, str],
    workspace: RunWorkspace,
    approval: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _data: {},
    replaces: Mapping[str, Any] | None = None,
) -> OpenedRun:
    """Record the intent, once a run. The first worker does it; the others read what it has kept in the workspace.

    Args:
        approval: from the intent's data, what is recorded of the run's plan and approvals.
        replaces: what a new history names of those that it replaces.

    Raises:
        MobiusError: the intent cannot be recorded, and then nothing may change on any host.
    """
    opened = OpenedRun.read(workspace)
    if opened is not None and opened.run == intent.run:
        return opened
    try:
        data = intent.record(history, environment)
        if approved := approval(data):
            data["approval"] = dict(approved)
        head = history.open(intent.run, holder, data, replaces)
        opened = OpenedRun(intent.run, history.folder, history.key, head, data, intent.plan)
        opened.write(workspace)
    except OSError as error:
        raise MobiusError("history_failed", f"The history cannot be written: {error.strerror or error}.") from error
    return opened


def close_left_open(workspace: RunWorkspace, run: str, end: Ending, seconds: float) -> OpenedRun | None:
    """Record the end of a run whose ansible-playbook was stopped before it could. Gives the run if it was closed now.

    Raises:
        MobiusError: it cannot be written; the next run closes this one as interrupted then.
    """
    opened = OpenedRun.read(workspace)
    if opened is not None and opened.run == run:
        data = {"duration_ms": round(seconds * 1000), "hosts": {}, "closed_by": "mobius"}
        if opened.history.close(run, end.outcome, data):
            return opened
    return None


def parent_holder() -> Holder:
    """The holder of this run: the ansible-playbook process whose worker this process is."""
    return Holder.of(os.getppid())
