# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that was opened in its history: recorded once, and known to every process of the run."""

from __future__ import annotations

import enum
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


class OpeningLevel(enum.IntEnum):
    """How far a run was opened for a host: its intent recorded, and the inventory's rule for approvals checked."""

    UNRECORDED = 0
    """Only a rollback may go on when the history cannot be written."""
    RECORDED = 1
    APPROVED = 2


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

    def require_open(self) -> None:
        """Require that its history has it as the run of this process, and has no end of it.

        Raises:
            MobiusError: run_not_opened; history_failed, when the history cannot be read.
        """
        if self.history.open_holder(self.run) not in (Holder.of(os.getpid()), parent_holder()):
            raise MobiusError(
                "run_not_opened",
                f"The history in {self.folder} has no open run {self.run} of this process.",
                do_next="Give ansible-playbook one playbook, which may import others: the run ends with it.",
            )

    def require_host(self, host: str) -> None:
        """Require that the recorded intent names the host.

        Raises:
            MobiusError: run_not_opened.
        """
        if host not in (hosts := self.intent.get("hosts", ())):
            raise MobiusError(
                "run_not_opened",
                f"The run {self.run} was recorded for {', '.join(hosts)}, and not for {host}.",
                do_next="The first play that opens a run has to have all of its hosts; or run the plays one by one.",
            )

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


def note_opened(workspace: RunWorkspace, host: str, run: str, opening: OpeningLevel) -> None:
    """Keep that the run was opened for a host.

    Raises:
        MobiusError: it cannot be written, and then nothing may change on this host.
    """
    try:
        workspace.write_opened_host(host, {"run": run, "opening": opening.name.lower()})
    except OSError as error:
        raise MobiusError(
            "history_failed", f"{workspace.folder} cannot be written: {error.strerror or error}."
        ) from error


def opening_of(workspace: RunWorkspace, host: str, run: str) -> OpeningLevel | None:
    """How far the run was opened for a host; None when it was not."""
    note = workspace.read_opened_host(host) or {}
    name = str(note.get("opening")).upper()
    return OpeningLevel[name] if note.get("run") == run and name in OpeningLevel.__members__ else None


def require_opened(workspace: RunWorkspace, host: str, least: OpeningLevel, *, is_revert: bool = False) -> str:
    """The id of the run that was opened for a host, which a task is about to change.

    What the plugin `run` has kept counts, and the history: an intent of this very process, which is still open and
    names the host. No variable can replace that.

    Args:
        is_revert: whether the task only reverts or releases what its run began. The history is not read then, nor for
            what a rollback does: one that breaks in the middle of a run must not keep a host from reverting.

    Raises:
        MobiusError: run_not_opened; history_failed or history_damaged, when the history cannot be read.
    """
    note = workspace.read_opened_host(host) or {}
    opening = opening_of(workspace, host, str(note.get("run")))
    if opening is None:
        raise MobiusError("run_not_opened", f"No run was opened for {host}, so nothing may change it.")
    if opening < least:
        reason = f"The run was opened for {host} without a check of its approvals, and this change needs them."
        raise MobiusError("run_not_opened", reason)
    if is_revert or least is OpeningLevel.UNRECORDED:
        return str(note["run"])
    opened = OpenedRun.read(workspace)
    if opened is None or opened.run != note["run"]:
        raise MobiusError("run_not_opened", f"No run was opened for {host}, so nothing may change it.")
    opened.require_open()
    opened.require_host(host)
    return opened.run


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
