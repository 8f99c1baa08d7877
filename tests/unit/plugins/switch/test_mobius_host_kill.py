"""A kill between any two steps of a command: something serves all the time, and the next command sets the host right.

Every effect on the world (a file, a command to HAProxy or to systemd) is a step; the kill comes right before each of them,
in turn, and after the last. Right after one and right before the next leave the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
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
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.upkeep import plan_boot

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


class Killed(BaseException):
    """The process ends here, as with SIGKILL: nothing may catch it."""


def die() -> None:
    raise Killed


class Steps:
    """Counts the effects. Before (`after` false) or after the one whose turn it is, the process ends, or something else
    happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.names: list[str] = []
        self.fatal: int | None = None
        self.after = False
        self.happen: Callable[[], object] = die
        for place, name in [
            (durable, "write_bytes"),
            (durable, "write_json"),
            (durable, "append_line"),
            (durable, "replace_symlink"),
            (Path, "unlink"),
            (Runtime, "send"),
        ]:
            monkeypatch.setattr(place, name, self.step(getattr(place, name)))

    @property
    def count(self) -> int:
        return len(self.names)

    def step(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **more: Any) -> Any:
            if not self.armed or (effect.__name__ == "send" and arguments[1].startswith("show ")):
                return effect(*arguments, **more)
            number = self.count
            self.names.append(" ".join(str(argument)[:200] for argument in (effect.__name__, *arguments)))
            self.armed = False  # an effect that consists of others is one step
            try:
                if number == self.fatal and not self.after:
                    self.happen()
                result = effect(*arguments, **more)
                if number == self.fatal and self.after:
                    self.happen()
            finally:
                self.armed = True
            return result

        return stepped

    @contextmanager
    def counting(
        self, fatal: int | None = None, after: bool = False, happen: Callable[[], object] | None = None
    ) -> Iterator[None]:
        self.armed, self.names, self.fatal, self.after, self.happen = True, [], fatal, after, happen or die
        try:
            yield
        finally:
            self.armed = False


def watch_systemd(machine: Any, steps: Steps) -> None:
    for name in ("start", "restart", "stop", "kill", "enable"):
        setattr(machine.systemd, name, steps.step(getattr(machine.systemd, name)))


def nothing_promoted(machine: Any) -> None:
    machine.run(plan_instance, A, "standby")


def first_provisional(machine: Any) -> None:
    machine.promote(A, "provisional")


def two_confirmed(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_instance, C, "standby")


def canary(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, "canary")


def provisional(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, "provisional")


def foreign_provisional(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_instance, D, "standby")
    for make in (plan_canary, plan_provisional):
        machine.run(make, C, run="other")


def overdue(machine: Any) -> None:
    provisional(machine)
    machine.now += 61


def three_confirmed(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)


def watched(machine: Any) -> None:
    machine.watch()
    provisional(machine)


def window_over(machine: Any) -> None:
    machine.watch()
    three_confirmed(machine)
    machine.now += 601


def previous_stopped(machine: Any) -> None:
    three_confirmed(machine)
    machine.systemd.stop(machine.host.unit(B))


def damaged_record(machine: Any) -> None:
    three_confirmed(machine)
    machine.host.activation_path.write_bytes(b"")


def lost_record(machine: Any) -> None:
    damaged_record(machine)
    machine.host.activation_copy_path.write_bytes(b"")


