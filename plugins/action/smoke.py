# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the bodies of probes on the control node, and has the host check what it serves."""

from __future__ import annotations

from typing import Any

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.installed_modules import InstalledModules
from mobius.control.run.probe_bodies import find_body, read_bodies
from mobius.errors import MobiusError


class ActionModule(InstalledModules):
    """Turns `body_file` into `body_base64`, and runs the module of its own name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            arguments = read_bodies(self._task.args, find_body(self))
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        return {**result, **self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)}
