# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holds a host back when another one of the play has failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction
from mobius.control.run.batches import failed_hosts, host_reports
from mobius.errors import MobiusError


class ActionModule(ControlNodeAction):
    """Fails with `held_back` before the host is switched; changes nothing and works in check mode."""

    arguments: ClassVar = {"result": {"type": "str"}}

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        failed = failed_hosts(host_reports(arguments["result"], task_vars))
        if failed:
            raise MobiusError("held_back", f"{', '.join(failed)} failed before this host was promoted.")
        return {"failed_hosts": failed}
