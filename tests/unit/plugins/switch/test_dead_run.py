# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that died or stands still in a promotion: the next one is told who, since when and until when, and reverts nothing
that it did not begin."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import lock
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def left(machine: Any, run_module: Module) -> Any:
    """A host on which the run `dead` was promoting B, and lost its lock."""
    machine.promote(A)
    run_module("lease", run="dead", actor="ada@control", seconds=20)
    run_module("promotion", release=B, state="canary", run="dead", lease=True, deadline=60)
    machine.now += 21
    return machine


def promote_as_next(run_module: Module, release: str = C) -> dict[str, Any]:
    assert run_module("lease", run="next", seconds=300)["held"] is True
    assert run_module("instance", release=release, run="next", lease=True)["changed"] is True
    return run_module("promotion", release=release, state="canary", run="next", lease=True)


def test_the_next_run_is_refused_with_who_since_when_and_until_when(left: Any, run_module: Module) -> None:
    refused = promote_as_next(run_module)
    assert refused["mobius_failure"]["outcome"] == "locked"
    assert f"{B} has been promoted by the run dead on this host since {left.pending.activated}" in refused["msg"]
    assert "reverted in 39 s" in refused["msg"]
    assert refused["mobius_failure"]["do_next"].endswith(f"`mobius-host rollback --from {B}` on the host.")


@pytest.mark.slow
@pytest.mark.parametrize("mark_bad", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_the_next_run_reverts_nothing_that_it_did_not_begin(
    left: Any, run_module: Module, mark_bad: bool, check: bool
) -> None:
    promote_as_next(run_module)
    done = run_module("promotion", release=C, state="reverted", run="next", mark_bad=mark_bad, check=check)
    assert done["note"] == f"nothing was reverted: {B} is being promoted by dead" and done["actions"] == [f"stop {C}"]
    assert left.serving == [A, B] and left.pending.run == "dead"
    if not check:
        assert left.running == [A, B]
        left.now += 40
        assert left.command("guard") == 0
        assert left.serving == [A] and promote_as_next(run_module)["changed"] is True


@pytest.mark.slow
def test_the_next_run_of_the_same_release_takes_the_promotion_over(left: Any, run_module: Module) -> None:
    run_module("lease", run="next", seconds=300)
    for state in ("canary", "provisional", "confirmed"):
        assert run_module("promotion", release=B, state=state, run="next", lease=True).get("failed") is None
    late = run_module("promotion", release=B, state="reverted", run="dead")
    assert "confirmed before" in late["note"] and left.serving == [B]


@pytest.mark.slow
def test_a_run_that_goes_on_after_another_one_has_the_host_stops_nothing_of_it(left: Any, run_module: Module) -> None:
    left.now += 40
    assert left.command("guard") == 0
    run_module("lease", run="next", seconds=300)
    run_module("instance", release=B, run="next", lease=True)
    late = run_module("promotion", release=B, state="reverted", run="dead", mark_bad=True)
    assert late["changed"] is False and late["note"] == "nothing was reverted: the run next holds this host now"
    assert left.running == [A, B] and not left.activation.is_bad(B)
    assert run_module("promotion", release=B, state="canary", run="next", lease=True)["changed"] is True


def test_a_command_that_stands_still_is_named_and_the_next_one_goes_on_after_its_end(
    machine: Any, set_lock_timeout: Callable[[float], None]
) -> None:
    machine.promote(A)
    machine.promote(B)
    child = os.fork()
    if child == 0:
        with lock.hold_lock(machine.host, Actor("ansible", "still")):
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        set_lock_timeout(0.3)
        with pytest.raises(MobiusError) as caught:
            machine.run(plan_rollback, None)
        assert caught.value.outcome == "locked"
        assert f"ansible for the run still (process {child}), since 20" in caught.value.reason
        assert f"kill -9 {child}" in caught.value.do_next and machine.serving == [B]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    machine.run(plan_rollback, None)
    assert machine.serving == [A]
