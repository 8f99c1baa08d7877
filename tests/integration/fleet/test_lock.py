# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run per host group, through the playbooks: who wins, who is refused, and what a dead run leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.soak]


def leases(fleet: Any) -> list[str]:
    return [host for host in fleet.names if fleet.shell(host, "ls /run/stand-in/lease.json", check=False)]


def test_a_run_releases_every_lock_whether_it_succeeds_or_fails(fleet: Any, served: str) -> None:
    assert leases(fleet) == []
    path, _ = fleet.bundle("1.1.0", crash=True)
    refused = fleet.release(path)
    assert refused.outcome == "instance_failed", refused.stderr
    assert leases(fleet) == []


def test_of_two_runs_one_wins_and_the_refusal_of_the_other_names_it(fleet: Any, served: str) -> None:
    path, release = fleet.bundle("1.2.0")
    first = fleet.begin("release", "--bundle", path, promote_healthy_seconds=3)
    for line in first.stderr:
        if line.rstrip().endswith("Deploy under the lock") or "Check signer, mark, version" in line:
            break
    check = fleet.release(path, "--check")
    assert check.code == 0 and "would be refused now" in check.stderr, check.stderr
    second = fleet.release(path, mobius_lease_wait=0)
    assert (second.code, second.outcome, second.changes) == (3, "locked", {}), second.stderr
    assert set(second.outcomes().values()) == {"locked"}
    assert "has held this host since" in second.summary["reason"]
    first.communicate(timeout=300)
    assert first.returncode == 0
    assert fleet.confirmed() == fleet.everywhere(release)


def test_a_killed_runs_lock_ends_by_itself_and_a_rollback_does_not_wait_for_it(fleet: Any, served: str) -> None:
    path, release = fleet.bundle("1.3.0")
    doomed = fleet.begin("release", "--bundle", path, mobius_lease_seconds=20, promote_confirm_deadline=20)
    for line in doomed.stderr:
        if line.rstrip().endswith("Serve as a canary beside the present release"):
            break
    fleet.kill(doomed)
    assert leases(fleet) == fleet.names
    back = fleet.mobius("rollback", "--reason", "the controller died")
    assert back.code == 0, back.stderr
    assert set(fleet.answers().values()) != {release}
    other, newer = fleet.bundle("1.4.0")
    done = fleet.release(other)
    assert done.code == 0, done.stderr
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(newer)


def test_a_host_that_is_switched_between_deploy_and_promotion_keeps_all_hosts_from_it(fleet: Any, served: str) -> None:
    path, release = fleet.bundle("1.5.0")
    assert fleet.release(path).code == 0
    *others, last = fleet.names
    hook = fleet.root / "switched.yml"
    back = f"mobius-host --service {fleet.service} rollback --reason 'by hand'"
    hook.write_text(json.dumps([{"ansible.builtin.command": back, "when": f"inventory_hostname == '{last}'"}]))
    newer, _ = fleet.bundle("1.6.0")
    done = fleet.release(newer, mobius_hooks={"after_deploy": str(hook)})
    assert done.outcomes() == {last: "fenced", **dict.fromkeys(others, "held_back")}, done.stderr
    assert "Serve as a canary beside the present release" not in done.stderr, "no client met the release"
    assert {host: fleet.confirmed()[host] for host in others} == dict.fromkeys(others, release)
    assert leases(fleet) == []
