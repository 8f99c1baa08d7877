# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts the hosts of a play into batches."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from mobius.control.batches import batches
from mobius.errors import MobiusError


class ActionModule(ActionBase):  # type: ignore[misc]
    """The batches of all hosts of the play, whatever became of them; changes nothing and works in check mode."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={"sizes": {"type": "list", "elements": "raw", "required": True}}
        )
        hosts = [str(host) for host in (task_vars or {})["ansible_play_hosts_all"]]
        try:
            found = batches(hosts, arguments["sizes"])
        except MobiusError as error:
            return {**result, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        return {**result, "changed": False, "batches": found}
