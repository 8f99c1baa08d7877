# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the environment of a plain ansible-playbook can change of a run, with the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.runs.conftest import Ansible, outcome

OPEN = """
- hosts: mobius
  vars: {mobius_approvals_required: 0}
  tasks:
    - mobius.dhash.run:
    - ansible.builtin.file: {path: "{{ inventory_dir }}/changed", state: touch}
"""


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANSIBLE_CALLBACKS_ENABLED", "ansible.posix.timer"),
        ("ANSIBLE_ANY_ERRORS_FATAL", "true"),
        ("ANSIBLE_HASH_BEHAVIOUR", "merge"),
        ("ANSIBLE_VARS_ENABLED", "none"),
        ("ANSIBLE_PRECEDENCE", "all_inventory"),
        ("ANSIBLE_INVENTORY_IGNORE_REGEX", "group_vars"),
    ],
)
def test_a_setting_that_changes_what_a_run_means_is_refused(
    ansible: Ansible, tmp_path: Path, variable: str, value: str, arguments: list[str]
) -> None:
    done = ansible.play(OPEN, *arguments, **{variable: value})
    assert f"Unset {variable}" in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert done.returncode != 0
    assert ansible.recorded == []
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize(
    "given",
    [
        '{"__promote_result": {"verdict": "pass"}}',
        "mobius_run_id=20260101T000000Z-00000000",
        "mobius_run_witnessed=true",
    ],
)
def test_what_a_run_finds_out_by_itself_is_no_extra_variable(ansible: Ansible, tmp_path: Path, given: str) -> None:
    """It would win over what the tasks register: a gate that failed would have passed."""
    done = ansible.play(OPEN, "-e", given)
    assert outcome(done) == "invalid_input", done.stdout + done.stderr
    assert ansible.recorded == []
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANSIBLE_STRATEGY", "free"),
        ("ANSIBLE_PRIVATE_ROLE_VARS", "true"),
        ("ANSIBLE_GATHERING", "implicit"),
        ("ANSIBLE_FORKS", "1"),
        ("ANSIBLE_FORCE_HANDLERS", "true"),
    ],
)
def test_another_setting_changes_nothing(ansible: Ansible, variable: str, value: str) -> None:
    # the host is not provisioned here: what the role itself refuses is reached under every one of them
    done = ansible("ansible-playbook", "playbooks/rollback.yml", "-e", "mobius_service=none", **{variable: value})
    assert outcome(done) == "not_provisioned", done.stdout + done.stderr


def test_a_rollback_goes_on_and_is_recorded(ansible: Ansible) -> None:
    variable = {"ANSIBLE_VARS_ENABLED": "none"}
    done = ansible("ansible-playbook", "playbooks/rollback.yml", "-e", "mobius_service=none", **variable)
    assert outcome(done) == "not_provisioned", done.stdout + done.stderr
    assert "A rollback goes on all the same" in " ".join((done.stdout + done.stderr).split())
    assert [record["event"] for record in ansible.recorded][:2] == ["begin", "intent"]
