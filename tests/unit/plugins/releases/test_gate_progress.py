"""A gate on a real process, through a real run: its figures are shown while it runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from mobius.cli.render.progress import Lines
from mobius.control.run.project import find_project
from mobius.control.run.runner import RunRequest, run_playbook

RELEASE = "1.2.0-0123456789ab"
PLAYBOOK = """
- hosts: here1
  connection: local
  vars:
    ansible_remote_tmp: {config_dir}/remote  # there may be no home folder
    # from ansible-core 2.21 on, a result tells the module's arguments on demand only
    ansible_inject_invocation: true
  tasks:
    - name: Judge
      mobius.dhash.gate: &gate
        service: mobius-dhash
        release: {release}
        config_dir: {config_dir}
        healthy_seconds: 6
        deadline: 60
    # nothing is promoted in a check run, so there is nothing to follow
    - name: Predict
      mobius.dhash.gate: *gate
      check_mode: true
"""


@pytest.mark.slow
def test_the_figures_of_a_gate_are_shown_while_it_runs(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = host.start(RELEASE)
    # the tests' machine may have no systemd
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f"#!/bin/sh\nprintf 'Id=mobius-dhash@{RELEASE}.service\\nMainPID={process.pid}\\n'\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(PLAYBOOK.format(release=RELEASE, config_dir=host.config_dir))
    lines: list[str] = []
    request = RunRequest(playbook, "here1,", find_project(), timeout=120.0, watched="mobius.dhash.gate")
    summary = run_playbook(request, Lines(lines.append))
    assert summary.ending.outcome == "success", lines
    shown = [line[11:] for line in lines if line[11:].startswith("gate ")]
    assert re.fullmatch(r"gate         here1  \d\d s left at most; good for [0-6] of 6 s; \d+ samples", shown[0]), shown
    assert shown[-2].startswith(f"gate         here1  pass: {RELEASE} was healthy for ")
    assert shown[-1].startswith("gate         here1  unknown: ")
    assert summary.results["here1"]["invocation"]["module_args"]["progress_file"] is None
