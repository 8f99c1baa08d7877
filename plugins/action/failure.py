# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fails with an outcome of the one table, or passes an earlier failure on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction, refusal_of_the_run, warning
from mobius.control.run.outcome import failure_from


class ActionModule(ControlNodeAction):
    """Fails, in check mode too: what a play refuses, its plan refuses. What awaits consent is a warning there."""

    arguments: ClassVar = {
        "outcome": {"type": "str"},
        "reason": {"type": "str"},
        "do_next": {"type": "str"},
        "failure": {"type": "dict"},
        "host": {"type": "dict"},
        "awaits_consent": {"type": "bool", "default": False},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        awaits_consent = arguments["awaits_consent"]
        failure = failure_from(**{name: value for name, value in arguments.items() if name != "awaits_consent"})
        if awaits_consent and self._task.check_mode:
            return warning([refusal_of_the_run(failure["reason"])])
        return {"failed": True, "msg": failure["reason"], "mobius_failure": failure}
