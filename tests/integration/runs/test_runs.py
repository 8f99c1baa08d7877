# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every way for a run to end, through the real ansible-runner."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from mobius.control.run.runner import extra_argument
from mobius.errors import MobiusError

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


def test_a_good_run_succeeds_and_counts_what_changed_on_each_host(run, tmp_path):
    summary = run(
        f"""
        - hosts: here1:here2
          tasks:
            - name: Write
              ansible.builtin.copy:
                content: x
                dest: "{tmp_path}/out-{{{{ inventory_hostname }}}}"
              when: inventory_hostname == 'here1'
        """,
    )
    assert (summary.ending.outcome, summary.ending.code) == ("success", 0)
    assert summary.changed == {"here1": 1, "here2": 0}
    assert RUN_ID.fullmatch(summary.run)
    assert (tmp_path / "out-here1").read_text() == "x"
    assert any("changed      here1" in line for line in run.lines)
    assert not any("skipped" in line for line in run.lines), "nothing happened there"
    assert any("task         Write" in line for line in run.lines)


def test_a_check_run_predicts_with_a_difference_and_changes_nothing(run, tmp_path):
    summary = run(
        f"""
        - hosts: here1
          tasks:
            - name: Write
              ansible.builtin.copy: {{content: "the new line\\n", dest: "{tmp_path}/out"}}
        """,
        check=True,
        diff=True,
    )
    assert summary.changed == {"here1": 1}
    assert summary.as_dict()["check"] is True
    assert any("+the new line" in line for line in run.lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("invalid_input", 1), ("golden_mismatch", 2), ("not_provisioned", 3), ("instance_not_ready", 4), ("disk_full", 5)],
)
def test_a_failure_ends_with_the_code_of_its_outcome_also_in_check_mode(run, outcome, code):
    summary = run(
        f"""
        - hosts: here1
          gather_facts: false
          tasks:
            - name: Say so
              mobius.dhash.failure: {{outcome: {outcome}, reason: "Because it is a test."}}
        """,
        check=True,
    )
    assert (summary.ending.outcome, summary.ending.code) == (outcome, code)
    assert summary.as_dict()["failures"] == [
        {
            "host": "here1",
            "task": "Say so",
            "outcome": outcome,
            "code": code,
            "reason": "Because it is a test.",
            "do_next": summary.ending.do_next,
        }
    ]


def test_a_rescued_failure_does_not_fail_the_run(run):
    summary = run(
        """
        - hosts: here1
          tasks:
            - block:
                - mobius.dhash.failure: {outcome: golden_mismatch, reason: "x"}
              rescue:
                - ansible.builtin.meta: noop
        """,
    )
    assert summary.ending.outcome == "success"


def test_a_failure_that_a_rescue_passes_on_ends_the_run_with_its_outcome(run):
    summary = run(
        """
        - hosts: here1
          tasks:
            - block:
                - mobius.dhash.failure: {outcome: disk_full, reason: "No space.", do_next: "Buy a disk."}
              rescue:
                - name: Pass it on
                  mobius.dhash.failure:
                    failure: "{{ ansible_failed_result.mobius_failure | default(omit) }}"
                    outcome: task_failed
                    reason: "{{ ansible_failed_result.msg }}"
        """,
    )
    assert (summary.ending.outcome, summary.ending.do_next) == ("disk_full", "Buy a disk.")
    assert [failure.task for failure in summary.ending.failures] == ["Pass it on"]


def test_a_rescue_passes_on_a_failure_that_had_no_outcome_as_a_failed_task(run):
    summary = run(
        """
        - hosts: here1
          tasks:
            - block:
                - ansible.builtin.fail: {msg: "It broke."}
              rescue:
                - mobius.dhash.failure:
                    failure: "{{ ansible_failed_result.mobius_failure | default(omit) }}"
                    outcome: task_failed
                    reason: "{{ ansible_failed_result.msg }}"
        """,
    )
    assert (summary.ending.outcome, summary.ending.reason) == ("task_failed", "It broke.")


def test_a_bare_failure_is_a_failed_task(run):
    summary = run(
        """
        - hosts: here1
          tasks:
            - ansible.builtin.command: "false"
        """,
    )
    assert (summary.ending.outcome, summary.ending.code) == ("task_failed", 2)


def test_a_task_over_its_own_time_limit_is_a_time_out(run):
    summary = run(
        """
        - hosts: here1
          tasks:
            - ansible.builtin.command: sleep 30
              timeout: 1
        """,
    )
    assert (summary.ending.outcome, summary.ending.code) == ("timeout", 4)


