# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fails with an outcome of the one table, or passes an earlier failure on."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from mobius.control.outcome import failure_from
from mobius.errors import MobiusError


class ActionModule(ActionBase):  # type: ignore[misc]
    """Always fails, in check mode too: what a play refuses, its plan refuses."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "outcome": {"type": "str"},
                "reason": {"type": "str"},
                "do_next": {"type": "str"},
                "failure": {"type": "dict"},
            },
        )
        try:
            failure = failure_from(**arguments)
        except MobiusError as error:
            failure = error.as_dict()
        return {**result, "changed": False, "failed": True, "msg": failure["reason"], "mobius_failure": failure}
