# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installs a command on a host; with mobius-host also the modules of the collection, which are sent if it has none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.changing_action import ChangingAction
from mobius.control.run.installed_modules import installed_digest, write_archive


class ActionModule(ChangingAction):
    """Asks the host first whether it has the modules; in check mode that answer is the prediction."""

    def change(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002
        """Install the command."""
        arguments = dict(self._task.args)
        if arguments.get("tool", "host") != "host":
            return self.execute(arguments, task_vars)
        arguments["modules"] = installed_digest(self.plugins_folder)
        answer = self.execute(arguments, task_vars)
        if answer.get("failed") or not answer.pop("transfer", False):
            return answer
        return self.execute({**arguments, "modules_archive": self._send()}, task_vars)

    def _send(self) -> str:
        """The path of the archive of the modules on the host; Ansible removes its folder at the end of the task."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote: str = shell.join_path(shell.tmpdir, "modules.zip")
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "modules.zip")
            write_archive(self.plugins_folder, archive)
            self._transfer_file(str(archive), remote)
        self._fixup_perms2((shell.tmpdir, remote))
        return remote