def test_an_unreachable_host_is_an_environment_failure_and_the_others_go_on(run):
    summary = run(
        """
        - hosts: here1:gone
          tasks:
            - ansible.builtin.ping:
            - ansible.builtin.ping:
        """,
    )
    assert (summary.ending.outcome, summary.ending.code) == ("unreachable", 3)
    assert [failure.host for failure in summary.ending.failures] == ["gone"]


def test_a_playbook_that_cannot_be_read_is_an_input_error_with_ansibles_own_sentence(run):
    summary = run("- hosts: here1\n  tusks: []\n")
    assert (summary.ending.outcome, summary.ending.code) == ("playbook_error", 1)
    assert "tusks" in summary.ending.reason


def test_an_unknown_module_is_an_input_error(run):
    summary = run("- hosts: here1\n  tasks:\n    - mobius.dhash.no_such_module:\n")
    assert (summary.ending.outcome, summary.ending.code) == ("playbook_error", 1)
    assert "no_such_module" in summary.ending.reason


def test_a_missing_playbook_is_an_input_error(run, tmp_path):
    summary = run.request(playbook=tmp_path / "missing.yml")
    assert (summary.ending.outcome, summary.ending.code) == ("playbook_error", 1)
    assert "missing.yml" in summary.ending.reason


def test_an_inventory_without_a_host_is_an_input_error(run, tmp_path):
    empty = tmp_path / "empty.yml"
    empty.write_text("all: {hosts: {}}\n")
    summary = run("- hosts: mobius\n  tasks: [{ansible.builtin.ping: }]\n", inventory=str(empty))
    assert (summary.ending.outcome, summary.ending.code) == ("unknown_inventory", 1)


def test_an_inventory_without_the_plays_group_is_an_input_error(run):
    summary = run("- hosts: mobius\n  tasks: [{ansible.builtin.ping: }]\n")
    assert summary.ending.code == 1
    assert "mobius" in summary.ending.reason


def test_a_limit_that_names_nobody_is_an_input_error(run):
    summary = run("- hosts: all\n  tasks: [{ansible.builtin.ping: }]\n", limit="nobody")
    assert (summary.ending.outcome, summary.ending.code) == ("unknown_inventory", 1)


def test_a_limit_keeps_the_run_to_its_hosts(run):
    summary = run("- hosts: all\n  tasks: [{ansible.builtin.ping: }]\n", limit="here2")
    assert (summary.ending.outcome, list(summary.changed)) == ("success", ["here2"])


def test_a_run_over_its_time_limit_ends_with_4_and_leaves_no_process(run, processes_with):
    started = time.monotonic()
    summary = run(
        """
        - hosts: here
          tasks:
            - name: Take long
              ansible.builtin.command: sleep 4242.001
        """,
        timeout=3.0,
    )
    assert (summary.ending.outcome, summary.ending.code) == ("timeout", 4)
    assert "3 seconds" in summary.ending.reason
    assert time.monotonic() - started < 20
    assert processes_with("sleep 4242.001") == []
    assert processes_with(str(run.inventory)) == []


def test_variables_reach_the_playbook_from_every_side(run, tmp_path):
    more = tmp_path / "with space.yml"
    more.write_text("from_file: {deep: [1, 2]}\n")
    summary = run(
        f"""
        - hosts: here1
          tasks:
            - ansible.builtin.copy:
                content: "{{{{ [given, from_file, plain, quoted] | to_json }}}}"
                dest: {tmp_path}/out
        """,
        variables={"given": 'a "quoted" $word'},
        extra=(extra_argument(f"@{more}"), extra_argument("plain=7"), extra_argument('{"quoted": "it\'s"}')),
    )
    assert summary.ending.outcome == "success"
    assert json.loads((tmp_path / "out").read_text()) == ['a "quoted" $word', {"deep": [1, 2]}, "7", "it's"]


@pytest.mark.parametrize("wrong", ["novalue", "@/no/such/file", "{broken", "=x", "a b=c"])
def test_an_extra_variable_that_ansible_would_misread_is_refused(wrong):
    with pytest.raises(MobiusError) as caught:
        extra_argument(wrong)
    assert caught.value.outcome == "invalid_input"


