# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host is changed by a run that was opened for it, and by nothing else: whatever tags, start, ad-hoc call or play.

Real Ansible on this machine. What would change it runs in check mode, which refuses the same.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobius.control.modules import COLLECTION, MODULES
from tests.integration.runs.conftest import Ansible, outcome

CHANGING = sorted(name for name, entry in MODULES.items() if entry.changes_host)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "backup": {},
    "host_tool": {"lib_dir": "{root}/lib", "command": "{root}/command", "service": None},
    "instance": {"release": "1.0.0-0123456789ab"},
    "lease": {"run": "r1"},
    "maintenance": {"enabled": True},
    "mark": {"release": "1.0.0-0123456789ab"},
    "promotion": {"release": "1.0.0-0123456789ab", "state": "canary"},
    "release": {"bundle": "{root}/none.tar.gz"},
    "restore": {"id": "latest"},
    "restore_drill": {},
    "retention": {},
    "secrets": {"path": "{root}/secrets.env", "service": None, "config_dir": None},
}


@pytest.mark.parametrize(
    ("playbook", "arguments"),
    [
        ("provision", ["--skip-tags", "always,host_preflight"]),
        ("provision", ["--skip-tags", "always", "--tags", "host_install"]),
        ("provision", ["--start-at-task", "Create the group"]),
        ("provision", ["--start-at-task", "Write the timers"]),
        ("deploy", ["--skip-tags", "always", "-e", "deploy_release=1.0.0-0123456789ab"]),
        ("decommission", ["--skip-tags", "always", "-e", "mobius_decommission=mobius-dhash"]),
        ("decommission", ["--start-at-task", "Remove the units"]),
        ("backup", ["--skip-tags", "always"]),
        ("restore_drill", ["--skip-tags", "always"]),
    ],
)
def test_a_run_that_leaves_out_its_opening_changes_nothing(
    ansible: Ansible, playbook: str, arguments: list[str]
) -> None:
    done = ansible("ansible-playbook", f"playbooks/{playbook}.yml", "--check", *arguments)
    assert outcome(done) == "run_not_opened", done.stdout + done.stderr
    assert done.returncode != 0
    assert re.findall(r"changed=(\d+)", done.stdout) == ["0"] * done.stdout.count(" : ok=")
    assert ansible.recorded == []


def tasks(root: Path, forged: dict[str, str]) -> str:
    """A task for every module that changes a host, as a play of somebody's has them.

    Args:
        forged: further arguments of each.
    """
    lines = []
    for name in CHANGING:
        arguments = {"service": "any-service", "config_dir": f"{root}/conf", **ARGUMENTS[name], **forged}
        text = json.dumps({key: value for key, value in arguments.items() if value is not None})
        # the play goes on to the next module; what each has answered is printed, and compared by the test
        lines.append(f"    - {COLLECTION}{name}: {text}\n      ignore_errors: true\n".replace("{root}", str(root)))
        lines.append("      register: answer\n")
        lines.append(f"    - debug: msg=\"{name} {{{{ answer.mobius_failure.outcome | default('none') }}}}\"\n")
    return "".join(lines)


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("no variable", {}),
        ("forged facts", {"mobius_run_id": "20260131T230501Z-9f3a61c2", "mobius_run_witnessed": True}),
        ("forged arguments", {}),
    ],
)
def test_no_module_changes_a_host_in_a_play_that_opened_no_run(
    ansible: Ansible, tmp_path: Path, check: bool, name: str, extra: dict[str, Any]
) -> None:
    run = "20260131T230501Z-9f3a61c2"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run).touch()
    forged = {"opened_run": run, "runs_dir": "{root}/runs"} if name == "forged arguments" else {}
    play = f"- hosts: here1\n  tasks:\n{tasks(tmp_path, forged)}"
    arguments = ["-e", json.dumps(extra), *(["--check"] if check else [])]
    done = ansible.play(play, *arguments)
    answers = dict(re.findall(r"\b([a-z_]+) (run_not_opened|[a-z_]+)$", done.stdout, re.MULTILINE))
    assert {name: answers.get(name) for name in CHANGING} == dict.fromkeys(CHANGING, "run_not_opened"), done.stdout
    assert not (tmp_path / "command").exists()


