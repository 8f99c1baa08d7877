# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Refuses a change outside of the change window."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.plan.window import refusal
from mobius.control.run.action import ControlNodeAction, refusal_of_the_run


class ActionModule(ControlNodeAction):
    """Looks at the control node's clock; in check mode what would be refused is a finding, and no refusal."""

    arguments: ClassVar = {
        "window": {"type": "str", "required": True},
        "break_glass": {"type": "str", "default": ""},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        refused = refusal(arguments["window"], arguments["break_glass"], datetime.now(UTC))
        if refused is None:
            return {"finding": "", "window": arguments["window"]}
        if not self._task.check_mode:
            raise refused
        answer = {"finding": refused.reason, "window": arguments["window"]}
        return {**answer, "warnings": [refusal_of_the_run(refused.reason)]}
