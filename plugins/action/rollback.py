# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells a host since when its rollback is requested. Needs Ansible only, as nothing may block a rollback."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import process_age

try:
    from mobius.control.run.installed_modules import InstalledModules
except ImportError:  # without the package, the module is sent
    InstalledModules = ActionBase

_RUN_ID = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")


class ActionModule(InstalledModules):  # type: ignore[misc]
    """Adds `requested_at`, by the clock of the host: when ansible-playbook started, or `mobius` made the run's id."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        now = self._read_clock()
        if now is not None:
            # the age is read later than the clock: a slow connection makes the time earlier, which is safe
            arguments.setdefault("requested_at", now - _run_age(str(arguments.get("run"))))
        return {**result, **self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)}

    def _read_clock(self) -> float | None:
        """The clock of the host, in seconds since 1970; None when it cannot be read."""
        try:
            return float(self._low_level_execute_command("date +%s.%N")["stdout"].strip())
        except (AnsibleError, KeyError, ValueError):
            return None


def _run_age(run: str) -> float:
    age = process_age(os.getppid())
    if match := _RUN_ID.fullmatch(run):
        began = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        age = max(age, time.time() - began.timestamp())
    return max(0.0, age)
