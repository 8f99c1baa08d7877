# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release in batches on four hosts: all of them or none, whatever happens between the first batch and the last."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mobius.control.history import verifier as history_verify
from mobius.control.run.hooks import NAMES

# four hosts on two cores: about two minutes a test; tests/end_to_end has three hosts in three batches
pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module")
def first(fleet: Any) -> str:
    """A release that serves on all hosts."""
    fleet.fresh()
    path, release = fleet.bundle("1.0.0")
    check, done = fleet.release(path, "--check"), fleet.release(path)
    assert (check.code, done.code) == (0, 0), check.stderr + done.stderr
    assert check.changes == done.changes
    assert fleet.answers() == fleet.everywhere(release)
    return str(release)


def hooks(fleet: Any, *broken: str) -> dict[str, str]:
    """All hooks: each leaves the release in a file of its name on the host; those named then fail."""
    paths = {}
    for name in NAMES:
        tasks: list[dict[str, Any]] = [
            {
                "ansible.builtin.copy": {
                    "dest": "/run/hook-{{ hook_name }}",
                    "content": "{{ hook_release }}",
                    "mode": "0600",
                }
            }
        ]
        if name in broken:
            tasks.append({"name": "Break", "ansible.builtin.fail": {"msg": "It is broken."}})
        path = fleet.root / f"{name}{'-broken' if name in broken else ''}.yml"
        path.write_text(json.dumps(tasks))
        paths[name] = str(path)
    return paths


def hooked(fleet: Any, host: str) -> dict[str, str]:
    """What the hooks left on a host, by name; removes it."""
    output = fleet.shell(host, "cd /run && grep -H '' hook-* || true; rm -f hook-*")
    return dict(line.removeprefix("hook-").split(":", 1) for line in output.splitlines())


def failing_gate(host: str) -> str:
    """Probes: that of one host passes once, before the release serves, and then fails, so that its gate refuses."""
    probe = {"name": "only once", "path": "/once", "json": {"is_first": True}}
    return f"{{{{ [{probe}] if inventory_hostname == '{host}' else [] }}}}"


def test_a_release_goes_through_its_batches_and_the_decision_is_recorded(fleet: Any, first: str) -> None:
    path, release = fleet.bundle("1.1.0")
    variables = {"mobius_hooks": hooks(fleet)}
    check, done = fleet.release(path, "--check", **variables), fleet.release(path, **variables)
    assert done.code == 0, done.stderr
    promotion = ("before_batches", "before_promote", "after_promote", "after_batches")
    run = ("before_deploy", "after_deploy", *promotion, "after_confirm")
    for host in fleet.names:
        assert hooked(fleet, host) == dict.fromkeys(run, release)
    assert check.changes == done.changes
    began = [line for line in done.stderr.splitlines() if line.endswith("Serve as a canary beside the present release")]
    assert len(began) == 3, "1, 25 % and the others are three batches of four hosts"
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release)
    history = fleet.history(done.summary["run"])
    (decision,) = history["decisions"]
    assert (decision["decision"], decision["release"], decision["verdict"]) == ("confirm", release, "pass")
    assert [len(batch) for batch in decision["batches"]] == [1, 1, 2]
    gates = {
        result["host"]: result["fields"]["evidence"] for result in history["results"] if "evidence" in result["fields"]
    }
    assert {host: report["evidence_sha256"] for host, report in decision["hosts"].items()} == {
        host: history_verify.digest(gates[host]) for host in fleet.names
    }
    again = fleet.release(path, **variables)
    assert (again.code, again.changes) == (0, {})
    assert "Run the gate on the new release" not in again.stderr, "no host is promoted twice"
    lower, _ = fleet.bundle("1.0.9")
    refused = fleet.release(lower, "--check")
    assert (refused.code, refused.outcomes()) == (1, dict.fromkeys(fleet.names, "downgrade"))


def test_a_hook_that_fails_after_the_promotion_reverts_all_hosts_and_none_blocks_a_rollback(
    fleet: Any, first: str
) -> None:
    before = fleet.confirmed()
    path, release = fleet.bundle("1.1.5")
    done = fleet.release(path, mobius_hooks=hooks(fleet, "after_promote", "after_revert"))
    assert (done.code, done.outcome) == (2, "hook_failed"), done.stderr
    assert fleet.confirmed() == fleet.answers() == before
    left = {host: hooked(fleet, host) for host in fleet.names}
    assert left[fleet.names[0]]["after_revert"] == release
    assert "before_promote" not in left[fleet.names[3]], "no further batch begins"
    refused = fleet.release(path, mobius_hooks=hooks(fleet, "before_deploy"))
    assert (refused.code, refused.outcomes()) == (2, dict.fromkeys(fleet.names, "hook_failed"))
    assert fleet.release(path).code == 0
    back = fleet.mobius("rollback", mobius_hooks={**hooks(fleet, "before_rollback"), "after_rollback": "/nowhere.yml"})
    assert back.code == 0, back.stderr
    assert fleet.confirmed() == fleet.answers() == before
    assert "The hook before_rollback failed in Break" in " ".join(back.stderr.split())
    assert fleet.release(path, mobius_retry_bad=True).code == 0


