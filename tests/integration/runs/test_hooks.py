# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hooks, as the roles run them: what a failing one stops, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PLAY = """
- hosts: here1
  strategy: {strategy}
  tasks:
    - name: Find the hooks
      mobius.dhash.hooks_info:
        hooks: {hooks}
        optional: {optional}
      register: found
    - name: Run the hook
      ansible.builtin.include_role:
        name: mobius.dhash.hook
      vars:
        hook_name: before_rollback
        hook_file: "{{{{ found.hooks.before_rollback }}}}"
        hook_release: 1.0.0-aaaaaaaaaaaa
        hook_optional: {optional}
      when: "'before_rollback' in found.hooks"
    - name: Do the work of the phase
      ansible.builtin.file: {{path: "{{{{ inventory_dir }}}}/done", state: touch}}
"""
FAIL = "- name: Take it out of the balancer\n  ansible.builtin.fail: {msg: The balancer says no.}\n"
LOST = """
- name: Ask a balancer that is gone
  ansible.builtin.ping:
  delegate_to: gone
"""
TELL = """
- name: Leave word
  ansible.builtin.copy:
    content: "{{ hook_name }} {{ hook_release }}"
    dest: "{{ inventory_dir }}/word"
"""


@pytest.fixture
def phase(run, tmp_path):
    """Run a phase around a hook; `(summary, was the phase's work done)`."""

    def go(hook: str | None, *, optional: bool, strategy: str = "linear", **options: object):
        (tmp_path / "hooks").mkdir(exist_ok=True)
        if hook is not None:
            (tmp_path / "hooks/mine.yml").write_text(hook)
        hooks = json.dumps({"before_rollback": "hooks/mine.yml"})
        summary = run(PLAY.format(hooks=hooks, optional=str(optional).lower(), strategy=strategy), **options)
        return summary, (tmp_path / "done").exists()

    return go


def messages(run) -> str:
    return " ".join(" ".join(run.lines).split())


def test_a_hook_runs_before_its_phase_and_knows_its_name_and_the_release(phase, tmp_path: Path) -> None:
    summary, done = phase(TELL, optional=False)
    assert (summary.ending.outcome, done) == ("success", True)
    assert (tmp_path / "word").read_text() == "before_rollback 1.0.0-aaaaaaaaaaaa"
    assert summary.changes["here1"][0] == "Leave word"


def test_a_check_run_goes_through_a_hook_and_predicts_it(phase, tmp_path: Path) -> None:
    summary, done = phase(TELL, optional=False, check=True)
    assert (summary.ending.outcome, done, (tmp_path / "word").exists()) == ("success", False, False)
    assert summary.changes["here1"][0] == "Leave word"


AFTER_BATCHES = """
- hosts: here
  tasks:
    - name: Note what the batches have left
      ansible.builtin.set_fact:
        __promote_hooks: {{hooks: {{after_batches: "{{{{ inventory_dir }}}}/mine.yml"}}}}
        __promote_result: "{{{{ verdicts[inventory_hostname] }}}}"
      vars:
        verdicts: {verdicts}
    - name: Finish the batches
      ansible.builtin.include_role:
        name: mobius.dhash.promote
        tasks_from: after_batches
    - name: Report what is left
      ansible.builtin.debug: {{msg: "{{{{ inventory_hostname }}}} has {{{{ __promote_result.verdict }}}}"}}
"""
ONCE = """
- name: Migrate the database
  ansible.builtin.shell: echo once >> {{ inventory_dir }}/migrated
  run_once: true
"""


@pytest.mark.parametrize(
    ("verdicts", "hook", "left", "times"),
    [
        (["pass", "pass", "pass"], ONCE, ["pass", "pass", "pass"], 1),
        (["pass", "fail", "pass"], ONCE, ["error", "fail", "error"], 0),
        (["pass", "pass", "pass"], ONCE + FAIL, ["error", "error", "error"], 1),
    ],
)
def test_the_hook_after_all_batches_runs_once_and_only_when_no_host_has_failed(
    run, tmp_path: Path, verdicts: list[str], hook: str, left: list[str], times: int
) -> None:
    (tmp_path / "mine.yml").write_text(hook)
    by_host = {f"here{number}": {"verdict": verdict, "reason": "x"} for number, verdict in enumerate(verdicts, 1)}
    summary = run(AFTER_BATCHES.format(verdicts=json.dumps(by_host)), verbosity=1)
    assert summary.ending.outcome == "success", run.lines
    for number, verdict in enumerate(left, 1):
        assert f"here{number} has {verdict}" in messages(run)
    migrated = tmp_path / "migrated"
    assert (migrated.read_text().split() if migrated.exists() else []) == ["once"] * times


def test_a_failing_hook_ends_its_phase_and_is_named(phase) -> None:
    summary, done = phase(FAIL, optional=False)
    assert (summary.ending.outcome, summary.ending.code, done) == ("hook_failed", 2, False)
    assert summary.ending.reason == (
        "The hook before_rollback failed in Take it out of the balancer: The balancer says no."
    )


def test_a_hook_may_refuse_with_its_outcome(phase) -> None:
    refuse = "- mobius.dhash.failure: {outcome: smoke_failed, reason: The page is empty.}\n"
    summary, done = phase(refuse, optional=False)
    assert (summary.ending.outcome, done) == ("smoke_failed", False)
    assert summary.ending.reason == "The hook before_rollback refused: The page is empty."


@pytest.mark.parametrize("hook", [LOST, "- ansible.builtin.debug: {msg: '{{ nothing_sets_this }}'}\n"])
def test_nothing_that_fails_in_an_optional_hook_stops_its_phase(phase, run, hook: str) -> None:
    summary, done = phase(hook, optional=True)
    assert done, run.lines
    assert summary.ending.outcome == "success"


def test_a_failing_optional_hook_is_a_warning_where_hosts_do_not_wait_for_each_other(phase, run) -> None:
    phase(FAIL, optional=True, strategy="free")
    assert (
        "The hook before_rollback failed in Take it out of the balancer: The balancer says no. The run goes on"
        in messages(run)
    )


def test_a_hook_that_is_missing_is_refused_in_one_sentence_or_left_out_with_a_warning(phase, run) -> None:
    summary, done = phase(None, optional=False)
    assert (summary.ending.outcome, done) == ("invalid_input", False)
    assert summary.ending.reason.startswith("The hook before_rollback cannot be run: ")
    summary, done = phase(None, optional=True)
    assert (summary.ending.outcome, done) == ("success", True)
    assert "warning: The hook before_rollback cannot be run: " in messages(run)
