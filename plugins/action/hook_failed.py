# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says what a failed hook means: the end of its phase, or no more than a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction, warning
from mobius.control.run.hooks import hook_failure


class ActionModule(ControlNodeAction):
    """Stands in the rescue of a hook."""

    arguments: ClassVar = {
        "hook": {"type": "str", "required": True},
        "optional": {"type": "bool", "default": False},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        result = task_vars.get("ansible_failed_result")
        task = task_vars.get("ansible_failed_task")
        name = str(task.get("name") or "") if isinstance(task, Mapping) else ""
        error = hook_failure(arguments["hook"], name, result if isinstance(result, Mapping) else {})
        if arguments["optional"]:
            return warning([f"{error.reason} The run goes on without it."])
        raise error
