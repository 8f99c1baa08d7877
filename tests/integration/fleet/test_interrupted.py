# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases whose controller is killed, or one of whose hosts is rebooted, at every step: whole, serving, and no manual step."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from mobius.manifest import release_of
from tests.clients import client_load

pytestmark = [pytest.mark.lab, pytest.mark.soak]

TASKS = 130  # a release of four hosts in three batches has fewer
TASK = re.compile(r"Z  task +(\S.*)$")
RAN = re.compile(r"Z  (ok|changed) +lab\d")
# so that a host reverts an unconfirmed promotion and frees the lock of a dead run within the test; the next run has the
# usual ones, as it shares two processors with all four hosts
SHORT = {"mobius_lease_seconds": 20, "promote_confirm_deadline": 20}
PHASES = (
    "Back up the service's state",
    "Stage the release",
    "Start the release in standby",
    "Serve as a canary beside the present release",
    "Run the gate on the new release",
    "Switch to the new release provisionally",
    "Decide for all hosts together",
    "Confirm the promotion",
    "Remove the releases that are no longer kept",
)


def whole(fleet: Any, *releases: str) -> bool:
    """Every host serves its confirmed release, which is one of these, and nothing is pending."""
    answers, statuses = fleet.answers(), fleet.statuses()
    return all(
        statuses[host]["pending"] is None and answers[host] == release_of(statuses[host]["confirmed"]) in releases
        for host in fleet.names
    )


@pytest.fixture(scope="module")
def on_hosts(fleet: Any, served: str) -> dict[int, str]:
    """The tasks of a release in which something runs on a host, by their numbers: in no other does a host change."""
    path, _ = fleet.bundle("1.9.0")
    done = fleet.release(path, "-v", **SHORT)
    assert done.code == 0, done.stderr
    number, name, on_host = 0, "", {}
    for line in done.stderr.splitlines():
        if match := TASK.search(line):
            number, name = number + 1, match[1]
        elif RAN.search(line) and not name.startswith(("Note ", "Validating ")):
            on_host[number] = name
    assert set(PHASES) <= set(on_host.values()) and number < TASKS, on_host
    return on_host


def until_task(process: subprocess.Popen[str], *, number: int = 0, name: str = "") -> str:
    """Read on until the n-th task has begun, or the first of that name; what it is called."""
    for line in process.stderr or ():
        if match := TASK.search(line.rstrip()):
            number -= 1
            if number == 0 or match[1] == name:
                return match[1]
    raise AssertionError(f"the run ended before its task {name or number}")


@pytest.mark.parametrize("number", range(1, TASKS))
def test_a_controller_that_is_killed_in_any_task_leaves_whole_hosts_and_no_manual_step(
    fleet: Any, on_hosts: dict[int, str], number: int
) -> None:
    if number not in on_hosts:
        pytest.skip("nothing runs on a host in this task")
    before = set(fleet.confirmed().values())
    path, release = fleet.bundle(f"2.{number}.0")
    # some hundred requests a second: more would take the processors away from the release
    with client_load(*(int(item["ports"]["8080"]) for item in fleet.hosts()), pause=0.05) as load:
        doomed = fleet.begin("release", "--bundle", path, **SHORT)
        task = until_task(doomed, number=number)
        assert task == on_hosts[number]
        fleet.kill(doomed)
        fleet.until(lambda: whole(fleet, *before, release))
        done = fleet.release(path)
        assert done.code == 0, f"killed in {task}: {done.stderr}"
        assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release), task
    assert load.failures == [], task


@pytest.mark.parametrize("phase", PHASES)
def test_a_host_that_is_rebooted_in_any_phase_serves_what_is_confirmed(fleet: Any, served: str, phase: str) -> None:
    before = set(fleet.confirmed().values())
    path, release = fleet.bundle(f"3.{PHASES.index(phase)}.0")
    process = fleet.begin("release", "--bundle", path, **SHORT)
    until_task(process, name=phase)
    fleet.reboot("lab2")
    process.communicate(timeout=400)
    fleet.until(lambda: whole(fleet, *before, release))
    done = fleet.release(path)
    assert done.code == 0, done.stderr
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release)
