# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells a host for how long its rollback has been on the way. Needs Ansible only, as nothing may block a rollback."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import process_age

_RUN_ID = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Adds `run_age`: the seconds since ansible-playbook started, or since `mobius` made the id of the run."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {"run_age": _run_age(str(self._task.args.get("run"))), **self._task.args}
        return {**result, **self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)}


def _run_age(run: str) -> float:
    age = process_age(os.getppid())
    if match := _RUN_ID.fullmatch(run):
        began = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        age = max(age, (datetime.now(UTC) - began).total_seconds())
    return max(0.0, age)