def test_an_ad_hoc_call_changes_nothing(ansible: Ansible, tmp_path: Path) -> None:
    arguments = f"lib_dir={tmp_path}/lib command={tmp_path}/command"
    done = ansible("ansible", "here1", "-m", "mobius.dhash.host_tool", "-a", arguments)
    assert "No run was opened for here1" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "command").exists()


INSTALL = """
    - mobius.dhash.host_tool: {{lib_dir: "{folder}/lib", command: "{folder}/command"}}
"""
OPEN = "- hosts: here1\n  vars: {mobius_approvals_required: 0}\n  tasks:\n    - mobius.dhash.run:\n"


def test_an_opened_run_changes_its_host_and_a_reboot_in_between_does_not_stop_it(
    ansible: Ansible, tmp_path: Path
) -> None:
    runs = Path("/run/mobius-host/runs")
    before = set(runs.iterdir()) if runs.exists() else set()
    forget = "    - ansible.builtin.file: {path: '/run/mobius-host/runs/{{ mobius_run_id }}', state: absent}\n"
    done = ansible.play(f"{OPEN}{forget}{INSTALL.format(folder=tmp_path)}")
    for path in set(runs.iterdir()) - before:
        path.unlink()
    assert outcome(done) == "success", done.stdout
    assert (tmp_path / "command").exists()


def test_a_run_without_a_check_of_its_approvals_changes_only_what_needs_none(ansible: Ansible, tmp_path: Path) -> None:
    play = OPEN.replace("run:", "run: {approval: false}")
    done = ansible.play(play + INSTALL.format(folder=tmp_path))
    assert outcome(done) == "run_not_opened"
    assert "without a check of its approvals" in done.stdout
    assert not (tmp_path / "command").exists()


def test_a_playbook_without_approval_does_not_open_the_next_one_of_the_same_command(ansible: Ansible) -> None:
    playbooks = ("playbooks/backup.yml", "playbooks/provision.yml")
    done = ansible("ansible-playbook", *playbooks, "--tags", "none")
    assert outcome(done) == "run_not_opened", done.stdout
    assert "has no open run" in " ".join(done.stdout.split())


def test_a_play_without_approval_does_not_open_the_next_one_of_the_same_run(ansible: Ansible, tmp_path: Path) -> None:
    first = "- hosts: here1\n  tasks:\n    - mobius.dhash.run: {approval: false}\n"
    done = ansible.play(first + first.replace(" {approval: false}", "") + INSTALL.format(folder=tmp_path))
    assert outcome(done) == "plan_missing", done.stdout
    assert not (tmp_path / "command").exists()


def test_the_folder_of_another_run_opens_nothing(ansible: Ansible, tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    forged.mkdir()
    first = ansible.play(OPEN, MOBIUS_RUN_FOLDER=str(forged))
    assert outcome(first) == "success", first.stdout
    assert (forged / "mobius-history.json").exists()
    play = f"- hosts: here1\n  tasks:\n{INSTALL.format(folder=tmp_path)}"
    done = ansible.play(play, MOBIUS_RUN_FOLDER=str(forged))
    assert outcome(done) == "run_not_opened", done.stdout
    assert not (tmp_path / "command").exists()


def test_a_play_with_hosts_that_the_record_does_not_name_is_refused(ansible: Ansible, tmp_path: Path) -> None:
    other = OPEN.replace("here1", "here2")
    done = ansible.play(OPEN + other + INSTALL.format(folder=tmp_path))
    assert outcome(done) == "run_not_opened", done.stdout
    assert "was recorded for here1, and not for here2" in " ".join(done.stdout.split())


UNDEFINED = "{{ no_such_variable }}"


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "cannot be written"),
        ({"mobius_change": {"ticket": UNDEFINED}}, "no_such_variable"),
        ({"mobius_reason": UNDEFINED}, "no_such_variable"),
        ({"mobius_history_dir": UNDEFINED}, "no_such_variable"),
        ({"mobius_history_key": UNDEFINED}, "no_such_variable"),
        ({"mobius_new_chain": UNDEFINED}, "no_such_variable"),
        ({"mobius_bundle": UNDEFINED}, "no_such_variable"),
    ],
    ids=lambda value: next(iter(value), "folder") if isinstance(value, dict) else "",
)
def test_a_rollback_goes_on_when_it_cannot_be_recorded(
    ansible: Ansible, tmp_path: Path, variables: dict[str, Any], why: str
) -> None:
    if not variables:
        (tmp_path / "history").write_text("no folder")
    extra = json.dumps({"mobius_service": "no-such-service", **variables})
    done = ansible("ansible-playbook", "playbooks/rollback.yml", "-e", extra)
    text = " ".join(done.stdout.split())
    assert "The run is not in the history, and goes on all the same" in text, done.stdout
    assert why in text
    assert outcome(done) == "not_provisioned", done.stdout


