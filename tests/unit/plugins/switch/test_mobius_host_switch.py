"""Promotions, their guard, and rollbacks, on a host whose systemd is played."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor, transitions
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import InstanceError
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import REASON_MAX_CHARS
from ansible_collections.mobius.dhash.plugins.module_utils.host.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.status import status
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import (
    plan_canary,
    plan_confirmed,
    plan_guard,
    plan_instance,
    plan_mark,
    plan_pin,
    plan_provisional,
    plan_reverted,
)

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


def refuses(rig: Any, outcome: str, *arguments: Any, **more: Any) -> str:
    """The reason of a refusal that changed nothing."""
    before = rig.observed().view(), rig.journal()
    with pytest.raises(MobiusError) as caught:
        rig.run(*arguments, **more)
    assert caught.value.outcome == outcome, caught.value
    assert (rig.observed().view(), rig.journal()) == before
    return caught.value.reason


# --- promotion --------------------------------------------------------------------------------------------------------


def test_a_first_release_goes_through_canary_and_provisional_to_confirmed(rig: Any) -> None:
    rig.run(plan_instance, A, "standby")
    assert (rig.running, rig.serving) == ([A], [])
    rig.run(plan_canary, A)
    assert rig.serving == [A]
    assert rig.pending.stage == "canary" and rig.pending.previous is None
    assert rig.pending.deadline == rig.now + 60
    assert rig.systemd.guards == 1
    assert not rig.systemd.enabled
    rig.run(plan_provisional, A)
    assert rig.pending.stage == "serving"
    rig.run(plan_confirmed, A)
    assert rig.truth.confirmed == A and rig.truth.token == 1
    assert rig.pending is None
    assert rig.systemd.enabled
    assert rig.host.current_path.readlink().as_posix() == f"releases/{A}"
    assert rig.events() == ["canary", "provisional", "confirmed"]
    assert {line["run"] for line in rig.journal()} == {"r1"}


def test_a_canary_serves_beside_the_confirmed_release_and_then_alone(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "canary")
    assert rig.serving == [A, B]
    rig.run(plan_provisional, B)
    assert (rig.serving, rig.running) == ([B], [A, B])
    assert rig.truth.confirmed == A, "the truth changes only when it is confirmed"
    rig.run(plan_confirmed, B)
    assert (rig.serving, rig.running) == ([B], [A, B])


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_each_stage_done_twice_changes_nothing_the_second_time(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B, stage)
    make = getattr(transitions, f"plan_{stage}")
    before = rig.host.activation_path.read_bytes(), rig.journal(), rig.pending
    assert rig.run(make, B).actions == ()
    assert (rig.host.activation_path.read_bytes(), rig.journal(), rig.pending) == before


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_a_confirmed_release_is_left_alone_by_every_stage(rig: Any, stage: str) -> None:
    rig.promote(A)
    plan = rig.run(getattr(transitions, f"plan_{stage}"), A, run="another")
    assert plan.actions == () and plan.before.view() == plan.after.view()


def test_only_the_confirmed_release_and_the_one_before_keep_running(rig: Any) -> None:
    for release in (A, B, C):
        rig.promote(release)
    assert rig.running == [B, C]


def test_a_promotion_is_taken_back_to_what_was_before(rig: Any) -> None:
    rig.promote(A)
    for stage in ("canary", "provisional"):
        rig.promote(B, stage)
        rig.run(plan_reverted, B, reason="it is slow")
        assert (rig.serving, rig.running, rig.pending) == ([A], [A], None)
        assert rig.truth.confirmed == A and not rig.truth.is_bad(B)
    assert rig.journal()[-1]["reason"] == "it is slow"
    assert rig.run(plan_reverted, B).actions == ()


def test_a_first_release_that_is_taken_back_leaves_no_instance_and_no_socket(rig: Any) -> None:
    for stage in ("canary", "provisional"):
        rig.promote(A, stage)
        assert rig.observed().is_listening
        rig.run(plan_reverted, A)
        assert rig.running == [] and rig.pending is None
        assert not rig.observed().is_listening and not rig.systemd.enabled


def test_a_first_release_that_never_got_so_far_leaves_no_socket_either(rig: Any) -> None:
    rig.run(plan_instance, A, "standby")
    assert rig.observed().is_listening
    rig.run(plan_instance, A, "stopped")
    assert rig.running == [] and not rig.observed().is_listening


def test_a_promotion_taken_back_marks_the_release_bad_when_told_to(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    rig.run(plan_reverted, B, reason="hashes wrongly", mark_bad=True)
    assert rig.truth.is_bad(B) and rig.truth.latest(B).confirmed is None
    assert "hashes wrongly" in refuses(rig, "release_bad", plan_canary, B)
    rig.run(plan_canary, B, retry_bad=True)
    assert rig.serving == [A, B]


def test_taking_back_a_release_that_was_confirmed_before_changes_nothing(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    plan = rig.run(plan_reverted, B, run="r2", mark_bad=True)
    assert plan.actions == () and rig.serving == [B] and not rig.truth.is_bad(B)


def test_a_failed_first_confirmation_names_what_is_wrong(rig: Any) -> None:
    assert B in refuses(rig, "nothing_pending", plan_confirmed, B)
    assert B in refuses(rig, "nothing_pending", plan_provisional, B)
    refuses(rig, "nothing_pending", plan_confirmed, None)
    refuses(rig, "release_missing", plan_canary, "9.9.9-0123456789ab")
    refuses(rig, "release_missing", plan_instance, "9.9.9-0123456789ab", "standby")
    refuses(rig, "invalid_input", plan_canary, "../../etc")


def test_two_promotions_do_not_run_at_once(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "canary")
    assert B in refuses(rig, "fenced", plan_canary, C, run="r2")
    assert B in refuses(rig, "fenced", plan_reverted, C, run="r2")


def test_a_run_that_was_taken_over_may_neither_confirm_nor_take_back(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional", run="r1")
    rig.run(plan_canary, B, run="r2")
    assert rig.pending.run == "r2" and rig.pending.stage == "serving"
    for make in (plan_provisional, plan_confirmed, plan_reverted):
        assert "r2" in refuses(rig, "fenced", make, B, run="r1")
    rig.run(plan_confirmed, B, run="r2")
    assert rig.truth.confirmed == B


def test_a_rollback_fences_the_run_that_was_promoting(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional", run="r1")
    token = rig.truth.token
    rig.run(plan_rollback, None, run=None)
    assert rig.truth.token == token + 1
    refuses(rig, "nothing_pending", plan_confirmed, B, run="r1")
    assert rig.serving == [A]


def test_an_instance_that_crashes_is_not_promoted_and_is_stopped(rig: Any) -> None:
    rig.promote(A)
    rig.systemd.behaviours[B] = "crashing"
    with pytest.raises(InstanceError) as caught:
        rig.run(plan_instance, B, "standby")
    assert caught.value.outcome == "instance_failed"
    assert caught.value.journal == [f"any-service@{B}.service says goodbye"]
    assert rig.host.unit(B) not in rig.systemd.active, "systemd would start it again and again"
    assert rig.serving == [A]


@pytest.mark.parametrize(
    ("behaviour", "limit"),
    [("slow", "after 2 s."), ("silent", "after 2 s."), ("cut off", "after 2 s, the time-out of its unit")],
)
def test_an_instance_that_is_not_ready_in_time_is_stopped(rig: Any, behaviour: str, limit: str) -> None:
    rig.systemd.behaviours[B] = behaviour
    with pytest.raises(InstanceError) as caught:
        rig.run(plan_instance, B, "standby")
    assert caught.value.outcome == "instance_not_ready"
    assert limit in caught.value.reason
    assert rig.running == []


def test_an_instance_without_its_public_socket_is_not_promoted(rig: Any) -> None:
    rig.promote(A)
    rig.systemd.behaviours[B] = "without socket"
    rig.run(plan_instance, B, "standby")
    with pytest.raises(InstanceError, match="refuses to serve"):
        rig.run(plan_canary, B)
    rig.run(plan_reverted, B)
    assert (rig.serving, rig.running, rig.pending) == ([A], [A], None)


def test_without_a_guard_there_is_no_promotion(rig: Any) -> None:
    rig.promote(A)
    rig.systemd.behaviours["guard"] = "broken"
    rig.run(plan_instance, B, "standby")
    with pytest.raises(MobiusError, match="guard"):
        rig.run(plan_canary, B)
    assert rig.pending is None and rig.serving == [A]


def test_an_old_release_that_hangs_is_killed_and_comes_back_in_standby(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "canary")
    rig.systemd.instances[A].behaviour = "silent"
    rig.run(plan_provisional, B)
    assert rig.systemd.instances[A].state == "standby"
    assert rig.serving == [B]


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_what_serves_is_never_stopped(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B, stage)
    refuses(rig, "release_in_use", plan_instance, A, "stopped")
    refuses(rig, "release_in_use", plan_instance, B, "stopped")


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_the_guard_takes_back_what_is_not_confirmed_in_time(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B, stage)
    rig.now += 59.9
    assert rig.run(plan_guard, run=None).actions == ()
    rig.now += 0.2
    assert rig.command("guard") == 0
    assert (rig.serving, rig.running, rig.pending) == ([A], [A], None)
    assert rig.journal()[-1] == {
        **rig.journal()[-1],
        "event": "reverted",
        "from": B,
        "to": A,
        "run": "r1",
        "actor": "guard",
        "reason": "it was not confirmed before its deadline",
    }
    assert not rig.truth.is_bad(B), "silence proves nothing"


def test_the_guard_of_a_first_release_leaves_nothing(rig: Any) -> None:
    rig.promote(A, "provisional")
    rig.now += 61
    assert rig.command("guard") == 0
    assert rig.running == [] and not rig.observed().is_listening


def test_the_guard_ends_when_the_promotion_is_confirmed(rig: Any) -> None:
    rig.promote(A)
    assert rig.command("guard") == 0
    assert rig.serving == [A]


def test_a_deadline_that_has_passed_cannot_be_confirmed_any_more(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    rig.now += 61
    with pytest.raises(MobiusError, match="reverted"):
        rig.run(plan_confirmed, B)
    assert rig.truth.confirmed == A


def test_the_next_stage_moves_the_deadline(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "canary")
    rig.now += 50
    rig.run(plan_provisional, B, deadline=30.0)
    rig.now += 20
    rig.run(plan_confirmed, B)
    assert rig.truth.confirmed == B


def test_a_promotion_of_another_boot_is_ignored_and_forgotten(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    rig.boot_id = "another boot, on a host whose /run is kept"
    assert rig.observed().role(A) == "serving" and rig.observed().role(B) == "standby"
    assert rig.command("boot") == 0
    assert rig.pending is None and rig.serving == [A]


@pytest.mark.parametrize("stage", ["canary", "provisional", "confirmed"])
def test_a_reboot_serves_what_was_confirmed_last(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B, stage)
    rig.reboot()
    assert rig.serving == rig.running == [B if stage == "confirmed" else A]
    assert rig.pending is None


def test_a_reboot_after_a_first_release_that_was_never_confirmed_serves_nothing(rig: Any) -> None:
    rig.promote(A, "provisional")
    rig.reboot()
    assert rig.running == []


# --- rollback ---------------------------------------------------------------------------------------------------------


def test_a_rollback_serves_the_release_before_and_marks_the_one_it_left(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.run(plan_rollback, None, run="r9", reason="it is wrong")
    assert (rig.serving, rig.running) == ([A], [A, B])
    assert rig.truth.confirmed == A and rig.truth.token == 3
    assert rig.truth.is_bad(B) and rig.truth.latest(B).reason == "it is wrong"
    assert rig.host.current_path.name and rig.observed().current == A
    line = rig.journal()[-1]
    assert (line["event"], line["from"], line["to"], line["run"]) == ("rollback", B, A, "r9")


def test_two_rollbacks_go_back_two_steps(rig: Any) -> None:
    for release in (A, B, C):
        rig.promote(release)
    rig.run(plan_rollback, None, run="one")
    assert rig.serving == [B]
    rig.run(plan_rollback, None, run=None)
    assert rig.serving == [A] and rig.truth.confirmed == A
    assert rig.truth.is_bad(B) and rig.truth.is_bad(C) and not rig.truth.is_bad(A)
    assert A in refuses(rig, "nothing_to_roll_back", plan_rollback, None, run=None)


def test_a_run_that_asks_again_because_its_connection_broke_goes_back_one_step_only(rig: Any) -> None:
    for release in (A, B, C):
        rig.promote(release)
    for _ in range(3):
        rig.run(plan_rollback, None, run="one")
    assert rig.serving == [B]
    assert not rig.truth.is_bad(B)
    assert rig.run(plan_rollback, None, run="one").changed is False


def test_nobody_goes_back_to_a_release_that_was_never_confirmed(rig: Any) -> None:
    rig.promote(A)
    refuses(rig, "invalid_input", plan_rollback, C)


def test_a_promotion_whose_guard_was_never_started_gets_one_from_the_next_command(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "canary")
    for again in (plan_canary, plan_provisional):
        rig.systemd.active.pop(rig.host.guard_unit)
        guards = rig.systemd.guards
        rig.run(again, B)
        assert rig.systemd.guards == guards + 1


def test_an_instance_that_dribbles_holds_nobody_up(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.systemd.instances[B].behaviour = "dribbling"
    dribbling = rig.systemd.instances[B]
    rig.run(plan_rollback, None, run=None)
    assert rig.serving == [A]
    assert dribbling.was_cut_off.wait(60), "its answer would have taken a day"


def test_a_reason_that_is_no_text_or_endless_is_written_as_one_line(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.run(plan_rollback, None, run=None, reason="caf\udce9 is\nclosed" + " and closed" * 10_000)
    reason = rig.journal()[-1]["reason"]
    assert reason.startswith("caf\ufffd is closed and closed")
    assert len(reason) == REASON_MAX_CHARS


def test_links_and_pipes_that_a_release_put_in_its_logs_place_are_not_read(rig: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    rig.host.log_dir.mkdir(parents=True, exist_ok=True)
    own = rig.host.log_dir / f"{A}.log"
    own.symlink_to(secret)
    assert not any("secret" in line for line in rig.executor().last_lines(A))
    own.unlink()
    os.mkfifo(own)
    rig.executor().last_lines(A)
    own.unlink()
    own.write_text("its last words\n")
    assert rig.executor().last_lines(A)[-1] == "its last words"


def test_a_rollback_to_a_release_that_does_not_run_starts_it_first(rig: Any) -> None:
    for release in (A, B, C):
        rig.promote(release)
    assert A not in rig.running
    plan = rig.run(plan_rollback, A)
    assert [action.verb for action in plan.actions][:3] == ["start", "serve", "write_activation"]
    assert rig.serving == [A]
    assert rig.truth.is_bad(C) and not rig.truth.is_bad(B)


def test_a_rollback_to_a_release_that_cannot_start_leaves_what_serves(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.systemd.stop(rig.host.unit(A))
    rig.systemd.behaviours[A] = "crashing"
    with pytest.raises(InstanceError):
        rig.run(plan_rollback, None)
    assert rig.serving == [B] and rig.truth.confirmed == B and not rig.truth.is_bad(B)


def test_a_rollback_skips_releases_that_are_bad_or_gone(rig: Any) -> None:
    for release in (A, B, C, D):
        rig.promote(release)
    rig.run(plan_mark, C, True)
    rig.systemd.stop(rig.host.unit(B))
    (rig.host.release_dir(B) / "tree").rmdir()
    rig.host.release_dir(B).rmdir()
    rig.run(plan_rollback, None)
    assert rig.serving == [A]


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_a_rollback_during_a_promotion_takes_the_promotion_back(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.promote(C, stage)
    rig.run(plan_rollback, None)
    assert rig.serving == [B] and rig.truth.confirmed == B
    assert rig.truth.is_bad(C) and not rig.truth.is_bad(B)
    assert rig.pending is None


def test_a_rollback_of_an_overdue_promotion_is_one_step_not_two(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.promote(C, "provisional")
    rig.now += 61
    rig.run(plan_rollback, None)
    assert rig.serving == [B] and rig.truth.is_bad(C)


def test_a_rollback_of_a_first_release_leaves_nothing(rig: Any) -> None:
    rig.promote(A, "provisional")
    rig.run(plan_rollback, None)
    assert rig.running == [] and not rig.observed().is_listening and rig.pending is None
    assert rig.truth.confirmed is None and rig.truth.is_bad(A)


def test_a_rollback_where_nothing_was_ever_promoted_says_so(rig: Any) -> None:
    refuses(rig, "nothing_to_roll_back", plan_rollback, None)
    refuses(rig, "release_missing", plan_rollback, "9.9.9-0123456789ab")


def test_a_rollback_to_what_serves_changes_nothing(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    assert rig.run(plan_rollback, B).actions == ()


def test_a_release_marked_bad_is_gone_back_to_only_by_name(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.run(plan_rollback, None)
    refuses(rig, "nothing_to_roll_back", plan_rollback, None, run=None)
    rig.run(plan_rollback, B)
    assert rig.serving == [B] and not rig.truth.is_bad(B) and rig.truth.is_bad(A)


def test_a_bad_release_that_hangs_or_loops_is_stopped_by_the_rollback(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.systemd.instances[B].behaviour = "silent"
    rig.run(plan_rollback, None)
    assert rig.running == [A]
    rig.promote(C)
    rig.systemd.instances.pop(C).end()
    rig.systemd.active[rig.host.unit(C)] = "activating"
    rig.run(plan_rollback, None)
    assert rig.host.unit(C) not in rig.systemd.active and rig.serving == [A]


def test_the_newest_folder_is_not_the_release_to_go_back_to(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.stage("0.9.0-ffffffffffff")
    rig.run(plan_rollback, None)
    assert rig.serving == [A]


# --- marks ------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_recorded_and_taken_back(rig: Any) -> None:
    rig.promote(A)
    rig.run(plan_mark, B, True, reason="golden pictures differ")
    entry = rig.truth.latest(B)
    assert entry.bad and entry.activated is None and entry.reason == "golden pictures differ"
    assert rig.run(plan_mark, B, True).actions == ()
    rig.run(plan_mark, B, False)
    assert not rig.truth.is_bad(B)
    assert rig.run(plan_mark, B, False).actions == ()
    assert rig.events()[-2:] == ["marked_bad", "marked_good"]


def test_a_release_is_pinned_and_unpinned_once_each_however_often_it_is_requested(rig: Any) -> None:
    rig.promote(A)
    token = rig.truth.token
    assert rig.run(plan_pin, B, True, reason="kept for the audit").note == f"{B} is pinned"
    assert rig.run(plan_pin, B, True).actions == ()
    assert rig.truth.pinned == (B,) and rig.truth.token == token and rig.truth.confirmed == A
    assert [item["release"] for item in status(rig.host, rig.observed())["releases"] if item["pinned"]] == [B]
    assert rig.run(plan_pin, B, False).note == f"{B} is no longer pinned"
    assert rig.run(plan_pin, B, False).actions == ()
    assert rig.truth.pinned == () and rig.serving == [A]
    assert rig.events()[-2:] == ["pinned", "unpinned"]
    assert rig.journal()[-2]["reason"] == "kept for the audit"


def test_a_release_that_is_not_staged_cannot_be_pinned_but_unpinned(rig: Any) -> None:
    refuses(rig, "release_missing", plan_pin, "9.9.9-0123456789ab", True)
    refuses(rig, "invalid_input", plan_pin, "latest", True)
    rig.run(plan_pin, B, True)
    shutil.rmtree(rig.host.release_dir(B))
    rig.run(plan_pin, B, False)
    assert rig.truth.pinned == ()


def test_pinning_during_a_promotion_changes_nothing_of_it(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    rig.run(plan_pin, A, True, run=None)
    assert rig.serving == [B] and rig.pending is not None
    rig.run(plan_confirmed, B)
    assert rig.truth.confirmed == B and rig.truth.pinned == (A,)


def test_check_mode_predicts_a_pin_and_changes_nothing(rig: Any) -> None:
    rig.promote(A)
    plan = rig.run(plan_pin, B, True, check=True)
    assert [action.verb for action in plan.actions] == ["write_activation", "append_journal"]
    assert rig.truth.pinned == ()


def test_what_serves_is_not_marked_bad_but_rolled_back(rig: Any) -> None:
    rig.promote(A)
    refuses(rig, "release_in_use", plan_mark, A, True)


def test_a_mark_does_not_disturb_a_promotion(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    rig.run(plan_mark, C, True)
    rig.run(plan_confirmed, B)
    assert rig.truth.confirmed == B and rig.truth.is_bad(C)


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_a_release_that_is_marked_bad_while_it_is_promoted_is_taken_back(rig: Any, stage: str) -> None:
    rig.promote(A)
    rig.promote(B, stage)
    rig.run(plan_mark, B, True, run="r2", reason="wrong colours")
    assert (rig.serving, rig.running, rig.pending) == ([A], [A], None)
    assert rig.truth.is_bad(B) and rig.truth.confirmed == A
    refuses(rig, "nothing_pending", plan_confirmed, B)
    refuses(rig, "release_bad", plan_canary, B)


# --- when the host itself is in trouble -------------------------------------------------------------------------------


def test_a_warm_release_that_hangs_is_started_afresh_by_the_rollback_to_it(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.5)
    rig.promote(A)
    rig.promote(B)
    rig.systemd.instances[A].behaviour = "silent"
    rig.run(plan_rollback, None)
    assert (rig.serving, rig.running) == ([A], [A, B])
    assert rig.truth.confirmed == A and rig.truth.is_bad(B)


def test_a_warm_release_that_hangs_for_ever_leaves_what_serves(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.5)
    rig.promote(A)
    rig.promote(B)
    rig.systemd.instances[A].behaviour = "silent"
    monkeypatch.setattr(rig.systemd, "kill", lambda unit: None)
    with pytest.raises(MobiusError):
        rig.run(plan_rollback, None)
    assert rig.serving == [B] and rig.truth.confirmed == B and not rig.truth.is_bad(B)


class FullDisk:
    """Refuses what is written into these folders until somebody removes their reserve."""

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


def test_a_rollback_on_a_full_disk_uses_the_space_that_was_kept_for_it(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.promote(A)
    rig.promote(B)
    root, state_dir = rig.host.root, rig.host.state_dir
    assert [(folder / ".reserve").stat().st_size for folder in (root, state_dir)] == [256 << 10] * 2
    with monkeypatch.context() as full:
        FullDisk(full, root, state_dir)
        rig.run(plan_rollback, None)
    assert rig.serving == [A] and rig.truth.confirmed == A
    assert rig.events()[-1] == "rollback" and journal_problems(rig.host) == []
    assert not (root / ".reserve").exists() and not (state_dir / ".reserve").exists()
    rig.promote(C)
    assert (root / ".reserve").exists(), "the space is kept again as soon as there is some"


def test_a_rollback_whose_truth_cannot_be_written_leaves_one_release_serving(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.promote(A)
    rig.promote(B)
    real = durable.write_bytes

    def full(path: Path, *arguments: Any, **more: Any) -> None:
        if Path(path) == rig.host.activation_path:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments, **more)

    monkeypatch.setattr(durable, "write_bytes", full)
    assert rig.command("rollback") == 5
    assert rig.serving == [B] and rig.truth.confirmed == B
