# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Planned, approved with real SSH keys, and run: small playbooks on this machine, through `mobius` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobius.cli.render.history import show_lines
from mobius.cli.render.text import TextStyle
from mobius.control.history.query import read_runs
from mobius.control.plan.plan import ChangePlan
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
        location = self.folder / f"{name}.plan.json"
        variables = ("-e", f"out={self.out}")
        inventory = ("-i", str(self.checkout.inventory))
        done = self.call("plan", playbook, *inventory, *variables, *arguments, "--out", str(location))
        assert done.returncode == 0, done.stderr
        self.said = done.stdout
        return location

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
    location = planned.plan("-e", '{"words": "s3cr3t-value\\nplain\\n"}', "--tags", "all")
    assert planned.written == []
    assert [run["check"] for run in planned.runs] == [True]
    plan = ChangePlan.read(location)
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
    for word in (
        f"plan     playbooks/write.yml on {planned.checkout.inventory}",
        "+ plain",
        plan.digest,
        str(location),
    ):
        assert word in planned.said
    assert "cannot be known beforehand:\n    Look only when it runs" in planned.said
    assert location.stat().st_mode & 0o007 == 0


def test_there_is_no_plan_of_what_fails_or_opens_no_run(planned: Planned) -> None:
    planned.checkout.write(
        "fails.yml", "- hosts: here1\n  tasks:\n    - mobius.dhash.run:\n    - ansible.builtin.fail:\n"
    )
    planned.checkout.write("looks.yml", "- hosts: here1\n  tasks:\n    - ansible.builtin.ping:\n")
    for playbook, code, sentence in (
        ("fails.yml", 2, "There is no plan, since the check run failed."),
        ("looks", 1, "This playbook changes no host"),
        ("../write", 1, "There is no playbook ../write."),
    ):
        location = planned.folder / "none.plan.json"
        done = planned.call("plan", playbook, "-i", str(planned.checkout.inventory), "--out", str(location))
        assert (done.returncode, location.exists()) == (code, False)
        assert sentence in done.stderr


def test_a_plan_for_programs_is_the_file_with_its_digest_and_one_that_was_touched_is_none(planned: Planned) -> None:
    location = planned.plan("--format", "json")
    whole = json.loads(location.read_text())
    assert json.loads(planned.said) == {**whole["plan"], "digest": whole["digest"], "file": str(location)}

    def refused(value: Any) -> str:
        location.write_text(value if isinstance(value, str) else json.dumps(value))
        with pytest.raises(MobiusError) as caught:
            ChangePlan.read(location)
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
    location.write_text(json.dumps(whole))
    assert ChangePlan.read(location).digest == whole["digest"]
    with pytest.raises(MobiusError, match="exists already"):
        ChangePlan.read(location).write(location)


RULE = """
    mobius_approvals_required: 2
    mobius_approvals_roles: [ops_sre]
    mobius_approvals_signers: {signers}
"""
PEOPLE = {"ada": "author", "bob": "ops_sre", "eve": "release_owner"}


@pytest.fixture
def ruled(planned: Planned) -> Planned:
    """An inventory that asks for two approvals, and a key for each person."""
    lines = []
    for name, role in PEOPLE.items():
        key = planned.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text().strip()
        lines.append(f'{name}@example.org namespaces="mobius-approval-{role}" {public}\n')
    signers = planned.folder / "allowed_signers"
    signers.write_text("".join(lines))
    with planned.checkout.inventory.open("a") as stream:
        stream.write(RULE.format(signers=signers))
    return planned


def approved(planned: Planned, location: Path) -> None:
    for name, role in PEOPLE.items():
        done = planned.call("approve", str(location), "--role", role, "--key", str(planned.folder / name))
        assert done.returncode == 0, done.stderr


