# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host itself changes nothing for a run that was not opened for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import opened_runs
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

from mobius.control.modules import MODULES
from tests.opened import RUN

RELEASE = "1.0.0-0123456789ab"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "instance": {"release": RELEASE},
    "lease": {"run": "r1"},
    "maintenance": {"enabled": True},
    "mark": {"release": RELEASE},
    "promotion": {"release": RELEASE, "state": "canary"},
    "release": {"state": "absent", "release": RELEASE},
    "restore": {"id": "latest"},
    "secrets": {"path": "/nowhere/secrets.env", "service": None, "config_dir": None},
}
CHANGING = sorted(name for name, entry in MODULES.items() if entry.changes_host)


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("run", [None, "", "20260131T230501Z-9f3a61c2", "../opened/" + RUN, "."])
@pytest.mark.parametrize("name", CHANGING)
def test_every_module_refuses_a_run_that_the_host_does_not_know(
    run_module, machine, name: str, run: str | None
) -> None:
    before = files(machine.root)
    answer = run_module(name, **ARGUMENTS.get(name, {}), opened_run=run)
    assert answer["mobius_failure"]["outcome"] == "run_not_opened", answer
    assert files(machine.root) == before


def test_a_witness_keeps_that_a_run_was_opened_and_nothing_in_check_mode(run_module, machine, tmp_path: Path) -> None:
    run = "20260131T230501Z-9f3a61c2"
    run_module("witness", check=True, opened_run=run, dir=str(tmp_path))
    assert not (machine.root / "opened" / run).exists()
    answer = run_module("witness", opened_run=run, dir=str(tmp_path))
    assert (answer["witnessed"], list(tmp_path.iterdir())) == (False, [])
    opened_runs.require(machine.root / "opened", run)


def test_runs_of_yesterday_are_forgotten(tmp_path: Path) -> None:
    assert opened_runs.leave(tmp_path, "old") is None
    os.utime(tmp_path / "old", (1000, 1000))
    assert opened_runs.leave(tmp_path, "new", now=1000 + opened_runs.KEEP_SECONDS + 1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("run", ["", "../x", "a/b", ".hidden", "x" * 65])
def test_what_is_no_id_is_never_a_file(tmp_path: Path, run: str) -> None:
    assert "is not the id of a run" in str(opened_runs.leave(tmp_path, run))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_problem_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot keep" in str(opened_runs.leave(tmp_path / "file/runs", RUN))


@pytest.mark.root("only root mounts")
@pytest.mark.parametrize("exists", [True, False])
def test_a_refusal_names_the_full_disk_on_which_the_host_cannot_keep_the_run(tmp_path: Path, exists: bool) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "none", tmp_path], check=True)
    try:
        folder = tmp_path / "runs"
        if exists:
            folder.mkdir()
        with pytest.raises(OSError, match="No space"):
            for number in range(5):
                (tmp_path / str(number)).touch()
        assert "No space left" in str(opened_runs.leave(folder, RUN))
        with pytest.raises(MobiusError) as caught:
            opened_runs.require(folder, RUN)
        assert caught.value.outcome == "run_not_opened"
        assert f"cannot keep that the run {RUN} was opened" in caught.value.reason
        assert "No space left" in caught.value.reason
        assert str(folder) in caught.value.do_next and "skip-tags" not in caught.value.do_next
    finally:
        subprocess.run(["umount", tmp_path], check=True)
