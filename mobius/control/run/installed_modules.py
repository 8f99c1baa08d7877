# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a module from the folder that the role `host` has installed on the host, in place of sending it.

A module that Ansible sends costs 0.5 s of processor time here, to put it together, and as much on the host, which has
to compile it. An installed one is a command that gets its arguments. Where the folder is not there (a host that is not
provisioned, or by another version), or the arguments need Ansible's own code, nothing has begun, and Ansible sends it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.vars.clean import remove_internal_keys

from mobius import manifest
from mobius.control.modules import module_entry, module_name

LIB_DIR = "/usr/local/lib/mobius-modules"
"""On hosts; `plugins/module_utils/installed_modules.py` has it, too."""

_BEGAN = "mobius-module-began\n"  # plugins/module_utils/host_module.py
_PACKAGE = "ansible_collections/mobius/dhash/plugins"
_STAND_IN = "ansible/module_utils/basic.py"
_LAUNCHER = """\
#!/usr/bin/python3 -IS
# Written by Ansible; changes are lost.
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from ansible.module_utils.basic import main

main()
"""


@functools.cache
def installed_files(plugins: Path) -> dict[str, tuple[bytes, int]]:
    """What is installed on hosts: content and mode of each file by its path.

    Args:
        plugins: the folder `plugins` of the collection.
    """
    utils = plugins / "module_utils"
    files = {_STAND_IN: ((utils / "host_module.py").read_bytes(), 0o644), "run": (_LAUNCHER.encode(), 0o755)}
    modules = [path for path in plugins.glob("modules/*.py") if module_entry(f"mobius.dhash.{path.stem}").is_installed]
    for path in (*modules, *utils.rglob("*.py")):
        if path.parent.name not in ("lab", "trial"):  # which run on the control node
            files[f"{_PACKAGE}/{path.relative_to(plugins)}"] = (path.read_bytes(), 0o644)
    return files


@functools.cache
def installed_digest(plugins: Path) -> str:
    """The digest of `installed_files`, which names their folder on hosts."""
    entries = {
        path: manifest.FileEntry(hashlib.sha256(content).hexdigest(), len(content), f"{mode:04o}")
        for path, (content, mode) in installed_files(plugins).items()
    }
    return manifest.tree_sha256(entries)


def write_archive(plugins: Path, path: Path) -> None:
    """Write a ZIP archive of `installed_files`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, mode) in sorted(installed_files(plugins).items()):
            item = zipfile.ZipInfo(name)
            item.external_attr = mode << 16
            archive.writestr(item, content, zipfile.ZIP_DEFLATED)


class InstalledModules(ActionBase):  # type: ignore[misc]
    """An action plugin whose modules are run where they are installed, if they are."""

    @property
    def plugins_folder(self) -> Path:
        """The folder `plugins` of the collection."""
        return Path(str(sys.modules[type(self).__module__].__file__)).resolve().parents[1]

    def _execute_module(
        self, module_name: str | None = None, module_args: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        name = str(module_name or self._task.resolved_action)
        arguments = dict(self._task.args if module_args is None else module_args)
        answer = self._run_installed(name, arguments)
        if answer is not None:
            return answer
        sent: dict[str, Any] = super()._execute_module(name, arguments, **options)
        return sent

    def _run_installed(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The result of an installed module; None when none has begun."""
        if not module_entry(name).is_installed or self._task.async_val or not self._is_pipelining_enabled("new"):
            return None
        request = {
            "module": module_name(name),
            "arguments": plain(arguments),
            "check": bool(self._task.check_mode),
            "tmpdir": None if self._is_become_unprivileged() else self._connection._shell.tmpdir,
            "remote_tmp": self.get_shell_option("remote_tmp", default="~/.ansible/tmp"),
        }
        try:
            path = f"{LIB_DIR}/{installed_digest(self.plugins_folder)}/run"
        except OSError:  # nothing may block a rollback
            return None
        command = self._connection._shell.build_module_command(self._compute_environment_string(), "", path).strip()
        done = self._low_level_execute_command(command, in_data=json.dumps(request).encode())
        _, began, text = done["stdout"].partition(_BEGAN)
        if not began:
            return None
        try:
            answer: dict[str, Any] = dict(json.loads(text))
        except (TypeError, ValueError):
            answer = {"failed": True, "msg": "The module ended without a result.", "module_stdout": text}
            answer |= {"module_stderr": done["stderr"], "rc": done["rc"]}
        remove_internal_keys(answer)
        return answer


def plain(value: Any) -> Any:
    """A value of Ansible's, with what it does lazily done: mappings, lists and scalars of Python."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)
