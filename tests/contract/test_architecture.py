"""docs/architecture.md and CONTRIBUTING.md say what the tree has."""

from __future__ import annotations

import ast
import re

import pytest

from mobius.errors import OUTCOMES
from tests.contract.test_who_imports_whom import CHECKOUT, imports_of, python_files

ARCHITECTURE = (CHECKOUT / "docs/architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# the boxes of the picture, and the folders or files of each
BOXES = {
    "cli": ("mobius/cli",),
    "control": ("mobius/control",),
    "service": ("mobius/service",),
    "dhash": ("mobius/dhash",),
    "actions": ("plugins/action", "plugins/callback", "plugins/test", "plugins/plugin_utils"),
    "modules": ("plugins/modules",),
    "utils": ("plugins/module_utils",),
    "shared": (),
}
SHARED = {f"mobius.{name}" for name in ("errors", "durable", "manifest", "signer", "tar_members", "tree_paths", "logs")}


def named_definitions() -> list[tuple[str, str]]:
    """Each `path.py:name` of the page."""
    return re.findall(r"`([a-z_/]+\.py):(\w+)`", ARCHITECTURE)


@pytest.mark.parametrize(("path", "name"), named_definitions())
def test_a_definition_that_the_page_names_is_there(path: str, name: str) -> None:
    tree = ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("path", re.findall(r"^\| `([\w/.]+)`", ARCHITECTURE, re.MULTILINE))
def test_a_folder_that_the_page_names_is_there(path: str) -> None:
    assert (CHECKOUT / path).exists()


def box_of(module: str) -> str | None:
    """The box of the picture that a module is in; None for what is not drawn."""
    if module in SHARED:
        return "shared"
    path = module.removeprefix("ansible_collections.mobius.dhash.").replace(".", "/")
    for box, folders in BOXES.items():
        if any(path == folder or path.startswith(f"{folder}/") for folder in folders):
            return box
    return None


def imported_boxes(box: str) -> set[str]:
    paths = [path for folder in BOXES[box] for path in python_files(folder) if not path.is_symlink()]
    found = {box_of(module) for path in paths for module in imports_of(path)}
    return {name for name in found if name is not None and name != box}


@pytest.mark.slow
def test_the_picture_draws_every_import_and_no_other() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+)$", ARCHITECTURE, re.MULTILINE)
    assert set(re.findall(r"^    (\w+)\[", ARCHITECTURE, re.MULTILINE)) == set(BOXES)
    reachable: dict[str, set[str]] = {box: set() for box in BOXES}
    for box in ("shared", "utils", "dhash", "service", "control", "modules", "actions", "cli"):
        direct = {target for source, target in arrows if source == box}
        reachable[box] = direct.union(*(reachable[target] for target in direct))
    for box in BOXES:
        actual = imported_boxes(box)
        # the shared files are links in module_utils, so what is drawn from there is not imported by that name
        drawn = {target for source, target in arrows if source == box} - ({"shared"} if box == "utils" else set())
        assert drawn <= actual, f"{box}: drawn, and not imported: {drawn - actual}"
        assert actual <= reachable[box], f"{box}: imported, and not drawn: {actual - reachable[box]}"


def section(title: str) -> str:
    """The text below a heading of CONTRIBUTING.md."""
    return CONTRIBUTING.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("role", sorted(path.name for path in (CHECKOUT / "roles").iterdir()))
def test_every_role_has_what_the_list_for_a_new_role_names(role: str) -> None:
    names = re.findall(r"`([a-z_]+/main\.yml|[a-z_]+/argument_specs\.yml|README\.md)`", section("To add a role"))
    assert len(names) >= 5
    missing = {name for name in names if not (CHECKOUT / "roles" / role / name).exists()}
    assert missing == ({"tasks/main.yml"} if role == "settings" else set())  # which has nothing but defaults


EXAMPLES = {
    "roles/NAME/": "roles/backup",
    "molecule/NAME/": "molecule/backup",
    "plugins/modules/NAME.py": "plugins/modules/gate.py",
}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w./]+/[\w./]*)`", CONTRIBUTING))))
def test_every_path_that_the_lists_name_is_there(name: str) -> None:
    if name in ("meta/main.yml", "defaults/main.yml", "tasks/main.yml", "meta/argument_specs.yml"):
        pytest.skip("relative to a role, and compared above")
    assert (CHECKOUT / EXAMPLES.get(name, name)).exists()


@pytest.mark.parametrize(("role", "name"), [("promote", "promote_signals"), ("host", "host_watch_signals")])
def test_the_variables_that_the_lists_name_are_defaults_of_that_role(role: str, name: str) -> None:
    path = f"roles/{role}/defaults/main.yml"
    assert f"`{name}`" in section("To add a gate signal") and f"`{path}`" in section("To add a gate signal")
    assert re.search(rf"^{name}:", (CHECKOUT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_an_outcome_has_the_columns_that_the_list_names() -> None:
    assert "whether it proves a release bad" in section("To add an outcome")
    assert {outcome.proves_bad for outcome in OUTCOMES.values()} == {True, False}


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", CONTRIBUTING))
def test_every_make_target_that_the_page_names_is_there(target: str) -> None:
    assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_pages_have_lower_case_names() -> None:
    names = [path.name for path in (CHECKOUT / "docs").glob("*.md")]
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\.md", name)] == ["EXIT_CODES.md"]
