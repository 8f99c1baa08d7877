# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Notes what a promotion has shown on one host, for the decision about all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction
from mobius.control.run.outcome import noted_failure


class ActionModule(ControlNodeAction):
    """Takes over the verdict of a gate, or, in a rescue, the failure of the block."""

    arguments: ClassVar = {"gate": {"type": "dict"}, "reason": {"type": "str"}}

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        if arguments["gate"] is not None:
            return {name: arguments["gate"].get(name) for name in ("verdict", "reason", "evidence")}
        result = task_vars.get("ansible_failed_result")
        return noted_failure(result if isinstance(result, Mapping) else {}, arguments["reason"])
