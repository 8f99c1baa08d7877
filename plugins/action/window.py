# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Refuses a change outside of the change window."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase

from mobius.control.window import refusal
from mobius.errors import MobiusError


class ActionModule(ActionBase):  # type: ignore[misc]
    """Looks at the control node's clock; in check mode what would be refused is a finding, and no refusal."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "window": {"type": "str", "required": True},
                "break_glass": {"type": "str", "default": ""},
            },
        )
        finding = ""
        try:
            refused = refusal(arguments["window"], arguments["break_glass"], datetime.now(UTC))
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        if refused is not None:
            if not self._task.check_mode:
                return {**result, "failed": True, "msg": refused.reason, "mobius_failure": refused.as_dict()}
            finding = refused.reason
            result["warnings"] = [f"The run itself would be refused now: {finding}"]
        return {**result, "changed": False, "finding": finding}
