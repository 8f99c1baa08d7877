# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The variables of the roles that a `mobius.yml` becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mobius.control.service_file.keys import FILE_NAME, KEYS, Key
from mobius.control.service_file.parse import ServiceFile
from mobius.errors import MobiusError

MARKER = "mobius_service_file"
"""The variable that names the file whose values an inventory has."""

# The roles' defaults are those of dhash, whose metrics, golden probes and database another service has not.
_OF_NO_OTHER_SERVICE: Mapping[str, Any] = {
    "host_watch_signals": [],
    "host_watch_memory": {},
    "promote_signals": [],
    "promote_probes": [],
    "deploy_golden": [],
    "backup_writes": {},
    "backup_drill_count": {},
    "backup_drill_probes": [],
}


def to_variables(file: ServiceFile) -> dict[str, Any]:
    """The variables of the roles, by name; they have the lowest precedence of an inventory."""
    values = file.values
    variables: dict[str, Any] = {MARKER: str(file.path), **_OF_NO_OTHER_SERVICE}
    if file.kind == "http":
        variables["backup_drill_probes"] = [{"name": "health", "path": values.get("health", "/health")}]
    variables |= _as_they_are(KEYS, values)
    for key in KEYS:
        if key.name == "backup" and "backup" in values:
            variables |= _as_they_are(key.types[0].keys, values["backup"])
    variables |= {f"host_front_{name}": value for name, value in values.get("front", {}).items()}
    variables |= _listen(values.get("listen"))
    if "environment" in values:
        variables["host_environment"] = {name: _text(value) for name, value in values["environment"].items()}
    sandbox = {**values.get("sandbox", {}), **({"write": values["shared"]} if values.get("shared") else {})}
    if sandbox:
        variables["host_sandbox"] = sandbox
    folder = str(file.path.absolute().parent)
    if "probes" in values:
        variables |= {
            "deploy_golden": values["probes"],
            "promote_probes": values["probes"],
            "mobius_smoke_probes": values["probes"],
            "deploy_golden_dir": folder,
            "promote_probes_dir": folder,
            "mobius_smoke_probes_dir": folder,
        }
    if "environment_file" in values:
        variables["host_secrets_file"] = str(Path(folder, values["environment_file"]))
    if "hooks" in values:
        variables["mobius_hooks"] = {name: str(Path(folder, path)) for name, path in values["hooks"].items()}
    return variables


def require_service_file(inventories: Iterable[str], known: Mapping[str, Any]) -> None:
    """Require that Ansible has read each `mobius.yml` among its inventories as one.

    Without the plugin it takes the file for an inventory without hosts, warns, and goes on with the roles' defaults.

    Raises:
        MobiusError: invalid_input.
    """
    files = [each for each in inventories if Path(each).name == FILE_NAME]
    if files and MARKER not in known:
        raise MobiusError(
            "invalid_input",
            f"Ansible has not read {files[0]}: the inventory plugin mobius.dhash.service_file is not enabled. "
            "Nothing was changed.",
            do_next="Let enable_plugins in section [inventory] of ansible.cfg begin with mobius.dhash.service_file.",
        )


def _as_they_are(keys: tuple[Key, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    return {variable: values[key.name] for key in keys if key.name in values for variable in key.variables}


def _listen(value: int | str | None) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, int):
        return {"host_port": value}
    address, _, port = value.rpartition(":")
    return {"host_address": address.strip("[]"), "host_port": int(port)}


def _text(value: Any) -> str:
    """A value of the environment: a shell's words for true and false, not Python's."""
    return str(value).lower() if isinstance(value, bool) else str(value)
