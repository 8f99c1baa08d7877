"""`mobius lab status` reads a record that may be missing, damaged, or another checkout's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mobius.cli.lab import lab as lab_command
from mobius.control import lab as labs
from mobius.control.lab import LabHostStatus, LabStatus
from mobius.errors import MobiusError


def host(state: str) -> LabHostStatus:
    return LabHostStatus("lab1", state, 21000, 21001, "bookworm", "mobius-0000000a-lab1")


def test_without_a_record_the_lab_is_down_and_the_exit_code_is_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(lab_command, ["status", "--root", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 3
    assert result.output == "The lab is down; `mobius lab up` starts it.\n"


def test_a_copied_checkouts_record_is_not_its_lab(tmp_path: Path) -> None:
    (tmp_path / ".lab").mkdir()
    record = {"lab": "0000000a", "memory_limits_enforced": True, "root": "/elsewhere", "hosts": []}
    (tmp_path / ".lab" / "lab.json").write_text(json.dumps(record))
    assert labs.read_status(tmp_path) == LabStatus(None, (), None)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"lab": 1, "memory_limits_enforced": true, "hosts": [{}]}'])
def test_a_damaged_record_is_an_environment_failure_that_up_repairs(tmp_path: Path, damage: str) -> None:
    (tmp_path / ".lab").mkdir()
    (tmp_path / ".lab" / "lab.json").write_text(damage)
    with pytest.raises(MobiusError) as caught:
        labs.read_status(tmp_path)
    assert (caught.value.outcome, caught.value.do_next) == ("environment_failed", "Run `mobius lab up`.")


@pytest.mark.parametrize(
    ("states", "running"),
    [(["running", "running"], True), (["running", "exited"], False), (["missing"], False), ([], False)],
)
def test_a_lab_runs_when_it_has_hosts_and_all_of_them_run(states: list[str], running: bool) -> None:
    assert LabStatus("0000000a", tuple(host(state) for state in states), True).running is running


def test_where_memory_limits_are_not_enforced_the_status_says_so() -> None:
    assert "MemoryMax" in LabStatus("0000000a", (host("running"),), False).notes[0]
    assert LabStatus("0000000a", (host("running"),), True).notes == []
