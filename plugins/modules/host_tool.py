#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: installs the command `mobius-host` or `mobius-backup`, and describes a service to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_tool
short_description: Installs the command mobius-host or mobius-backup, and describes a service to it
description:
  - Writes the code that the modules of this collection use to the host, and a launcher that starts it.
  - The launcher is written last and in one step, so the command is always one whole version, the old or the new one.
  - With mobius-host, also installs the modules of this collection in C(/usr/local/lib/mobius-modules), from where a run
    starts them. A run that finds no modules of its version there sends them, as Ansible does with any module.
  - With O(config), also writes the description of a service that the command and the modules read, and the copy of its
    activation record on a host where an earlier version has kept only one.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the version of the command, and the description of the service."}
options:
  tool:
    description: V(host) switches, reverts and watches; V(backup) is run by the timers of the host.
    type: str
    choices: [host, backup]
    default: host
  lib_dir:
    description: Folder of the code, with one folder per version; by default C(/usr/local/lib/<tool>).
    type: path
  command:
    description: Path of the command; by default C(/usr/local/bin/<tool>).
    type: path
  config_dir:
    description: Folder of the service descriptions; by default C(/etc/<tool>).
    type: path
  service:
    description: Name of the service that O(config) describes.
    type: str
  config:
    description:
      - The description of the service, as C(<config_dir>/<service>.json) has it.
      - Its C(instances), the C(command), C(environment), C(health_path) and C(health_command) that a new revision gets, are
        written to C(<config_dir>/configurations/<service>.json), which only root may read.
    type: dict
  modules:
    description: The digest of the modules to install; the action plugin gives it.
    type: str
  modules_archive:
    description: The archive of the modules on the host, once the action plugin has sent it.
    type: path
  modules_dir:
    description: The folder of the modules, with one folder per version.
    type: path
    default: /usr/local/lib/mobius-modules
"""

EXAMPLES = r"""
- name: Install mobius-host
  mobius.dhash.host_tool:

- name: Install mobius-host for a service
  mobius.dhash.host_tool:
    service: mobius-dhash
    config:
      user: mobius-dhash
      root: /opt/mobius-dhash
      run_dir: /run/mobius-dhash
      state_dir: /var/lib/mobius-dhash
      config_dir: /etc/mobius-dhash
      backup_dir: /var/backups/mobius-dhash
      log_dir: /var/log/mobius-dhash
      health_path: /health
      start_timeout: 60
      drain_deadline: 30
      instances:
        command: /usr/bin/python3 -m mobius.service
        environment: {MOBIUS_THREADS: 4}
        health_path: /health
"""

RETURN = r"""
digest:
  description: The digest that identifies this version of the command.
  returned: success
  type: str
previous:
  description: The version that was installed before; empty when there was none.
  returned: success
  type: str
transfer:
  description: Whether the modules have to be sent, and nothing was changed. The action plugin sends them.
  returned: when they have to be
  type: bool
"""

import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, durable, installed_modules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.console import BACKUP_TOOL_MODULES
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import CONFIGURATIONS, SCHEMA, Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import (
    PACKAGE,
    TOOL_MODULES,
    installed_digest,
    launcher,
    tool_digest,
    tool_sources,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.revision import (
    Configuration,
    find_configuration_problem,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_record
from ansible_collections.mobius.dhash.plugins.module_utils.manifest import SERVICE_NAME
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure

PACKAGE_PATH = PACKAGE.replace(".", "/")
# by tool: the files of its code, and the one that has its `main`
TOOLS = {
    "host": (TOOL_MODULES, "host.console"),
    "backup": (BACKUP_TOOL_MODULES, "backup.console"),
}
VERSION_FOLDER = re.compile(r"[0-9a-f]{12}")


def _text(path: Path) -> str | None:
    """The content of a file; None when it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _expected_files(params: dict[str, object], sources: dict[str, str], digest: str) -> dict[Path, tuple[str, int]]:
    """Every file with its text and mode; the launcher last."""
    folder = Path(str(params["lib_dir"])) / digest / PACKAGE_PATH
    command = Path(str(params["command"]))
    expected = {folder / name: (text, 0o644) for name, text in sources.items()}
    if params["config"] is not None:
        service, config = str(params["service"]), params["config"]
        if not isinstance(config, dict) or not SERVICE_NAME.fullmatch(service):
            raise MobiusError("invalid_input", f"{service!r} is not a valid service name.")
        config, instances = dict(config), config.get("instances")
        config.pop("instances", None)
        content = {**config, "schema": SCHEMA, "service": service, "command": str(command)}
        path = Path(str(params["config_dir"])) / f"{service}.json"
        expected[path] = (durable.json_bytes(content).decode(), 0o644)
        if instances is not None:
            path = path.parent / CONFIGURATIONS / path.name
            configuration = _parse_instances(path, instances)
            expected[path] = (durable.json_bytes(configuration.as_dict()).decode(), 0o600)
        expected |= _missing_copy(service, str(params["config_dir"]))
    entry = TOOLS[str(params["tool"])][1]
    text = launcher(str(params["lib_dir"]), digest, entry, str(params["config_dir"]))
    expected[command] = (text, 0o755)
    return expected


