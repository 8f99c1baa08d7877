"""The monitoring window after a confirmation: the previous release is warm, and the host watches, rolls back or ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, lease
from ansible_collections.mobius.dhash.plugins.module_utils.host import console, executor
from ansible_collections.mobius.dhash.plugins.module_utils.host import status as host_status
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_window
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import (
    plan_canary,
    plan_instance,
    plan_provisional,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_confirmed
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.upkeep import plan_guard
from ansible_collections.mobius.dhash.plugins.module_utils.host.watch import watch_window

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))


@pytest.fixture
def watched(machine: Any) -> Any:
    """A host with a window of ten minutes, on which B was confirmed after A; waiting only moves its clock."""
    machine.watch(600)
    machine.promote(A)
    machine.promote(B)
    machine.samples = 0

    def sleep(seconds: float) -> None:
        machine.samples += 1
        machine.now += seconds
        assert machine.samples < 1000, "the watch does not end"

    machine.sleep = sleep
    return machine


def window(machine: Any) -> Any:
    return read_window(machine.host)


def test_a_confirmation_opens_the_window_and_starts_the_watch(watched: Any) -> None:
    found = window(watched)
    assert (found.release, found.previous, found.until - found.began) == (B, A, 600.0)
    assert watched.systemd.watches == 2
    assert watched.running == [A, B]
    assert watched.observed().view()["watched"] == B
    status = host_status.status(watched.executor())
    assert status["watch"] == {"release": B, "remaining": 600.0}
    assert watched.run(plan_confirmed, B).actions == (), "confirmed twice, it is not watched anew"


def test_the_check_run_predicts_it(machine: Any) -> None:
    machine.watch(600)
    machine.promote(A, "provisional")
    predicted = machine.run(plan_confirmed, A, check=True)
    assert window(machine) is None and machine.systemd.watches == 0
    done = machine.run(plan_confirmed, A)
    assert [str(action) for action in predicted.actions] == [str(action) for action in done.actions]
    assert predicted.after.view() == done.after.view() == machine.observed().view()


@pytest.mark.slow
def test_a_good_release_is_watched_to_the_end_and_then_the_one_before_stops(
    watched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watched.command("watch") == 0
    assert watched.now == 1600.0, "neither shorter nor longer than its window"
    assert (watched.serving, watched.running) == ([B], [B])
    assert window(watched) is None and watched.activation.confirmed == B
    assert f"{B} was watched to the end" in capsys.readouterr().out
    assert watched.run(plan_confirmed, B).actions == ()
    watched.run(plan_rollback, None)
    assert watched.serving == [A], "it can be gone back to all the same"


@pytest.mark.slow
def test_what_is_warm_is_not_stopped_while_a_run_holds_the_host(watched: Any) -> None:
    lease.acquire(watched.executor(), "r9", "ada", "now", 700)  # till 1700, and the window till 1600
    assert watched.command("watch") == 0
    assert watched.now >= 1700.0, "that run may have found the release before ready, and be about to ask it"
    assert (watched.running, window(watched)) == ([B], None)


@pytest.mark.slow
def test_a_run_that_acquires_the_host_at_the_last_moment_keeps_its_warm_release(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last sample of the watch and its last action."""
    real_watch, windows = watch_window, 0

    def then_a_run_comes(*arguments: Any, **more: Any) -> None:
        nonlocal windows
        real_watch(*arguments, **more)
        windows += 1
        if windows == 1:
            lease.acquire(watched.executor(), "r9", "ada", "now", 60)
        else:
            assert watched.running == [A, B]

    monkeypatch.setattr(console, "watch_window", then_a_run_comes)
    assert watched.command("watch") == 0
    assert (windows, watched.running, window(watched)) == (2, [B], None)


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["unwell", "silent"])
def test_a_release_that_breaks_is_rolled_back_marked_bad_stopped_and_journaled(
    watched: Any, behaviour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.systemd.instances[B].behaviour = behaviour
    assert watched.command("watch") == 2
    assert watched.now == 1030.0
    assert (watched.serving, watched.running) == ([A], [A])
    assert watched.activation.confirmed == A and watched.activation.is_bad(B)
    reason = watched.activation.latest(B).reason
    assert reason.startswith(f"{B} was unhealthy for 30 s: ")
    line = watched.journal()[-1]
    assert (line["event"], line["actor"], line["from"], line["to"], line["reason"]) == (
        "rollback",
        "watch",
        B,
        A,
        reason,
    )
    assert window(watched) is None
    assert "this host rolled back" in capsys.readouterr().err


@pytest.mark.slow
def test_a_release_that_is_unhealthy_together_with_the_one_before_is_not_blamed(
    watched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with a damaged index, which both of them read."""
    real_sleep = watched.sleep

    def sleep(seconds: float) -> None:
        real_sleep(seconds)
        if watched.now == 1050.0:
            watched.systemd.instances[A].behaviour = watched.systemd.instances[B].behaviour = "unwell"
        elif watched.now == 1300.0:
            watched.systemd.instances[A].behaviour = ""
        assert not watched.activation.is_bad(B) or watched.now >= 1330.0

    watched.sleep = sleep
    assert watched.command("watch") == 2
    output = capsys.readouterr().err
    assert output.count("not rolled back") == 1, output
    assert watched.now == 1330.0, "30 s after only the new release was unhealthy"
    assert watched.serving == [A] and watched.activation.is_bad(B)


def test_a_release_before_that_is_unhealthy_whenever_it_stands_by_says_nothing(watched: Any) -> None:
    watched.systemd.instances[A].behaviour = watched.systemd.instances[B].behaviour = "unwell"
    assert watched.command("watch") == 2
    assert watched.activation.is_bad(B)


@pytest.mark.slow
def test_a_release_whose_process_ends_again_and_again_is_rolled_back(watched: Any) -> None:
    watched.watch(600, restarts=3)
    watched.systemd.restarts[B] = 5
    sleep = watched.sleep

    def sleep_while_it_ends(seconds: float) -> None:
        sleep(seconds)
        watched.systemd.restarts[B] = 5 + int((watched.now - 1000) / 75)

    watched.sleep = sleep_while_it_ends
    assert watched.command("watch") == 2
    assert watched.now == 1225.0
    assert watched.serving == [A]
    assert watched.activation.latest(B).reason == f"{B} was restarted 3 times, since its process ended"


def test_a_watch_that_is_killed_comes_again_and_lasts_no_longer(watched: Any) -> None:
    watched.now += 550
    assert watched.command("watch") == 0
    assert watched.now == 1600.0
    watched.now += 100
    assert watched.command("watch") == 0, "and once more, after everything is done"
    assert watched.now == 1700.0


def test_a_watch_that_was_away_until_after_the_end_only_ends_the_window(watched: Any) -> None:
    watched.now += 5000
    watched.systemd.instances[B].behaviour = "unwell"
    assert watched.command("watch") == 0
    assert watched.serving == watched.running == [B]


def test_a_lost_watch_is_started_again_by_whatever_comes_next(watched: Any) -> None:
    watched.systemd.active.pop(watched.host.watch_unit)
    watched.run(plan_guard, run=None)
    assert watched.systemd.watches == 3


def test_a_rollback_by_hand_ends_the_watch(watched: Any) -> None:
    watched.run(plan_rollback, None)
    assert watched.command("watch") == 0
    assert watched.now == 1000.0
    assert window(watched) is None and watched.serving == [A]


def test_after_a_reboot_nothing_is_watched(watched: Any) -> None:
    watched.reboot()
    assert watched.command("watch") == 0
    assert watched.serving == watched.running == [B]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_an_open_promotion_is_not_reverted_for_a_trigger_of_the_confirmed_release(watched: Any, stage: str) -> None:
    watched.run(plan_instance, C, "standby")
    watched.run(plan_canary, C, deadline=900.0)
    if stage == "provisional":
        watched.run(plan_provisional, C, deadline=900.0)
    watched.systemd.instances[B].behaviour = "unwell"
    assert watched.command("watch") == 0
    assert C in watched.serving and not watched.activation.is_bad(C) and not watched.activation.is_bad(B)
    watched.run(plan_confirmed, C)
    assert window(watched).release == C


@pytest.mark.slow
def test_a_first_release_has_no_rollback_target_and_keeps_serving(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.watch(600)
    machine.promote(A)
    machine.sleep = machine.advance
    machine.systemd.instances[A].behaviour = "unwell"
    assert machine.command("watch") == 0
    output = capsys.readouterr().err
    assert output.count("no earlier healthy release") == 1, output
    assert machine.serving == [A] and not machine.activation.is_bad(A)


@pytest.mark.slow
def test_a_rollback_that_fails_is_tried_again(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.2)
    watched.systemd.instances[B].behaviour = "unwell"
    watched.systemd.stop(watched.host.unit(A))
    watched.systemd.behaviours[A] = "crashing"
    real = watched.systemd.start
    tries: list[str] = []

    def start(unit: str, timeout: float) -> bool:
        tries.append(unit)
        if len(tries) == 3:
            watched.systemd.behaviours.pop(A)
        return bool(real(unit, timeout))

    monkeypatch.setattr(watched.systemd, "start", start)
    assert watched.command("watch") == 2
    assert len(tries) >= 3 and watched.serving == [A]


def test_a_damaged_window_blocks_no_command(watched: Any) -> None:
    watched.host.watch_path.write_text("{")
    watched.run(plan_rollback, None)
    assert watched.serving == [A]
    assert watched.command("watch") == 0


def test_without_a_window_nothing_is_watched_and_the_release_before_stays_warm(
    make_machine: Callable[[], Any],
) -> None:
    machine = make_machine()
    machine.watch(0)
    machine.promote(A)
    machine.promote(B)
    assert window(machine) is None and machine.systemd.watches == 0 and machine.running == [A, B]


def test_a_description_with_a_watch_that_makes_no_sense_is_refused_with_its_path(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.config["watch"] = {"seconds": 60}
    durable.write_json(machine.config_path, machine.config)
    assert machine.command("status") == 3
    assert str(machine.config_path) in capsys.readouterr().err
