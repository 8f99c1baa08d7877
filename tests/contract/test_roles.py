"""One shape for every role: its variables are declared once, described once, and have the role's name in front."""

from __future__ import annotations

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
    strangers = [
        name for name in load(CHECKOUT / "roles" / role / "defaults/main.yml") if not name.startswith(f"{role}_")
    ]
    assert not strangers


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_no_variable_of_another_role(role: str) -> None:
    others = [
        name for other in ROLES if other != role for name in load(CHECKOUT / "roles" / other / "defaults/main.yml")
    ]
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (CHECKOUT / "roles" / role).rglob("*")
        if path.suffix in {".yml", ".j2"} and path.is_file()
    )
    words = set(text.replace("{", " ").replace("}", " ").replace("|", " ").replace(":", " ").split())
    assert not words & set(others)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_page_that_says_what_it_does(role: str) -> None:
    assert f"# {role}" in (CHECKOUT / "roles" / role / "README.md").read_text(encoding="utf-8")
