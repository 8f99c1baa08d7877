# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small playbooks on this machine, run through the real ansible-runner and the checkout's own ansible.cfg."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobius.cli.render.progress import Lines
from mobius.control.run.project import find_project
from mobius.control.run.runner import RunRequest, RunSummary, run_playbook

CHECKOUT = Path(__file__).resolve().parents[3]

GUARDED_HOSTS = """
mobius:
  hosts:
    here1: {ansible_connection: local}
    here2: {ansible_connection: local}
  vars:
    ansible_python_interpreter: /usr/bin/python3
    mobius_history_dir: "{{ inventory_dir }}/history"
    mobius_witness_dir: "{{ inventory_dir }}/witness/{{ inventory_hostname }}"
    mobius_approvals_required: 2
"""
INVENTORY = """
all:
  hosts:
    here1: {ansible_connection: local}
    here2: {ansible_connection: local}
    here3: {ansible_connection: local}
    gone: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}
  children:
    here: {hosts: {here1: , here2: , here3: }}
  vars:
    mobius_history_dir: "{{ inventory_dir }}/history"
    mobius_witness_dir: "{{ inventory_dir }}/witness/{{ inventory_hostname }}"
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture
def playbook(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "playbook.yml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


class Runs:
    """Runs playbooks; `lines` has the progress of the last one."""

    def __init__(self, inventory: Path, write: Callable[[str], Path]) -> None:
        self.inventory = inventory
        self.write = write
        self.lines: list[str] = []

    def __call__(self, text: str, **options: object) -> RunSummary:
        return self.request(playbook=self.write(text), **options)

    def request(self, **options: object) -> RunSummary:
        self.lines = []
        arguments = {"inventory": str(self.inventory), "project": find_project(), "timeout": 240.0, **options}
        return run_playbook(RunRequest(**arguments), Lines(self.lines.append))


@pytest.fixture
def run(inventory: Path, playbook: Callable[[str], Path]) -> Runs:
    return Runs(inventory, playbook)


@pytest.fixture
def processes_with() -> Callable[[str], list[str]]:
    """Command lines of all living processes that contain a marker."""

    def find(marker: str) -> list[str]:
        result = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line:
                result.append(line)
        return result

    return find


class Checkout:
    """A small checkout with playbooks of the test's own, and the real package and collection in it."""

    def __init__(self, folder: Path, inventory: Path) -> None:
        self.folder = folder
        self.inventory = inventory
        shutil.copytree(CHECKOUT / "mobius", folder / "mobius", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("ansible.cfg", "galaxy.yml"):
            shutil.copy(CHECKOUT / name, folder / name)
        (folder / "playbooks").mkdir()
        link = folder / ".ansible/collections/ansible_collections/mobius/dhash"
        link.parent.mkdir(parents=True)
        link.symlink_to(CHECKOUT)

    def write(self, name: str, text: str) -> None:
        (self.folder / "playbooks" / name).write_text(textwrap.dedent(text))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "import mobius.cli; mobius.cli.main()", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def mobius(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path, inventory: Path) -> Checkout:
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Checkout(folder, inventory)


class Ansible:
    """Ansible's own commands, in the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "hosts.yml"
        self.inventory.write_text(GUARDED_HOSTS)

    def __call__(self, command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        folder = Path(sys.executable).parent
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOBIUS_"))}
        return subprocess.run(
            [folder / command, "-i", self.inventory, *map(str, arguments)],
            cwd=CHECKOUT,
            env={**kept, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def play(self, text: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "playbook.yml").write_text(text)
        return self("ansible-playbook", self.folder / "playbook.yml", *arguments, **environment)

    @property
    def recorded(self) -> list[dict[str, Any]]:
        path = self.folder / "history/history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    return Ansible(tmp_path)


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    """The outcome at the end of a run's output."""
    block = done.stdout.rpartition("\nMOBIUS")[2]
    match = re.search(r"exit (\d)(?: \(\w+, ([a-z_]+)\))?$", block.rstrip())
    if match is None:
        return block or done.stdout + done.stderr
    return match[2] or "success"
