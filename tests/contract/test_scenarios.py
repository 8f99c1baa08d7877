"""Molecule takes a missing playbook for success, so this asks for every one that a sequence names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path.parent for path in (CHECKOUT / "molecule").glob("*/molecule.yml"))
WITHOUT_PLAYBOOK = {"syntax", "dependency", "idempotence", "check"}
ROLES_WITH_A_SCENARIO = ("host", "backup", "deploy", "promote", "rollback")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def base() -> dict[str, Any]:
    return load(CHECKOUT / ".config/molecule/config.yml")


def sequence(scenario: Path) -> list[str]:
    own = load(scenario / "molecule.yml").get("scenario", {}).get("test_sequence")
    return list(own or base()["scenario"]["test_sequence"])


def test_every_role_has_a_scenario_and_so_has_the_whole() -> None:
    assert {"default", "end_to_end", *ROLES_WITH_A_SCENARIO} <= {scenario.name for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_a_scenario_has_every_playbook_that_its_sequence_names(scenario: Path) -> None:
    named = {
        **base().get("ansible", {}).get("playbooks", {}),
        **load(scenario / "molecule.yml").get("ansible", {}).get("playbooks", {}),
    }
    for action in sequence(scenario):
        if action in WITHOUT_PLAYBOOK:
            continue
        playbook = scenario / named.get(action, f"{action}.yml")
        assert playbook.is_file(), f"{scenario.name}: {action} has no playbook"
        assert load(playbook), f"{scenario.name}: {playbook.name} is empty"


@pytest.mark.parametrize("role", ROLES_WITH_A_SCENARIO)
def test_a_roles_scenario_goes_through_all_stations(role: str) -> None:
    stations = sequence(CHECKOUT / "molecule" / role)
    order = [stations.index(name) for name in ("prepare", "converge", "idempotence", "verify")]
    assert order == sorted(order)
    assert stations[-1] == "cleanup"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_no_task_is_hidden_from_the_idempotence_check(scenario: Path) -> None:
    for path in scenario.glob("**/*.yml"):
        assert "molecule-idempotence-notest" not in path.read_text(encoding="utf-8"), path
