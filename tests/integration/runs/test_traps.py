# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The traps of Ansible that a promotion must not fall into, and the plugins that keep it out of them.

Each trap is first shown to be one: when Ansible changes its ways, these tests say so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
BATCHES = """
- hosts: here
  serial: 1
  tasks:
    - block:
        - name: Gate
          mobius.dhash.failure: {outcome: golden_mismatch, reason: "Wrong hash."}
          when: inventory_hostname == 'here1'
        - name: Note
          ansible.builtin.set_fact: {result: {verdict: pass, reason: healthy}}
      rescue:
"""
NOTE = """
        - name: Note the failure
          ansible.builtin.set_fact:
            result: {verdict: error, failure: "{{ ansible_failed_result.mobius_failure }}"}
"""
DECIDE = """
- hosts: here
  tasks:
    - name: Decide
      mobius.dhash.decide: {result: result}
      register: decision
    - name: Show
      ansible.builtin.debug: {msg: "decision={{ decision.decision }} bad={{ decision.mark_bad }}"}
    - name: Fail the run
      mobius.dhash.failure: {failure: "{{ decision.failure }}"}
      when: decision.decision == 'revert'
"""


def test_a_rescue_that_ends_well_hides_the_failure_from_ansible(run):
    """Trap 1: the later batches still deploy, and the exit code is 0."""
    assert run(BATCHES + "        - ansible.builtin.meta: noop\n").ending.outcome == "success"


def test_a_rescue_that_fails_again_strands_the_batches_already_done(run):
    """Trap 2: no later play runs, so nobody confirms or reverts what was done."""
    reverse = BATCHES.replace("'here1'", "'here3'")
    again = "        - mobius.dhash.failure: {failure: '{{ ansible_failed_result.mobius_failure }}'}\n"
    summary = run(reverse + again + DECIDE)
    assert summary.ending.outcome == "golden_mismatch"
    assert not any("Decide" in line for line in run.lines)


def test_a_noted_failure_is_decided_for_all_batches_in_a_separate_play(run):
    summary = run(BATCHES + NOTE + DECIDE)
    assert (summary.ending.outcome, summary.ending.code) == ("golden_mismatch", 2)
    assert sum("decision=revert bad=True" in line for line in run.lines) == 3
    assert {failure.host for failure in summary.ending.failures} == {"here1", "here2", "here3"}


ROLE_LIKE = """
- hosts: here
  tasks:
    - ansible.builtin.set_fact:
        found: "{{ {'confirmed': '1-a', 'serving': ['1-a'], 'pending': None} if inventory_hostname == 'here2' else {} }}"
    - mobius.dhash.batches: {release: 1-a, releases: found, sizes: [1]}
      register: batched
      run_once: true
    - ansible.builtin.debug: {msg: "batches={{ batched.batches | flatten | join('+') }}"}
    - ansible.builtin.include_tasks: "{{ inventory_dir }}/batch.yml"
      loop: "{{ batched.batches }}"
      loop_control: {loop_var: batch}
    - ansible.builtin.debug: {msg: "verdict={{ result.verdict | default('none') }}"}
    - mobius.dhash.decide: {result: result}
      register: decision
      run_once: true
    - ansible.builtin.debug: {msg: "decision={{ decision.decision }} {{ decision.reasons }}"}
"""
# the first host answers last, as any host may on a machine that is busy
BATCH = """
- ansible.builtin.include_tasks: "{{ inventory_dir }}/begin.yml"
  when: inventory_hostname in batch and (inventory_hostname != 'here1' or lookup('pipe', 'sleep 1') == '')
"""
BEGIN = """
- block:
    - mobius.dhash.hold_back: {result: result}
    - mobius.dhash.failure: {outcome: golden_mismatch, reason: Wrong hash.}
      when: inventory_hostname == 'here1'
    - mobius.dhash.verdict: {gate: {verdict: pass, reason: healthy, evidence: {samples: 1}}}
      register: result
  rescue:
    - mobius.dhash.verdict:
      register: result
"""


def test_a_condition_on_the_loop_of_batches_lets_the_host_that_answers_first_go_first(run, tmp_path):
    """Trap 3: the tasks of a loop of includes run in the order in which the hosts answer it."""
    (tmp_path / "batch.yml").write_text(BEGIN)
    when = "      when: {}\n".format(yaml.safe_load(BATCH)[0]["when"])
    loop = "      loop_control: {loop_var: batch}\n"
    assert run(ROLE_LIKE.replace(loop, loop + when)).ending.outcome == "success", run.lines
    lines = " ".join(" ".join(run.lines).split())
    assert (lines.count("verdict=pass"), lines.count("verdict=error")) == (1, 1), "here3 did not wait for here1"
    role = yaml.safe_load((CHECKOUT / "roles/promote/tasks/batches.yml").read_text())
    assert [set(task) & {"when", "run_once"} for task in role if "loop" in task] == [set()]


