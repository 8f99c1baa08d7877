# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stages a release: the bundle is read here, and sent only to a host that says it needs it."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius import manifest
from mobius.control.bundle.reading import read_once
from mobius.control.run.action import current_workspace
from mobius.control.run.changing_action import ChangingAction
from mobius.errors import MobiusError


class ActionModule(ChangingAction):
    """Asks the host first what it would do with the bundle; in check mode that answer is the prediction."""

    def change(self, tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002
        """Stage the release, or remove it."""
        arguments = dict(self._task.args)
        if arguments.get("state", "staged") != "staged":
            return self.execute(arguments, task_vars)
        try:
            bundle = self._read(arguments.pop("bundle", None), arguments.get("sha256"))
            arguments["expect"] = manifest.expectation(bundle)
            answer = self.execute(arguments, task_vars)
            if answer.get("failed") or not answer.pop("transfer", False):
                return answer
            return self._send(bundle, arguments, task_vars=task_vars)
        except MobiusError as e:
            return {"failed": True, "msg": e.reason, "mobius_failure": e.as_dict()}

    def _read(self, path: Any, sha256: str | None) -> manifest.Bundle:
        if not isinstance(path, str) or not path:
            raise MobiusError("invalid_input", "No bundle was given.")
        return read_once(path, sha256, current_workspace())

    def _send(
        self, bundle: manifest.Bundle, arguments: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        shell = self._connection._shell
        try:
            if shell.tmpdir is None:
                self._make_tmp_path()
            remote = shell.join_path(shell.tmpdir, "bundle.tar.gz")
            self._transfer_file(str(bundle.path), remote)
            self._fixup_perms2((shell.tmpdir, remote))
        except AnsibleError as e:
            # neither ssh nor sftp reports it in another way; there was enough space when the host was asked
            if "No space left" not in str(e):
                raise
            raise MobiusError("disk_full", "The host became full while the bundle was sent to it.") from None
        # Ansible itself removes the folder at the end of the task, however that ends
        return self.execute({**arguments, "src": remote}, task_vars)
