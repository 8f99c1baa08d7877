# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases whose controller is killed, or one of whose hosts is rebooted, at every step: whole, serving, and no step by hand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import Any

import pytest

from tests.clients import sending

pytestmark = [pytest.mark.lab, pytest.mark.soak]

TASKS = 90  # a release of four hosts in three batches has fewer
TASK = re.compile(r"s  task +(\S.*)$")
# so that a host takes an unconfirmed promotion back, and lets go of a dead run's lock, within the test
SHORT = {"mobius_lease_seconds": 20, "promote_confirm_deadline": 20}
PHASES = (
    "Write a verified backup",
    "Stage the release",
    "Start the release in standby",
    "Serve beside the present release",
    "Ask the new instance itself",
    "Serve alone, provisionally",
    "Decide for all hosts together",
    "Confirm the promotion",
    "Remove the releases that are no longer kept",
)


def whole(fleet: Any, *releases: str) -> bool:
    """Every host serves what it takes for the truth, one of these, and nothing is pending."""
    answers, statuses = fleet.answers(), fleet.statuses()
    return all(
        statuses[host]["pending"] is None and answers[host] == statuses[host]["confirmed"] in releases
        for host in fleet.names
    )


def until_task(process: subprocess.Popen[str], number: int) -> str | None:
    """Read on until the n-th task has begun; its name, None when there were fewer."""
    for line in process.stderr or ():
        if match := TASK.search(line.rstrip()):
            number -= 1
            if number == 0:
                return match[1]
    return None


@pytest.mark.parametrize("number", range(1, TASKS))
def test_a_controller_that_is_killed_in_any_task_leaves_whole_hosts_and_no_step_by_hand(
    fleet: Any, served: str, number: int
) -> None:
    before = set(fleet.confirmed().values())
    path, release = fleet.bundle(f"2.{number}.0")
    with sending(*(int(item["ports"]["8080"]) for item in fleet.hosts())) as load:
        doomed = fleet.begin("release", "--bundle", path, **SHORT)
        task = until_task(doomed, number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(doomed.pid, signal.SIGKILL)
        doomed.communicate()
        fleet.until(lambda: whole(fleet, *before, release))
        done = fleet.release(path, **SHORT)
        assert done.code == 0, f"killed in {task}: {done.stderr}"
        assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release), task
    assert load.failures == [], task


@pytest.mark.parametrize("phase", PHASES)
def test_a_host_that_is_rebooted_in_any_phase_serves_what_is_confirmed(fleet: Any, served: str, phase: str) -> None:
    before = set(fleet.confirmed().values())
    path, release = fleet.bundle(f"3.{PHASES.index(phase)}.0")
    process = fleet.begin("release", "--bundle", path, **SHORT)
    for line in process.stderr:
        if (match := TASK.search(line.rstrip())) and match[1] == phase:
            break
    fleet.reboot("lab2")
    process.communicate(timeout=400)
    fleet.until(lambda: whole(fleet, *before, release))
    done = fleet.release(path, **SHORT)
    assert done.code == 0, done.stderr
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release)