def test_a_noted_failure_holds_the_next_batch_back_and_decides_for_all(run, tmp_path):
    """The plugins of the role promote, in the order in which it uses them."""
    (tmp_path / "batch.yml").write_text(BATCH)
    (tmp_path / "begin.yml").write_text(BEGIN)
    assert run(ROLE_LIKE).ending.outcome == "success", run.lines
    lines = " ".join(" ".join(run.lines).split())
    assert lines.count("batches=here1+here3") == 3, "here2 serves the release"
    assert lines.count("verdict=error") == 2
    assert lines.count("verdict=none") == 1
    assert "decision=revert" in lines
    assert "Wrong hash." in lines
    assert "here1 failed before this host was promoted." in lines


def test_a_fleet_that_passed_is_confirmed(run):
    summary = run(BATCHES.replace("'here1'", "'nobody'") + NOTE + DECIDE)
    assert summary.ending.outcome == "success"
    assert sum("decision=confirm bad=False" in line for line in run.lines) == 3


def test_a_host_that_is_lost_after_its_good_verdict_reverts_the_fleet(run):
    lose = """
- hosts: here
  tasks:
    - ansible.builtin.set_fact: {result: {verdict: pass, reason: healthy}}
    - name: Lose one
      ansible.builtin.ping:
      vars:
        ansible_connection: "{{ 'ssh' if inventory_hostname == 'here2' else 'local' }}"
        ansible_host: 127.0.0.1
        ansible_port: 9
"""
    summary = run(lose + DECIDE)
    assert sum("decision=revert bad=False" in line for line in run.lines) == 2
    assert (summary.ending.outcome, summary.ending.code) == ("unreachable", 3)


def test_the_verdict_unknown_of_a_check_run_is_predicted_to_pass(run):
    unknown = BATCHES.replace("'here1'", "'nobody'").replace("verdict: pass", "verdict: unknown")
    assert run(unknown + NOTE + DECIDE, check=True).ending.outcome == "success"
    assert run(unknown + NOTE + DECIDE).ending.outcome == "gate_inconclusive"


def plain(playbook: Path, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(playbook), *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_plain_run_prints_its_outcome_code_team_hosts_and_what_to_do_next(playbook, inventory):
    file = playbook(
        """
        - hosts: here1:here2
          tasks:
            - mobius.dhash.run:
            - name: Refuse
              mobius.dhash.failure: {outcome: disk_full, reason: "No space.", do_next: "Buy a disk."}
              when: inventory_hostname == 'here2'
        """
    )
    result = plain(file, inventory, "-e", "x=1")
    assert result.returncode == 2  # Ansible's own, which says nothing
    block = result.stdout[result.stdout.rindex("MOBIUS") :].splitlines()[1:]
    assert block[:-1] == [
        "✗ playbook refused: nothing serves on any host",
        "  hosts     here1, here2  untouched, nothing serves",
        "  why       No space (here2)",
        "  changes   nothing changed",
        "  next      Buy a disk.",
    ]
    assert re.search(r", run 20\d{6}T\d{6}Z-[0-9a-f]{8}, exit 5 \(Infrastructure, disk_full\)$", block[-1])


def test_a_plain_run_in_which_a_failure_was_rescued_is_a_success(playbook, inventory):
    file = playbook(BATCHES + "        - ansible.builtin.meta: noop\n")
    result = plain(file, inventory)
    assert result.stdout.rstrip().endswith(", exit 0")


def test_all_hosts_of_a_plain_run_have_one_id_and_another_run_has_another(playbook, inventory, tmp_path):
    file = playbook(
        f"""
        - hosts: here
          strategy: free
          tasks: &tasks
            - mobius.dhash.run:
            - ansible.builtin.lineinfile:
                path: {tmp_path}/ids-{{{{ inventory_hostname }}}}
                line: "{{{{ mobius_run_id }}}}"
                create: true
        - hosts: here
          tasks: *tasks
        """
    )
    assert plain(file, inventory).returncode == 0
    assert plain(file, inventory).returncode == 0
    observed = {(tmp_path / f"ids-here{number}").read_text() for number in (1, 2, 3)}
    assert len(observed) == 1
    assert len(observed.pop().splitlines()) == 2


def test_a_run_id_that_is_none_is_refused(playbook, inventory, monkeypatch):
    monkeypatch.setenv("MOBIUS_RUN_ID", "yesterday")
    result = plain(playbook("- hosts: here1\n  tasks: [{mobius.dhash.run: }]\n"), inventory)
    assert "exit 1 (DevOps, invalid_input)" in result.stdout
