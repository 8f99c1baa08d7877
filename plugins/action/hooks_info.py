# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the task files of the user's that run around the phases of a release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction, warning
from mobius.control.run.hooks import find_hooks
from mobius.errors import MobiusError


class ActionModule(ControlNodeAction):
    """Refuses what cannot be run, or where nothing may stand in the way, warns of it and leaves it out."""

    arguments: ClassVar = {
        "hooks": {"type": "raw", "required": True},
        "optional": {"type": "bool", "default": False},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        folder = Path(str(task_vars.get("inventory_dir") or task_vars.get("playbook_dir") or "."))
        hooks, problems = find_hooks(arguments["hooks"], folder)
        if problems and not arguments["optional"]:
            raise MobiusError(
                "invalid_input", problems[0], do_next="Correct mobius_hooks or the file; see docs/releasing.md."
            )
        return {"hooks": hooks, **warning(problems)}
