# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that has to wait for a host's lock tells for whom, through a real run, while it waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobius.control.progress_view import Lines
from mobius.control.runs import RunRequest, find_checkout, run_playbook

PLAYBOOK = """
- hosts: here1
  connection: local
  module_defaults:
    mobius.dhash.lease: {{service: mobius-dhash, config_dir: {config_dir}}}
  tasks:
    - name: Die with the lock
      mobius.dhash.lease: {{run: r1, actor: ada@control, seconds: {seconds}}}
    - name: Take the lock
      mobius.dhash.lease: {{run: r2, actor: bob@control, wait: {wait}}}
"""


def release(host: Any, folder: Path, **values: float) -> tuple[str, str]:
    """How two runs after each other end, and all that was said."""
    playbook = folder / "playbook.yml"
    playbook.write_text(PLAYBOOK.format(config_dir=host.config_dir, **values))
    said: list[str] = []
    end = run_playbook(RunRequest(playbook, "here1,", find_checkout(), timeout=120.0), Lines(said.append)).ending
    return end.outcome, " ".join(" ".join(said).split())


def test_it_tells_for_whom_and_how_long_before_it_waits(host: Any, tmp_path: Path) -> None:
    outcome, said = release(host, tmp_path, seconds=3, wait=60)
    assert outcome == "success", said
    assert "here1 is waited for, 60 s at most: The run r1 of ada@control has held this host since" in said


def test_it_tells_of_no_waiting_where_it_does_not_wait(host: Any, tmp_path: Path) -> None:
    outcome, said = release(host, tmp_path, seconds=300, wait=0)
    assert outcome == "locked", said
    assert "waited for" not in said
