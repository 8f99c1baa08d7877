"""Switches of a service behind HAProxy, with a kill of the command and of the front between any two actions."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.upkeep import plan_guard

from .conftest import A, B, C, Killed


def states(machine: Any) -> dict[str, str]:
    return {name: item.word for name, item in machine.executor().observe().instances.items()}


def state_files(machine: Any) -> dict[str, str]:
    """The state in the file of each instance."""
    return {path.name: path.read_text().strip() for path in machine.host.states_dir.iterdir()}


def test_each_stage_of_a_promotion_is_what_clients_see_and_what_is_observed(fronted: Any) -> None:
    fronted.promote(B, "canary", share=50)
    assert states(fronted) == {A: "serving", B: "serving"}
    assert fronted.answers() == {A, B}
    fronted.promote(B, "provisional")
    assert (states(fronted), fronted.answers()) == ({A: "standby", B: "serving"}, {B})
    fronted.promote(B)
    assert (states(fronted), fronted.answers()) == ({A: "standby", B: "serving"}, {B})
    assert not fronted.promote(B).changed
    fronted.executor().run(lambda observed: plan_rollback(observed, None, fronted.executor().actor))
    assert (states(fronted), fronted.answers()) == ({A: "serving", B: "standby"}, {A})


def test_each_switch_writes_the_state_file_of_every_instance(fronted: Any) -> None:
    assert state_files(fronted) == {A: "serving"}
    fronted.promote(B, "canary")
    assert state_files(fronted) == {A: "serving", B: "serving"}
    fronted.promote(B)
    assert state_files(fronted) == {A: "standby", B: "serving"}
    fronted.executor().run(lambda observed: plan_rollback(observed, None, fronted.executor().actor))
    assert state_files(fronted) == {A: "serving", B: "standby"}
    fronted.systemd.stop(fronted.host.unit(B))
    assert state_files(fronted) == {A: "serving", B: "draining"}
    fronted.promote(C)
    assert state_files(fronted) == {A: "standby", C: "serving"}, "an instance that has ended needs none"
    role = dict(line.split("=", 1) for line in (fronted.host.run_dir / C / "role.env").read_text().splitlines())
    assert role["MOBIUS_STATE_FILE"] == str(fronted.host.state_file(C))
    modes = [path.stat().st_mode & 0o777 for path in (fronted.host.states_dir, fronted.host.state_file(C))]
    assert modes == [0o755, 0o644], "an instance runs as another user"


def test_a_state_that_was_not_written_fails_no_switch_and_is_written_by_the_next_command(fronted: Any) -> None:
    states_dir = fronted.host.states_dir
    states_dir.rename(states_dir.with_name("aside"))
    states_dir.write_text("no folder")
    fronted.promote(B)
    assert fronted.answers() == {B}
    states_dir.unlink()
    assert not fronted.promote(B).changed
    assert state_files(fronted) == {A: "standby", B: "serving"}
    fronted.host.state_file(A).write_text("serving\n")  # as a kill between two actions leaves it
    assert not fronted.promote(B).changed
    assert state_files(fronted) == {A: "standby", B: "serving"}


def test_a_front_that_is_started_again_is_as_it_was(fronted: Any) -> None:
    for stage, expected in (("canary", {A, B}), ("provisional", {B}), ("confirmed", {B})):
        fronted.promote(B, stage, share=50)
        fronted.kill_front()
        assert fronted.answers() == expected, stage


@pytest.mark.slow
def test_a_kill_before_any_action_leaves_an_instance_that_serves_and_the_next_command_ends_it(
    make_fronted: Callable[[], Any],
) -> None:
    fronted = make_fronted()
    fronted.promote(A)
    for number in itertools.count():
        target = (B, C)[number % 2]
        before = fronted.executor().observe().activation.confirmed
        try:
            fronted.promote(target, kill_at=number)
        except Killed:
            is_killed = True
        else:
            is_killed = False
        assert fronted.answers() <= {before, target}, number
        fronted.kill_front()
        assert fronted.answers() <= {before, target}, number
        fronted.now += 1000  # past the deadline
        fronted.executor().run(lambda observed: plan_guard(observed, fronted.executor().actor))
        confirmed = fronted.executor().observe().activation.confirmed
        assert fronted.answers() == {confirmed}, number
        assert [name for name, word in states(fronted).items() if word == "serving"] == [confirmed], number
        assert [name for name, word in state_files(fronted).items() if word == "serving"] == [confirmed], number
        if not is_killed:
            assert confirmed == target
            assert number > 8
            return


@pytest.mark.slow
def test_a_rollback_that_is_killed_before_any_action_is_completed_by_the_next(fronted: Any) -> None:
    actor = fronted.executor().actor
    for number in itertools.count():
        for release in (A, B):
            fronted.promote(release)
        executor = fronted.executor(number)
        try:
            executor.run(lambda observed: plan_rollback(observed, A, actor))
        except Killed:
            is_killed = True
        else:
            is_killed = False
        assert fronted.answers() <= {A, B}, number
        fronted.kill_front()
        assert fronted.answers() <= {A, B}, number
        fronted.executor().run(lambda observed: plan_rollback(observed, A, actor))
        assert (fronted.answers(), states(fronted)[A]) == ({A}, "serving"), number
        if not is_killed:
            return


def test_a_damaged_slots_file_is_read_from_what_the_instances_were_started_with(fronted: Any) -> None:
    fronted.promote(B)
    fronted.host.front.slots_path.write_text("{")
    assert states(fronted) == {A: "standby", B: "serving"}
    fronted.kill_front()
    assert fronted.answers() == {B}
    fronted.promote(C)
    assert fronted.answers() == {C}


def test_an_instance_that_hangs_in_standby_is_started_again_before_it_serves(fronted: Any) -> None:
    fronted.promote(B)
    process = fronted.systemd.processes[fronted.host.unit(A)]
    process.send_signal(signal.SIGSTOP)
    fronted.executor().run(lambda observed: plan_rollback(observed, None, fronted.executor().actor))
    assert fronted.answers() == {A}
    assert fronted.systemd.processes[fronted.host.unit(A)].pid != process.pid


def test_an_instance_that_hangs_is_stopped_when_it_is_rolled_back_from(fronted: Any) -> None:
    fronted.promote(B)
    fronted.systemd.processes[fronted.host.unit(B)].send_signal(signal.SIGSTOP)
    assert fronted.command("rollback", "--reason", "it hangs") == 0
    assert (states(fronted), fronted.answers()) == ({A: "serving"}, {A})
