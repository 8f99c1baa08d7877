"""The monitoring window after a confirmation: the release before is warm, the host watches, goes back or ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, lease
from ansible_collections.mobius.dhash.plugins.module_utils.host import console, executor
from ansible_collections.mobius.dhash.plugins.module_utils.host import status as host_status
from ansible_collections.mobius.dhash.plugins.module_utils.host.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_window
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import (
    plan_canary,
    plan_confirmed,
    plan_guard,
    plan_instance,
    plan_provisional,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.watch import watch_window

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))


@pytest.fixture
def watched(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host with a window of ten minutes, on which B was confirmed after A; waiting is played."""
    rig.watch(600)
    rig.promote(A)
    rig.promote(B)
    rig.looks = 0

    def sleep(seconds: float) -> None:
        rig.looks += 1
        rig.now += seconds
        assert rig.looks < 1000, "it goes on for ever"

    monkeypatch.setattr(time, "sleep", sleep)
    return rig


def window(rig: Any) -> Any:
    return read_window(rig.host)


def test_a_confirmation_opens_the_window_and_starts_the_watch(watched: Any) -> None:
    found = window(watched)
    assert (found.release, found.previous, found.until - found.began) == (B, A, 600.0)
    assert watched.systemd.watches == 2
    assert watched.running == [A, B]
    assert watched.observed().view()["watched"] == B
    status = host_status.status(watched.host, watched.observed())
    assert status["watch"] == {"release": B, "remaining": 600.0}
    assert watched.run(plan_confirmed, B).actions == (), "confirmed twice, it is not watched anew"


def test_the_check_run_predicts_it(rig: Any) -> None:
    rig.watch(600)
    rig.promote(A, "provisional")
    predicted = rig.run(plan_confirmed, A, check=True)
    assert window(rig) is None and rig.systemd.watches == 0
    done = rig.run(plan_confirmed, A)
    assert [str(action) for action in predicted.actions] == [str(action) for action in done.actions]
    assert predicted.after.view() == done.after.view() == rig.observed().view()


def test_a_good_release_is_watched_to_the_end_and_then_the_one_before_stops(
    watched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watched.command("watch") == 0
    assert watched.now == 1600.0, "neither shorter nor longer than its window"
    assert (watched.serving, watched.running) == ([B], [B])
    assert window(watched) is None and watched.truth.confirmed == B
    assert f"{B} was watched to the end" in capsys.readouterr().out
    assert watched.run(plan_confirmed, B).actions == ()
    watched.run(plan_rollback, None)
    assert watched.serving == [A], "it can be gone back to all the same"


def test_what_is_warm_is_not_stopped_while_a_run_holds_the_host(watched: Any) -> None:
    lease.acquire(watched.executor(), "r9", "somebody", "now", 700)  # till 1700, and the window till 1600
    assert watched.command("watch") == 0
    assert watched.now >= 1700.0, "that run may have found the release before ready, and be about to ask it"
    assert (watched.running, window(watched)) == ([B], None)


def test_a_run_that_takes_the_host_at_the_last_moment_finds_what_it_saw(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the watch's last look and its last step."""
    look, looks = watch_window, 0

    def then_a_run_comes(*arguments: Any, **more: Any) -> None:
        nonlocal looks
        look(*arguments, **more)
        looks += 1
        if looks == 1:
            lease.acquire(watched.executor(), "r9", "somebody", "now", 60)
        else:
            assert watched.running == [A, B]

    monkeypatch.setattr(console, "watch_window", then_a_run_comes)
    assert watched.command("watch") == 0
    assert (looks, watched.running, window(watched)) == (2, [B], None)


@pytest.mark.parametrize("behaviour", ["unwell", "silent"])
def test_a_release_that_breaks_is_gone_back_from_marked_stopped_and_written_down(
    watched: Any, behaviour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.systemd.instances[B].behaviour = behaviour
    assert watched.command("watch") == 2
    assert watched.now == 1030.0
    assert (watched.serving, watched.running) == ([A], [A])
    assert watched.truth.confirmed == A and watched.truth.is_bad(B)
    reason = watched.truth.latest(B).reason
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
def test_a_promotion_that_is_under_way_is_not_taken_back_for_what_the_present_release_does(
    watched: Any, stage: str
) -> None:
    watched.run(plan_instance, C, "standby")
    watched.run(plan_canary, C, deadline=900.0)
    if stage == "provisional":
        watched.run(plan_provisional, C, deadline=900.0)
    watched.systemd.instances[B].behaviour = "unwell"
    assert watched.command("watch") == 0
    assert C in watched.serving and not watched.truth.is_bad(C) and not watched.truth.is_bad(B)
    watched.run(plan_confirmed, C)
    assert window(watched).release == C


def test_a_first_release_cannot_be_gone_back_from_and_goes_on(
    rig: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.watch(600)
    rig.promote(A)
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(rig, "now", rig.now + seconds))
    rig.systemd.instances[A].behaviour = "unwell"
    assert rig.command("watch") == 0
    said = capsys.readouterr().err
    assert said.count("no earlier healthy release") == 1, said
    assert rig.serving == [A] and not rig.truth.is_bad(A)


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


def test_a_window_that_cannot_be_read_stands_in_nobodys_way(watched: Any) -> None:
    watched.host.watch_path.write_text("{")
    watched.run(plan_rollback, None)
    assert watched.serving == [A]
    assert watched.command("watch") == 0


def test_without_a_window_nothing_is_watched_and_the_release_before_stays_warm(
    make_rig: Callable[[], Any],
) -> None:
    rig = make_rig()
    rig.watch(0)
    rig.promote(A)
    rig.promote(B)
    assert window(rig) is None and rig.systemd.watches == 0 and rig.running == [A, B]


def test_a_description_with_a_watch_that_makes_no_sense_is_refused_with_its_path(
    rig: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.config["watch"] = {"seconds": 60}
    durable.write_json(rig.config_path, rig.config)
    assert rig.command("status") == 3
    assert str(rig.config_path) in capsys.readouterr().err
