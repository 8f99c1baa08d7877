# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A clone is a project of AWX and of ansible-runner as it is: nobody runs `make setup` there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.runs.conftest import CHECKOUT, GUARDED_HOSTS

VERSION = "0.0.0+of.this.clone"


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    """What ansible-runner and AWX make of a project: a folder of their own with the clone and an inventory in it."""
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(project)], check=True)
    version = project / "mobius/__init__.py"
    lines = version.read_text(encoding="utf-8").splitlines()
    text = "\n".join(f'__version__ = "{VERSION}"' if line.startswith("__version__ =") else line for line in lines)
    version.write_text(f"{text}\n", encoding="utf-8")
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/hosts.yml").write_text(GUARDED_HOSTS)
    return tmp_path


def test_ansible_runner_runs_a_playbook_of_a_fresh_clone(private_folder: Path) -> None:
    folder = Path(sys.executable).parent
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOBIUS_", "PYTHON"))}
    options = ["--cmdline", "-e mobius_service=none", "--json"]
    done = subprocess.run(
        [folder / "ansible-runner", "run", private_folder, "-p", "playbooks/rollback.yml", *options],
        env={**kept, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "is not prepared for none" in done.stdout, done.stdout + done.stderr
    records = [
        json.loads(line) for line in (private_folder / "inventory/history/history.jsonl").read_text().splitlines()
    ]
    assert [record["event"] for record in records] == ["begin", "intent", "result", "result", "result", "result", "end"]
    # the clone's own code, whatever package is installed beside it
    assert records[1]["data"]["versions"]["mobius"] == VERSION
    assert records[-1]["data"]["outcome"] == "not_provisioned"