def test_the_callers_environment_does_not_decide_what_a_run_does(run, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "sitecustomize.py").write_text("raise SystemExit('the trap was sprung')\n")
    for name, value in {
        "PYTHONPATH": str(trap),
        "ANSIBLE_CONFIG": "/nowhere/ansible.cfg",
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "ANSIBLE_CALLBACK_PLUGINS": str(trap),
        "ANSIBLE_COLLECTIONS_PATH": "/nowhere",
        "ANSIBLE_CHECK_MODE_MARKERS": "1",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "LC_ALL": "C",
        "MOBIUS_ACTOR": "ada",
    }.items():
        monkeypatch.setenv(name, value)
    names = "PYTHONPATH ANSIBLE_CONFIG ANSIBLE_HOST_KEY_CHECKING ANSIBLE_COLLECTIONS_PATH LC_ALL"
    summary = run(
        f"""
        - hosts: here1
          tasks:
            - mobius.dhash.run:
            - ansible.builtin.copy:
                content: >-
                  {{{{ {{'actor': ansible_facts.mobius_run_actor, 'run': ansible_facts.mobius_run_id,
                       'config': lookup('ansible.builtin.config', 'HOST_KEY_CHECKING'),
                       'env': query('ansible.builtin.env', *'{names}'.split())}} | to_json }}}}
                dest: {tmp_path}/out
        """,
    )
    assert summary.ending.outcome == "success", run.lines
    observed = json.loads((tmp_path / "out").read_text())
    assert observed["actor"] == "ada"
    assert observed["run"] == summary.run
    assert observed["config"] is True
    assert observed["env"][0] == ""
    assert observed["env"][1].endswith("/ansible.cfg")
    assert not observed["env"][1].startswith("/nowhere")
    assert observed["env"][2:] == ["", "", "C.UTF-8"]


def test_a_run_leaves_no_private_data_behind(run, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(os.listdir(Path.cwd()))
    run("- hosts: here1\n  tasks: [{ansible.builtin.ping: }]\n")
    assert list(temporary.iterdir()) == []
    assert set(os.listdir(Path.cwd())) == before


def test_all_hosts_and_plays_of_a_run_have_one_id(run, tmp_path):
    summary = run(
        f"""
        - hosts: here
          serial: 1
          tasks: &tasks
            - mobius.dhash.run:
            - ansible.builtin.lineinfile:
                path: {tmp_path}/ids-{{{{ inventory_hostname }}}}
                line: "{{{{ mobius_run_id }}}}"
                create: true
        - hosts: here
          tasks: *tasks
        """,
    )
    ids = {(tmp_path / f"ids-here{number}").read_text() for number in (1, 2, 3)}
    assert ids == {summary.run + "\n"}


def test_a_host_is_asked_to_keep_the_head_in_each_play_until_it_does(run, tmp_path):
    """here1 cannot in the first play; from here2 it is removed in between, and only the final one follows."""
    (tmp_path / "witness").mkdir()
    (tmp_path / "witness/here1").write_text("no folder")
    summary = run(
        f"""
        - hosts: here1:here2
          tasks:
            - mobius.dhash.run:
            - ansible.builtin.file: {{path: "{tmp_path}/witness/{{{{ inventory_hostname }}}}", state: absent}}
        - hosts: here1:here2
          tasks: [mobius.dhash.run: ]
        - hosts: here1:here2
          tasks: [mobius.dhash.run: ]
        """,
    )
    assert summary.ending.outcome == "success", run.lines
    for host, count in (("here1", 2), ("here2", 1)):
        heads = (tmp_path / "witness" / host / "heads.jsonl").read_text().splitlines()
        assert [json.loads(line)["run"] for line in heads] == [summary.run] * count


def test_a_play_that_has_hosts_keep_the_head_later_asks_none_of_them_before(run, tmp_path):
    summary = run(
        f"""
        - hosts: here1
          tasks:
            - mobius.dhash.run: {{witness: false}}
            - ansible.builtin.copy: {{dest: "{tmp_path}/head", content: "{{{{ mobius_run_head | to_json }}}}"}}
            - ansible.builtin.stat: {{path: "{tmp_path}/witness"}}
              register: witness
            - ansible.builtin.assert: {{that: not witness.stat.exists}}
        """,
    )
    assert summary.ending.outcome == "success", run.lines
    head = json.loads((tmp_path / "head").read_text())
    (final,) = (tmp_path / "witness/here1/heads.jsonl").read_text().splitlines()
    assert json.loads(final)["seq"] > head["seq"]
    assert head["run"] == summary.run
    assert {"chain", "seq", "hash"} < set(head)


def test_the_watched_results_are_kept_by_host(run):
    summary = run(
        "- hosts: here1:here2\n  tasks: [{ansible.builtin.ping: {data: x}}]\n", watched="ansible.builtin.ping"
    )
    assert {host: result["ping"] for host, result in summary.results.items()} == {"here1": "x", "here2": "x"}
