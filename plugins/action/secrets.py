# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a file of secrets on the control node, checks the values, and sends them to the module of its name."""

from __future__ import annotations

import base64
import json
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import AnsibleVaultError
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.run.changing_action import ChangingAction
from mobius.control.secrets_file import check_secrets, parse_secrets
from mobius.errors import MobiusError


class ActionModule(ChangingAction):
    """Turns `file` and `values` into `content`."""

    def change(self, _tmp: str | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Send the values, or say which name is wrong; no message has a value."""
        arguments = dict(self._task.args)
        path, values = arguments.pop("file", None), arguments.pop("values", None) or {}
        try:
            in_file = parse_secrets(self._read(path), path) if path else {}
            secrets = check_secrets(in_file, values, arguments.pop("taken", ()))
        except MobiusError as error:
            return {"changed": False, "failed": True, "msg": error.reason, "mobius_failure": error.as_dict()}
        arguments["content"] = base64.b64encode(json.dumps(secrets).encode()).decode()
        return self.execute(arguments, task_vars)

    def _read(self, path: str) -> str:
        """The text of the file, decrypted.

        Raises:
            MobiusError: invalid_input.
        """
        if not path.startswith("/"):
            raise MobiusError("invalid_input", f"The file of secrets {path} has no absolute path. Nothing was changed.")
        try:
            text: str = self._loader.get_text_file_contents(path)
        except AnsibleVaultError:
            raise MobiusError(
                "invalid_input",
                f"The file of secrets {path} cannot be decrypted. Nothing was changed.",
                do_next="Name the file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE, and run again.",
            ) from None
        except (AnsibleError, OSError):
            raise MobiusError(
                "invalid_input", f"The file of secrets {path} cannot be read. Nothing was changed."
            ) from None
        return text
