# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock between runs: one winner, recovered by itself, checked by the switch, and never in a rollback's way."""

from __future__ import annotations

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


def test_a_second_run_is_refused_with_the_name_of_the_holder(tool: Module) -> None:
    assert tool("lease", run="r1", actor="ada@control", seconds=60)["held"] is True
    refused = tool("lease", run="r2", actor="bob@control")
    assert outcome(refused) == "locked"
    assert "r1 of ada@control" in refused["msg"] and "60 s" in refused["msg"]
    assert tool("lease", run="r1", actor="ada@control")["held"] is True
    tool("lease", run="r2", state="free")
    assert outcome(tool("lease", run="r2")) == "locked", "nobody lets go of another's lock"
    tool("lease", run="r1", state="free")
    assert tool("lease", run="r2")["held"] is True


def test_check_mode_takes_nothing_and_reports_what_would_refuse_the_run(rig: Any, tool: Module) -> None:
    assert tool("lease", run="r1", check=True)["finding"] == ""
    assert read_lease(rig.host) is None
    tool("lease", run="r1", actor="ada@control")
    found = tool("lease", run="r2", check=True)
    assert "ada@control" in found["finding"] and found["held"] is False
    tool("lease", run="r1", state="free", check=True)
    assert read_lease(rig.host) is not None


def test_a_dead_runs_lock_is_free_when_its_time_is_over_and_after_a_reboot(rig: Any, tool: Module) -> None:
    tool("lease", run="r1", seconds=30)
    rig.now += 29
    assert outcome(tool("lease", run="r2")) == "locked"
    rig.now += 2
    assert tool("lease", run="r2", seconds=30)["held"] is True
    rig.reboot()
    assert tool("lease", run="r3")["held"] is True


def test_every_module_call_of_the_holder_renews_the_lease(rig: Any, tool: Module) -> None:
    tool("lease", run="r1", seconds=30)
    for state in ("instance", "canary", "provisional", "renewed", "confirmed"):
        rig.now += 20
        given = {"release": A, "run": "r1", "lease": True}
        done = tool("instance", **given) if state == "instance" else tool("promotion", state=state, **given)
        assert not done.get("failed"), done
        found = read_lease(rig.host)
        assert found is not None and found.expires == rig.now + 30
    # its own confirmation has raised the token, which does not fence it
    assert tool("mark", release=B, run="r1", lease=True).get("failed") is None


def test_a_run_that_wakes_up_late_is_refused_by_the_switch_itself(rig: Any, tool: Module) -> None:
    rig.promote(A)
    tool("lease", run="late", seconds=30)
    assert tool("instance", release=B, run="late", lease=True)["changed"] is True
    rig.now += 31
    tool("lease", run="next", seconds=30)
    for given in ({"state": "canary"}, {"state": "reverted"}, {"state": "confirmed"}):
        assert outcome(tool("promotion", release=B, run="late", lease=True, **given)) == "fenced"
    assert outcome(tool("instance", release=B, state="stopped", run="late", lease=True)) == "fenced"
    tool("lease", run="next", state="free")
    # nobody has it now, and that does not make it the late one's
    assert outcome(tool("promotion", release=B, state="canary", run="late", lease=True)) == "fenced"
    assert rig.serving == [A] and rig.pending is None


def test_a_lease_that_ran_out_unclaimed_is_still_its_holders(rig: Any, tool: Module) -> None:
    tool("lease", run="r1", seconds=30)
    rig.now += 300
    assert tool("instance", release=A, run="r1", lease=True)["changed"] is True
    assert outcome(tool("lease", run="r2")) == "locked"


@pytest.mark.parametrize("by", ["module", "console"])
def test_a_rollback_is_never_kept_out_and_fences_the_run_at_work(rig: Any, tool: Module, by: str) -> None:
    rig.promote(A)
    rig.promote(B)
    tool("lease", run="r1", seconds=3600)
    if by == "module":
        assert tool("rollback", run="r2")["confirmed"] == A
    else:
        assert rig.command("rollback") == 0
    assert rig.serving == [A]
    late = tool("promotion", release=B, state="canary", retry_bad=True, run="r1", lease=True)
    assert outcome(late) == "fenced"
    assert outcome(tool("lease", run="r1")) == "fenced"
    assert rig.serving == [A]


def test_a_damaged_lease_keeps_nobody_out(rig: Any, tool: Module) -> None:
    rig.host.lease_path.write_text('{"run": 1}')
    assert tool("lease", run="r1")["held"] is True


@pytest.mark.parametrize("seconds", [0, -1, 100_000, float("nan")])
def test_a_time_that_is_none_is_refused(tool: Module, seconds: float) -> None:
    assert outcome(tool("lease", run="r1", seconds=seconds)) == "invalid_input"


def test_of_a_hundred_races_each_has_one_winner(rig: Any) -> None:
    for race in range(100):
        runs = [f"race{race}-{number}" for number in range(4)]
        start, won = threading.Barrier(len(runs)), []

        def run(name: str, start: threading.Barrier = start, won: list[str] = won) -> None:
            start.wait()
            try:
                if lease.acquire(rig.executor(), name, "somebody", "now", 60):
                    won.append(name)
            except MobiusError as error:
                assert error.outcome == "locked"

        threads = [threading.Thread(target=run, args=(name,)) for name in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = read_lease(rig.host)
        assert held is not None and won == [held.run]
        assert lease.release(rig.executor(), held.run)
    assert isinstance(read_activation(rig.host), Activation)