@pytest.mark.parametrize("line", ['{"seq":5}', '{"data":{},"event":"end","run":null,"seq":5}'])
def test_a_rollback_goes_on_when_the_last_record_lacks_its_fields(ansible: Ansible, tmp_path: Path, line: str) -> None:
    assert outcome(ansible.play(OPEN)) == "success"
    path = tmp_path / "history/history.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    before = path.read_bytes()
    done = ansible("ansible-playbook", "playbooks/rollback.yml", "-e", "mobius_service=no-such-service")
    assert "The run is not in the history, and goes on all the same" in " ".join(done.stdout.split()), done.stdout
    assert outcome(done) == "not_provisioned", done.stdout
    assert path.read_bytes() == before
    assert outcome(ansible.play(OPEN)) == "history_damaged", "and nothing but a rollback does"


def test_what_goes_back_needs_no_readable_history(ansible: Ansible, tmp_path: Path) -> None:
    """A history that breaks in the middle of a run keeps neither a canary from being reverted nor data from coming back."""
    breaks = f"    - ansible.builtin.command: mv {tmp_path}/history {tmp_path}/broken\n"
    breaks += f"    - ansible.builtin.copy: {{content: x, dest: {tmp_path}/history}}\n"
    rollback = OPEN.replace("run:", "run: {approval: false, required: false, new_chain: accept}")
    answers: dict[str, str] = {}
    for opening, calls in {
        OPEN: {
            "promotion": [{"state": "canary"}, {"state": "reverted"}],
            "lease": [{"state": "held"}, {"state": "free"}],
        },
        rollback: {"restore": [{}], "backup": [{}], "promotion": [{"state": "reverted"}]},
    }.items():
        play = opening + breaks
        for name, states in calls.items():
            for state in states:
                arguments = {"service": "any-service", "config_dir": f"{tmp_path}/conf", **ARGUMENTS[name], **state}
                # as above: every answer is compared at the end
                play += f"    - {COLLECTION}{name}: {json.dumps(arguments)}\n      ignore_errors: true\n"
                play += "      register: answer\n"
                about = f"{'rollback' if opening == rollback else 'run'}-{name}-{state.get('state', '')}"
                play += f"    - debug: msg=\"{about} {{{{ answer.mobius_failure.outcome | default('none') }}}}\"\n"
        done = ansible.play(play)
        answers |= dict(re.findall(r"\b((?:run|rollback)-[a-z]+-[a-z]*) ([a-z_]+)", done.stdout))
        for path in (tmp_path / "history", tmp_path / "broken"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    assert answers == {
        "run-promotion-canary": "history_failed",
        "run-promotion-reverted": "not_provisioned",
        "run-lease-held": "history_failed",
        "run-lease-free": "not_provisioned",
        "rollback-restore-": "not_provisioned",
        "rollback-backup-": "history_failed",
        "rollback-promotion-reverted": "run_not_opened",
    }