COMMANDS = {
    "instance": (two_confirmed, lambda machine: machine.run(plan_instance, D, "standby")),
    "first canary": (nothing_promoted, lambda machine: machine.run(plan_canary, A)),
    "first confirmed": (first_provisional, lambda machine: machine.run(plan_confirmed, A)),
    "first reverted": (first_provisional, lambda machine: machine.run(plan_reverted, A)),
    "first rolled back": (first_provisional, lambda machine: machine.run(plan_rollback, None)),
    "canary": (two_confirmed, lambda machine: machine.run(plan_canary, C)),
    "canary of a stopped one": (two_confirmed, lambda machine: machine.run(plan_canary, D)),
    "provisional": (canary, lambda machine: machine.run(plan_provisional, C)),
    "confirmed": (provisional, lambda machine: machine.run(plan_confirmed, C)),
    "confirmed from the canary": (canary, lambda machine: machine.run(plan_confirmed, C)),
    "reverted from the canary": (canary, lambda machine: machine.run(plan_reverted, C)),
    "reverted": (provisional, lambda machine: machine.run(plan_reverted, C)),
    "reverted and marked bad": (
        provisional,
        lambda machine: machine.run(plan_reverted, C, mark_bad=True, reason="bad"),
    ),
    "reverted beside the promotion of another run": (
        foreign_provisional,
        lambda machine: machine.run(plan_reverted, D, mark_bad=True),
    ),
    "guard": (overdue, lambda machine: machine.command("guard")),
    "rollback": (three_confirmed, lambda machine: machine.run(plan_rollback, None)),
    "rollback to a stopped one": (previous_stopped, lambda machine: machine.run(plan_rollback, None)),
    "rollback by name": (three_confirmed, lambda machine: machine.run(plan_rollback, A)),
    "rollback during a promotion": (provisional, lambda machine: machine.run(plan_rollback, None)),
    "confirmed and watched": (watched, lambda machine: machine.run(plan_confirmed, C)),
    "the end of the window": (window_over, lambda machine: machine.command("watch")),
    "mark": (three_confirmed, lambda machine: machine.run(plan_mark, A, True)),
    "pin": (three_confirmed, lambda machine: machine.run(plan_pin, A, True)),
    "rollback with a damaged record": (damaged_record, lambda machine: machine.run(plan_rollback, None)),
    "repair": (lost_record, lambda machine: machine.command("repair", "--yes")),
}
RECORDED_EVENTS = {"confirmed", "rollback", "marked_bad", "pinned", "repaired"}
PINNED_AGAIN = ("pinned", ["pinned"])


