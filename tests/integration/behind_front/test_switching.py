"""Switches behind a real HAProxy on a real systemd host, of a server that knows nothing of MOBIUS, under load."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import pytest
import yaml

from tests.machine import CHECKOUT

from .conftest import GUNICORN_PORT

LOAD = {"kept": 32, "single": 2, "pause": 0.02}


def test_a_first_release_that_nobody_confirms_leaves_no_instance_and_no_socket(machine: Any) -> None:
    result = machine.module("instance", release=machine.releases["1.0.0"], state="standby")
    assert result["changed"] is True, result
    assert machine.states() == {"1.0.0": "standby"}
    machine.promote("1.0.0", "provisional", deadline=6)
    assert machine.answer() == "1.0.0"
    machine.until(lambda: machine.status()["pending"] is None)
    machine.until(
        lambda: machine.shell("systemctl list-units --no-legend 'shop[@.-]*' | grep -v traffic || true").stdout == ""
    )


def test_releases_go_forward_and_back_without_a_failed_request(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load(**LOAD) as load:
        for version in ("1.1.0", "1.2.0"):
            machine.promote(version, "canary")
            assert machine.states()["1.0.0" if version == "1.1.0" else "1.1.0"] == "serving"
            machine.promote(version)
        for version in ("1.1.0", "1.0.0"):
            machine.host("rollback")
            assert machine.answer() == version
    assert load.failures == []
    assert set(load.statuses) == {200}, load.statuses
    assert set(load.answers) == {"1.0.0", "1.1.0", "1.2.0"}
    machine.host("verify")


def test_a_canary_gets_its_share_of_the_requests(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "canary")
    with machine.load(**LOAD) as load:
        machine.until(lambda: load.statuses[200] > 2000)
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")
    assert load.failures == []
    share = load.answers["1.1.0"] / sum(load.answers.values())
    assert 0.07 < share < 0.13, load.answers
    assert machine.states() == {"1.0.0": "serving"}


def signals() -> list[dict[str, Any]]:
    """The role's own, with the lab's samples."""
    defaults = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))
    return [{**one, "samples": 300} for one in defaults["promote_front_signals"]]


def test_a_canary_is_judged_by_users_requests_and_by_probes_each_by_themselves(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "canary")
    with machine.load(kept=8, single=1, pause=0.02) as load:
        result = machine.module(
            "gate",
            release=machine.releases["1.1.0"],
            healthy_seconds=3,
            deadline=120,
            front_signals=signals(),
            user_samples=30,
        )
    assert load.failures == []
    assert result["verdict"] == "pass", json.dumps(result)
    figures = {one["name"]: one for one in result["evidence"]["values"]["signals"]}
    users, probes = figures["users' error share"], figures["probes' error share"]
    assert 30 <= users["new_samples"] < users["old_samples"], "it gets a tenth of the requests"
    assert (users["new_events"], users["old_events"], probes["new_events"]) == (0, 0, 0)
    assert probes["new_samples"] > 0
    assert figures["users' p95 response time in seconds"]["new_samples"] > 0
    assert figures["probes' p95 response time in seconds"]["new_samples"] > 0
    assert result["evidence"]["values"]["latency_losses"] == 0
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")


def test_a_request_in_flight_is_finished_before_its_instance_is_stopped(machine: Any) -> None:
    machine.serve_from("1.0.0")
    answers = []

    def request() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=10)
        connection.request("GET", "/slow?3")
        answers.append(connection.getresponse().headers["X-Release-Id"])
        connection.close()

    thread = threading.Thread(target=request)
    machine.promote("1.1.0", "provisional")
    thread.start()
    time.sleep(0.5)
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")
    thread.join()
    assert answers == ["1.1.0"]
    assert machine.states() == {"1.0.0": "serving"}


def test_a_killed_front_comes_back_as_it_was_in_the_middle_of_a_promotion(machine: Any) -> None:
    machine.serve_from("1.0.0")
    for stage, serving in (("canary", {"1.0.0", "1.1.0"}), ("provisional", {"1.1.0"})):
        machine.promote("1.1.0", stage)
        for victims in ("pgrep -P $main haproxy", "echo $main", "echo $main; pgrep -P $main haproxy"):
            main = "main=$(systemctl show --property=MainPID --value shop-front)"
            machine.shell(f"{main}; kill -9 $({victims})")
            # a refused connection would end the test: the socket is systemd's
            machine.answer()
            with machine.load(**LOAD) as load:
                machine.until(lambda load=load: load.statuses[200] > 300)
            assert load.failures == [] and set(load.statuses) == {200}
            assert set(load.answers) == serving, (stage, victims, load.answers)
    machine.host("rollback")
    assert machine.states()["1.0.0"] == "serving"


@pytest.mark.soak
def test_a_command_that_is_killed_at_any_time_is_completed_by_the_next(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0")
    with machine.load(kept=4, single=1, pause=0.01) as load:
        for number in range(14):
            version = "1.0.0" if number % 2 == 0 else "1.1.0"
            target = machine.releases[version]
            machine.shell(
                f"timeout --signal=KILL {0.06 + number * 0.02:.3f} mobius-host rollback --to {target} || true"
            )
            machine.host("rollback", "--to", target)
            status = machine.status()
            assert (status["confirmed"], status["serving"]) == (target, [target]), number
            assert machine.answer() == version
    assert load.failures == [] and set(load.statuses) == {200}, load.statuses
    machine.host("verify")


@pytest.mark.soak
def test_an_instance_that_dies_is_started_again_and_clients_wait_for_it(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load(kept=0, single=2, pause=0.05) as load:
        time.sleep(0.5)
        machine.shell(f"systemctl kill --signal=KILL shop@{machine.releases['1.0.0']}")
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
        time.sleep(0.5)
        machine.shell(f"systemctl restart shop@{machine.releases['1.0.0']}")
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
        time.sleep(1.5)
    # a kill loses the requests in flight, a restart by hand none
    assert load.failures == []
    assert load.statuses[200] > 20 and load.statuses.total() - load.statuses[200] <= 2, load.statuses


@pytest.mark.soak
def test_a_release_that_crashes_or_hangs_is_refused_and_disturbs_nothing(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load(kept=4, single=1) as load:
        result = machine.module("instance", release=machine.releases["2.0.0"])
        assert result["mobius_failure"]["outcome"] == "instance_failed", result
        assert "shop: this release is broken" in result["journal"]
        result = machine.module("instance", release=machine.releases["2.1.0"])
        assert result["mobius_failure"]["outcome"] == "instance_not_ready", result
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert load.failures == [] and set(load.statuses) == {200}


@pytest.mark.soak
def test_requests_wait_while_the_data_is_restored_and_a_drill_judges_by_the_health_path(machine: Any) -> None:
    machine.serve_from("1.0.0")
    backup = machine.module("backup", scope="full")["id"]
    machine.shell("echo later > /var/lib/shop/index/note")
    with machine.load(kept=4, single=1) as load:
        done = machine.module("restore", id=backup)
        machine.until(lambda: machine.answer() == "1.0.0")
    assert done["changed"] is True, done
    assert load.failures == []
    assert set(load.statuses) == {200}, load.statuses
    assert machine.states() == {"1.0.0": "serving"}
    machine.until(lambda: "inactive" in machine.shell("systemctl is-active shop-unavailable", check=False).stdout)
    probes = [{"name": "front page", "path": "/"}]
    drilled = machine.module("restore_drill", probes=probes)
    assert drilled.get("release") == machine.releases["1.0.0"], drilled
    failed = machine.module("restore_drill", probes=[{"name": "none", "path": "/", "status": 404}])
    assert failed["mobius_failure"]["outcome"] == "drill_failed"
    assert machine.states() == {"1.0.0": "serving"}
    assert machine.shell("systemctl list-units --all --no-legend 'shop-drill*'").stdout == ""


def test_a_reboot_serves_the_confirmed_release_and_forgets_what_was_provisional(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "provisional", deadline=600)
    assert machine.answer() == "1.1.0"
    machine.call("podman", "restart", machine.record["container"])
    machine.lab("up", "--hosts", "1", "--publish", str(GUNICORN_PORT))

    def answers() -> bool:
        try:
            return bool(machine.answer() == "1.0.0")
        except (OSError, http.client.HTTPException):
            return False

    machine.until(answers)
    machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert machine.status()["pending"] is None


def test_decommissioning_leaves_nothing_but_the_backups(machine: Any) -> None:
    machine.serve_from("1.0.0")
    done = machine.playbook("decommission", "-e", "mobius_decommission=shop")
    assert done.returncode == 0, done.stdout
    for units in ("list-units --all", "list-unit-files"):
        assert machine.shell(f"systemctl {units} --no-legend 'shop*' 'haproxy*'", check=False).stdout == ""
    files = machine.shell(
        "find /etc /opt /usr/local /var/lib /var/log /var/cache /run -xdev -name '*shop*' -o -xdev -name '*haproxy*'"
        " | grep -v 'lab-packages\\|/var/lib/apt\\|/var/log/journal' || true"
    )
    assert files.stdout == ""
    assert machine.shell("ss -ltnH | grep -c ':8080\\|:1808' || true").stdout == "0\n"
