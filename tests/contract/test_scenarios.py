"""What Molecule reports as success though it tested nothing: a missing playbook, no inventory, a verify that cannot fail."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path.parent for path in (CHECKOUT / "molecule").glob("*/molecule.yml"))
WITH_HOSTS = [scenario for scenario in SCENARIOS if scenario.name != "default"]
WITHOUT_PLAYBOOK = {"syntax", "dependency", "idempotence", "check"}
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
LAB_HOSTS = 3


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def base() -> dict[str, Any]:
    settings: dict[str, Any] = load(CHECKOUT / ".config/molecule/config.yml")
    return settings


def sequence(scenario: Path) -> list[str]:
    own = load(scenario / "molecule.yml").get("scenario", {}).get("test_sequence")
    return list(own or base()["scenario"]["test_sequence"])


def arguments(scenario: Path) -> list[str]:
    """What ansible-playbook gets: a scenario's list replaces that of the base."""
    own = load(scenario / "molecule.yml").get("ansible", {}).get("executor", {}).get("args", {})
    return list({**base()["ansible"]["executor"]["args"], **own}["ansible_playbook"])


def keys(tree: Any) -> Iterator[str]:
    """All keys of all mappings in a YAML document."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from keys(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from keys(item)


def test_every_role_has_a_scenario_and_so_has_the_whole() -> None:
    assert {"default", "end_to_end", "backup_alternative", *ROLES} - {"settings"} == {
        scenario.name for scenario in SCENARIOS
    }


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


@pytest.mark.parametrize("scenario", WITH_HOSTS, ids=lambda path: path.name)
def test_a_scenario_goes_through_all_steps(scenario: Path) -> None:
    steps = sequence(scenario)
    order = [steps.index(name) for name in ("prepare", "converge", "idempotence", "verify", "cleanup")]
    assert order == sorted(order)
    assert steps[-1] == "cleanup"


@pytest.mark.parametrize("scenario", WITH_HOSTS, ids=lambda path: path.name)
def test_a_verify_also_tries_invalid_input(scenario: Path) -> None:
    found = [key for path in scenario.glob("**/*.yml") for key in keys(load(path))]
    text = "".join(path.read_text(encoding="utf-8") for path in scenario.glob("**/*.yml"))
    assert "rescue" in found, f"{scenario.name} verifies only valid input"
    assert "_failure.outcome == " in text, f"{scenario.name} does not verify the reason of a refusal"


@pytest.mark.parametrize("scenario", WITH_HOSTS, ids=lambda path: path.name)
def test_a_scenario_runs_on_the_labs_inventory(scenario: Path) -> None:
    assert "--inventory=${MOLECULE_PROJECT_DIRECTORY}/inventories/local" in arguments(scenario)


@pytest.mark.parametrize("scenario", WITH_HOSTS, ids=lambda path: path.name)
def test_a_scenario_recreates_exactly_the_hosts_that_it_used(scenario: Path) -> None:
    limits = [value.partition("=")[2] for value in arguments(scenario) if value.startswith("--limit=")]
    used = set(limits[0].split(":")) - {"localhost"} if limits else {f"lab{n}" for n in range(1, LAB_HOSTS + 1)}
    (play,) = load(scenario / "cleanup.yml")
    unused = play["vars"]["molecule_unused_hosts"]
    assert used == {f"lab{n}" for n in range(unused + 1, LAB_HOSTS + 1)}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_no_task_is_hidden_from_the_idempotence_check(scenario: Path) -> None:
    for path in scenario.glob("**/*.yml"):
        assert "molecule-idempotence-notest" not in path.read_text(encoding="utf-8"), path


def test_molecule_runs_ansible_with_the_settings_of_ansible_cfg() -> None:
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "ansible.cfg")
    of_molecule = base()["ansible"]["cfg"]
    # what differs with the folder, or is only for display
    different = {"inventory", "collections_path", "roles_path", "nocows", "retry_files_enabled", "deprecation_warnings"}
    for section in settings.sections():
        for name, value in settings.items(section):
            if name not in different:
                assert str(of_molecule[section].get(name)).lower() == value.lower(), f"[{section}] {name}"
