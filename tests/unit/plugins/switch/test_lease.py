# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock between runs: one winner, recovered by itself, checked by the switch, and never in a rollback's way."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import lease
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation, read_activation, read_lease

A, B = "1.0.0-0123456789ab", "1.1.0-0123456789ab"
Module = Callable[..., dict[str, Any]]


def outcome(result: dict[str, Any]) -> str:
    return str(result["mobius_failure"]["outcome"])


def test_a_second_run_is_refused_with_the_name_of_the_holder(run_module: Module) -> None:
    assert run_module("lease", run="r1", actor="ada@control", seconds=60)["held"] is True
    refused = run_module("lease", run="r2", actor="bob@control")
    assert outcome(refused) == "locked"
    assert "r1 of ada@control" in refused["msg"] and "60 s" in refused["msg"]
    assert run_module("lease", run="r1", actor="ada@control")["held"] is True
    run_module("lease", run="r2", state="free")
    assert outcome(run_module("lease", run="r2")) == "locked", "no run releases the lock of another"
    run_module("lease", run="r1", state="free")
    assert run_module("lease", run="r2")["held"] is True


def test_check_mode_takes_nothing_and_reports_what_would_refuse_the_run(machine: Any, run_module: Module) -> None:
    assert run_module("lease", run="r1", check=True)["finding"] == ""
    assert read_lease(machine.host) is None
    run_module("lease", run="r1", actor="ada@control")
    found = run_module("lease", run="r2", check=True)
    assert "ada@control" in found["finding"] and found["held"] is False
    run_module("lease", run="r1", state="free", check=True)
    assert read_lease(machine.host) is not None


def test_a_dead_runs_lock_is_free_when_its_time_is_over_and_after_a_reboot(machine: Any, run_module: Module) -> None:
    run_module("lease", run="r1", seconds=30)
    machine.now += 29
    assert outcome(run_module("lease", run="r2")) == "locked"
    machine.now += 2
    assert run_module("lease", run="r2", seconds=30)["held"] is True
    machine.reboot()
    assert run_module("lease", run="r3")["held"] is True


def test_every_module_call_of_the_holder_renews_the_lease(machine: Any, run_module: Module) -> None:
    run_module("lease", run="r1", seconds=30)
    for state in ("instance", "canary", "provisional", "renewed", "confirmed"):
        machine.now += 20
        parameters = {"release": A, "run": "r1", "lease": True}
        done = (
            run_module("instance", **parameters)
            if state == "instance"
            else run_module("promotion", state=state, **parameters)
        )
        assert not done.get("failed"), done
        found = read_lease(machine.host)
        assert found is not None and found.expires == machine.now + 30
    # its own confirmation has raised the token, which does not fence it
    assert run_module("mark", release=B, run="r1", lease=True).get("failed") is None


@pytest.mark.slow
def test_a_run_that_was_suspended_is_refused_by_the_switch_itself(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    run_module("lease", run="late", seconds=30)
    assert run_module("instance", release=B, run="late", lease=True)["changed"] is True
    machine.now += 31
    run_module("lease", run="next", seconds=30)
    for parameters in ({"state": "canary"}, {"state": "reverted"}, {"state": "confirmed"}):
        assert outcome(run_module("promotion", release=B, run="late", lease=True, **parameters)) == "fenced"
    assert outcome(run_module("instance", release=B, state="stopped", run="late", lease=True)) == "fenced"
    run_module("lease", run="next", state="free")
    # nobody has it now, and that does not make it the late one's
    assert outcome(run_module("promotion", release=B, state="canary", run="late", lease=True)) == "fenced"
    assert machine.serving == [A] and machine.pending is None


def test_an_expired_lease_that_no_run_acquired_still_belongs_to_its_holder(machine: Any, run_module: Module) -> None:
    run_module("lease", run="r1", seconds=30)
    machine.now += 300
    assert run_module("instance", release=A, run="r1", lease=True)["changed"] is True
    assert outcome(run_module("lease", run="r2")) == "locked"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["module", "console"])
def test_a_rollback_needs_no_lock_and_fences_the_run_that_holds_it(machine: Any, run_module: Module, by: str) -> None:
    machine.promote(A)
    machine.promote(B)
    run_module("lease", run="r1", seconds=3600)
    if by == "module":
        assert run_module("rollback", run="r2")["confirmed"] == A
    else:
        assert machine.command("rollback") == 0
    assert machine.serving == [A]
    late = run_module("promotion", release=B, state="canary", retry_bad=True, run="r1", lease=True)
    assert outcome(late) == "fenced"
    assert outcome(run_module("lease", run="r1")) == "fenced"
    assert machine.serving == [A]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"expires": "later"},
        {"expires": None},
        {"expires": 10**400},
        {"expires": 1e300},
        {"token": "1"},
        {"seconds": []},
        {"run": 1},
        {"boot_id": {}},
        {"actor": "\ud800"},
        b"",
        b"[1]",
        b"[" * 100_000,
        b"\xff",
        "folder",
        "pipe",
        "link to itself",
    ],
    ids=repr,
)
def test_a_damaged_lease_blocks_neither_command_nor_run(machine: Any, run_module: Module, damage: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    run_module("lease", run="r0", seconds=60)
    path = machine.host.lease_path
    if isinstance(damage, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        path.unlink()
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[
            damage
        ]()
    assert machine.command("status") == 0
    assert machine.command("rollback") == 0
    assert machine.serving == [A]
    assert run_module("lease", run="r1")["held"] is True
    assert outcome(run_module("lease", run="r2")) == "locked"


@pytest.mark.parametrize("seconds", [0, -1, 100_000, float("nan")])
def test_a_time_that_is_none_is_refused(run_module: Module, seconds: float) -> None:
    assert outcome(run_module("lease", run="r1", seconds=seconds)) == "invalid_input"


@pytest.mark.slow
def test_of_a_hundred_races_each_has_one_winner(machine: Any) -> None:
    for race in range(100):
        runs = [f"race{race}-{number}" for number in range(4)]
        start, won = threading.Barrier(len(runs)), []

        def run(name: str, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait()
            try:
                if lease.acquire(machine.executor(), name, "ada", "now", 60):
                    won.append(name)
            except MobiusError as error:
                assert error.outcome == "locked"

        threads = [threading.Thread(target=run, args=(name,)) for name in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = read_lease(machine.host)
        assert held is not None and won == [held.run]
        assert lease.release(machine.executor(), held.run)
    assert isinstance(read_activation(machine.host), Activation)


def test_what_a_host_serves_is_read_under_the_lock_of_the_run_only(machine: Any, run_module: Module) -> None:
    assert outcome(run_module("release_info", run="r1", lease=True)) == "fenced"
    run_module("lease", run="r1", seconds=30)
    machine.now += 29
    assert run_module("release_info", run="r1", lease=True)["lease"]["remaining"] == 30, "it is renewed"
    assert outcome(run_module("release_info", run="r2", lease=True)) == "fenced"
    assert run_module("release_info", run="r2", lease=True, check=True)["provisioned"]
    assert run_module("release_info")["provisioned"], "anybody may look"
