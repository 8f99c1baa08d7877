"""A kill between any two steps of a command: something serves all the time, and the next command sets the host right.

Every effect on the world (a state file, a word to an instance, a word to systemd) is a step; the kill comes right before
or right after each of them, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor, instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import (
    plan_boot,
    plan_canary,
    plan_confirmed,
    plan_instance,
    plan_mark,
    plan_pin,
    plan_provisional,
    plan_reverted,
)

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


class Killed(BaseException):
    """The process ends here, as with SIGKILL: nothing may catch it."""


class Steps:
    """Counts the effects, and ends the process before (`after` false) or after the one whose turn it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.count = 0
        self.fatal: int | None = None
        self.after = False
        for place, name in [
            (durable, "write_json"),
            (durable, "append_line"),
            (durable, "replace_symlink"),
            (Path, "unlink"),
            (executor, "admin_request"),
            (instance, "admin_request"),
        ]:
            monkeypatch.setattr(place, name, self.step(getattr(place, name)))

    def step(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **more: Any) -> Any:
            if not self.armed or "GET" in arguments:
                return effect(*arguments, **more)
            mine = self.count
            self.count += 1
            if mine == self.fatal and not self.after:
                raise Killed
            self.armed = False  # an effect that consists of others is one step
            try:
                result = effect(*arguments, **more)
            finally:
                self.armed = True
            if mine == self.fatal:
                raise Killed
            return result

        return stepped

    @contextmanager
    def counting(self, fatal: int | None = None, after: bool = False) -> Iterator[None]:
        self.armed, self.count, self.fatal, self.after = True, 0, fatal, after
        try:
            yield
        finally:
            self.armed = False


def watch_systemd(rig: Any, steps: Steps) -> None:
    for name in ("start", "restart", "stop", "kill", "enable"):
        setattr(rig.systemd, name, steps.step(getattr(rig.systemd, name)))


def nothing_promoted(rig: Any) -> None:
    rig.run(plan_instance, A, "standby")


def first_provisional(rig: Any) -> None:
    rig.promote(A, "provisional")


