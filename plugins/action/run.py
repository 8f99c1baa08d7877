# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gives the run its id: the first task of every play that can change a host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase

from mobius.control.run_id import actor, current_run_id
from mobius.errors import MobiusError


class ActionModule(ActionBase):  # type: ignore[misc]
    """The run's id and actor, as facts of every host; it changes nothing and works in check mode."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        try:
            run_id = current_run_id(os.environ, Path(constants.DEFAULT_LOCAL_TMP))
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        who = actor(os.environ)
        facts = {"mobius_run_id": run_id, "mobius_run_actor": who}
        return {**result, "changed": False, "run": run_id, "actor": who, "ansible_facts": facts}
