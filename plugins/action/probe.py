# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends probes with the bodies that are read on the control node, and shows what a gate observes."""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.gate_samples import forward_samples
from mobius.control.run.installed_modules import InstalledModules
from mobius.control.run.probe_bodies import find_body, read_bodies
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError

_PROGRESS_LIMIT_BYTES = 65_536  # of a gate's progress file; it writes about a thousand


class ActionModule(InstalledModules):
    """Turns `body_file` into `body_base64` and runs the module of its own name (`probe`, and `gate` by a link)."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            arguments = read_bodies(self._task.args, find_body(self))
        except MobiusError as e:
            return {**result, "failed": True, "msg": e.reason, "mobius_failure": e.as_dict()}
        with self._forwarding(str((task_vars or {}).get("inventory_hostname")), arguments):
            return {**result, **self._execute_module(self._task.resolved_action, arguments, task_vars=task_vars)}

    def _forwarding(self, host: str, arguments: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """While a gate observes, `mobius` gets its samples: they are read beside it, by commands of their own."""
        workspace = RunWorkspace.of_mobius(os.environ)
        # from -vvv on, each read would be in the output
        if workspace is None or self._task.check_mode or self._display.verbosity > 2:
            return contextlib.nullcontext()
        if self._task.resolved_action != "mobius.dhash.gate":
            return contextlib.nullcontext()
        path = f"{self._make_tmp_path().rstrip('/')}/progress.json"
        arguments["progress_file"] = path
        beside = copy.copy(self._connection)  # SSH's own connection below is shared, the state of a command is not
        beside.become = None

        def read() -> str | None:
            try:
                code, out, _ = beside.exec_command(
                    f"head -c {_PROGRESS_LIMIT_BYTES} {shlex.quote(path)}", sudoable=False
                )
            except (AnsibleError, OSError):
                return None
            return out.decode("utf-8", "replace") if code == 0 else None

        return forward_samples(workspace, host, read)