def test_a_host_that_fails_in_the_last_batch_reverts_all_hosts(fleet: Any, first: str) -> None:
    before = fleet.confirmed()
    path, _ = fleet.bundle("1.2.0")
    done = fleet.release(path, promote_probes=failing_gate("lab4"))
    assert (done.code, done.outcome) == (2, "rolled_back"), done.stderr
    assert set(done.outcomes()) == set(fleet.names)
    assert fleet.confirmed() == fleet.answers() == before
    assert all(status["pending"] is None for status in fleet.statuses().values())
    assert fleet.release(path).outcome == "release_bad"


def test_a_failed_first_batch_is_the_only_one_that_begins(fleet: Any, first: str) -> None:
    before = fleet.confirmed()
    path, release = fleet.bundle("1.3.0")
    done = fleet.release(path, promote_probes=failing_gate("lab1"))
    assert (done.code, done.outcome) == (2, "rolled_back"), done.stderr
    canaries = [f'grep -c \'"event":"canary".*{release}\' /var/lib/stand-in/journal.jsonl || true']
    assert [fleet.shell(host, canaries[0]).strip() for host in fleet.names] == ["1", "0", "0", "0"]
    assert fleet.confirmed() == fleet.answers() == before


def test_a_host_that_does_not_answer_after_its_batch_reverts_the_others_and_itself(fleet: Any, first: str) -> None:
    before = fleet.confirmed()
    path, release = fleet.bundle("1.4.0")
    process = fleet.begin("release", "--bundle", path, promote_batches=[1, 1, "100%"])
    try:
        for line in process.stderr:
            if "task" in line and line.rstrip().endswith("Run the gate on the new release"):
                break
        fleet.until(lambda: fleet.status("lab1")["pending"] is not None)
        fleet.until(lambda: (fleet.status("lab1")["pending"] or {}).get("stage") == "serving")
        fleet.pause("lab1")
        process.communicate(timeout=300)
        assert process.returncode == 3
    finally:
        fleet.unpause("lab1")
    fleet.until(lambda: fleet.confirmed() == fleet.answers() == before)
    done = fleet.release(path)
    assert done.code == 0, done.stderr
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release)


def test_a_host_that_misses_the_confirmation_is_diverged_and_the_next_run_catches_it_up(fleet: Any, first: str) -> None:
    before = fleet.confirmed()
    path, release = fleet.bundle("1.5.0")
    # from the commit point on nothing answers at lab2's address
    gone = "{{ 9 if inventory_hostname == 'lab2' and (__promote_decision | default({})).decision is defined else ansible_port_of[inventory_hostname] }}"
    ports = {item["name"]: item["ssh_port"] for item in fleet.hosts()}
    # lab2 keeps the lock, which the next run waits for until its lease has run out
    done = fleet.release(
        path, ansible_port=gone, ansible_port_of=ports, promote_confirm_deadline=20, mobius_lease_seconds=20
    )
    assert (done.code, done.outcome) == (3, "diverged"), done.stderr
    assert done.outcomes() == {"lab2": "diverged"}
    assert {host: release_id for host, release_id in fleet.confirmed().items() if host != "lab2"} == dict.fromkeys(
        ["lab1", "lab3", "lab4"], release
    )
    fleet.until(lambda: fleet.answer("lab2") == before["lab2"] and fleet.status("lab2")["pending"] is None)
    again = fleet.release(path)
    assert again.code == 0, again.stderr
    assert set(again.changes) == {"lab2"}
    assert fleet.confirmed() == fleet.answers() == fleet.everywhere(release)


def test_a_decision_that_cannot_be_recorded_is_not_taken(fleet: Any, first: str) -> None:
    before = fleet.confirmed()
    path, _ = fleet.bundle("1.6.0")
    folder = fleet.root / ".lab/history"
    away = f"test -f {folder} || (mv {folder} {folder}.away && touch {folder})"
    hook = fleet.root / "after_promote-without-history.yml"
    hook.write_text(json.dumps([{"ansible.builtin.shell": away, "delegate_to": "localhost"}]))
    done = fleet.release(path, mobius_hooks={"after_promote": str(hook)})
    folder.unlink()
    folder.with_name("history.away").rename(folder)
    assert (done.code, done.outcome) == (3, "history_failed"), done.stderr
    assert fleet.confirmed() == fleet.answers() == before


def test_invalid_sizes_are_refused_before_anything_changes(fleet: Any, first: str) -> None:
    done = fleet.mobius("promote", "--release", first, promote_batches=["few"])
    assert (done.code, done.outcome, done.changes) == (1, "invalid_input", {})
