"""The registry of modules covers every module, and names only fields that the module says it returns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mobius.control.history.opened_run import OpeningLevel
from mobius.control.modules import COLLECTION, MODULES, module_entry

FOLDER = Path(__file__).resolve().parents[2] / "plugins/modules"
RECORDED = [name for name, entry in MODULES.items() if entry.recorded is not None]


def test_every_module_has_an_entry_and_every_entry_a_module() -> None:
    assert set(MODULES) == {path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"}


@pytest.mark.parametrize("module", RECORDED)
def test_a_field_in_the_registry_is_one_that_the_module_returns(module: str) -> None:
    text = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    returned = yaml.safe_load(text.split('RETURN = r"""')[1].split('"""')[0])
    entry = MODULES[module]
    named = {entry.release_field, entry.before_field, entry.after_field} - {""}
    assert {*(entry.recorded or ()), *named} <= set(returned)


def test_a_field_that_the_history_reads_is_one_that_it_records() -> None:
    for name, entry in MODULES.items():
        assert {entry.before_field, entry.after_field} - {""} <= set(entry.recorded or ()), name


OPENINGS = {opening.name.lower() for opening in OpeningLevel}
ACTIONS = FOLDER.parent / "action"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_that_changes_a_host_is_run_by_the_plugin_that_requires_an_opened_run(module: str) -> None:
    needed = MODULES[module].changes_host
    text = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    action = ACTIONS / f"{module}.py"
    assert needed in {"", *OPENINGS}
    # the host refuses another run by these arguments
    assert ("**arguments.OPENED" in text) == (bool(needed) or module == "witness")  # which leaves the run with the host
    assert ("(ChangingAction)" in (action.read_text(encoding="utf-8") if action.exists() else "")) == bool(needed)


CHANGES_NO_HOST = {
    "the lab's, on this machine": {"lab_host", "lab_image"},
    "nothing may block it, and the host's journal has it": {"rollback"},
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_that_says_it_changes_something_needs_an_opened_run(module: str) -> None:
    if any(module in modules for modules in CHANGES_NO_HOST.values()):
        return
    text = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    reports_change = re.search(r"changed=(?!False)", text) or ".result()" in text
    assert not reports_change or MODULES[module].changes_host


@pytest.mark.parametrize("module", sorted(MODULES))
def test_an_installed_module_is_run_by_a_plugin_that_looks_for_it_on_the_host(module: str) -> None:
    action = ACTIONS / f"{module}.py"
    text = action.read_text(encoding="utf-8") if action.exists() else ""
    is_looked_for = "(InstalledModules" in text or ("(ChangingAction)" in text and module != "host_tool")
    assert MODULES[module].is_installed == (is_looked_for and module != "run")  # which runs other modules


def test_a_module_of_another_collection_has_an_empty_entry() -> None:
    assert module_entry("ansible.builtin.copy") == module_entry("mobius.dhash") == module_entry("other.dhash.gate")
    assert module_entry("ansible.builtin.copy").recorded is None
    assert module_entry(f"{COLLECTION}gate").recorded
