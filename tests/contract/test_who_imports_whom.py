"""The storeys of the house: who may import whom (DESIGN, section 1)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FOUNDATION = {"mobius", "mobius.errors", "mobius.durable", "mobius.manifest", "mobius.signer", "mobius.logs"}
LINKS = ("errors", "durable", "manifest", "signer")
MODULE_UTILS = "ansible_collections.mobius.dhash.plugins.module_utils"


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports anywhere, `from mobius import errors` as `mobius.errors`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the storey"
            name = node.module or ""
            package = CHECKOUT / name.replace(".", "/")
            if name.startswith("mobius") and package.is_dir():
                found.update(
                    f"{name}.{alias.name}" if (package / f"{alias.name}.py").exists() else name for alias in node.names
                )
            else:
                found.add(name)
    return found


def python_files(folder: str) -> list[Path]:
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    return files


def storey(name: str) -> str:
    """`mobius.service.app` -> `mobius.service`."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("mobius/dhash", {"mobius.dhash"}),
        ("mobius/service", {"mobius.dhash", "mobius.service"}),
        ("mobius/control", {"mobius.control"}),
    ],
)
def test_a_storey_imports_only_what_stands_below_it(folder: str, allowed: set[str]) -> None:
    for path in python_files(folder):
        ours = {name for name in imports_of(path) if name.split(".")[0] == "mobius"}
        strangers = {name for name in ours if name not in FOUNDATION and storey(name) not in allowed}
        assert not strangers, f"{path.relative_to(CHECKOUT)} imports {sorted(strangers)}"


def test_the_package_imports_nothing_from_the_plugins() -> None:
    for path in python_files("mobius"):
        assert not {name for name in imports_of(path) if name.startswith(("ansible_collections", "plugins"))}, path


@pytest.mark.parametrize("folder", ["plugins/modules", "plugins/module_utils"])
def test_what_runs_on_hosts_needs_nothing_but_the_standard_library(folder: str) -> None:
    for path in python_files(folder):
        for name in imports_of(path):
            top = name.split(".")[0]
            fine = top in sys.stdlib_module_names or name.startswith(("ansible.module_utils", MODULE_UTILS))
            assert fine, f"{path.relative_to(CHECKOUT)} imports {name}"


@pytest.mark.parametrize("name", LINKS)
def test_a_file_shared_with_the_hosts_is_one_file_and_imports_the_standard_library_only(name: str) -> None:
    link = CHECKOUT / "plugins/module_utils" / f"{name}.py"
    assert link.is_symlink()
    assert link.resolve() == CHECKOUT / "mobius" / f"{name}.py"
    assert {item.split(".")[0] for item in imports_of(link)} <= set(sys.stdlib_module_names)


def test_nothing_in_the_hosts_shared_code_is_a_copy() -> None:
    copies = [path for path in python_files("plugins/module_utils") if not path.is_symlink() and path.stem in LINKS]
    assert not copies
