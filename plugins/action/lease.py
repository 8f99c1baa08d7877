# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes the lock of a host, and says whom it waits for before it waits."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks for the lock without waiting first: a module answers once, at its end, and that may be minutes away."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        wait = arguments.get("wait") or 0
        first = {
            **result,
            **self._execute_module(self._task.resolved_action, {**arguments, "wait": 0}, task_vars=task_vars),
        }
        refused = first.get("mobius_failure") or {}
        if not wait or refused.get("outcome") != "locked":
            return first
        host = (task_vars or {}).get("inventory_hostname")
        self._display.warning(f"{host} is waited for, {wait} s at most: {refused.get('reason')}")
        return {**result, **self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)}
