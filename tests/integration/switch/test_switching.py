"""Switches behind a real HAProxy on a real systemd host, of a server that knows nothing of MOBIUS, under load."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from tests.machine import CHECKOUT

from .conftest import GUNICORN_PORT

LOAD = {"kept": 32, "single": 2, "pause": 0.02}


def serves(machine: Any, version: str) -> bool:
    """Whether clients get this version; nobody else may answer, but the host may be booting."""
    try:
        return bool(machine.answer() == machine.releases[version])
    except (OSError, http.client.HTTPException):
        return False


def is_hanging(machine: Any) -> bool:
    """Whether a client waits for an answer in vain."""
    try:
        machine.answer()
    except TimeoutError:
        return True
    return False


def is_lossless(load: Any) -> bool:
    """Whether every client got a good answer from a release."""
    return load.failures == [] and set(load.statuses) == {200} and "None" not in load.answers


def test_a_first_release_that_nobody_confirms_leaves_no_instance_and_no_socket(machine: Any) -> None:
    machine.forget()
    result = machine.module("instance", release=machine.releases["1.0.0"], state="standby")
    assert result["changed"] is True, result
    assert machine.states() == {"1.0.0": "standby"}
    machine.promote("1.0.0", "provisional", deadline=6)
    assert machine.answer() == machine.releases["1.0.0"]
    machine.until(lambda: machine.status()["pending"] is None)
    units = "systemctl list-units --no-legend 'stand-in*' | grep -v traffic || true"
    machine.until(lambda: machine.shell(units).stdout.strip() == "")
    with pytest.raises(OSError, match=r".*"):
        machine.answer()
    assert [line["event"] for line in machine.journal()] == ["canary", "provisional", "reverted"]


def test_releases_go_forward_and_back_without_a_failed_request(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load(**LOAD) as load:
        for version in ("1.1.0", "1.2.0"):
            machine.promote(version, "canary")
            assert machine.states()["1.0.0" if version == "1.1.0" else "1.1.0"] == "serving"
            machine.promote(version)
        for version in ("1.1.0", "1.0.0"):
            done = machine.host("rollback")
            seconds = re.search(r"\(([0-9.]+) s\)", done.stdout)
            assert machine.answer() == machine.releases[version]
            assert seconds is not None
            # the second one has to be started first
            assert float(seconds[1]) < (1.0 if version == "1.1.0" else 5.0), done.stdout
    assert is_lossless(load), (load.failures, load.statuses)
    assert set(load.answers) == {machine.releases[version] for version in ("1.0.0", "1.1.0", "1.2.0")}
    assert machine.host("verify").returncode == 0


def test_a_canary_gets_its_share_of_the_requests(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "canary")
    with machine.load(**LOAD) as load:
        machine.until(lambda: load.statuses[200] > 2000)
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")
    assert is_lossless(load), (load.failures, load.statuses)
    share = load.answers[machine.releases["1.1.0"]] / sum(load.answers.values())
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
        connection.request("GET", "/slow?2")
        answers.append(connection.getresponse().headers["X-Release-Id"])
        connection.close()

    thread = threading.Thread(target=request)
    machine.promote("1.1.0", "provisional")
    thread.start()
    time.sleep(0.5)
    machine.module("promotion", release=machine.releases["1.1.0"], state="reverted", run="test")
    thread.join()
    assert answers == [machine.releases["1.1.0"]], "which dies of SIGTERM at once"
    assert machine.states() == {"1.0.0": "serving"}


def test_a_killed_front_comes_back_as_it_was_in_the_middle_of_a_promotion(machine: Any) -> None:
    machine.serve_from("1.0.0")
    for stage, serving in (("canary", {"1.0.0", "1.1.0"}), ("provisional", {"1.1.0"})):
        machine.promote("1.1.0", stage)
        for victims in ("pgrep -P $main haproxy", "echo $main", "echo $main; pgrep -P $main haproxy"):
            machine.shell(
                "main=$(systemctl show --property=MainPID --value stand-in-front); "
                f'both="$main $(pgrep -P $main haproxy)"; kill -9 $({victims}); '
                # the other one ends with it, and what that has accepted by then is lost with it
                "for process in $both; do timeout 20 tail --pid=$process -s 0.01 -f /dev/null; done"
            )
            # a refused or lost connection would end the test: the socket is systemd's
            machine.answer()
            with machine.load(**LOAD) as load:
                machine.until(lambda load=load: load.statuses[200] > 300)
            assert is_lossless(load), (load.failures, load.statuses)
            expected = {machine.releases[version] for version in serving}
            assert set(load.answers) == expected, (stage, victims, load.answers)
    machine.host("rollback")
    assert machine.states()["1.0.0"] == "serving"


def test_the_guard_holds_through_kill_reload_and_reexec(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load() as load:
        machine.promote("1.1.0", "provisional", deadline=15)
        began = time.monotonic()
        for spoil in (
            "systemctl kill --signal=KILL stand-in-guard",
            "systemctl daemon-reload",
            "systemctl kill --signal=TERM stand-in-guard",
            "systemctl daemon-reexec",
        ):
            machine.shell(spoil)
            time.sleep(0.3)
        assert machine.status()["pending"] is not None
        machine.until(lambda: machine.status()["pending"] is None, 30)
        # as close to the deadline as before: 2 s sooner for what it took to get here, 6 s later for the revert
        assert 13 < time.monotonic() - began < 21
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert is_lossless(load), (load.failures, load.statuses)
    assert machine.journal()[-1]["event"] == "reverted"
    late = machine.module("promotion", release=machine.releases["1.1.0"], state="confirmed", run="test")
    assert late["mobius_failure"]["outcome"] == "nothing_pending"
    machine.until(lambda: machine.shell("systemctl is-active stand-in-guard", check=False).stdout.strip() == "inactive")


def test_a_confirmed_promotion_outlives_its_guard(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", deadline=3)
    time.sleep(4)
    assert machine.answer() == machine.releases["1.1.0"]
    machine.host("rollback")


def test_a_command_that_is_killed_at_any_time_is_completed_by_the_next(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0")
    with machine.load(kept=4, single=1, pause=0.01) as load:
        for number in range(14):
            target = machine.releases["1.0.0" if number % 2 == 0 else "1.1.0"]
            # both are warm, so a rollback takes some 200 to 300 ms, most of it before the first step
            machine.shell(
                f"timeout --signal=KILL {0.06 + number * 0.02:.3f} mobius-host rollback --to {target} || true"
            )
            machine.host("rollback", "--to", target)
            status = machine.status()
            assert (status["confirmed"], status["serving"]) == (target, [target]), number
            assert machine.answer() == target
    assert is_lossless(load), (load.failures, load.statuses)
    machine.host("verify")
    machine.shell(f"test $(readlink /opt/stand-in/current) = releases/{target}")


def test_a_reboot_serves_the_confirmed_release_and_forgets_what_was_provisional(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "provisional", deadline=600)
    assert machine.answer() == machine.releases["1.1.0"]
    machine.call("podman", "restart", machine.record["container"])
    machine.lab("up", "--hosts", "1", "--publish", str(GUNICORN_PORT))
    machine.until(lambda: serves(machine, "1.0.0"))
    machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert machine.status()["pending"] is None
    late = machine.module("promotion", release=machine.releases["1.1.0"], state="confirmed", run="test")
    assert late["mobius_failure"]["outcome"] == "nothing_pending"
    machine.promote("1.1.0")
    machine.host("rollback")


def test_a_release_that_crashes_is_refused_with_its_last_words_and_disturbs_nothing(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load() as load:
        result = machine.module("instance", release=machine.releases["2.0.0"])
        assert result["mobius_failure"]["outcome"] == "instance_failed"
        assert result["journal"][-1] == "stand_in: this release is broken"
        time.sleep(2)
        assert machine.states() == {"1.0.0": "serving"}, "it must not be started again and again"
        assert machine.shell("systemctl is-active stand-in.socket").stdout == "active\n"
        machine.promote("1.1.0")
        machine.host("rollback")
    assert is_lossless(load), (load.failures, load.statuses)


@pytest.mark.soak
def test_a_release_that_is_never_healthy_is_refused_and_disturbs_nothing(machine: Any) -> None:
    machine.serve_from("1.0.0")
    with machine.load(kept=4, single=1) as load:
        result = machine.module("instance", release=machine.releases["2.2.0"])
        assert result["mobius_failure"]["outcome"] == "instance_not_ready", result
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert is_lossless(load), (load.failures, load.statuses)


def test_a_release_that_hangs_is_rolled_back_and_gone(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("2.1.0")
    machine.until(lambda: is_hanging(machine))
    began = time.monotonic()
    machine.host("rollback")
    assert time.monotonic() - began < 8
    assert machine.answer() == machine.releases["1.0.0"]
    # it does not end by SIGTERM, for which systemd waits
    machine.until(lambda: machine.states() == {"1.0.0": "serving"}, 30)


def test_an_instance_that_is_killed_again_and_again_keeps_its_socket(machine: Any) -> None:
    machine.serve_from("1.0.0")
    unit = f"stand-in@{machine.releases['1.0.0']}"
    for _ in range(8):
        machine.shell(f"systemctl kill --signal=KILL {unit} || true")
        time.sleep(0.3)
    machine.until(lambda: machine.states() == {"1.0.0": "serving"})
    assert machine.shell("systemctl is-active stand-in.socket").stdout == "active\n"
    assert machine.answer() == machine.releases["1.0.0"]
    machine.promote("1.1.0")
    machine.host("rollback")


@pytest.mark.soak
def test_an_instance_that_dies_is_started_again_and_clients_wait_for_it(machine: Any) -> None:
    machine.serve_from("1.0.0")
    unit = f"stand-in@{machine.releases['1.0.0']}"
    with machine.load(kept=0, single=2, pause=0.05) as load:
        time.sleep(0.5)
        machine.shell(f"systemctl kill --signal=KILL {unit}")
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
        time.sleep(0.5)
        machine.shell(f"systemctl restart {unit}")
        machine.until(lambda: machine.states() == {"1.0.0": "serving"})
        time.sleep(1.5)
    # a kill loses the requests in flight, a restart by hand none
    assert load.failures == []
    assert load.statuses[200] > 20 and load.statuses.total() - load.statuses[200] <= 2, load.statuses


@pytest.mark.parametrize("files", ["activation.json", "activation.json activation-copy.json"])
def test_a_host_that_boots_with_a_damaged_activation_record_serves_what_was_confirmed(machine: Any, files: str) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0")
    machine.shell(f"cd /opt/stand-in && for file in {files}; do echo '{{' > $file; done")
    machine.call("podman", "restart", machine.record["container"])
    machine.until(lambda: serves(machine, "1.1.0"), 30)
    # what the unit has written reaches the journal a moment after the instance serves
    journal = "journalctl --boot --unit stand-in-boot --output cat"
    machine.until(lambda: "/opt/stand-in/activation.json is damaged" in machine.shell(journal).stdout)
    machine.shell(f"systemctl kill --signal=KILL stand-in@{machine.releases['1.1.0']}")
    machine.until(lambda: serves(machine, "1.1.0"), 30)
    if "copy" in files:
        assert machine.host("rollback", check=False).returncode == 3
        assert machine.host("repair", "--yes").stdout.endswith(f"repaired; {machine.releases['1.1.0']} serves.\n")
    machine.host("rollback")
    assert machine.answer() == machine.releases["1.0.0"]


def test_of_rollbacks_at_once_by_runs_and_at_the_console_one_is_carried_out(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0")
    machine.promote("1.2.0")
    before = len(machine.journal())
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(machine.playbook, "rollback") for _ in range(2)]
        consoles = [pool.submit(machine.host, "rollback") for _ in range(2)]
        done = [future.result() for future in [*runs, *consoles]]
    assert [item.returncode for item in done] == [0] * 4, [item.stdout for item in done]
    lines = [(line["event"], line["actor"], line["from"], line["to"]) for line in machine.journal()[before:]]
    assert len(lines) == 1 and machine.answer() == machine.releases["1.1.0"], lines
    already = f"stand-in: already rolled back to {machine.releases['1.1.0']}"
    assert sum(item.stdout.startswith(already) for item in done) >= 1, "both consoles, or one and the runs"
    machine.host("rollback", "--from", machine.releases["1.1.0"])
    assert machine.answer() == machine.releases["1.0.0"]


def test_a_run_that_finds_the_promotion_of_another_one_names_it_and_reverts_nothing(machine: Any) -> None:
    machine.serve_from("1.0.0")
    machine.promote("1.1.0", "provisional", deadline=300)
    variables = {"mobius_release": machine.releases["1.2.0"], "promote_run": "next", "promote_probes": []}
    done = machine.playbook("promote", "-e", json.dumps(variables))
    assert done.returncode == 2 and "rollback_failed" not in done.stdout, done.stdout
    assert f"{machine.releases['1.1.0']} has been promoted by the run test on this host since" in done.stdout
    assert '"outcome": "locked"' in done.stdout, done.stdout
    assert machine.answer() == machine.releases["1.1.0"]
    assert machine.status()["pending"]["run"] == "test" and "1.2.0" not in machine.states()
    machine.host("rollback", "--from", machine.releases["1.1.0"])
    assert machine.answer() == machine.releases["1.0.0"]
