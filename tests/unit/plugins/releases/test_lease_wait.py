# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that has to wait for a host's lock tells for whom, through a real run, while it waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_lease

from mobius.cli.render.progress import Lines
from mobius.control.run.project import find_project
from mobius.control.run.runner import RunRequest, run_playbook

pytestmark = pytest.mark.slow  # real runs of Ansible

PLAYBOOK = """
- hosts: here1
  connection: local
  vars:
    ansible_remote_tmp: {config_dir}/remote  # there may be no home folder
    mobius_history_dir: {config_dir}/history
    mobius_witness_dir: {config_dir}/witness
  module_defaults:
    mobius.dhash.lease: {{service: mobius-dhash, config_dir: {config_dir}}}
  tasks:
    - name: Open the run
      mobius.dhash.run:
    - name: Die with the lock
      mobius.dhash.lease: {{run: r1, actor: ada@control, seconds: {seconds}}}
    - name: Acquire the lock
      mobius.dhash.lease: {{run: r2, actor: bob@control, wait: {wait}}}
"""


def release(host: Any, folder: Path, **values: object) -> tuple[str, str, list[str]]:
    """How a run ends that comes after a dead one, its output, and who held the lock when it told of waiting."""
    playbook = folder / "playbook.yml"
    playbook.write_text(PLAYBOOK.format(config_dir=host.config_dir, **values))
    result: list[str] = []
    holders: list[str] = []

    def hear(line: str) -> None:
        result.append(line)
        if "is waited for" in line:
            holders.append(read_lease(host.host).run)

    end = run_playbook(RunRequest(playbook, "here1,", find_project(), timeout=120.0), Lines(hear)).ending
    return end.outcome, " ".join(" ".join(result).split()), holders


def test_it_reports_for_which_run_and_how_long_it_waits(host: Any, tmp_path: Path) -> None:
    outcome, result, holders = release(host, tmp_path, seconds=6, wait="'60'")
    assert outcome == "success", result
    assert "here1 is waited for, 60 s at most: The run r1 of ada@control has held this host since" in result
    assert holders == ["r1"]


@pytest.mark.parametrize("wait", [0, "'0'", -5])
def test_it_reports_no_wait_when_it_does_not_wait(host: Any, tmp_path: Path, wait: object) -> None:
    outcome, result, holders = release(host, tmp_path, seconds=300, wait=wait)
    assert (outcome, holders) == ("locked", []), result


def test_a_wait_that_is_no_number_is_refused_although_the_lock_is_free(host: Any, tmp_path: Path) -> None:
    outcome, result, _ = release(host, tmp_path, seconds=0.001, wait="never")
    assert outcome == "task_failed" and "argument 'wait' is of type str" in result, result
