"""One shape for every role: its variables are declared once, described once, and have the role's name in front."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.is_dir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_roles_of_the_first_release_are_there() -> None:
    assert {"host", "backup", "deploy", "promote", "rollback"} <= set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_describes_exactly_the_variables_that_it_has(role: str) -> None:
    defaults = load(CHECKOUT / "roles" / role / "defaults/main.yml")
    specs = load(CHECKOUT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    assert set(specs["main"]["options"]) == set(defaults)


@pytest.mark.parametrize("role", ROLES)
def test_a_described_default_is_the_real_one(role: str) -> None:
    defaults = load(CHECKOUT / "roles" / role / "defaults/main.yml")
    options = load(CHECKOUT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    for name, option in options.items():
        if "default" in option and "{{" not in str(defaults[name]):
            assert option["default"] == defaults[name], name


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_carries_the_roles_name(role: str) -> None:
    prefix = "mobius_" if role == "settings" else f"{role}_"  # the settings are those of all roles
    unexpected = [name for name in load(CHECKOUT / "roles" / role / "defaults/main.yml") if not name.startswith(prefix)]
    assert not unexpected


def own_variables(role: str) -> set[str]:
    """The variables that a role declares, and what its tasks note or register."""
    names = set(load(CHECKOUT / "roles" / role / "defaults/main.yml"))
    for path in (CHECKOUT / "roles" / role / "tasks").glob("*.yml"):
        for task in tasks(load(path) or []):
            names |= set(task.get("ansible.builtin.set_fact", {})) | {task.get("register", "")}
    return {name for name in names if name.removeprefix("__").startswith(f"{role}_")}


def tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every task in a list of tasks, those in blocks too."""
    for item in items:
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part, []))


def read_text(path: Path) -> str:
    """What a file of a role reads; of the variables that it passes to a role which it includes, only the values."""
    if path.suffix != ".yml":
        return path.read_text(encoding="utf-8")
    content = load(path)
    for task in tasks(content) if isinstance(content, list) else []:
        if "ansible.builtin.include_role" in task:
            task["vars"] = list(task.get("vars", {}).values())
    return str(content)


CHANGES_NOTHING = {
    *("debug", "fail", "find", "import_role", "import_tasks", "include_role", "include_tasks", "meta", "set_fact"),
    *("setup", "slurp", "stat"),
}
GUARD = "inventory_hostname is mobius.dhash.opened"


def unguarded(items: list[dict[str, Any]], *, guarded: bool = False) -> Iterator[str]:
    """The names of tasks that could change a host and stand under no condition that requires an opened run."""
    for item in items:
        conditions = item.get("when", [])
        inside = guarded or GUARD in ([conditions] if isinstance(conditions, str) else conditions)
        for part in ("block", "rescue", "always"):
            yield from unguarded(item.get(part, []), guarded=inside)
        modules = {key.removeprefix("ansible.builtin.") for key in item if key.startswith("ansible.")}
        if modules - CHANGES_NOTHING and not inside:
            yield str(item["name"])


FILES = sorted((*CHECKOUT.glob("roles/*/tasks/*.yml"), *CHECKOUT.glob("playbooks/tasks/*.yml")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_task_that_can_change_a_host_requires_an_opened_run(path: Path) -> None:
    # modules of the collection do so by themselves (test_module_registry.py)
    assert list(unguarded(load(path) or [])) == []


def test_a_task_outside_of_the_condition_is_reported() -> None:
    task = {"name": "Write it", "ansible.builtin.copy": {}}
    assert list(unguarded([task])) == ["Write it"]
    assert list(unguarded([{"name": "Guarded", "when": GUARD, "block": [task]}])) == []


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_no_variable_of_another_role(role: str) -> None:
    others = {name for other in ROLES if other != role for name in own_variables(other)}
    files = [
        path
        for folder in ("defaults", "handlers", "tasks", "templates", "vars")
        for path in (CHECKOUT / "roles" / role / folder).rglob("*")
        if path.suffix in {".yml", ".j2"}
    ]
    words = {word for path in files for word in re.findall(r"\w+", read_text(path))}
    assert not words & others


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_into_no_other_role(role: str) -> None:
    folder = CHECKOUT / "roles" / role
    for path in folder.rglob("*"):
        assert path.resolve().is_relative_to(folder), f"{path.relative_to(CHECKOUT)} leads out of the role"
        if path.is_file() and path.suffix in {".yml", ".j2"}:
            for other in set(ROLES) - {role}:
                text = path.read_text(encoding="utf-8")
                assert f"../{other}/" not in text, f"{path.relative_to(CHECKOUT)} reads a file of {other}"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_page_that_says_what_it_does(role: str) -> None:
    assert f"# {role}" in (CHECKOUT / "roles" / role / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_declares_who_made_it_and_where_it_runs(role: str) -> None:
    meta = load(CHECKOUT / "roles" / role / "meta/main.yml")
    info = meta["galaxy_info"]
    assert meta["dependencies"] == []
    assert info["author"] and info["description"]
    assert info["license"] == "GPL-3.0-or-later"
    assert f">={info['min_ansible_version']}.0" == load(CHECKOUT / "meta/runtime.yml")["requires_ansible"]
    assert info["platforms"] == [{"name": "Debian", "versions": ["bookworm", "trixie"]}]


@pytest.mark.parametrize("role", ROLES)
def test_every_option_of_a_role_has_a_type_and_a_description(role: str) -> None:
    for entry, spec in load(CHECKOUT / "roles" / role / "meta/argument_specs.yml")["argument_specs"].items():
        assert spec["short_description"], entry
        for name, option in spec["options"].items():
            assert option["description"] and option["type"], name
            assert option["type"] != "list" or option["elements"], name


@pytest.mark.parametrize("role", ROLES)
def test_every_way_into_a_role_has_its_arguments_checked(role: str) -> None:
    """The entry points that playbooks, scenarios and other roles use, besides `main`."""
    entries = {"main"}
    for path in [*CHECKOUT.glob("playbooks/**/*.yml"), *CHECKOUT.glob("molecule/**/*.yml")]:
        text = path.read_text(encoding="utf-8")
        entries |= set(re.findall(rf"name: mobius\.dhash\.{role}\n\s+tasks_from: (\w+)", text))
    assert entries <= set(load(CHECKOUT / "roles" / role / "meta/argument_specs.yml")["argument_specs"])
