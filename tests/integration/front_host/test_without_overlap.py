"""A service that cannot run twice at once (`overlap: false`): one instance at any time, and clients that wait."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import Promotion, plan_reverted
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

from tests.integration.front.conftest import wait_until

from .conftest import A, B, Killed


def running(machine: Any) -> set[str]:
    return {name for name, item in machine.executor().observe().instances.items() if item.runs}


def roll_back(machine: Any, kill_at: int | None = None) -> Any:
    executor = machine.executor(kill_at)
    return executor.run(lambda observed: plan_rollback(observed, None, executor.actor))


@contextlib.contextmanager
def clients(machine: Any) -> Iterator[list[tuple[int, str | None]]]:
    """Clients that send one request after the other; yields the responses, of which all have to be good."""
    responses: list[tuple[int, str | None]] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=60)
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            responses.append((response.status, response.headers["X-Release-Id"]))
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield responses
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def alone(make_fronted: Callable[..., Any]) -> Any:
    """A host on which the first release serves."""
    machine = make_fronted(overlap=False)
    machine.promote(A)
    machine.systemd.end_command()
    assert machine.answers() == {A}
    return machine


def test_one_instance_runs_at_any_time_and_no_request_fails(alone: Any) -> None:
    with clients(alone) as responses:
        alone.promote(B)
        alone.systemd.end_command()
        assert (running(alone), alone.answers()) == ({B}, {B})
        wait_until(lambda: (200, B) in responses, "those that waited are answered")
        roll_back(alone)
        alone.systemd.end_command()
        assert (running(alone), alone.answers()) == ({A}, {A})
    assert set(responses) == {(200, A), (200, B)}


def test_a_release_is_not_started_before_its_promotion(alone: Any) -> None:
    plan = alone.executor().run(lambda observed: plan_instance(observed, B, "standby"))
    assert (plan.changed, running(alone)) == (False, {A})
    assert "starts when it is promoted" in plan.note


def test_a_promotion_has_no_canary(alone: Any) -> None:
    plan = alone.promote(B, "canary")
    assert [str(action) for action in plan.actions[-4:]] == [
        "start the guard",
        "let requests wait",
        f"stop {A}",
        f"start {B}",
    ]
    assert alone.answers() == {B}
    repeated = {str(action) for action in alone.promote(B, "canary").actions}
    assert repeated <= {"start the guard"}  # which is a process of its own, and none here
    plan = alone.executor().run(lambda observed: plan_reverted(observed, B, alone.executor().actor))
    assert (running(alone), alone.answers()) == ({A}, {A})


def test_check_mode_says_what_a_promotion_does(alone: Any) -> None:
    executor = alone.executor()
    promotion = Promotion(B, "canary", executor.actor)
    planned = executor.run(promotion.plan, check=True)
    assert running(alone) == {A}
    done = executor.run(promotion.plan)
    assert [str(action) for action in planned.actions] == [str(action) for action in done.actions]
    assert planned.result()["diff"]["after"] == done.result()["diff"]["after"] == executor.observe().view()


def test_a_release_that_does_not_start_is_reverted_at_once(alone: Any) -> None:
    alone.systemd.failing.add(B)
    with clients(alone) as responses:
        with pytest.raises(MobiusError, match="ended while it started"):
            alone.promote(B, "canary")
        assert running(alone) == set()
        alone.systemd.end_command()
        assert (running(alone), alone.answers()) == ({A}, {A})
    assert set(responses) == {(200, A)}
    assert alone.executor().observe().pending is None


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["promotion", "rollback"])
def test_after_a_kill_before_any_action_one_instance_serves_and_the_switch_can_be_repeated(
    make_fronted: Callable[..., Any], switch: str
) -> None:
    for kill_at in itertools.count():
        machine = make_fronted(overlap=False)
        machine.promote(A)
        if switch == "rollback":
            machine.promote(B)
        machine.systemd.end_command()
        try:
            if switch == "rollback":
                roll_back(machine, kill_at)
            else:
                machine.promote(B, kill_at=kill_at)
        except Killed:
            machine.systemd.end_command()
            assert len(running(machine)) == 1, kill_at
            (serving,) = machine.answers(4)
            assert {serving} == running(machine)
            if switch == "rollback":
                roll_back(machine)
            else:
                machine.promote(B)
            machine.systemd.end_command()
            expected = A if switch == "rollback" else B
            assert (running(machine), machine.answers(4)) == ({expected}, {expected}), kill_at
        else:
            assert kill_at > 5
            return
