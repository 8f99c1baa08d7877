"""The same bundle with another configuration, on a real host: a revision of its own, with its canary and its way back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import PROGRAM, VARIABLES

LOAD = {"kept": 16, "single": 2, "pause": 0.02}
DEPLOY = {"deploy_golden": [], "deploy_drill_max_age_days": 0}


@pytest.fixture(scope="module")
def revisions(provisioned: Any) -> Iterator[Any]:
    """The host with one release, and the way to give it another configuration; in the end, it has that of before."""
    provisioned.forget()
    provisioned.stage_program(PROGRAM, "5.0.0")
    yield provisioned
    provision(provisioned)


def provision(machine: Any, **variables: Any) -> None:
    """Provision the host with a configuration, which restarts nothing; secrets are not shown."""
    done = machine.playbook("provision", "--diff", "-e", json.dumps(variables))
    assert done.returncode == 0, done.stdout
    assert not any(f'"{value}"' in done.stdout for value in variables.get("host_secrets", {}).values()), done.stdout


def stage(machine: Any, *arguments: str) -> dict[str, Any]:
    """The result of staging the one bundle."""
    bundle = next((machine.root / "dist/stand-in").glob("*5.0.0*.tar.gz"))
    return dict(machine.module("release", *arguments, bundle=str(bundle)))


def promote(machine: Any, revision: str, until: str = "confirmed") -> None:
    machine.releases["revision"] = revision
    machine.promote("revision", until)


def process(machine: Any, revision: str) -> dict[str, str]:
    """The environment and the command of the instance that runs."""
    unit = f"stand-in@{revision.replace('+', '_')}"
    read = f"pid=$(systemctl show --value -p MainPID {unit}); tr '\\0' '\\n' < /proc/$pid/environ; "
    shown = machine.shell(f"{read} echo COMMAND=$(tr '\\0' ' ' < /proc/$pid/cmdline); echo PID=$pid").stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def test_another_configuration_of_one_bundle_is_a_revision_and_a_rollback_gives_it_back(revisions: Any) -> None:
    machine, release = revisions, revisions.releases["5.0.0"]
    provision(
        machine,
        host_environment={"SHELF": 'a "b" $c %d', "OLD": 1},
        host_exec="/usr/bin/python3 stand_in.py one",
        host_secrets={"KEY": "first"},
    )
    predicted = stage(machine, "--check")
    first = stage(machine)
    assert (predicted["changed"], predicted["revision"]) == (True, first["revision"])
    assert stage(machine)["changed"] is False
    assert re.fullmatch(re.escape(release) + r"\+[0-9a-f]{8}", first["revision"])
    promote(machine, first["revision"])
    assert machine.status()["serving"] == [first["revision"]] == [machine.status()["confirmed"]]
    running = process(machine, first["revision"])
    assert running["KEY"] == "first"
    assert (running["SHELF"], running["OLD"]) == ('a "b" $c %d', "1")
    assert running["COMMAND"].strip() == "/usr/bin/python3 stand_in.py one"
    assert running["MOBIUS_RELEASE_ID"] == release

    command = "/usr/bin/python3 stand_in.py 'two words' {port} $SHELF"
    provision(machine, host_environment={"SHELF": "b"}, host_exec=command, host_secrets={"KEY": "second"})
    machine.shell(f"kill -9 {running['PID']}")
    machine.until(lambda: machine.states() == {"5.0.0": "serving"})
    restarted = process(machine, first["revision"])
    assert restarted["PID"] != running["PID"], "systemd has started it again"
    assert restarted["KEY"] == "second", "secrets are those of today"
    assert (restarted["SHELF"], restarted["COMMAND"]) == (running["SHELF"], running["COMMAND"])

    predicted = stage(machine, "--check", "--diff")
    second = stage(machine)
    assert (predicted["changed"], predicted["revision"]) == (second["changed"], second["revision"])
    assert second["changed"] is True and second["revision"] != first["revision"]
    trees = machine.shell(f"cd /opt/stand-in/releases; realpath {release}*/tree | sort -u").stdout.split()
    assert trees == [f"/opt/stand-in/releases/{release}/tree"]
    with machine.load(**LOAD) as load:
        promote(machine, second["revision"], "canary")
        assert sorted(machine.status()["serving"]) == sorted([first["revision"], second["revision"]])
        machine.module("promotion", release=second["revision"], state="confirmed", run="test")
        running = process(machine, second["revision"])
        assert running["SHELF"] == "b" and "OLD" not in running
        assert running["COMMAND"].strip() == f"/usr/bin/python3 stand_in.py two words {running['PORT']} b"
        done = machine.host("rollback", "--to", release)
        assert f"from {second['revision']} to {first['revision']}" in done.stdout
    assert load.failures == [] and set(load.statuses) == {200} and set(load.answers) == {release}
    assert machine.status()["serving"] == [first["revision"]]
    assert process(machine, first["revision"])["SHELF"] == 'a "b" $c %d'
    bad = {item["release"]: item["bad"] for item in machine.status()["releases"] if item["version"] == "5.0.0"}
    assert bad == {first["revision"]: False, second["revision"]: True}
    assert machine.shell("readlink -f /opt/stand-in/current/tree").stdout.split() == trees

    kept = f"/opt/stand-in/releases/{first['revision'].replace('+', '_')}/configuration.json"
    script = f"/run/stand-in/{first['revision'].replace('+', '_')}/start"
    modes = machine.shell(f"stat -c '%a %U %G' {kept} /etc/mobius-host/configurations/stand-in.json {script}").stdout
    assert modes.splitlines() == ["600 root root", "600 root root", "640 root stand-in"]
    assert machine.host("verify").returncode == 0
    machine.shell(f"sed -i 's/stand_in.py one/stand_in.py other/' {kept}")
    verified = machine.host("verify", check=False)
    assert verified.returncode != 0 and "changed configuration.json" in verified.stdout
    machine.shell(f"sed -i 's/stand_in.py other/stand_in.py one/' {kept}")


def test_a_configuration_that_fails_marks_its_revision_bad_and_not_the_release(revisions: Any) -> None:
    machine, release = revisions, revisions.releases["5.0.0"]
    before = machine.status()["confirmed"]
    bundle = str(next((machine.root / "dist/stand-in").glob("*5.0.0*.tar.gz")))
    variables = json.dumps({**DEPLOY, "mobius_bundle": bundle})

    provision(machine, host_exec="/usr/bin/python3 missing.py")
    done = machine.playbook("deploy", "-e", variables)
    assert done.returncode != 0 and "missing.py" in done.stdout, done.stdout
    bad = {item["release"] for item in machine.status()["releases"] if item["bad"] and item["version"] == "5.0.0"}
    refused = stage(machine)["revision"]
    assert refused in bad and machine.status()["serving"] == [before]
    again = machine.playbook("deploy", "-e", variables)
    assert f"{refused} was marked bad on this host" in again.stdout, again.stdout

    provision(machine, host_environment={"SHELF": "c"}, host_health_path="/counts")
    predicted = machine.playbook("deploy", "--check", "-e", variables)
    done = machine.playbook("deploy", "-e", variables)
    assert (predicted.returncode, done.returncode) == (0, 0), done.stdout
    third = stage(machine)["revision"]
    assert third.startswith(f"{release}+") and third not in bad
    states = {item["release"]: item["state"] for item in machine.status()["releases"]}
    assert (states[third], states[before]) == ("standby", "serving")

    provision(machine, **{name: VARIABLES[name] for name in ("host_exec", "host_health_path")})
    promote(machine, third)
    assert machine.host("rollback", "--from", third).returncode == 0
    assert machine.status()["serving"] == [before]
