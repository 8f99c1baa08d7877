# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes the lock of a host, and says for whom it waits before it waits."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks for the lock without waiting first: a module answers once, at its end, and that may be minutes away."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            wait = float(arguments.get("wait") or 0)
        except (TypeError, ValueError):
            wait = 0.0  # the module itself refuses what is no number
        if wait > 0:
            first = self._acquire({**arguments, "wait": 0}, task_vars)
            refused = first.get("mobius_failure") or {}
            if refused.get("outcome") != "locked":
                return {**result, **first}
            if not self._task.no_log:
                host = (task_vars or {}).get("inventory_hostname")
                # a warning would be kept until the task has ended; `mobius` shows lines that begin like one
                self._display.display(f"[WAITING]: {host} is waited for, {wait:g} s at most: {refused.get('reason')}")
        return {**result, **self._acquire(arguments, task_vars)}

    def _acquire(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)
        return answer
