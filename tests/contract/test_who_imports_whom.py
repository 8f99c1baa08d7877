"""The layers, and which of them may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mobius.control.bundle.builder import goes_into_a_bundle

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = ("errors", "durable", "manifest", "signer", "tar_members", "tree_paths", "metric_table", "logs")
VERIFIER = "mobius/control/history/verifier"
LINKED = ("errors", "durable", "manifest", "signer", "tar_members", "tree_paths", "metric_table")
MODULE_UTILS = "ansible_collections.mobius.dhash.plugins.module_utils"
COLLECTION = "ansible_collections.mobius.dhash"
# a layer of the package, and those that it may import beside itself and the shared files
LAYERS = {
    "dhash": set(),
    "service": {"dhash"},
    "control": set(),
    "cli": {"control", "service", "dhash"},
}


def python_files(folder: str) -> list[Path]:
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    return files


def name_of(path: Path) -> str:
    """The module's dotted name: `mobius.cli.render`, `ansible_collections.mobius.dhash.plugins.module_utils.lease`."""
    parts = list(path.relative_to(CHECKOUT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(([COLLECTION] if parts[0] == "plugins" else []) + parts)


def exists(name: str) -> bool:
    path = CHECKOUT / name.removeprefix(f"{COLLECTION}.").replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@functools.cache
def import_statements(path: Path) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Each import of a file: the module, the names taken from it, and whether it is a relative one."""
    return tuple(_import_statements(path))


def _import_statements(path: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (), False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module, names = node.module or "", tuple(alias.name for alias in node.names)
            if node.level:
                package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                module = f"{package}.{module}".rstrip(".")
            yield module, names, node.level > 0


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports anywhere, `from mobius import errors` as `mobius.errors`."""
    found: set[str] = set()
    for module, names, _ in import_statements(path):
        if module.startswith(("mobius", COLLECTION)):
            found.update(f"{module}.{name}" if exists(f"{module}.{name}") else module for name in names)
            if not names:
                found.add(module)
        else:
            found.add(module)
    return found


def layer_of(name: str) -> str:
    """`mobius.service.app` -> `service`; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_itself_the_layers_below_it_and_the_shared_files(layer: str) -> None:
    allowed = {"", layer, *SHARED, *LAYERS[layer]}
    for path in python_files(f"mobius/{layer}"):
        ours = {name for name in imports_of(path) if name.split(".")[0] == "mobius"}
        unexpected = sorted(name for name in ours if layer_of(name) not in allowed)
        assert not unexpected, f"{path.relative_to(CHECKOUT)} imports {unexpected}"


def test_every_folder_of_the_package_is_a_layer() -> None:
    assert {path.parent.name for path in (CHECKOUT / "mobius").glob("*/__init__.py")} == set(LAYERS)
    assert {path.stem for path in (CHECKOUT / "mobius").glob("*.py")} == {"__init__", *SHARED}


def test_the_package_imports_nothing_from_the_plugins_or_the_tools() -> None:
    for path in python_files("mobius"):
        assert not {
            name for name in imports_of(path) if name.startswith(("ansible_collections", "plugins", "tools"))
        }, path


def test_only_what_runs_elsewhere_too_imports_relatively() -> None:
    """Hosts have the shared files, and an auditor has the verifier, each without the rest of the package."""
    shared = {CHECKOUT / "mobius" / f"{name}.py" for name in SHARED} | set(python_files(VERIFIER))
    for path in python_files("mobius"):
        relative = [module for module, _, is_relative in import_statements(path) if is_relative]
        assert path in shared or not relative, f"{path.relative_to(CHECKOUT)} imports {relative} relatively"


def test_what_an_auditor_gets_needs_nothing_but_itself_and_the_standard_library() -> None:
    for path in python_files(VERIFIER):
        for module, _, is_relative in import_statements(path):
            inside = is_relative and module.startswith(VERIFIER.replace("/", "."))
            assert inside or module.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {module}"


@pytest.mark.parametrize("folder", ["mobius", "plugins/module_utils"])
def test_no_modules_import_each_other_in_a_circle(folder: str) -> None:
    files = {name_of(path): path for path in python_files(folder)}
    graph = {name: imports_of(path) & set(files) - {name} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"These import each other: {' <- '.join(error.args[1])}")


def test_what_a_bundle_holds_of_mobius_imports_only_what_the_bundle_holds() -> None:
    held = {path for path in python_files("mobius") if goes_into_a_bundle(str(path.relative_to(CHECKOUT)))}
    names = {name_of(path) for path in held}
    assert {"mobius.cli", "mobius.cli.dhash", "mobius.service.__main__", "mobius.manifest"} <= names
    for path in held:
        missing = {name for name in imports_of(path) if name.split(".")[0] == "mobius"} - names
        assert not missing, f"{path.relative_to(CHECKOUT)} imports {sorted(missing)}, which no host has"


@pytest.mark.parametrize("folder", ["plugins/modules", "plugins/module_utils"])
def test_what_runs_on_hosts_needs_nothing_but_the_standard_library(folder: str) -> None:
    for path in python_files(folder):
        for name in imports_of(path):
            top = name.split(".")[0]
            fine = top in sys.stdlib_module_names or name.startswith(("ansible.module_utils", MODULE_UTILS))
            assert fine, f"{path.relative_to(CHECKOUT)} imports {name}"


@pytest.mark.parametrize("name", LINKED)
def test_a_file_shared_with_the_hosts_is_one_file_and_imports_the_standard_library_only(name: str) -> None:
    link = CHECKOUT / "plugins/module_utils" / f"{name}.py"
    assert link.is_symlink()
    assert link.resolve() == CHECKOUT / "mobius" / f"{name}.py"
    for module, _, is_relative in import_statements(link):
        if is_relative:
            assert module.rpartition(".")[2] in LINKED, module
        else:
            assert module.split(".")[0] in sys.stdlib_module_names, module


def test_nothing_in_the_hosts_shared_code_is_a_copy() -> None:
    copies = [path for path in python_files("plugins/module_utils") if not path.is_symlink() and path.stem in LINKED]
    assert not copies