def test_what_was_approved_by_two_is_what_runs_and_the_record_says_so(ruled: Planned) -> None:
    location = ruled.plan("-e", "words=s3cr3t")
    passed = ("-e", f"out={ruled.out}", "-e", "words=s3cr3t")
    refused = ruled.call("apply", str(location), *passed, "--format", "json")
    assert (refused.returncode, json.loads(refused.stdout)["outcome"]) == (1, "plan_unapproved"), refused.stderr
    approved(ruled, location)
    refused = ruled.call("apply", str(location), "-e", f"out={ruled.out}", "-e", "words=other")
    assert (refused.returncode, ruled.written) == (1, [])
    assert "plan_stale" in refused.stderr
    assert "the variable words." in refused.stderr
    done = ruled.call("apply", str(location), *passed, "--format", "json")
    assert done.returncode == 0, done.stderr
    fidelity = json.loads(done.stdout)["fidelity"]
    assert (fidelity["missing"], fidelity["extra"]) == (0, 0)
    assert ruled.written == ["out-here1", "out-here2"]
    # nothing is left to do, so the same plan is no longer what a run does
    again = ruled.call("apply", str(location), *passed)
    assert again.returncode == 2
    assert "plan     missing 4, extra 0" in again.stdout
    assert "missing  here1: Write: nothing -> s3cr3t" in again.stdout
    runs = ruled.runs
    assert [run["outcome"] for run in runs] == ["success", "plan_unapproved", "plan_stale", "success", "plan_mismatch"]
    approval = runs[3]["intent"]["approval"]
    assert approval["author"] == "ada@example.org"
    assert [(item["who"], item["role"]) for item in approval["approvals"]] == [
        ("bob@example.org", "ops_sre"),
        ("eve@example.org", "release_owner"),
    ]
    assert approval["plan"] == ChangePlan.read(location).digest
    shown = [" ".join(line.split()) for line in show_lines(runs[3], TextStyle())]
    assert "approved bob@example.org as ops_sre" in shown and "eve@example.org as release_owner" in shown
    assert not any(line.startswith("waived") for line in shown)
    assert (runs[3]["end"]["fidelity"]["missing"], runs[3]["end"]["fidelity"]["extra"]) == (0, 0)
    assert runs[4]["end"]["fidelity"]["missing_at"][0] == "here1: Write"
    assert "s3cr3t" not in (ruled.checkout.inventory.parent / "history/history.jsonl").read_text()


def test_a_plain_run_obeys_the_same_rule_and_a_rollback_none(ruled: Planned) -> None:
    ruled.checkout.write("back.yml", PLAYBOOK.replace("run:", "run: {approval: false}"))
    location = ruled.plan()
    approved(ruled, location)

    def ansible(*arguments: str, playbook: str = "write") -> str:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(ruled.checkout.inventory)]
        done = subprocess.run(
            [*command, f"playbooks/{playbook}.yml", *arguments, "-e", f"out={ruled.out}"],
            cwd=ruled.checkout.folder,
            env=ruled.checkout.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "exit 1 (DevOps, plan_missing)" in ansible()
    assert "The run itself would be refused now" in (checked := ansible("--check"))
    assert "exit 0" in checked
    assert "is data of the inventory" in ansible("-e", "mobius_approvals_required=0")
    assert ruled.written == []
    with_plan = ansible("-e", f"mobius_plan={location}")
    assert "exit 0" in with_plan
    assert "plan     missing 0, extra 0" in with_plan
    assert ruled.written == ["out-here1", "out-here2"]
    for path in ruled.folder.glob("out-*"):
        path.unlink()
    assert "exit 0" in ansible(playbook="back")
    assert "exit 0" in ansible("-e", "mobius_break_glass=OPS-7")
    assert ruled.written == ["out-here1", "out-here2"]
    approval = ruled.runs[-1]["intent"]["approval"]
    assert (approval["break_glass"], approval["waived"]) == ("OPS-7", ["plan_missing"])
    shown = [" ".join(line.split()) for line in show_lines(ruled.runs[-1], TextStyle())]
    assert "waived plan_missing: OPS-7" in shown


def test_another_playbook_than_the_planned_one_is_refused(ruled: Planned) -> None:
    location = ruled.plan()
    approved(ruled, location)
    ruled.checkout.write("write.yml", PLAYBOOK + "    - ansible.builtin.debug:\n")
    done = ruled.call("apply", str(location), "-e", f"out={ruled.out}", "--break-glass", "it burns")
    assert done.returncode == 1
    assert "plan_stale" in done.stderr
    assert "the playbook; the playbooks, roles or plugins" in done.stderr
    assert ruled.written == []