def state(machine: Any) -> dict[str, Any]:
    try:
        observed = machine.observed()
    except MobiusError as error:
        return {"lost": error.reason}
    events = [event for event in machine.events() if event in RECORDED_EVENTS]
    # a pin is journaled before it is recorded, so one that was killed in between is journaled twice
    events = [event for number, event in enumerate(events) if (event, events[number - 1 : number]) != PINNED_AGAIN]
    return {
        **observed.view(),
        "events": events,
        "pinned": observed.activation.pinned,
        "copied": observed.is_copied and observed.record_problem is None,
        "guarded": observed.is_guarded or observed.pending is None,
        "watching": observed.is_watched or observed.open_window is None,
        "paused": machine.is_paused,
        "words": {release: machine.state_word(release) for release in machine.running},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_completes_what_a_kill_left(
    name: str, make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = COMMANDS[name]
    steps = Steps(monkeypatch)
    machine = make_machine()
    prepare(machine)
    restore = machine.keep()
    watch_systemd(machine, steps)
    with steps.counting():
        command(machine)
    wanted, total = state(machine), steps.count
    assert total >= 1

    for fatal, after in [*((step, False) for step in range(total)), (total - 1, True)]:
        restore()
        serving = machine.serving
        with steps.counting(fatal, after), pytest.raises(Killed):
            command(machine)
        where = f"killed {'after' if after else 'before'} step {fatal}: {steps.names[fatal]}"
        assert machine.serving or not serving or "first" in name, where
        if state(machine) != wanted:  # it was not done: a rollback that was done would be another step now
            command(machine)
        assert state(machine) == wanted, where
        assert journal_problems(machine.host) == [], where


NEXT = {
    "a mark": lambda machine: machine.run(plan_mark, D, True),
    "a rollback": lambda machine: machine.run(plan_rollback, None),
    "a boot": lambda machine: machine.run(plan_boot),
    "a reboot": lambda machine: machine.reboot(),
    "the guard after the deadline": lambda machine: (
        setattr(machine, "now", machine.now + 1000),
        machine.command("guard"),
    ),
    "another promotion": lambda machine: (setattr(machine, "now", machine.now + 1000), machine.promote(D, run="r2")),
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
        "rollback with a damaged record",
        "rollback during a promotion",
        "mark",
        "pin",
    ],
)
def test_any_next_command_makes_what_serves_agree_with_the_activation_record(
    name: str, then: str, make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = COMMANDS[name]
    steps = Steps(monkeypatch)
    machine = make_machine()
    prepare(machine)
    restore = machine.keep()
    watch_systemd(machine, steps)
    with steps.counting():
        command(machine)

    for fatal in range(steps.count):
        restore()
        with steps.counting(fatal), pytest.raises(Killed):
            command(machine)
        assert machine.serving
        NEXT[then](machine)
        where = f"killed before step {fatal}"
        observed = machine.observed()
        assert observed.activation.confirmed in machine.serving or observed.live_promotion, where
        assert machine.serving == sorted(
            release for release in machine.running if observed.role(release) == "serving"
        ), where
        assert not observed.unjournaled and observed.current == observed.activation.confirmed, where
        assert observed.is_copied and observed.record_problem is None, where
        assert journal_problems(machine.host) == [], where


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_front_that_is_killed_at_any_step_changes_no_outcome(
    name: str, comes_back: bool, make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd starts it again at once, or when the command has come to its end or wants it."""
    prepare, command = COMMANDS[name]
    steps = Steps(monkeypatch)
    machine = make_machine()
    prepare(machine)
    restore = machine.keep()
    watch_systemd(machine, steps)
    with steps.counting():
        command(machine)
    expected, shares, total = state(machine), machine.shares, steps.count

    def kill_front() -> None:
        was_serving = machine.serving
        machine.systemd.kill_front()
        if comes_back and machine.host.front_unit in machine.systemd.active:
            machine.systemd.start(machine.host.front_unit, 1.0)
            assert machine.serving or not was_serving or "first" in name

    for fatal in range(total):
        restore()
        with steps.counting(fatal, happen=kill_front):
            command(machine)
        where = f"HAProxy was killed before step {fatal}: {steps.names[fatal]}"
        if machine.host.front_unit in machine.systemd.active:
            machine.systemd.start(machine.host.front_unit, 1.0)
        assert (state(machine), machine.shares) == (expected, shares), where


@pytest.mark.slow
def test_an_interrupted_rollback_is_completed_and_not_counted_as_a_step(
    make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    machine = make_machine()
    three_confirmed(machine)
    restore = machine.keep()
    watch_systemd(machine, steps)
    for fatal in range(100):
        restore()
        try:
            with steps.counting(fatal):
                machine.run(plan_rollback, None)
        except Killed:
            machine.run(plan_rollback, None)
            assert machine.serving == [B] and machine.activation.confirmed == B, f"killed before step {fatal}"
            assert not machine.activation.is_bad(B)
            assert machine.events().count("rollback") == 1
        else:
            return
    pytest.fail("a rollback has fewer steps than that")


def test_a_first_release_that_a_killed_rollback_left_serving_is_stopped_by_the_next_command(
    make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    machine = make_machine()
    first_provisional(machine)
    watch_systemd(machine, steps)
    with steps.counting(0, True), pytest.raises(Killed):
        machine.run(plan_rollback, None)
    assert machine.serving == [A] and machine.activation.confirmed is None
    machine.run(plan_mark, B, True)
    assert machine.running == [] and not machine.observed().is_listening


@pytest.mark.slow
def test_no_instance_stands_by_while_the_expected_one_does_not_serve(
    make_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    machine = make_machine()
    three_confirmed(machine)
    restore = machine.keep()
    watch_systemd(machine, steps)
    with steps.counting():
        machine.run(plan_rollback, None)
    begins_to_serve = next(number for number, name in enumerate(steps.names) if name.endswith("state ready"))

    restore()
    with steps.counting(begins_to_serve, True), pytest.raises(Killed):
        machine.run(plan_rollback, None)
    assert machine.serving == [B, C]
    machine.systemd.instances.pop(C).end()
    machine.run(plan_mark, A, True)
    assert machine.serving == [B], "the activation record names another release, but this one is the only one left"
