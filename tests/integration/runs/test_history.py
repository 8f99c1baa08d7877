# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real runs leave a record, whoever starts them; without one nothing changes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mobius.cli import run as mobius
from mobius.control.history import verifier as form
from mobius.control.history.query import read_runs
from tests.integration.runs.conftest import INVENTORY

CHECKOUT = Path(__file__).resolve().parents[3]
ANSIBLE = Path(sys.executable).parent / "ansible-playbook"

CHANGE = """
- hosts: here
  tasks:
    - mobius.dhash.run:
    - name: Write
      ansible.builtin.raw: echo x > "{out}-{{{{ inventory_hostname }}}}"
"""


def plain(inventory: Path, playbook: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    names = ("HOME", "PATH", "TMPDIR")
    return subprocess.Popen(
        [str(ANSIBLE), "-i", str(inventory), str(playbook), *arguments],
        cwd=CHECKOUT,
        env={**{name: os.environ[name] for name in names if name in os.environ}, "LC_ALL": "C.UTF-8", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


HOSTS = ("here1", "here2")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Two hosts: each module on one more costs every test here a third of a second of processor time."""
    path = tmp_path / "inventory.yml"
    path.write_text(INVENTORY.replace("here2: , here3: }}", "here2: }}"))
    return path


def heads_of(folder: Path, host: str) -> list[dict]:
    """What a host keeps."""
    return [json.loads(line) for line in (folder / "witness" / host / "heads.jsonl").read_text().splitlines()]


def last_seq(folder: Path) -> int:
    return json.loads((folder / form.HEAD_NAME).read_text())["seq"]


@pytest.fixture
def folder(inventory: Path) -> Path:
    return inventory.parent / "history"


def test_a_run_is_recorded_on_the_control_node_and_each_host_keeps_its_head(run, folder, tmp_path):
    summary = run(CHANGE.format(out=tmp_path / "out"), extra=('{"mobius_change": {"ticket": "OPS-7", "else": "no"}}',))
    (results,) = read_runs(folder)
    assert (results["run"], results["outcome"], results["exit_code"]) == (summary.run, "success", 0)
    intent = results["intent"]
    assert intent["via"] == "mobius"
    assert intent["playbook"].endswith("playbook.yml")
    assert intent["hosts"] == list(HOSTS)
    assert intent["change"] == {"ticket": "OPS-7"}
    assert intent["commit"] is None  # the playbook lies in no repository
    assert intent["variables"]["mobius_change"].startswith("hmac-sha256:")
    assert {host: facts["changed"] for host, facts in results["hosts"].items()} == dict.fromkeys(HOSTS, 1)
    for host in HOSTS:
        opened, final = heads_of(tmp_path, host)
        assert {opened["run"], final["run"]} == {summary.run}
        assert (opened["seq"], final["seq"]) == (1, last_seq(folder))
    observed = {host: {"heads": heads_of(tmp_path, host), "journal": []} for host in HOSTS}
    assert form.verify(folder, witnesses=observed).status == "whole"


def test_a_plain_ansible_playbook_run_is_recorded_as_well_with_the_checkouts_commit(inventory, folder, tmp_path):
    inventory.write_text(inventory.read_text().replace("here: {hosts: {here1: ", "mobius: {hosts: {here1: "))
    done = plain(
        inventory, CHECKOUT / "playbooks/backup.yml", "--tags", "list", SSH_CONNECTION="192.0.2.7 1 192.0.2.8 22"
    )
    done.communicate(timeout=90)
    (results,) = read_runs(folder)
    assert results["playbook"] == "playbooks/backup.yml"
    assert results["intent"]["via"] == "ansible-playbook"
    assert results["intent"]["from"]["ssh_client"] == "192.0.2.7"
    head = subprocess.run(
        ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert results["intent"]["commit"] == (head.stdout.strip() or None)
    assert results["outcome"] == "not_provisioned"
    assert results["exit_code"] == 3


@pytest.mark.parametrize("failing", ["here1", "here"])
def test_a_run_that_failed_leaves_its_final_head_with_its_hosts_too(run, folder, tmp_path, failing):
    text = CHANGE.format(out=tmp_path / "out")
    fail = f"    - mobius.dhash.failure: {{reason: no}}\n      when: inventory_hostname in groups['all'] | intersect(query('inventory_hostnames', '{failing}'))\n"
    summary = run(text + fail)
    assert summary.ending.code != 0
    assert {heads_of(tmp_path, host)[-1]["seq"] for host in HOSTS} == {last_seq(folder)}
    assert read_runs(folder)[0]["unwitnessed"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tags", "later"),
        ("--skip-tags", "always,never"),
        ("--start-at-task", "Open the run"),
        ("--forks", "1"),
        ("--flush-cache", "-e", "ansible_become=false"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_whatever_a_command_line_leaves_out_the_final_head_is_left(inventory, folder, tmp_path, arguments):
    playbook = tmp_path / "plain.yml"
    playbook.write_text(
        "- hosts: here\n  serial: 1\n  vars: {mobius_witness_dir: '{{ inventory_dir }}/of_the_play/{{ inventory_hostname }}'}\n"
        "  tasks:\n    - name: Open the run\n      mobius.dhash.run:\n      tags: [later]\n"
    )
    done = plain(inventory, playbook, *arguments)
    assert ", exit 0" in done.communicate(timeout=90)[0]
    for host in HOSTS:
        kept = (tmp_path / "of_the_play" / host / "heads.jsonl").read_text().splitlines()
        assert json.loads(kept[-1])["seq"] == last_seq(folder)


@pytest.mark.root("becoming another user needs root")
def test_the_final_head_is_left_as_the_user_that_the_opening_task_became(inventory, folder, tmp_path):
    """What says how to connect may stand at that task alone."""
    own = Path(tempfile.mkdtemp(prefix="mobius-become-"))
    own.chmod(0o777)
    playbook = tmp_path / "become.yml"
    become = "{become: true, become_method: ansible.builtin.su, become_user: nobody, become_flags: -s /bin/sh}"
    playbook.write_text(
        f"- hosts: here1\n  vars: {{mobius_witness_dir: {own}/witness, ansible_pipelining: true}}\n"
        f"  tasks:\n    - {{name: Open, mobius.dhash.run: , {become[1:-1]}}}\n"
        f"    - ansible.builtin.file: {{path: {own}/witness, state: absent}}\n"
    )
    try:
        done = plain(inventory, playbook)
        assert ", exit 0" in done.communicate(timeout=90)[0]
        heads = (own / "witness/heads.jsonl").read_text().splitlines()
        assert [json.loads(head)["seq"] for head in heads] == [last_seq(folder)]
        assert (own / "witness/heads.jsonl").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    finally:
        shutil.rmtree(own)


def test_hosts_that_do_not_keep_the_final_head_are_named_in_the_output_and_the_record(run, folder, tmp_path):
    """One was out of reach in the run; on another something breaks that folder."""
    text = CHANGE.format(out=tmp_path / "out").replace("hosts: here", "hosts: all")
    broken = tmp_path / "witness" / "here2"
    text += (
        f"    - ansible.builtin.shell: rm -r {broken} && echo > {broken}\n      when: inventory_hostname == 'here2'\n"
    )
    summary = run(text)
    assert summary.ending.outcome == "unreachable"
    (results,) = read_runs(folder)
    assert (results["end"]["unwitnessed"], results["unwitnessed"]) == (["gone"], ["gone", "here2"])
    shown = " ".join(run.lines)
    assert "gone does not keep the final head of the history. It was out of reach." in shown
    assert "here2 does not keep the final head of the history." in shown
    for host in ("here1", "here3"):
        assert heads_of(tmp_path, host)[-1]["seq"] == last_seq(folder), "the record that names here2 has a head as well"
    verdict = form.verify(folder, witnesses={"here1": {"heads": heads_of(tmp_path, "here1"), "journal": []}})
    assert verdict.status == "whole"


def test_a_check_run_is_recorded_on_the_control_node_only(run, folder, tmp_path):
    run(CHANGE.format(out=tmp_path / "out"), check=True)
    assert [results["check"] for results in read_runs(folder)] == [True]
    assert not (tmp_path / "witness").exists()


def test_without_a_record_nothing_changes_on_any_host(run, folder, tmp_path):
    folder.write_text("a file where the folder must be")
    summary = run(CHANGE.format(out=tmp_path / "out"))
    assert (summary.ending.outcome, summary.ending.code) == ("history_failed", 3)
    assert not list(tmp_path.glob("out-*"))
    assert not (tmp_path / "witness").exists()


def test_on_a_damaged_history_nothing_changes_on_any_host(run, folder, tmp_path):
    run(CHANGE.format(out=tmp_path / "before"))
    content = (folder / form.FILE_NAME).read_bytes()
    (folder / form.FILE_NAME).write_bytes(content[:-40])
    summary = run(CHANGE.format(out=tmp_path / "out"))
    assert (summary.ending.outcome, summary.ending.code) == ("history_damaged", 2)
    assert not list(tmp_path.glob("out-*"))


DECIDE = """
- hosts: here
  vars: {{history: "{history}"}}
  tasks:
    - mobius.dhash.run:
    - name: Note a verdict
      ansible.builtin.set_fact:
        noted: {{verdict: pass, reason: fine, evidence: {{p95: 0.0123456789, samples: 200, of: "{{{{ inventory_hostname }}}}"}}}}
    - name: Break what is to be broken
      ansible.builtin.command: "{breaks}"
      run_once: true
    - name: Decide
      mobius.dhash.decide:
        result: noted
        run: "{{{{ mobius_run_id }}}}"
        about: {{service: any, release: 1.0.0-0123456789ab, batches: [[here1], [here2]], password: secret}}
      register: decision
      run_once: true
    - name: Tell the hosts
      ansible.builtin.raw: cp "{{{{ history }}}}/history.jsonl" "{out}-{{{{ inventory_hostname }}}}"
      when: decision.decision == 'confirm'
    - mobius.dhash.failure: {{failure: "{{{{ decision.failure }}}}"}}
      when: decision.decision == 'revert'
"""


def test_a_decision_is_in_the_history_before_any_host_gets_it(run, folder, tmp_path):
    text = DECIDE.format(history=folder, breaks="true", out=tmp_path / "out")
    assert run(text, check=True).ending.outcome == "success"
    assert read_runs(folder)[0]["decisions"] == [], "a check run decides nothing"
    assert run(text).ending.outcome == "success"
    (decision,) = read_runs(folder)[1]["decisions"]
    about = (decision["decision"], decision["release"], decision["batches"])
    assert about == ("confirm", "1.0.0-0123456789ab", [["here1"], ["here2"]])
    evidence = {"p95": "0.0123457", "samples": 200}
    assert decision["hosts"] == {
        host: {"verdict": "pass", "evidence_sha256": form.digest({**evidence, "of": host})} for host in HOSTS
    }
    for host in decision["hosts"]:
        messages = [form.parse(line) for line in (tmp_path / f"out-{host}").read_bytes().splitlines()]
        assert [record["seq"] for record in messages if record["event"] == "decision"] == [decision["seq"]]
    assert b"secret" not in (folder / form.FILE_NAME).read_bytes()
    assert form.verify(folder).problems == []


@pytest.mark.parametrize("breaks", ["rm -r {}", "truncate --size=-40 {}/history.jsonl"])
def test_a_decision_that_cannot_be_recorded_is_not_taken(run, folder, tmp_path, breaks):
    summary = run(DECIDE.format(history=folder, breaks=breaks.format(folder), out=tmp_path / "out"))
    assert summary.ending.outcome in ("history_failed", "history_damaged")
    assert "could not be recorded, so the hosts are reverted" in summary.ending.reason
    assert not list(tmp_path.glob("out-*"))


def test_a_run_over_its_time_is_closed_by_the_command_that_started_it(run, folder, tmp_path):
    run(
        "- hosts: here1\n  tasks:\n    - mobius.dhash.run:\n    - ansible.builtin.command: sleep 4242.007\n",
        timeout=8.0,
    )
    (results,) = read_runs(folder)
    assert (results["outcome"], results["exit_code"]) == ("timeout", 4)
    assert heads_of(tmp_path, "here1")[-1]["seq"] == last_seq(folder)


def test_a_killed_run_is_closed_as_interrupted_by_the_next(inventory, run, folder, tmp_path):
    waiting = tmp_path / "waiting"
    playbook = tmp_path / "killed.yml"
    playbook.write_text(
        "- hosts: here1\n  tasks:\n    - mobius.dhash.run:\n"
        f"    - ansible.builtin.shell: echo $$ > {waiting}.new; mv {waiting}.new {waiting}; exec sleep 4242.008\n"
    )
    killed = plain(inventory, playbook)
    while not waiting.exists():
        assert killed.poll() is None, killed.communicate()[0]
        os.sched_yield()
    killed.send_signal(signal.SIGKILL)
    os.kill(int(waiting.read_text()), signal.SIGKILL)
    killed.communicate()
    assert [results["outcome"] for results in read_runs(folder)] == [None]
    run(CHANGE.format(out=tmp_path / "out"))
    assert [results["outcome"] for results in read_runs(folder)] == ["interrupted", "success"]
    verdict = form.verify(folder)
    assert verdict.status == "unwitnessed", verdict.lines()
    assert {heads_of(tmp_path, host)[-1]["seq"] for host in HOSTS} == {last_seq(folder)}


def test_the_command_asks_the_hosts_and_names_what_was_cut(inventory, run, folder, tmp_path, capfd):
    inventory.write_text(inventory.read_text().replace("here: {hosts: {here1: ", "mobius: {hosts: {here1: "))
    for name in ("one", "two"):
        run(CHANGE.replace("hosts: here", "hosts: mobius").format(out=tmp_path / name))
    capfd.readouterr()
    assert mobius(["history", "verify", "-i", str(inventory), "--save-witnesses", str(tmp_path / "seen.json")]) == 0
    assert capfd.readouterr().out.startswith("whole  ")
    assert mobius(["history", "list", "-i", str(inventory), "--format", "json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    keys = "run started finished actor playbook inventory outcome exit_code from_release to_release plan backups"
    assert [set(item) for item in listed] == [set(keys.split())] * 2
    assert mobius(["history", "show", listed[0]["run"], "-i", str(inventory)]) == 0
    assert "here2" in capfd.readouterr().out
    assert mobius(["history", "export", "-i", str(inventory), "--from", "2020-01-01"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3
    assert mobius(["history", "export", "-i", str(inventory), "--to", "2020-01-01", "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == []
    # the second run is cut off, and head.json made to fit
    lines = (folder / form.FILE_NAME).read_bytes().splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if json.loads(line)["run"] == listed[1]["run"])
    (folder / form.FILE_NAME).write_bytes(b"".join(lines[:second]))
    last, begin = json.loads(lines[second - 1]), json.loads(lines[0])
    head = {"chain": begin["data"]["chain"], "seq": last["seq"], "hash": last["hash"]}
    (folder / form.HEAD_NAME).write_text(json.dumps(head))
    for more in ([], ["--witnesses", str(tmp_path / "seen.json")]):
        assert mobius(["history", "verify", "-i", str(inventory), "--format", "json", *more]) == 2
        answer = json.loads(capfd.readouterr().out)
        assert (answer["first"]["kind"], answer["first"]["seq"]) == ("cut_off", second)
    assert mobius(["history", "verify", "-i", str(inventory), "--offline"]) == 0
    assert capfd.readouterr().out.startswith("unwitnessed  ")
    assert mobius(["history", "verify", "-i", str(inventory), "--offline", "--require-witness"]) == 2


# --- Another history --------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(run, folder, tmp_path) -> Path:
    """Where the history is after its first run, when somebody has moved its folder away."""
    assert run(CHANGE.format(out=tmp_path / "before")).ending.outcome == "success"
    return folder.rename(tmp_path / "moved")


@pytest.mark.parametrize("check", [False, True])
def test_a_new_history_on_hosts_that_have_witnessed_another_is_refused(run, folder, moved, tmp_path, check):
    summary = run(CHANGE.format(out=tmp_path / "out"), check=check)
    assert (summary.ending.outcome, summary.ending.code) == ("other_history", 1)
    last = json.loads((moved / form.HEAD_NAME).read_text())
    assert f"has witnessed the history {last['chain']} up to record {last['seq']} of run" in summary.ending.reason
    assert "--new-chain REASON" in summary.ending.do_next
    assert not list(tmp_path.glob("out-*"))
    assert not folder.exists(), "nothing was begun"
    assert {heads_of(tmp_path, host)[-1]["chain"] for host in HOSTS} == {last["chain"]}


def test_a_host_that_has_witnessed_another_is_refused_beside_new_ones_too(run, folder, tmp_path):
    one, two = (CHANGE.replace("hosts: here", f"hosts: {host}") for host in ("here1", "here2"))
    assert run(one.format(out=tmp_path / "before")).ending.outcome == "success"
    folder.rename(tmp_path / "moved")
    assert run(two.format(out=tmp_path / "new")).ending.outcome == "success"
    assert folder.exists()
    summary = run(CHANGE.format(out=tmp_path / "out"))
    assert (summary.ending.outcome, summary.ending.code) == ("other_history", 1)
    assert [failure.host for failure in summary.ending.failures] == ["here1"]
    assert not (tmp_path / "out-here1").exists()
    assert len({head["chain"] for head in heads_of(tmp_path, "here1")}) == 1
    assert read_runs(folder)[-1]["unwitnessed"] == ["here1"]


def test_with_a_reason_the_first_record_names_the_history_before(inventory, run, folder, moved, tmp_path, capfd):
    last = json.loads((moved / form.HEAD_NAME).read_text())
    before = heads_of(tmp_path, "here1")[-1]
    done = plain(
        inventory, run.write(CHANGE.format(out=tmp_path / "out")), "-e", '{"mobius_new_chain": "the disk died"}'
    )
    assert ", exit 0" in done.communicate(timeout=90)[0]
    begin = json.loads((folder / form.FILE_NAME).read_bytes().splitlines()[0])
    assert begin["data"]["replaces"]["reason"] == "the disk died"
    assert [{**chain, "at": before["at"]} for chain in begin["data"]["replaces"]["chains"]] == [before]
    assert (before["chain"], before["seq"], before["hash"]) == (last["chain"], last["seq"], last["hash"])
    assert read_runs(folder)[0]["intent"]["new_chain"] == "the disk died"
    assert run(CHANGE.format(out=tmp_path / "again")).ending.outcome == "success", "now it is theirs"
    answers = {host: {"heads": heads_of(tmp_path, host), "journal": []} for host in HOSTS}
    verdict = form.verify(folder, witnesses=answers)
    assert verdict.status == "whole", verdict.lines()
    assert [note for note in verdict.notes if last["chain"] in note and "the disk died" in note]
    # and without that reason it is damage
    lines = (folder / form.FILE_NAME).read_bytes()
    assert b"the disk died" in lines
    records = [json.loads(line) for line in lines.splitlines()]
    assert form.verify(moved, witnesses=answers).problems[0].kind == "never_written", "the old one does not know it"
    assert [record["event"] for record in records].count("replaced") == 0


def test_a_history_that_is_still_there_names_the_one_that_replaces_it(run, folder, tmp_path):
    assert run(CHANGE.format(out=tmp_path / "before")).ending.outcome == "success"
    other = tmp_path / "other"
    extra = (f"mobius_history_dir={other}",)
    assert run(CHANGE.format(out=tmp_path / "out"), extra=extra).ending.outcome == "other_history"
    reason = json.dumps({"mobius_new_chain": "split by team"})
    summary = run(CHANGE.format(out=tmp_path / "out"), extra=(*extra, reason))
    assert summary.ending.outcome == "success"
    chains = [json.loads((place / form.HEAD_NAME).read_text())["chain"] for place in (folder, other)]
    last = json.loads((folder / form.FILE_NAME).read_bytes().splitlines()[-1])
    assert last["event"] == "replaced"
    assert last["data"] == {"chain": chains[1], "reason": "split by team", "run": summary.run}
    answers = {host: {"heads": heads_of(tmp_path, host), "journal": []} for host in HOSTS}
    new, old = form.verify(other, witnesses=answers), form.verify(folder, witnesses=answers)
    assert (new.status, old.status, old.unwitnessed) == ("whole", "unwitnessed", 1), (new.lines(), old.lines())
    assert [note for note in old.notes if chains[1] in note and "split by team" in note]


def test_a_rollback_is_never_refused_and_an_undeclared_history_is_damage(run, folder, moved, tmp_path):
    text = CHANGE.replace("mobius.dhash.run:", "mobius.dhash.run: {{new_chain: accept}}").format(out=tmp_path / "out")
    assert run(text).ending.outcome == "success"
    answers = {host: {"heads": heads_of(tmp_path, host), "journal": []} for host in HOSTS}
    assert form.verify(folder, witnesses=answers).problems[0].kind == "never_written"
    reason = json.dumps({"mobius_new_chain": "the disk died"})
    assert run(CHANGE.format(out=tmp_path / "later"), extra=(reason,)).ending.outcome == "success"
    answers = {host: {"heads": heads_of(tmp_path, host), "journal": []} for host in HOSTS}
    assert form.verify(folder, witnesses=answers).status == "whole", "a later run may give the reason"


def test_a_reason_that_would_count_for_every_run_is_refused(inventory, run, folder, tmp_path):
    inventory.write_text(inventory.read_text() + '    mobius_new_chain: "always"\n')
    summary = run(CHANGE.format(out=tmp_path / "out"))
    assert (summary.ending.outcome, summary.ending.code) == ("invalid_input", 1)
    assert not folder.exists()
    assert not list(tmp_path.glob("out-*"))


def test_another_folder_of_heads_for_one_run_is_refused(run, folder, moved, tmp_path):
    """It would show the run hosts that have witnessed nothing."""
    extra = (f"mobius_witness_dir={tmp_path}/empty",)
    change = CHANGE.replace("hosts: here", "hosts: here1")
    for text in (change, change.replace("mobius.dhash.run:", "mobius.dhash.run: {{approval: false}}")):
        summary = run(text.format(out=tmp_path / "out"), extra=extra)
        assert (summary.ending.outcome, summary.ending.code) == ("invalid_input", 1)
        assert "mobius_witness_dir is data of the inventory" in summary.ending.reason
    assert not folder.exists(), "nothing was begun"
    assert not list(tmp_path.glob("out-*"))
    rollback = change.replace("mobius.dhash.run:", "mobius.dhash.run: {{required: false, new_chain: accept}}")
    summary = run(rollback.format(out=tmp_path / "out"), extra=extra)
    assert summary.ending.outcome == "success"
    assert [line for line in run.lines if "A rollback goes on all the same: mobius_witness_dir is data" in line]


def test_the_command_gives_the_reason_to_the_run(checkout, moved, folder, inventory, tmp_path):
    checkout.write("provision.yml", CHANGE.format(out=tmp_path / "out"))
    refused = checkout.mobius("provision", "-i", str(inventory))
    assert (refused.returncode, "other_history" in refused.stderr) == (1, True), refused
    done = checkout.mobius("provision", "-i", str(inventory), "--new-chain", "the disk died")
    assert done.returncode == 0, done
    assert read_runs(folder)[0]["intent"]["new_chain"] == "the disk died"
