# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes the lock of a host, and says for whom it waits before it waits."""

from __future__ import annotations

from typing import Any

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.changing_action import ChangingAction


class ActionModule(ChangingAction):
    """Asks for the lock without waiting first: a module answers once, at its end, and that may be minutes away."""

    def change(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002
        """Take the lock, or release it."""
        arguments = dict(self._task.args)
        try:
            wait = float(arguments.get("wait") or 0)
        except (TypeError, ValueError):
            wait = 0.0  # the module itself refuses what is no number
        if wait > 0:
            first = self.execute({**arguments, "wait": 0}, task_vars)
            refused = first.get("mobius_failure") or {}
            if refused.get("outcome") != "locked":
                return first
            if not self._task.no_log:
                host = (task_vars or {}).get("inventory_hostname")
                # a warning would be kept until the task has ended; `mobius` shows lines that begin like one
                self._display.display(f"[WAITING]: {host} is waited for, {wait:g} s at most: {refused.get('reason')}")
        return self.execute(arguments, task_vars)
