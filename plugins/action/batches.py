# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts the hosts of a play into batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import wheel  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction
from mobius.control.run.batches import batches


class ActionModule(ControlNodeAction):
    """The batches of hosts of the play, whatever became of them; changes nothing and works in check mode."""

    arguments: ClassVar = {
        "hosts": {"type": "list", "elements": "str"},
        "sizes": {"type": "list", "elements": "raw", "required": True},
    }

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        every = task_vars["ansible_play_hosts_all"]
        hosts = [str(host) for host in (every if arguments["hosts"] is None else arguments["hosts"])]
        return {"batches": batches(hosts, arguments["sizes"])}