def two_confirmed(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.run(plan_instance, C, "standby")


def canary(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.promote(C, "canary")


def provisional(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.promote(C, "provisional")


def overdue(rig: Any) -> None:
    provisional(rig)
    rig.now += 61


def three_confirmed(rig: Any) -> None:
    for release in (A, B, C):
        rig.promote(release)


def watched(rig: Any) -> None:
    rig.watch()
    provisional(rig)


def window_over(rig: Any) -> None:
    rig.watch()
    three_confirmed(rig)
    rig.now += 601


def previous_stopped(rig: Any) -> None:
    three_confirmed(rig)
    rig.systemd.stop(rig.host.unit(B))


COMMANDS = {
    "instance": (two_confirmed, lambda rig: rig.run(plan_instance, D, "standby")),
    "first canary": (nothing_promoted, lambda rig: rig.run(plan_canary, A)),
    "first confirmed": (first_provisional, lambda rig: rig.run(plan_confirmed, A)),
    "first reverted": (first_provisional, lambda rig: rig.run(plan_reverted, A)),
    "first rolled back": (first_provisional, lambda rig: rig.run(plan_rollback, None)),
    "canary": (two_confirmed, lambda rig: rig.run(plan_canary, C)),
    "canary of a stopped one": (two_confirmed, lambda rig: rig.run(plan_canary, D)),
    "provisional": (canary, lambda rig: rig.run(plan_provisional, C)),
    "confirmed": (provisional, lambda rig: rig.run(plan_confirmed, C)),
    "confirmed from the canary": (canary, lambda rig: rig.run(plan_confirmed, C)),
    "reverted from the canary": (canary, lambda rig: rig.run(plan_reverted, C)),
    "reverted": (provisional, lambda rig: rig.run(plan_reverted, C)),
    "reverted and marked bad": (provisional, lambda rig: rig.run(plan_reverted, C, mark_bad=True, reason="bad")),
    "guard": (overdue, lambda rig: rig.command("guard")),
    "rollback": (three_confirmed, lambda rig: rig.run(plan_rollback, None)),
    "rollback to a stopped one": (previous_stopped, lambda rig: rig.run(plan_rollback, None)),
    "rollback by name": (three_confirmed, lambda rig: rig.run(plan_rollback, A)),
    "rollback during a promotion": (provisional, lambda rig: rig.run(plan_rollback, None)),
    "confirmed and watched": (watched, lambda rig: rig.run(plan_confirmed, C)),
    "the end of the window": (window_over, lambda rig: rig.command("watch")),
    "mark": (three_confirmed, lambda rig: rig.run(plan_mark, A, True)),
    "pin": (three_confirmed, lambda rig: rig.run(plan_pin, A, True)),
}
RECORDED_EVENTS = {"confirmed", "rollback", "marked_bad", "pinned"}


def state(rig: Any) -> dict[str, Any]:
    observed = rig.observed()
    events = [event for event in rig.events() if event in RECORDED_EVENTS]
    return {
        **observed.view(),
        "events": events,
        "pinned": observed.activation.pinned,
        "guarded": observed.is_guarded or observed.pending is None,
        "watching": observed.is_watched or observed.open_window is None,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_completes_what_a_kill_left(
    name: str, make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = COMMANDS[name]
    steps = Steps(monkeypatch)
    rig = make_rig()
    prepare(rig)
    watch_systemd(rig, steps)
    with steps.counting():
        command(rig)
    wanted, total = state(rig), steps.count
    assert total >= 1

    for fatal in range(total):
        for after in (False, True):
            rig = make_rig()
            prepare(rig)
            serving = rig.serving
            watch_systemd(rig, steps)
            with steps.counting(fatal, after), pytest.raises(Killed):
                command(rig)
            where = f"killed {'after' if after else 'before'} step {fatal}"
            assert rig.serving or not serving or "first" in name, where
            if state(rig) != wanted:  # it was not done: a rollback that was done would be another step now
                command(rig)
            assert state(rig) == wanted, where
            assert journal_problems(rig.host) == [], where


NEXT = {
    "a mark": lambda rig: rig.run(plan_mark, D, True),
    "a rollback": lambda rig: rig.run(plan_rollback, None),
    "a boot": lambda rig: rig.run(plan_boot),
    "a reboot": lambda rig: rig.reboot(),
    "the guard after the deadline": lambda rig: (setattr(rig, "now", rig.now + 1000), rig.command("guard")),
    "another promotion": lambda rig: (setattr(rig, "now", rig.now + 1000), rig.promote(D, run="r2")),
}


@pytest.mark.slow
@pytest.mark.parametrize("then", NEXT)
@pytest.mark.parametrize(
    "name",
    [
        "canary",
        "provisional",
        "confirmed",
        "confirmed and watched",
        "reverted",
        "reverted and marked bad",
        "guard",
        "rollback",
        "rollback during a promotion",
        "mark",
        "pin",
    ],
)
def test_any_next_command_makes_what_serves_agree_with_the_truth(
    name: str, then: str, make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = COMMANDS[name]
    steps = Steps(monkeypatch)
    rig = make_rig()
    prepare(rig)
    watch_systemd(rig, steps)
    with steps.counting():
        command(rig)

    for fatal in range(steps.count):
        rig = make_rig()
        prepare(rig)
        watch_systemd(rig, steps)
        with steps.counting(fatal), pytest.raises(Killed):
            command(rig)
        assert rig.serving
        NEXT[then](rig)
        where = f"killed before step {fatal}"
        observed = rig.observed()
        assert observed.activation.confirmed in rig.serving or observed.live_promotion, where
        assert rig.serving == sorted(release for release in rig.running if observed.role(release) == "serving"), where
        assert observed.is_journaled and observed.current == observed.activation.confirmed, where
        assert journal_problems(rig.host) == [], where


@pytest.mark.slow
def test_an_interrupted_rollback_is_completed_and_not_counted_as_a_step(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    for fatal in range(20):
        rig = make_rig()
        three_confirmed(rig)
        watch_systemd(rig, steps)
        try:
            with steps.counting(fatal):
                rig.run(plan_rollback, None)
        except Killed:
            rig.run(plan_rollback, None)
            assert rig.serving == [B] and rig.truth.confirmed == B, f"killed before step {fatal}"
            assert not rig.truth.is_bad(B)
            assert rig.events().count("rollback") == 1
        else:
            return
    pytest.fail("a rollback has fewer steps than that")


def test_a_first_release_that_a_killed_rollback_left_serving_is_stopped_by_whatever_comes_next(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    rig = make_rig()
    first_provisional(rig)
    watch_systemd(rig, steps)
    with steps.counting(0, True), pytest.raises(Killed):
        rig.run(plan_rollback, None)
    assert rig.serving == [A] and rig.truth.confirmed is None
    rig.run(plan_mark, B, True)
    assert rig.running == [] and not rig.observed().is_listening


def test_nobody_is_told_to_stand_by_while_the_one_that_is_to_serve_does_not(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    rig = make_rig()
    three_confirmed(rig)
    watch_systemd(rig, steps)
    with steps.counting(0, True), pytest.raises(Killed):
        rig.run(plan_rollback, None)
    assert rig.serving == [B, C]
    rig.systemd.instances.pop(C).end()
    rig.run(plan_mark, A, True)
    assert rig.serving == [B], "it is not what the truth names, but it is all there is"
