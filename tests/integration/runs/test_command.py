# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command `mobius` as a process: what it hands to the playbooks, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

SHOW = """
- hosts: here1
  tasks:
    - mobius.dhash.run:
    - name: Show
      ansible.builtin.debug:
        msg: >-
          bundle={{ mobius_bundle | default('-') }} release={{ mobius_release | default('-') }}
          to={{ mobius_to | default('-') }} reason={{ mobius_reason | default('-') }} extra={{ extra | default('-') }}
          check={{ ansible_check_mode }}
"""
RELEASE = "1.0.0-0123456789ab"


@pytest.mark.parametrize(
    ("playbook", "arguments", "shown"),
    [
        ("deploy.yml", ["deploy", "--bundle", "some bundle.tar.gz"], "bundle={here}/some bundle.tar.gz release=-"),
        ("release.yml", ["release", "--bundle", "some bundle.tar.gz"], "bundle={here}/some bundle.tar.gz release=-"),
        ("promote.yml", ["promote", "--release", RELEASE], f"bundle=- release={RELEASE}"),
        ("rollback.yml", ["rollback"], "to=- reason=-"),
        ("rollback.yml", ["rollback", "--to", RELEASE, "--reason", 'it\'s "bad"'], f'to={RELEASE} reason=it\'s "bad"'),
        ("provision.yml", ["provision", "--check"], "check=True"),
        ("deploy.yml", ["deploy", "-e", "extra=7"], "extra=7"),
    ],
)
def test_a_command_passes_its_options_to_its_playbook(checkout, playbook, arguments, shown):
    checkout.write(playbook, SHOW)
    elsewhere = checkout.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "some bundle.tar.gz").write_text("x")
    result = checkout.mobius(*arguments, "-i", str(checkout.inventory), cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    assert shown.format(here=elsewhere) in " ".join(result.stderr.split())
    assert ", exit 0" in result.stdout


def test_programs_get_one_json_object_on_stdout_and_people_everything_else_on_stderr(checkout):
    checkout.write(
        "deploy.yml",
        """
        - hosts: here1:here2
          tasks:
            - name: Change
              ansible.builtin.command: "true"
            - name: Refuse
              mobius.dhash.failure: {outcome: disk_full, reason: "No space.", do_next: "Buy a disk."}
              when: inventory_hostname == 'here2'
        """,
    )
    result = checkout.mobius("deploy", "-i", str(checkout.inventory), "--format", "json")
    assert result.returncode == 5
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") > 0
    assert len(summary.pop("run")) == 25
    assert summary == {
        "playbook": "deploy.yml",
        "command": "deploy",
        "check": False,
        "headline": "deploy refused",
        "team": "Infrastructure",
        "release": None,
        "hosts": {
            "here1": {"fate": "kept", "serves": None, "before": None, "pending": None},
            "here2": {"fate": "kept", "serves": None, "before": None, "pending": None},
        },
        "why": [{"reason": "No space.", "hosts": ["here2"]}],
        "outcome": "disk_full",
        "exit_code": 5,
        "reason": "No space.",
        "do_next": "Buy a disk.",
        "changed": {"here1": 1, "here2": 1},
        "changes": {"here1": ["Change"], "here2": ["Change"]},
        "failures": [
            {
                "host": "here2",
                "task": "Refuse",
                "outcome": "disk_full",
                "code": 5,
                "reason": "No space.",
                "do_next": "Buy a disk.",
            }
        ],
    }
    assert "failed       here2  No space." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status", "-i", "no/such/inventory"], "There is no inventory no/such/inventory."),
        (["deploy", "--bundle", "missing.tar.gz"], "There is no bundle "),
        (["promote", "--release", "../../etc"], "is not a release id"),
        (["rollback", "--to", "1.0.0"], "is not a release id"),
        (["deploy", "-i", "here1,", "-e", "nothing"], "neither key=value nor JSON nor @file"),
        (["deploy", "--no-such-option"], "No such option"),
        (["no-such-command"], "mobius has no command no-such-command."),
        (["promote"], "Missing option '--release'"),
        (["deploy", "--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_input_is_refused_with_1_and_a_sentence_before_ansible_starts(checkout, arguments, sentence):
    checkout.write("deploy.yml", SHOW)
    started = time.monotonic()
    result = checkout.mobius(*arguments)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert "play " not in result.stderr
    assert time.monotonic() - started < 5


def test_an_unknown_inventory_is_a_json_object_too(checkout):
    result = checkout.mobius("status", "-i", "no/such/inventory", "--format", "json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["outcome"] == "unknown_inventory"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_and_leaves_no_process_behind(checkout, processes_with, number):
    # no other run of the tests on this machine may be taken for this one
    marker = f"sleep 4242.{os.getpid()}{int(number)}"
    checkout.write(
        "deploy.yml",
        f"""
        - hosts: here
          tasks:
            - name: Take long
              ansible.builtin.command: {marker}
        """,
    )
    process = subprocess.Popen(
        # a shell that started the tests in the background has made them ignore SIGINT, and children inherit that
        [
            "env",
            "--default-signal=INT,TERM",
            *checkout.command("deploy", "-i", str(checkout.inventory), "--format", "json"),
        ],
        cwd=checkout.folder,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(processes_with(marker)) < 3:
        assert time.monotonic() < deadline, "the hosts never began"
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2, err
    summary = json.loads(out)
    assert (summary["outcome"], summary["team"]) == ("interrupted", "nobody") and number.name in summary["reason"]
    assert processes_with(marker) == []
    assert processes_with(str(checkout.inventory)) == []


def test_what_the_caller_ignores_does_not_stop_a_run(checkout, processes_with):
    """As under nohup: the terminal goes away, and the release goes on."""
    marker = "sleep 2.0424201"
    checkout.write("deploy.yml", f"- hosts: here1\n  tasks:\n    - ansible.builtin.command: {marker}\n")
    process = subprocess.Popen(
        ["nohup", *checkout.command("deploy", "-i", str(checkout.inventory))],
        cwd=checkout.folder,
        env=checkout.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not processes_with(marker):
        assert time.monotonic() < deadline, "the host never began"
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert ", exit 0" in out


def test_help_imports_no_command_and_names_every_one(checkout):
    result = checkout.mobius("--help")
    assert result.returncode == 0
    for name in ("backup", "bundle", "deploy", "dhash", "lab", "promote", "provision", "release", "rollback", "status"):
        assert f"\n  {name}" in result.stdout
