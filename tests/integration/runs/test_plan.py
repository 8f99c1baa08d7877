# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Planned, approved with real SSH keys, and run: small playbooks on this machine, through `mobius` as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mobius.control.history_runs import read_runs
from mobius.control.plan import Plan
from mobius.errors import MobiusError

PLAYBOOK = """
- hosts: here1:here2
  tasks:
    - mobius.dhash.run:
    - name: Write
      ansible.builtin.copy:
        content: "{{ words | default('plain') }}"
        dest: "{{ out }}-{{ inventory_hostname }}"
        mode: "0644"
    - name: Look only when it runs
      ansible.builtin.command: "true"
"""


class Planned:
    """A checkout with one playbook, and the plans made of it."""

    def __init__(self, checkout: Any, folder: Path) -> None:
        self.checkout = checkout
        self.folder = folder
        self.out = folder / "out"
        checkout.write("write.yml", PLAYBOOK)

    def call(self, *arguments: str) -> Any:
        done = self.checkout.mobius(*arguments)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def plan(self, *arguments: str, playbook: str = "write", name: str = "write") -> Path:
        place = self.folder / f"{name}.plan.json"
        variables = ("-e", f"out={self.out}")
        inventory = ("-i", str(self.checkout.inventory))
        done = self.call("plan", playbook, *inventory, *variables, *arguments, "--out", str(place))
        assert done.returncode == 0, done.stderr
        self.said = done.stdout
        return place

    @property
    def written(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("out-*"))

    @property
    def runs(self) -> list[dict[str, Any]]:
        return read_runs(self.checkout.inventory.parent / "history")


@pytest.fixture
def planned(checkout: Any, tmp_path: Path) -> Planned:
    return Planned(checkout, tmp_path)


def test_a_plan_says_per_host_what_will_change_and_changes_nothing(planned: Planned) -> None:
    place = planned.plan("-e", '{"words": "s3cr3t-value\\nplain\\n"}', "--tags", "all")
    assert planned.written == []
    assert [run["check"] for run in planned.runs] == [True]
    plan = Plan.read(place)
    assert sorted(plan.hosts) == ["here1", "here2"]
    assert plan.count == 2
    write, look = plan.hosts["here1"].changes
    assert write.as_dict() == {
        "task": "Write",
        "module": "ansible.builtin.copy",
        "predicted": "change",
        "why": "",
        "diff": [{"path": "", "before": "", "after": "s3cr3t-value\nplain\n"}],
    }
    assert (look.task, look.as_dict()["predicted"]) == ("Look only when it runs", "unknown")
    made = plan.made_from
    assert sorted(made["variables"]) == ["out", "words"]
    assert all(digest.startswith("hmac-sha256:") for digest in made["variables"].values())
    assert made["playbook"] == "playbooks/write.yml"
    assert len(made["playbook_sha256"]) == len(made["inventory_sha256"]) == len(made["code_sha256"]) == 64
    for word in (f"plan     playbooks/write.yml on {planned.checkout.inventory}", "+ plain", plan.digest, str(place)):
        assert word in planned.said
    assert "cannot be known beforehand:\n    Look only when it runs" in planned.said
    assert place.stat().st_mode & 0o007 == 0


def test_there_is_no_plan_of_what_fails_or_opens_no_run_or_is_there_already(planned: Planned) -> None:
    planned.checkout.write(
        "fails.yml", "- hosts: here1\n  tasks:\n    - mobius.dhash.run:\n    - ansible.builtin.fail:\n"
    )
    planned.checkout.write("looks.yml", "- hosts: here1\n  tasks:\n    - ansible.builtin.ping:\n")
    for playbook, code, sentence in (
        ("fails.yml", 2, "There is no plan, since the check run failed."),
        ("looks", 1, "This playbook changes no host"),
        ("../write", 1, "There is no playbook ../write."),
        ("nothing", 1, "There is no playbook nothing."),
    ):
        place = planned.folder / "none.plan.json"
        done = planned.call("plan", playbook, "-i", str(planned.checkout.inventory), "--out", str(place))
        assert (done.returncode, place.exists()) == (code, False)
        assert sentence in done.stderr
    place = planned.plan()
    kept = place.read_bytes()
    done = planned.call(
        "plan", "write", "-i", str(planned.checkout.inventory), "-e", f"out={planned.out}", "--out", str(place)
    )
    assert (done.returncode, place.read_bytes()) == (1, kept)
    assert "exists already" in done.stderr


def test_a_plan_for_programs_is_the_file_with_its_digest_and_one_that_was_touched_is_none(planned: Planned) -> None:
    place = planned.plan("--format", "json")
    whole = json.loads(place.read_text())
    assert json.loads(planned.said) == {**whole["plan"], "digest": whole["digest"], "file": str(place)}

    def refused(value: Any) -> str:
        place.write_text(value if isinstance(value, str) else json.dumps(value))
        with pytest.raises(MobiusError) as caught:
            Plan.read(place)
        assert caught.value.outcome == "plan_invalid"
        return caught.value.reason

    for name in ("run", "created", "author", "variables", "files", "hosts"):
        other = {**whole["plan"], name: {} if isinstance(whole["plan"][name], dict) else "x"}
        if other != whole["plan"]:
            refused({**whole, "plan": other})
    for name in whole["plan"]["made_from"]:
        refused({**whole, "plan": {**whole["plan"], "made_from": {**whole["plan"]["made_from"], name: "x"}}})
    assert "changed" in refused({**whole, "plan": {**whole["plan"], "more": 1}})
    refused({**whole, "digest": "0" * 64})
    for text in ("", "[]", "{}", "[" * 9999, json.dumps(whole)[:-9]):
        assert "is not a plan" in refused(text)
    place.write_text(json.dumps(whole))
    assert Plan.read(place).digest == whole["digest"]
