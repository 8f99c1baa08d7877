# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One decision for a fleet, from what every host of the play reported, or did not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mobius.control.action import ControlNodeAction
from mobius.control.batches import record_decision
from mobius.control.outcome import HostReport, decide
from mobius.errors import MobiusError


class ActionModule(ControlNodeAction):
    """Looks at one registered result of all hosts of the play, whatever became of them; changes none of them."""

    arguments: ClassVar = {
        "result": {"type": "str", "required": True},
        "record_dir": {"type": "path"},
        "run": {"type": "str"},
        "about": {"type": "dict", "default": {}},
    }
    required_by: ClassVar = {"record_dir": ("run",)}

    def answer(self, given: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        record: dict[str, str] = {}
        alive = set(task_vars["ansible_play_hosts"])
        reports = []
        for host in task_vars["ansible_play_hosts_all"]:
            value = task_vars["hostvars"][host].get(given["result"])
            reports.append(HostReport(host, host in alive, value if isinstance(value, dict) else None))
        decision = decide(reports, check_mode=bool(self._task.check_mode))
        if given["record_dir"] and not self._task.check_mode:
            about = {**given["about"], "hosts": [report.host for report in reports]}
            try:
                folder = Path(given["record_dir"]).expanduser()
                path = record_decision(folder, given["run"], {**about, **decision.as_dict()})
            except MobiusError as error:
                decision = decision.taken_back(error)
            else:
                record["record"] = str(path)
        return {**record, **decision.as_dict()}
