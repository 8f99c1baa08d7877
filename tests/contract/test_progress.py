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
    "playbooks/unlock",
    "promote/batch",
    "promote/batches",
    "promote/preflight",
    "promote/renew",
}


def places() -> dict[str, Path]:
    found = {f"{path.parents[1].name}/{path.stem}": path for path in CHECKOUT.glob("roles/*/tasks/*.yml")}
    return found | {f"playbooks/{path.stem}": path for path in (CHECKOUT / "playbooks/tasks").glob("*.yml")}


def tasks(path: Path) -> Iterator[dict[str, Any]]:
    def within(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for item in items:
            yield item
            for part in ("block", "rescue", "always"):
                yield from within(item.get(part, []))

    yield from within(yaml.safe_load(path.read_text(encoding="utf-8")) or [])


def only_imports(path: Path) -> bool:
    return all("ansible.builtin.import_tasks" in task for task in tasks(path))


def test_every_file_of_tasks_has_a_phase_or_is_known_to_have_none() -> None:
    known = {name for name, path in places().items() if not only_imports(path)}
    assert known - set(PHASES) == NO_PHASE
    assert set(PHASES) <= known


@pytest.mark.parametrize("place", [name for name, phase in PHASES.items() if not isinstance(phase, str)])
def test_a_module_that_begins_a_phase_is_called_in_its_file(place: str) -> None:
    called = [key for task in tasks(places()[place]) for key in task if key.startswith("mobius.dhash.")]
    phases = PHASES[place]
    assert not isinstance(phases, str)
    for module in phases:
        assert not module or f"mobius.dhash.{module}" in called, module
    if "gate" in phases:
        order = [name.removeprefix("mobius.dhash.") for name in called]
        assert [name for name in order if name in ("promotion", "gate")] == ["promotion", "gate", "promotion"]


def test_what_is_expected_of_a_playbook_are_phases_and_playbooks_that_exist() -> None:
    phases = {
        name for found in PHASES.values() for name in ([found] if isinstance(found, str) else list(found.values()))
    }
    for playbook, expected in EXPECTED.items():
        assert (CHECKOUT / "playbooks" / f"{playbook}.yml").is_file()
        assert set(expected) <= phases
