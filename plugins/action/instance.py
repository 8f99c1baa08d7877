# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts or stops an instance, and probes one with bodies that are read on the control node."""

from __future__ import annotations

from typing import Any

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.changing_action import ChangingAction
from mobius.control.run.probe_bodies import find_body, read_bodies
from mobius.errors import MobiusError


class ActionModule(ChangingAction):
    """Turns `body_file` into `body_base64`, and runs the module of its own name."""

    def change(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002
        """Start the instance and probe it, or stop it."""
        try:
            return self.execute(read_bodies(self._task.args, find_body(self)), task_vars)
        except MobiusError as error:
            return {"changed": False, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
