# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fifty runs on one history, three of them killed with SIGKILL: it stays whole, and says of each what became of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mobius.cli import run as mobius
from mobius.control.history.query import read_runs
from mobius.control.history.verifier import FILE_NAME

pytestmark = pytest.mark.soak

RUNS = 50
# the number of a killed run, and the place where it dies: its intent just written, in its work, between two hosts' changes
KILLED = {11: "intent", 27: "work", 43: "change"}
CHECKOUT = Path(__file__).resolve().parents[3]
PLAYBOOK = """
- hosts: mobius
  tasks:
    - mobius.dhash.run:
    - name: Work
      ansible.builtin.shell: "touch {work}.{{{{ inventory_hostname }}}}; exec sleep {{{{ pause | default(0) }}}}"
      changed_when: true
    - name: Write
      ansible.builtin.copy:
        content: "{{{{ number }}}}"
        dest: "{out}-{{{{ inventory_hostname }}}}"
      throttle: 1
    - name: Fail now and then
      mobius.dhash.failure: {{outcome: golden_mismatch, reason: "It is the turn of this run."}}
      when: number | int % 9 == 0
"""


def start(inventory: Path, playbook: Path, *arguments: str) -> subprocess.Popen[bytes]:
    ansible = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.Popen(
        [str(ansible), "-i", str(inventory), str(playbook), *arguments],
        cwd=CHECKOUT,
        env={"HOME": os.environ["HOME"], "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_all_of(process: subprocess.Popen[bytes], marker: str) -> None:
    """The run, its workers (each with a session of its own) and what they have started, as when the power goes."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if marker in words and int(file.parent.name) != os.getpid():
                os.kill(int(file.parent.name), signal.SIGKILL)
        except OSError:
            continue
    process.wait()


def test_a_history_of_fifty_runs_with_three_killed_is_whole_and_names_them(inventory, run, tmp_path, capfd):
    inventory.write_text(inventory.read_text().replace("here: {hosts: {here1: ", "mobius: {hosts: {here1: "))
    folder, out, work = inventory.parent / "history", tmp_path / "out", tmp_path / "work"
    playbook = tmp_path / "soak.yml"
    playbook.write_text(PLAYBOOK.format(out=out, work=work))
    history = folder / FILE_NAME
    expected: list[str | None] = []
    for number in range(1, RUNS + 1):
        if file := KILLED.get(number):
            pause = f"3600.{os.getpid()}{number}" if file == "work" else "0"
            before = history.stat().st_size
            for mark in tmp_path.glob("work.*"):
                mark.unlink()
            process = start(inventory, playbook, "-e", f"number={number}", "-e", f"pause={pause}")
            reached = {
                "intent": lambda size=before: history.stat().st_size > size,
                "work": lambda: len(list(tmp_path.glob("work.*"))) == 3,
                "change": lambda now=str(number): any(path.read_text() == now for path in tmp_path.glob("out-*")),
            }[file]
            while not reached():
                assert process.poll() is None, f"run {number} ended before it was killed"
                os.sched_yield()
            kill_all_of(process, str(playbook))
            kill_all_of(process, f"sleep {pause}")
            assert process.returncode == -signal.SIGKILL
            expected.append("interrupted")
        elif number % 3 == 0:
            start(inventory, playbook, "-e", f"number={number}").wait()
            expected.append("golden_mismatch" if number % 9 == 0 else "success")
        else:
            summary = run.request(playbook=playbook, variables={"number": number}, check=number % 10 == 5)
            expected.append(summary.ending.outcome)
    assert Counter(expected) == {"success": 43, "golden_mismatch": 4, "interrupted": 3}
    assert [result["outcome"] for result in read_runs(folder)] == expected
    capfd.readouterr()
    assert mobius(["history", "verify", "-i", str(inventory), "--require-witness", "--format", "json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["status"] == "whole"
    with capfd.disabled():
        print(
            f"\n{RUNS} runs, {len(KILLED)} killed, {len(history.read_bytes().splitlines())} records: {answer['status']}"
        )
    # and it would have been noticed: what a killed run has left is not to be had without it
    lines = history.read_bytes().splitlines(keepends=True)
    killed = read_runs(folder)[10]["run"]
    history.write_bytes(b"".join(line for line in lines if json.loads(line)["run"] != killed))
    assert mobius(["history", "verify", "-i", str(inventory), "--format", "json"]) == 2
