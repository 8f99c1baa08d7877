"""The role host with `host_kind: http` on a bare Debian."""

from __future__ import annotations

import json
import re
from typing import Any

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
    files = "find /etc /opt /usr/local /var/lib /var/log /run -xdev | grep -i 'shop\\|haproxy' | grep -v lab-packages || true"
    predicted = bare_machine.playbook("provision", "--check", "--diff")
    assert predicted.returncode == 0, predicted.stdout
    assert bare_machine.shell(files).stdout == ""
    done = bare_machine.playbook("provision", "--diff")
    assert done.returncode == 0, done.stdout
    assert task_states(predicted.stdout) == task_states(done.stdout)
    again = bare_machine.playbook("provision")
    assert "changed=0" in again.stdout, again.stdout


def test_debians_own_haproxy_does_not_run_and_nothing_is_enabled_before_a_promotion(provisioned: Any) -> None:
    assert provisioned.shell("systemctl is-active haproxy", check=False).stdout == "inactive\n"
    assert provisioned.shell("systemctl is-enabled haproxy", check=False).stdout == "masked\n"
    listed = provisioned.shell(
        "systemctl list-units 'shop*' --no-legend; systemctl list-unit-files 'shop*' --no-legend"
    )
    assert "enabled " not in listed.stdout.replace("disabled ", "") and " running" not in listed.stdout


def test_a_line_that_haproxy_refuses_is_named_before_anything_changes(provisioned: Any) -> None:
    failure = refusal(provisioned, host_front_extra={"frontend": ["sing loudly"]})
    assert failure["outcome"] == "invalid_input"
    assert "sing" in failure["reason"], failure


def test_systemd_finds_nothing_wrong_with_the_units_and_rates_the_sandboxes(provisioned: Any) -> None:
    units = "shop.socket shop-front.service shop-traffic.socket shop-traffic.service shop@1.0.0-0123456789ab.service"
    verified = provisioned.shell(f"systemd-analyze verify {units} 2>&1 | grep shop || true")
    assert verified.stdout == ""
    for unit in ("shop@1.0.0-0123456789ab", "shop-front", "shop-traffic"):
        rated = provisioned.shell(f"systemd-analyze security --no-pager {unit}.service | tail -1").stdout
        score = re.search(r"exposure level.*: ([0-9.]+) ", rated)
        assert score is not None and float(score[1]) <= 1.5, (unit, rated)
