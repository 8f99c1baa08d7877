# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Assigns the hosts of a play to batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.action import ControlNodeAction
from mobius.control.run.batches import batches, host_reports, needs_promotion


class ActionModule(ControlNodeAction):
    """The batches of the hosts that need a promotion, failed hosts too; changes nothing and works in check mode."""

    arguments: ClassVar = {
        "hosts": {"type": "list", "elements": "str"},
        "release": {"type": "str"},
        "releases": {"type": "str"},
        "sizes": {"type": "list", "elements": "raw", "required": True},
    }
    required_by: ClassVar = {"releases": ("release",)}

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        reports = host_reports(arguments["releases"], task_vars)
        if arguments["hosts"] is not None:
            hosts = [str(host) for host in arguments["hosts"]]
        elif arguments["releases"]:
            hosts = [report.host for report in reports if needs_promotion(report, arguments["release"] or "")]
        else:
            hosts = [report.host for report in reports]
        return {"hosts": hosts, "batches": batches(hosts, arguments["sizes"])}
