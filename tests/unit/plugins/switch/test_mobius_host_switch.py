"""Promotions, their guard, and rollbacks, on a host whose systemd is played."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, lease
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import InstanceError
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import find_slot, read_slots
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import REASON_MAX_CHARS
from ansible_collections.mobius.dhash.plugins.module_utils.host.status import status
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import parse_time_span
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import (
    plan_canary,
    plan_instance,
    plan_provisional,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import (
    plan_confirmed,
    plan_reverted,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark, plan_pin
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.upkeep import plan_guard

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


def refuses(machine: Any, outcome: str, *arguments: Any, **more: Any) -> str:
    """The reason of a refusal that changed nothing."""
    before = machine.observed().view(), machine.journal()
    with pytest.raises(MobiusError) as caught:
        machine.run(*arguments, **more)
    assert caught.value.outcome == outcome, caught.value
    assert (machine.observed().view(), machine.journal()) == before
    return caught.value.reason


# --- promotion --------------------------------------------------------------------------------------------------------


def test_a_first_release_goes_through_canary_and_provisional_to_confirmed(machine: Any) -> None:
    machine.run(plan_instance, A, "standby")
    assert (machine.running, machine.serving) == ([A], [])
    machine.run(plan_canary, A)
    assert machine.serving == [A]
    assert machine.pending.stage == "canary" and machine.pending.previous is None
    assert machine.pending.deadline == machine.now + 60
    assert machine.systemd.guards == 1
    assert not machine.systemd.enabled
    machine.run(plan_provisional, A)
    assert machine.pending.stage == "serving"
    machine.run(plan_confirmed, A)
    assert machine.activation.confirmed == A and machine.activation.token == 1
    assert machine.pending is None
    assert machine.systemd.enabled
    assert machine.host.current_path.readlink().as_posix() == f"releases/{A}"
    assert machine.events() == ["canary", "provisional", "confirmed"]
    assert {line["run"] for line in machine.journal()} == {"r1"}


def test_a_canary_serves_beside_the_confirmed_release_and_then_alone(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    assert machine.serving == [A, B]
    machine.run(plan_provisional, B)
    assert (machine.serving, machine.running) == ([B], [A, B])
    assert machine.activation.confirmed == A, "the activation record changes only with the confirmation"
    machine.run(plan_confirmed, B)
    assert (machine.serving, machine.running) == ([B], [A, B])


def test_a_canary_gets_its_share_of_the_requests_and_all_of_them_afterwards(machine: Any) -> None:
    machine.promote(A)
    assert machine.shares == {A: 100}
    machine.run(plan_instance, B, "standby")
    machine.run(plan_canary, B, share=25)
    assert machine.shares == {A: 75, B: 25}
    machine.run(plan_provisional, B)
    assert machine.shares == {B: 100}
    machine.run(plan_reverted, B)
    assert machine.shares == {A: 100}


def test_the_configuration_on_disk_says_after_each_switch_what_serves(machine: Any) -> None:
    """HAProxy that is reloaded by hand, not by its unit, changes nothing."""
    machine.promote(A)
    assert machine.configured_shares() == machine.shares == {A: 100}
    machine.run(plan_instance, B, "standby")
    machine.run(plan_canary, B)
    assert machine.configured_shares() == machine.shares == {A: 90, B: 10}
    machine.run(plan_provisional, B)
    assert machine.configured_shares() == machine.shares == {B: 100}
    machine.run(plan_confirmed, B)
    machine.run(plan_rollback, None)
    assert machine.configured_shares() == machine.shares == {A: 100}


@pytest.mark.slow
def test_the_log_of_the_front_names_the_release_that_holds_each_slot(machine: Any) -> None:
    """Also once a slot has gone from one release to another."""
    for release in (A, B, C, D):
        machine.promote(release)
        slots = {slot.server: slot.release for slot in read_slots(machine.host) if slot.release is not None}
        assert machine.named() == slots and release in slots.values()


def test_an_instance_in_standby_gets_no_client_in_the_slot_of_one_that_served(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    before = find_slot(machine.host, B)
    machine.systemd.instances.pop(B).end()  # nobody has drained its slot
    machine.run(plan_reverted, B)
    machine.run(plan_instance, C, "standby")
    assert find_slot(machine.host, C).number == before.number
    assert (machine.serving, machine.running) == ([A], [A, C])


def test_clients_wait_while_what_serves_is_restarted_by_hand_and_reach_it_then(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    unit = machine.host.unit(B)
    machine.systemd.stop(unit)
    assert machine.serving == [] and machine.is_paused
    machine.systemd.start(unit, 1.0)
    assert machine.shares == {B: 100} and not machine.is_paused
    assert machine.state_word(B) == "serving"


def test_an_instance_reads_its_state_in_its_file(machine: Any) -> None:
    machine.promote(A)
    machine.run(plan_instance, B, "standby")
    assert (machine.state_word(A), machine.state_word(B)) == ("serving", "standby")
    machine.run(plan_canary, B)
    assert (machine.state_word(A), machine.state_word(B)) == ("serving", "serving")
    machine.run(plan_provisional, B)
    assert (machine.state_word(A), machine.state_word(B)) == ("standby", "serving")
    machine.run(plan_rollback, None)
    assert (machine.state_word(A), machine.state_word(B)) == ("serving", "standby")


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_each_stage_done_twice_changes_nothing_the_second_time(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    make = machine.plan_of_stage[stage]
    before = machine.host.activation_path.read_bytes(), machine.journal(), machine.pending
    assert machine.run(make, B).actions == ()
    assert (machine.host.activation_path.read_bytes(), machine.journal(), machine.pending) == before


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_a_confirmed_release_is_left_alone_by_every_stage(machine: Any, stage: str) -> None:
    machine.promote(A)
    plan = machine.run(machine.plan_of_stage[stage], A, run="another")
    assert plan.actions == () and plan.before.view() == plan.after.view()


def test_only_the_confirmed_release_and_the_one_before_keep_running(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    assert machine.running == [B, C]


@pytest.mark.slow
def test_a_promotion_is_reverted_to_the_confirmed_release(machine: Any) -> None:
    machine.promote(A)
    for stage in ("canary", "provisional"):
        machine.promote(B, stage)
        machine.run(plan_reverted, B, reason="it is slow")
        assert (machine.serving, machine.running, machine.pending) == ([A], [A], None)
        assert machine.activation.confirmed == A and not machine.activation.is_bad(B)
    assert machine.journal()[-1]["reason"] == "it is slow"
    assert machine.run(plan_reverted, B).actions == ()


def test_a_reverted_first_release_leaves_no_instance_and_no_socket(machine: Any) -> None:
    for stage in ("canary", "provisional"):
        machine.promote(A, stage)
        assert machine.observed().is_listening
        machine.run(plan_reverted, A)
        assert machine.running == [] and machine.pending is None
        assert not machine.observed().is_listening and not machine.systemd.enabled


def test_a_first_release_that_never_got_so_far_leaves_no_socket_either(machine: Any) -> None:
    machine.run(plan_instance, A, "standby")
    assert machine.observed().is_listening
    machine.run(plan_instance, A, "stopped")
    assert machine.running == [] and not machine.observed().is_listening


def test_a_reverted_promotion_marks_the_release_bad_on_request(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    machine.run(plan_reverted, B, reason="hashes wrongly", mark_bad=True)
    assert machine.activation.is_bad(B) and machine.activation.latest(B).confirmed is None
    assert "hashes wrongly" in refuses(machine, "release_bad", plan_canary, B)
    machine.run(plan_canary, B, retry_bad=True)
    assert machine.serving == [A, B]


def test_reverting_a_confirmed_release_changes_nothing(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    plan = machine.run(plan_reverted, B, run="r2", mark_bad=True)
    assert plan.actions == () and machine.serving == [B] and not machine.activation.is_bad(B)


def test_a_failed_first_confirmation_names_what_is_wrong(machine: Any) -> None:
    assert B in refuses(machine, "nothing_pending", plan_confirmed, B)
    assert B in refuses(machine, "nothing_pending", plan_provisional, B)
    refuses(machine, "nothing_pending", plan_confirmed, None)
    refuses(machine, "release_missing", plan_canary, "9.9.9-0123456789ab")
    refuses(machine, "release_missing", plan_instance, "9.9.9-0123456789ab", "standby")
    refuses(machine, "invalid_input", plan_canary, "../../etc")


def test_two_promotions_do_not_run_at_once(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    since = machine.pending.activated
    reason = refuses(machine, "locked", plan_canary, C, run="r2")
    assert f"{B} has been promoted by the run r1 on this host since {since}" in reason and "in 60 s" in reason


def test_a_run_whose_promotion_was_taken_over_may_neither_confirm_nor_revert(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional", run="r1")
    machine.run(plan_canary, B, run="r2")
    assert machine.pending.run == "r2" and machine.pending.stage == "serving"
    for make in (plan_provisional, plan_confirmed):
        assert "r2" in refuses(machine, "fenced", make, B, run="r1")
    for mark_bad in (False, True):
        plan = machine.run(plan_reverted, B, run="r1", mark_bad=mark_bad)
        assert not plan.changed and plan.note == f"nothing was reverted: {B} is being promoted by r2"
    machine.run(plan_confirmed, B, run="r2")
    assert machine.activation.confirmed == B


def test_a_rollback_fences_the_run_that_was_promoting(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional", run="r1")
    token = machine.activation.token
    machine.run(plan_rollback, None, run=None)
    assert machine.activation.token == token + 1
    refuses(machine, "nothing_pending", plan_confirmed, B, run="r1")
    assert machine.serving == [A]


def test_an_instance_that_crashes_is_not_promoted_and_is_stopped(machine: Any) -> None:
    machine.promote(A)
    machine.systemd.behaviours[B] = "crashing"
    with pytest.raises(InstanceError) as caught:
        machine.run(plan_instance, B, "standby")
    assert caught.value.outcome == "instance_failed"
    assert caught.value.journal == [f"any-service@{B}.service says goodbye"]
    assert machine.host.unit(B) not in machine.systemd.active, "systemd would start it again and again"
    assert machine.serving == [A]


@pytest.mark.parametrize(
    ("behaviour", "limit"),
    [
        ("slow", "after 2 s."),
        ("silent", "after 2 s."),
        ("cut off", "after 0.3 s, the time-out of its unit on this host."),
        ("cut off and started again", "after 0.3 s, the time-out of its unit on this host."),
    ],
)
def test_an_instance_that_is_not_ready_in_time_is_stopped(machine: Any, behaviour: str, limit: str) -> None:
    machine.systemd.behaviours[B] = behaviour
    machine.systemd.start_timeouts[B] = 0.3
    with pytest.raises(InstanceError) as caught:
        machine.run(plan_instance, B, "standby")
    assert caught.value.outcome == "instance_not_ready"
    assert limit in caught.value.reason
    assert machine.running == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1min 30s", 90),
        ("1h", 3600),
        ("2min 500ms", 120.5),
        ("1.5s", 1.5),
        ("infinity", None),
        ("", None),
        ("soon", None),
    ],
)
def test_a_time_span_of_systemd_is_read(text: str, seconds: float | None) -> None:
    assert parse_time_span(text) == seconds


def test_without_a_guard_there_is_no_promotion(machine: Any) -> None:
    machine.promote(A)
    machine.systemd.behaviours["guard"] = "broken"
    machine.run(plan_instance, B, "standby")
    with pytest.raises(MobiusError, match="guard"):
        machine.run(plan_canary, B)
    assert machine.pending is None and machine.serving == [A]


@pytest.mark.parametrize("behaviour", ["silent", "dribbling"])
def test_an_old_release_that_hangs_gets_no_client_any_more_and_delays_nothing(machine: Any, behaviour: str) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    machine.systemd.instances[A].behaviour = behaviour
    asked = len(machine.systemd.instances[A].requests)
    machine.run(plan_provisional, B)
    assert machine.serving == [B]
    assert (machine.observed().instance(A).state, machine.state_word(A)) == ("standby", "standby")
    assert len(machine.systemd.instances[A].requests) == asked, "it is not even asked"


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_what_serves_is_never_stopped(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    refuses(machine, "release_in_use", plan_instance, A, "stopped")
    refuses(machine, "release_in_use", plan_instance, B, "stopped")


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_the_guard_reverts_what_is_not_confirmed_in_time(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    machine.now += 59.9
    assert machine.run(plan_guard, run=None).actions == ()
    machine.now += 0.2
    assert machine.command("guard") == 0
    assert (machine.serving, machine.running, machine.pending) == ([A], [A], None)
    assert machine.journal()[-1] == {
        **machine.journal()[-1],
        "event": "reverted",
        "from": B,
        "to": A,
        "run": "r1",
        "actor": "guard",
        "reason": "it was not confirmed before its deadline",
    }
    assert not machine.activation.is_bad(B), "silence proves nothing"


def test_the_guard_of_a_first_release_leaves_nothing(machine: Any) -> None:
    machine.promote(A, "provisional")
    machine.now += 61
    assert machine.command("guard") == 0
    assert machine.running == [] and not machine.observed().is_listening


def test_the_guard_ends_when_the_promotion_is_confirmed(machine: Any) -> None:
    machine.promote(A)
    assert machine.command("guard") == 0
    assert machine.serving == [A]


def test_a_deadline_that_has_passed_cannot_be_confirmed_any_more(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    machine.now += 61
    with pytest.raises(MobiusError, match="reverted"):
        machine.run(plan_confirmed, B)
    assert machine.activation.confirmed == A


def test_the_next_stage_moves_the_deadline(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    machine.now += 50
    machine.run(plan_provisional, B, deadline=30.0)
    machine.now += 20
    machine.run(plan_confirmed, B)
    assert machine.activation.confirmed == B


def test_a_promotion_of_another_boot_is_ignored_and_forgotten(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    machine.boot_id = "another boot, on a host whose /run is kept"
    assert machine.observed().role(A) == "serving" and machine.observed().role(B) == "standby"
    assert machine.command("boot") == 0
    assert machine.pending is None and machine.serving == [A]


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_a_reboot_serves_what_was_confirmed_last(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    machine.reboot()
    assert machine.serving == machine.running == [B if stage == "confirmed" else A]
    assert machine.pending is None


def test_a_reboot_after_a_first_release_that_was_never_confirmed_serves_nothing(machine: Any) -> None:
    machine.promote(A, "provisional")
    machine.reboot()
    assert machine.running == []


# --- rollback ---------------------------------------------------------------------------------------------------------


def test_a_rollback_serves_the_previous_release_and_marks_the_present_one_bad(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_rollback, None, run="r9", reason="it is wrong")
    assert (machine.serving, machine.running) == ([A], [A, B])
    assert machine.activation.confirmed == A and machine.activation.token == 3
    assert machine.activation.is_bad(B) and machine.activation.latest(B).reason == "it is wrong"
    assert machine.host.current_path.name and machine.observed().current == A
    line = machine.journal()[-1]
    assert (line["event"], line["from"], line["to"], line["run"]) == ("rollback", B, A, "r9")


@pytest.mark.slow
def test_two_rollbacks_are_two_steps(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    machine.run(plan_rollback, None, run="one")
    assert machine.serving == [B]
    machine.run(plan_rollback, None, run=None)
    assert machine.serving == [A] and machine.activation.confirmed == A
    assert machine.activation.is_bad(B) and machine.activation.is_bad(C) and not machine.activation.is_bad(A)
    assert A in refuses(machine, "nothing_to_roll_back", plan_rollback, None, run=None)


@pytest.mark.slow
def test_a_run_that_repeats_a_rollback_after_a_broken_connection_rolls_back_one_step_only(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    for _ in range(3):
        machine.run(plan_rollback, None, run="one")
    assert machine.serving == [B]
    assert not machine.activation.is_bad(B)
    assert machine.run(plan_rollback, None, run="one").changed is False


def test_a_release_that_was_never_confirmed_is_no_rollback_target(machine: Any) -> None:
    machine.promote(A)
    refuses(machine, "invalid_input", plan_rollback, C)


def test_a_promotion_whose_guard_was_never_started_gets_one_from_the_next_command(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "canary")
    for again in (plan_canary, plan_provisional):
        machine.systemd.active.pop(machine.host.guard_unit)
        guards = machine.systemd.guards
        machine.run(again, B)
        assert machine.systemd.guards == guards + 1


def test_a_bad_release_that_responds_byte_by_byte_delays_no_rollback(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    dribbling = machine.systemd.instances[B]
    dribbling.behaviour = "dribbling"
    asked = len(dribbling.requests)
    machine.run(plan_rollback, None, run=None)
    assert machine.serving == [A]
    assert len(dribbling.requests) == asked, "its answer would have taken a day"


def test_a_warm_release_that_responds_byte_by_byte_is_restarted_by_the_rollback_to_it(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    dribbling = machine.systemd.instances[A]
    dribbling.behaviour = "dribbling"
    machine.run(plan_rollback, None, run=None)
    assert machine.serving == [A]
    assert dribbling.was_cut_off.wait(60), "its answer would have taken a day"
    assert machine.systemd.instances[A] is not dribbling


def test_a_reason_that_is_no_text_or_endless_is_written_as_one_line(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_rollback, None, run=None, reason="caf\udce9 is\nclosed" + " and closed" * 10_000)
    reason = machine.journal()[-1]["reason"]
    assert reason.startswith("caf\ufffd is closed and closed")
    assert len(reason) == REASON_MAX_CHARS


def test_links_and_pipes_that_replace_the_log_of_a_release_are_not_read(machine: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    machine.host.log_dir.mkdir(parents=True, exist_ok=True)
    own = machine.host.log_dir / f"{A}.log"
    own.symlink_to(secret)
    assert not any("secret" in line for line in machine.executor().last_lines(A))
    own.unlink()
    os.mkfifo(own)
    machine.executor().last_lines(A)
    own.unlink()
    own.write_text("its last words\n")
    assert machine.executor().last_lines(A)[-1] == "its last words"


@pytest.mark.slow
def test_a_rollback_to_a_release_that_does_not_run_starts_it_first(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    assert A not in machine.running
    plan = machine.run(plan_rollback, A)
    assert [action.verb for action in plan.actions][:3] == ["start", "serve", "write_activation"]
    assert machine.serving == [A]
    assert machine.activation.is_bad(C) and not machine.activation.is_bad(B)


def test_a_rollback_to_a_release_that_cannot_start_leaves_what_serves(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.systemd.stop(machine.host.unit(A))
    machine.systemd.behaviours[A] = "crashing"
    with pytest.raises(InstanceError):
        machine.run(plan_rollback, None)
    assert machine.serving == [B] and machine.activation.confirmed == B and not machine.activation.is_bad(B)


@pytest.mark.slow
def test_a_rollback_skips_releases_that_are_bad_or_gone(machine: Any) -> None:
    for release in (A, B, C, D):
        machine.promote(release)
    machine.run(plan_mark, C, True)
    machine.systemd.stop(machine.host.unit(B))
    (machine.host.release_dir(B) / "tree").rmdir()
    machine.host.release_dir(B).rmdir()
    machine.run(plan_rollback, None)
    assert machine.serving == [A]


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_a_rollback_during_a_promotion_reverts_the_promotion(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, stage)
    machine.run(plan_rollback, None)
    assert machine.serving == [B] and machine.activation.confirmed == B
    assert machine.activation.is_bad(C) and not machine.activation.is_bad(B)
    assert machine.pending is None


@pytest.mark.slow
def test_a_rollback_of_an_overdue_promotion_is_one_step_not_two(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, "provisional")
    machine.now += 61
    machine.run(plan_rollback, None)
    assert machine.serving == [B] and machine.activation.is_bad(C)


def test_a_rollback_of_a_first_release_leaves_nothing(machine: Any) -> None:
    machine.promote(A, "provisional")
    machine.run(plan_rollback, None)
    assert machine.running == [] and not machine.observed().is_listening and machine.pending is None
    assert machine.activation.confirmed is None and machine.activation.is_bad(A)


def test_a_rollback_without_any_promotion_is_refused(machine: Any) -> None:
    refuses(machine, "nothing_to_roll_back", plan_rollback, None)
    refuses(machine, "release_missing", plan_rollback, "9.9.9-0123456789ab")


def test_a_rollback_to_what_serves_changes_nothing(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    assert machine.run(plan_rollback, B).actions == ()


def test_a_release_marked_bad_is_a_rollback_target_only_by_name(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_rollback, None)
    refuses(machine, "nothing_to_roll_back", plan_rollback, None, run=None)
    machine.run(plan_rollback, B)
    assert machine.serving == [B] and not machine.activation.is_bad(B) and machine.activation.is_bad(A)


@pytest.mark.slow
def test_a_bad_release_that_hangs_or_loops_is_stopped_by_the_rollback(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.systemd.instances[B].behaviour = "silent"
    assert machine.command("rollback") == 0
    assert machine.serving == machine.running == [A]
    machine.promote(C)
    machine.systemd.instances.pop(C).end()
    machine.systemd.active[machine.host.unit(C)] = "activating"
    machine.run(plan_rollback, None)
    assert machine.host.unit(C) not in machine.systemd.active and machine.serving == [A]


def test_the_newest_folder_is_not_the_rollback_target(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.stage("0.9.0-ffffffffffff")
    machine.run(plan_rollback, None)
    assert machine.serving == [A]


# --- marks ------------------------------------------------------------------------------------------------------------


def test_a_mark_is_recorded_and_removed(machine: Any) -> None:
    machine.promote(A)
    machine.run(plan_mark, B, True, reason="golden pictures differ")
    entry = machine.activation.latest(B)
    assert entry.bad and entry.activated is None and entry.reason == "golden pictures differ"
    assert machine.run(plan_mark, B, True).actions == ()
    machine.run(plan_mark, B, False)
    assert not machine.activation.is_bad(B)
    assert machine.run(plan_mark, B, False).actions == ()
    assert machine.events()[-2:] == ["marked_bad", "marked_good"]


def test_a_release_is_pinned_and_unpinned_once_each_however_often_it_is_requested(machine: Any) -> None:
    machine.promote(A)
    token = machine.activation.token
    assert machine.run(plan_pin, B, True, reason="kept for the audit").note == f"{B} is pinned"
    assert machine.run(plan_pin, B, True).actions == ()
    assert machine.activation.pinned == (B,) and machine.activation.token == token and machine.activation.confirmed == A
    assert [item["release"] for item in status(machine.executor())["releases"] if item["pinned"]] == [B]
    assert machine.run(plan_pin, B, False).note == f"{B} is no longer pinned"
    assert machine.run(plan_pin, B, False).actions == ()
    assert machine.activation.pinned == () and machine.serving == [A]
    assert machine.events()[-2:] == ["pinned", "unpinned"]
    assert machine.journal()[-2]["reason"] == "kept for the audit"


@pytest.mark.slow
def test_a_pin_does_not_hide_that_a_run_has_rolled_back_already(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    assert machine.run(plan_rollback, None, run="r9").after.activation.confirmed == B
    machine.run(plan_pin, A, True, run=None)
    repeated = machine.run(plan_rollback, None, run="r9")
    assert (machine.activation.confirmed, repeated.changed) == (B, False)
    assert not machine.activation.is_bad(B)


def test_a_pin_does_not_fence_the_run_that_holds_the_lock(machine: Any) -> None:
    machine.promote(A)
    lease.acquire(machine.executor(), "r1", "somebody", "now", 60)
    machine.promote(B, run="r1")
    machine.run(plan_pin, A, True, run=None)
    executor_of_run = machine.executor()
    confirm = lease.fenced(executor_of_run, "r1", lambda observed: plan_confirmed(observed, B, executor_of_run.actor))
    assert executor_of_run.run(confirm).after.activation.confirmed == B


def test_a_release_that_is_not_staged_cannot_be_pinned_but_unpinned(machine: Any) -> None:
    refuses(machine, "release_missing", plan_pin, "9.9.9-0123456789ab", True)
    refuses(machine, "invalid_input", plan_pin, "latest", True)
    machine.run(plan_pin, B, True)
    shutil.rmtree(machine.host.release_dir(B))
    machine.run(plan_pin, B, False)
    assert machine.activation.pinned == ()


def test_pinning_during_a_promotion_changes_nothing_of_it(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    machine.run(plan_pin, A, True, run=None)
    assert machine.serving == [B] and machine.pending is not None
    machine.run(plan_confirmed, B)
    assert machine.activation.confirmed == B and machine.activation.pinned == (A,)


def test_check_mode_predicts_a_pin_and_changes_nothing(machine: Any) -> None:
    machine.promote(A)
    plan = machine.run(plan_pin, B, True, check=True)
    assert [action.verb for action in plan.actions] == ["append_journal", "write_activation"]
    assert machine.activation.pinned == ()


def test_what_serves_is_not_marked_bad_but_rolled_back(machine: Any) -> None:
    machine.promote(A)
    refuses(machine, "release_in_use", plan_mark, A, True)


def test_a_mark_does_not_disturb_a_promotion(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    machine.run(plan_mark, C, True)
    machine.run(plan_confirmed, B)
    assert machine.activation.confirmed == B and machine.activation.is_bad(C)


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_a_release_that_is_marked_bad_while_it_is_promoted_is_reverted(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    machine.run(plan_mark, B, True, run="r2", reason="wrong colours")
    assert (machine.serving, machine.running, machine.pending) == ([A], [A], None)
    assert machine.activation.is_bad(B) and machine.activation.confirmed == A
    refuses(machine, "nothing_pending", plan_confirmed, B)
    refuses(machine, "release_bad", plan_canary, B)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_rollback_while_the_front_is_down_serves_the_release_before(machine: Any, comes_back: bool) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.systemd.kill_front()
    if comes_back:
        machine.systemd.restart(machine.host.front_unit)
        assert machine.shares == {B: 100}
    machine.run(plan_rollback, None)
    assert machine.shares == {A: 100} and machine.activation.confirmed == A


# --- when the host itself is in trouble -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_warm_release_that_hangs_is_restarted_by_the_rollback_to_it(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.5)
    machine.promote(A)
    machine.promote(B)
    machine.systemd.instances[A].behaviour = "silent"
    machine.run(plan_rollback, None)
    assert (machine.serving, machine.running) == ([A], [A, B])
    assert machine.activation.confirmed == A and machine.activation.is_bad(B)


@pytest.mark.slow
def test_a_warm_release_that_hangs_for_ever_leaves_what_serves(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.5)
    machine.promote(A)
    machine.promote(B)
    machine.systemd.instances[A].behaviour = "silent"
    monkeypatch.setattr(machine.systemd, "kill", lambda unit: None)
    with pytest.raises(MobiusError):
        machine.run(plan_rollback, None)
    assert machine.serving == [B] and machine.activation.confirmed == B and not machine.activation.is_bad(B)


class FullDisk:
    """Refuses what is written into these folders until their reserve is removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
        self.folders = folders
        for name in ("write_bytes", "append_line"):
            monkeypatch.setattr(durable, name, self.refusing(getattr(durable, name)))

    def refusing(self, real: Any) -> Any:
        def write(path: Path, *arguments: Any, **more: Any) -> None:
            folder = Path(path).parent
            if folder in self.folders and (Path(path).name == ".reserve" or (folder / ".reserve").exists()):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            real(path, *arguments, **more)

        return write


@pytest.mark.slow
def test_a_rollback_on_a_full_disk_uses_the_space_that_was_kept_for_it(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.promote(A)
    machine.promote(B)
    root, state_dir = machine.host.root, machine.host.state_dir
    assert [(folder / ".reserve").stat().st_size for folder in (root, state_dir)] == [256 << 10] * 2
    with monkeypatch.context() as full:
        FullDisk(full, root, state_dir)
        machine.run(plan_rollback, None)
    assert machine.serving == [A] and machine.activation.confirmed == A
    assert machine.events()[-1] == "rollback" and journal_problems(machine.host) == []
    assert not (root / ".reserve").exists() and not (state_dir / ".reserve").exists()
    machine.promote(C)
    assert (root / ".reserve").exists(), "the space is kept again as soon as there is some"


def test_a_rollback_whose_activation_record_cannot_be_written_leaves_one_release_serving(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.promote(A)
    machine.promote(B)
    real = durable.write_bytes

    def full(path: Path, *arguments: Any, **more: Any) -> None:
        if Path(path) == machine.host.activation_path:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments, **more)

    monkeypatch.setattr(durable, "write_bytes", full)
    assert machine.command("rollback") == 5
    assert machine.serving == [B] and machine.activation.confirmed == B
