# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One decision for a fleet, from what every host of the play reported, or did not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.history.opened_run import OpenedRun
from mobius.control.history.recorder import decision_data
from mobius.control.history.writer import History
from mobius.control.run.action import ControlNodeAction, current_workspace
from mobius.control.run.batches import host_reports
from mobius.control.run.outcome import FleetDecision, decide
from mobius.errors import MobiusError


class ActionModule(ControlNodeAction):
    """Looks at one registered result of all hosts of the play, whatever became of them; changes none of them."""

    arguments: ClassVar = {
        "result": {"type": "str", "required": True},
        "run": {"type": "str"},
        "about": {"type": "dict", "default": {}},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        reports = host_reports(arguments["result"], task_vars)
        decision = decide(reports, check_mode=bool(self._task.check_mode))
        if not arguments["run"] or self._task.check_mode:
            return decision.as_dict()
        results = {report.host: report.result for report in reports}

        def record(made: FleetDecision) -> int:
            return _history(arguments["run"]).decide(arguments["run"], decision_data(arguments["about"], made, results))

        try:
            return {"record": record(decision), **decision.as_dict()}
        except MobiusError as error:
            decision = decision.reverted_for(
                MobiusError(
                    error.outcome, f"The decision could not be recorded, so the hosts are reverted: {error.reason}"
                )
            )
            # it may be in the history all the same, when only what follows it could not be written: the last one holds
            with contextlib.suppress(MobiusError):
                record(decision)
            return decision.as_dict()


def _history(run: str) -> History:
    """The history that this run was opened in.

    Raises:
        MobiusError: history_failed, when it was opened in none.
    """
    opened = OpenedRun.read(current_workspace())
    if opened is None or opened.run != run:
        raise MobiusError(
            "history_failed",
            f"The run {run} was not opened in a history.",
            do_next="Open it with mobius.dhash.run in the first task of the play.",
        )
    return opened.history
