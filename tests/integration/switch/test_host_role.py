"""The role host on a bare Debian: refusals before anything changes, an exact check mode, a second run that changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.machine import task_states


def refusal(machine: Any, **variables: Any) -> dict[str, Any]:
    """Why a provisioning with these variables fails, before it changes anything."""
    done = machine.playbook("provision", "-e", json.dumps(variables))
    assert done.returncode != 0, done.stdout
    assert "changed=0" in done.stdout, done.stdout
    begin = done.stdout.index('"mobius_failure": {')
    return dict(json.JSONDecoder().raw_decode(done.stdout, begin + len('"mobius_failure": '))[0])


def test_a_bare_host_is_refused_with_one_sentence_before_anything_changes(bare_machine: Any) -> None:
    bare_machine.shell("mv /etc/apt/sources.list.d/lab.list /root; mv /var/lib/apt/lists /root")
    failure = refusal(bare_machine)
    bare_machine.shell("mv /root/lab.list /etc/apt/sources.list.d; mv /root/lists /var/lib/apt")
    assert failure["outcome"] == "missing_dependency"
    assert failure["reason"].startswith("HAProxy is not installed, and this host's apt has no package haproxy")

    bare_machine.shell("systemd-run --unit=squatter python3 -m http.server --bind 127.0.0.1 18082")
    bare_machine.until(lambda: "18082" in bare_machine.shell("ss -ltn").stdout)
    failure = refusal(bare_machine)
    bare_machine.shell("systemctl stop squatter")
    assert failure["outcome"] == "environment_failed"
    assert failure["reason"].startswith("The port 18082 (host_front_first_port) is taken by squatter.service")

    failure = refusal(bare_machine, host_front_extra={"frontend": ["backend other"]})
    assert failure["outcome"] == "invalid_input"


def test_check_mode_predicts_a_bare_host_exactly_and_changes_nothing(bare_machine: Any) -> None:
    folders = "/etc /opt /usr/local /var/lib /var/log /run"
    files = f"find {folders} -xdev | grep -i 'stand-in\\|haproxy' | grep -v lab-packages || true"
    predicted = bare_machine.playbook("provision", "--check", "--diff")
    assert predicted.returncode == 0, predicted.stdout
    assert bare_machine.shell(files).stdout == ""
    done = bare_machine.playbook("provision", "--diff")
    assert done.returncode == 0, done.stdout
    assert task_states(predicted.stdout) == task_states(done.stdout)
    assert "changed" in task_states(done.stdout).values()
    again = bare_machine.playbook("provision")
    assert "changed=0" in again.stdout, again.stdout


def test_nothing_runs_and_nothing_is_enabled_before_a_promotion(bare_machine: Any) -> None:
    listed = bare_machine.shell(
        "systemctl list-units 'stand-in*' --no-legend; systemctl list-unit-files 'stand-in*' --no-legend"
    )
    assert "enabled " not in listed.stdout.replace("disabled ", "") and " running" not in listed.stdout
    assert bare_machine.shell("systemctl is-active haproxy", check=False).stdout == "inactive\n"
    assert bare_machine.shell("systemctl is-enabled haproxy", check=False).stdout == "masked\n", "Debian's own"


def test_a_line_that_haproxy_refuses_is_named_before_anything_changes(bare_machine: Any) -> None:
    failure = refusal(bare_machine, host_front_extra={"frontend": ["sing loudly"]})
    assert failure["outcome"] == "invalid_input"
    assert "sing" in failure["reason"], failure


def test_the_service_owns_its_index_and_its_logs_and_nothing_else(bare_machine: Any) -> None:
    listed = bare_machine.shell(
        "find /opt/stand-in /var/lib/stand-in /etc/stand-in /var/log/stand-in /run/stand-in -user stand-in"
    )
    assert sorted(listed.stdout.split()) == ["/var/lib/stand-in/index", "/var/log/stand-in"]
    assert bare_machine.shell("stat -c '%a %U' /var/backups/stand-in").stdout == "700 root\n"


def test_systemd_finds_nothing_wrong_with_the_units_and_rates_the_sandboxes(bare_machine: Any) -> None:
    instance = "stand-in@1.0.0-0123456789ab.service"
    others = ("-boot", "-guard", "-watch", "-front", "-traffic")
    units = " ".join(
        ("stand-in.socket", "stand-in-traffic.socket", instance, *(f"stand-in{n}.service" for n in others))
    )
    verified = bare_machine.shell(f"systemd-analyze verify {units} 2>&1 | grep stand-in || true")
    assert verified.stdout == ""
    for unit in (instance, "stand-in-front.service", "stand-in-traffic.service"):
        rated = bare_machine.shell(f"systemd-analyze security --no-pager {unit} | tail -1").stdout
        score = re.search(r"exposure level.*: ([0-9.]+) ", rated)
        assert score is not None and float(score[1]) <= 1.5, (unit, rated)


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
