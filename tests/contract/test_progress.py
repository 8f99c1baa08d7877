"""What a run's progress takes for a phase is still where it was: a file that was renamed or is new turns this red."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobius.control.run.progress import EXPECTED, PHASES

CHECKOUT = Path(__file__).resolve().parents[2]
# they do a little between two phases, or in several: a run stays in the phase in which it is
NO_PHASE = {
    "backup/remove_timers",
    "hook/main",
    "playbooks/fetch_backup",
    "playbooks/free_space",
    "playbooks/put_backup",
    "playbooks/unlock",
    "promote/after_batches",
    "promote/batch",
    "promote/batches",
    "promote/begin",
    "promote/finish",
    "promote/observe",
    "promote/preflight",
    "promote/renew",
}


def places() -> dict[str, Path]:
    result = {f"{path.parents[1].name}/{path.stem}": path for path in CHECKOUT.glob("roles/*/tasks/*.yml")}
    return result | {f"playbooks/{path.stem}": path for path in (CHECKOUT / "playbooks/tasks").glob("*.yml")}


def tasks(path: Path) -> Iterator[dict[str, Any]]:
    def within(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for item in items:
            yield item
            for part in ("block", "rescue", "always"):
                yield from within(item.get(part, []))

    yield from within(yaml.safe_load(path.read_text(encoding="utf-8")) or [])


def only_imports(path: Path) -> bool:
    return all("ansible.builtin.import_tasks" in task for task in tasks(path))


@pytest.mark.slow
def test_every_file_of_tasks_has_a_phase_or_is_known_to_have_none() -> None:
    known = {name for name, path in places().items() if not only_imports(path)}
    assert known - set(PHASES) == NO_PHASE
    assert set(PHASES) <= known


@pytest.mark.parametrize(
    ("location", "modules"),
    [
        ("promote/canary", ["promotion"]),
        ("promote/gate", ["gate"]),
        ("promote/provisional", ["promotion"]),
        ("promote/decide", ["decide"]),
        ("promote/confirm", ["promotion"]),
        ("promote/revert", ["promotion"]),
        ("promote/retention", ["retention"]),
    ],
)
def test_a_phase_of_the_promotion_calls_its_module_once(location: str, modules: list[str]) -> None:
    called = [key.removeprefix("mobius.dhash.") for task in tasks(places()[location]) for key in task]
    assert [name for name in called if name in ("promotion", "gate", "decide", "retention")] == modules


def test_a_host_that_is_promoted_goes_through_canary_gate_and_switch() -> None:
    included = [
        task.get("ansible.builtin.import_tasks") or task.get("ansible.builtin.include_tasks")
        for task in tasks(places()["promote/begin"])
    ]
    assert [name for name in included if name] == ["preflight.yml", "canary.yml", "gate.yml", "provisional.yml"]


def test_what_is_expected_of_a_playbook_are_phases_and_playbooks_that_exist() -> None:
    phases = set(PHASES.values())
    for playbook, expected in EXPECTED.items():
        assert (CHECKOUT / "playbooks" / f"{playbook}.yml").is_file()
        assert set(expected) <= phases
