# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One decision for a fleet, from what every host of the play reported, or did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from mobius.control.batches import record_decision
from mobius.control.outcome import HostReport, decide
from mobius.errors import MobiusError


class ActionModule(ActionBase):  # type: ignore[misc]
    """Looks at one registered result of all hosts of the play, whatever became of them; changes none of them."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "result": {"type": "str", "required": True},
                "record_dir": {"type": "path"},
                "run": {"type": "str"},
                "about": {"type": "dict", "default": {}},
            },
            required_by={"record_dir": ("run",)},
        )
        variables = task_vars or {}
        alive = set(variables["ansible_play_hosts"])
        reports = []
        for host in variables["ansible_play_hosts_all"]:
            value = variables["hostvars"][host].get(arguments["result"])
            reports.append(HostReport(host, host in alive, value if isinstance(value, dict) else None))
        decision = decide(reports, check_mode=bool(self._task.check_mode))
        if arguments["record_dir"] and not self._task.check_mode:
            about = {**arguments["about"], "hosts": [report.host for report in reports]}
            try:
                folder = Path(arguments["record_dir"]).expanduser()
                path = record_decision(folder, arguments["run"], {**about, **decision.as_dict()})
            except MobiusError as error:
                decision = decision.taken_back(error)
            else:
                result["record"] = str(path)
        return {**result, "changed": False, **decision.as_dict()}