def _parse_instances(path: Path, instances: dict[str, object]) -> Configuration:
    """What new revisions get, as the role describes it.

    Raises:
        MobiusError: invalid_input.
    """
    content = {"health_command": [], **instances}
    if problem := find_configuration_problem(content):
        raise MobiusError("invalid_input", f"No instance can run with this configuration: {problem}.")
    return Configuration.parse(path, content)


def _missing_copy(service: str, config_dir: str) -> dict[Path, tuple[str, int]]:
    """The copy of the activation record, on a host whose version of the command kept the record once."""
    try:
        host = Host.load(service, config_dir)
        record = read_record(host)
    except MobiusError:
        return {}  # not prepared yet, or damaged: the command itself says so
    if record.problem or record.is_copied or host.activation_copy_path.exists():
        return {}
    return {host.activation_copy_path: (_text(host.activation_path) or "", 0o644)}


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def _install(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    durable.write_bytes(path, text.encode(), mode=mode)


def _old_versions(lib_dir: Path, digest: str, before: str | None) -> list[Path]:
    """The versions to remove; not the previous one, which a running guard still uses."""
    if digest == before:
        return []
    versions = (path for path in lib_dir.glob("*") if VERSION_FOLDER.fullmatch(path.name) and path.is_dir())
    return sorted(path for path in versions if path.name not in (digest, before))


def _summary(
    name: str, files: dict[Path, str | None], digest: str | None, old: list[Path], modules: list[str]
) -> dict[str, object]:
    services = {str(path): (text or "").splitlines() for path, text in files.items() if path.suffix == ".json"}
    versions = [version[:12] for version in modules]
    return {name: digest, "services": services, "old versions": [path.name for path in old], "modules": versions}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.OPENED,
            "tool": {"type": "str", "choices": list(TOOLS), "default": "host"},
            "lib_dir": {"type": "path"},
            "command": {"type": "path"},
            "config_dir": {"type": "path"},
            "service": {"type": "str"},
            "config": {"type": "dict"},
            "modules": {"type": "str"},
            "modules_archive": {"type": "path"},
            "modules_dir": {"type": "path", "default": installed_modules.LIB_DIR},
        },
        required_by={"config": ["service"]},
        supports_check_mode=True,
    )
    name = f"mobius-{module.params['tool']}"
    for option, folder in (("lib_dir", "/usr/local/lib"), ("command", "/usr/local/bin"), ("config_dir", "/etc")):
        module.params[option] = module.params[option] or f"{folder}/{name}"
    with report_failure(module):
        sources = tool_sources(TOOLS[module.params["tool"]][0])
        digest = tool_digest(sources)
        before = installed_digest(module.params["command"])
        expected = _expected_files(module.params, sources, digest)
        present = {path: _text(path) for path in expected}
        changes = [path for path, (text, mode) in expected.items() if present[path] != text or _mode(path) != mode]
        old = _old_versions(Path(module.params["lib_dir"]), digest, before)
        modules, modules_dir = module.params["modules"], module.params["modules_dir"]
        versions = installed_modules.installed_versions(modules_dir)
        are_missing = modules is not None and not installed_modules.is_installed(modules, modules_dir)
        if not module.check_mode:
            if are_missing and module.params["modules_archive"] is None:
                module.exit_json(changed=False, transfer=True)
            if are_missing:
                installed_modules.install(module.params["modules_archive"], modules, modules_dir)
            for path in changes:
                _install(path, *expected[path])
            for path in old:
                shutil.rmtree(path)
    after = versions if modules is None else [modules]
    module.exit_json(
        changed=bool(changes or old or are_missing),
        digest=digest,
        previous=before or "",
        diff={
            "before": _summary(name, {path: present[path] for path in expected}, before, old, versions),
            "after": _summary(name, {path: text for path, (text, _) in expected.items()}, digest, [], after),
        },
    )


if __name__ == "__main__":
    main()
