"""The role host on a bare Debian: check mode predicts it, a second run changes nothing, and invalid variables are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.machine import task_states


def test_check_mode_predicts_a_bare_host_exactly_and_changes_nothing(bare_machine: Any) -> None:
    files = "find /etc /opt /usr/local /var/lib /var/log /run -xdev | grep -i stand-in || true"
    predicted = bare_machine.playbook("provision", "--check", "--diff")
    assert predicted.returncode == 0, predicted.stdout
    assert bare_machine.shell(files).stdout == ""
    done = bare_machine.playbook("provision", "--diff")
    assert done.returncode == 0, done.stdout
    assert task_states(predicted.stdout) == task_states(done.stdout)
    assert "changed" in task_states(done.stdout).values()
    assert "changed=0" in bare_machine.playbook("provision").stdout


def test_nothing_runs_and_nothing_is_enabled_before_a_promotion(bare_machine: Any) -> None:
    listed = bare_machine.shell(
        "systemctl list-units 'stand-in*' --no-legend; systemctl list-unit-files 'stand-in*' --no-legend"
    )
    assert "enabled " not in listed.stdout.replace("disabled ", "") and " running" not in listed.stdout


def test_the_service_owns_its_index_and_its_logs_and_nothing_else(bare_machine: Any) -> None:
    listed = bare_machine.shell(
        "find /opt/stand-in /var/lib/stand-in /etc/stand-in /var/log/stand-in /run/stand-in -user stand-in"
    )
    assert sorted(listed.stdout.split()) == ["/var/lib/stand-in/index", "/var/log/stand-in"]
    assert bare_machine.shell("stat -c '%a %U' /var/backups/stand-in").stdout == "700 root\n"


def test_systemd_finds_nothing_wrong_with_the_units_and_rates_the_sandbox(bare_machine: Any) -> None:
    names = (
        "stand-in.socket",
        *(f"stand-in{name}.service" for name in ("-boot", "-guard", "-watch", "@1.0.0-0123456789ab")),
    )
    units = " ".join(names)
    verified = bare_machine.shell(f"systemd-analyze verify {units} 2>&1 | grep stand-in || true")
    assert verified.stdout == ""
    rated = bare_machine.shell(
        "systemd-analyze security --no-pager stand-in@1.0.0-0123456789ab.service | tail -1"
    ).stdout
    score = re.search(r"stand-in@\S+: ([0-9.]+)", rated)
    assert score is not None and float(score[1]) <= 1.5, rated


def test_a_changed_unit_restarts_nothing_and_reports_that(machine: Any) -> None:
    machine.serve_from("1.0.0")
    pid = "systemctl show --property=MainPID stand-in@*"
    before = machine.shell(pid).stdout
    variables = json.dumps({"host_memory_max": "512M"})
    done = machine.playbook("provision", "--tags", "host_configure", "-e", variables)
    assert "Nothing was restarted" in done.stdout and "changed=2 " in done.stdout, "the unit, and its digest"
    assert machine.shell(pid).stdout == before
    assert "MemoryMax=512M" in machine.shell("cat /etc/systemd/system/stand-in@.service").stdout
    machine.playbook("provision", "--tags", "host_configure")


INVALID: list[tuple[str, Any]] = [
    ("host_root", "opt/x"),
    ("host_root", ["/opt/x"]),
    ("host_log_dir", "/var/log/with a space"),
    ("host_run_dir", "/srv/run"),
    ("host_port", 70000),
    ("host_drain_deadline", -1),
    ("host_watch_seconds", -1),
    ("host_service", "Not_A_Name"),
    ("host_environment", {"lower": 1}),
    ("host_environment", {"MOBIUS_RELEASE_ID": "x"}),
    ("host_sandbox", {"network": True}),
    ("host_sandbox", {"jit": "yes"}),
    ("host_sandbox", {"write": "cache"}),
    ("host_sandbox", {"write": ["../x"]}),
    ("host_sandbox", {"write": ["/etc"]}),
    ("host_sandbox", {"write": ["with a space"]}),
    ("host_sandbox", {"write": ["library"]}),
]


def test_an_invalid_variable_is_refused_with_a_sentence_before_anything_changes(
    bare_machine: Any, tmp_path: Path
) -> None:
    refused = (
        "REFUSED {{ ansible_failed_result.mobius_failure.outcome }} {{ ansible_failed_result.mobius_failure.reason }}"
    )
    plays = [
        {
            "hosts": "lab1",
            "tasks": [
                {
                    "block": [{"ansible.builtin.include_role": {"name": "mobius.dhash.host"}, "vars": {name: value}}],
                    "rescue": [{"ansible.builtin.debug": {"msg": refused}}],
                }
            ],
        }
        for name, value in INVALID
    ]
    playbook = tmp_path / "invalid.yml"
    playbook.write_text(yaml.safe_dump(plays))
    done = bare_machine.call(bare_machine.ansible_playbook, "-i", bare_machine.inventory, playbook)
    refusals = re.findall(r"REFUSED (.*)\"", done.stdout)
    assert len(refusals) == len(INVALID), done.stdout
    for (name, _), sentence in zip(INVALID, refusals, strict=True):
        assert sentence.startswith(f"invalid_input {name} "), sentence
    assert "changed=0" in done.stdout


def test_a_unit_that_was_changed_by_hand_is_named_and_healed_by_the_next_provisioning(machine: Any) -> None:
    machine.serve_from("1.0.0")
    sums = "/etc/systemd/system/stand-in.sha256sums"
    assert "FAILED" not in machine.shell(f"sha256sum --check {sums}").stdout
    assert machine.host("status").returncode == 0
    machine.shell("echo '# by hand' >> /etc/systemd/system/stand-in@.service; systemctl daemon-reload")
    for command in ("status", "verify"):
        done = machine.host(command, check=False)
        assert done.returncode == 2 and "stand-in@.service was changed by hand. Heal it with" in done.stdout, (
            done.stdout
        )
    assert machine.playbook("provision", "--tags", "host_configure").returncode == 0
    assert machine.host("status").returncode == 0
    machine.shell("rm /opt/stand-in/current")
    assert "current is missing" in machine.host("status", check=False).stdout
    machine.host("repair", "--yes")
    assert machine.host("status").returncode == 0
