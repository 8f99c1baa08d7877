"""What the installed commands mobius-host and mobius-backup consist of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE_UTILS = CHECKOUT / "plugins/module_utils"

sys.path.insert(0, str(CHECKOUT / ".ansible/collections"))

from ansible_collections.mobius.dhash.plugins.module_utils.backup.console import BACKUP_TOOL_MODULES  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import TOOL_MODULES  # noqa: E402


@pytest.mark.parametrize(("folder", "names"), [("host", TOOL_MODULES), ("backup", BACKUP_TOOL_MODULES)])
def test_an_installed_command_holds_every_file_of_its_package(folder: str, names: tuple[str, ...]) -> None:
    files = {path.relative_to(MODULE_UTILS).with_suffix("") for path in (MODULE_UTILS / folder).rglob("*.py")}
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
    assert {name for name in names if name == folder or name.startswith(f"{folder}.")} == modules


@pytest.mark.parametrize("names", [TOOL_MODULES, BACKUP_TOOL_MODULES])
def test_every_file_of_an_installed_command_exists_and_is_named_once(names: tuple[str, ...]) -> None:
    assert len(set(names)) == len(names)
    for name in names:
        path = MODULE_UTILS / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name
