# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action plugin of every module that changes a host: it runs only when its run was opened for that host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.action.normal import ActionModule as NormalAction

from mobius.control.history.opened_run import OpeningLevel, require_opened
from mobius.control.modules import COLLECTION, module_entry
from mobius.control.run.action import current_workspace
from mobius.control.run.installed_modules import InstalledModules
from mobius.errors import MobiusError

_WITNESS = f"{COLLECTION}witness"


class ChangingAction(InstalledModules, NormalAction):  # type: ignore[misc]
    """Refuses with `run_not_opened`, in check mode too; then runs the module of its name, which gets the run's id.

    The host itself refuses a run that the control node has not told it of (`module_utils/opened_runs.py`).
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check that the run was opened, and do what the module does."""
        ActionBase.run(self, tmp, task_vars)
        host = str(self._task.delegate_to or (task_vars or {}).get("inventory_hostname"))
        try:
            entry = module_entry(self._task.resolved_action)
            least = OpeningLevel[entry.changes_host.upper()]
            is_revert = entry.reverts is not None and entry.reverts in self._task.args.items()
            self._opened_run = require_opened(current_workspace(), host, least, is_revert=is_revert)
        except MobiusError as error:
            return {"changed": False, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        return self.change(tmp, task_vars)

    def change(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """What the task does once the run is known to be open."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        return result

    def execute(self, arguments: Mapping[str, Any] | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module of the task's name on the host."""
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result

    def _execute_module(
        self, module_name: str | None = None, module_args: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        arguments = {**(self._task.args if module_args is None else module_args), "opened_run": self._opened_run}

        def run() -> dict[str, Any]:
            answer: dict[str, Any] = super(ChangingAction, self)._execute_module(module_name, arguments, **options)
            return answer

        answer = run()
        if (answer.get("mobius_failure") or {}).get("outcome") != "run_not_opened":
            return answer
        # the host was not asked when the run was opened, or has rebooted since
        about = {"opened_run": self._opened_run}
        left: dict[str, Any] = super()._execute_module(_WITNESS, about, task_vars=options.get("task_vars"))
        return left if left.get("failed") or left.get("unreachable") else run()
