"""A service without clients: no front, no port, and never two instances at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import worker
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import is_answering, request_instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import HostPlan
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import Promotion
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

from .conftest import RELEASES, A, B, Killed

PROGRAM = Path(__file__).with_name("worker_program.py")


@pytest.fixture
def make_worker(make_fronted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes hosts on which the first release of a worker runs."""

    def make(**settings: Any) -> Any:
        machine = make_fronted(kind="worker", **settings)
        monkeypatch.setattr(worker, "Systemd", lambda: machine.systemd)
        machine.programs = dict.fromkeys(RELEASES, (PROGRAM,))
        machine.promote(A)
        machine.systemd.end_command()
        return machine

    return make


def running(machine: Any) -> set[str]:
    return {name for name, item in machine.executor().observe().instances.items() if item.runs}


def roll_back(machine: Any) -> HostPlan:
    executor = machine.executor()
    plan: HostPlan = executor.run(lambda observed: plan_rollback(observed, None, executor.actor))
    machine.systemd.end_command()
    return plan


def test_a_promotion_and_a_rollback_start_one_after_the_other_and_no_front(make_worker: Callable[..., Any]) -> None:
    machine = make_worker()
    machine.promote(B)
    machine.systemd.end_command()
    assert running(machine) == {B}
    assert machine.host.state_file(B).read_text() == "serving\n"
    roll_back(machine)
    assert running(machine) == {A}
    assert machine.host.front_unit not in machine.systemd.processes
    role = dict(line.split("=", 1) for line in (machine.host.run_dir / A / "role.env").read_text().splitlines())
    assert role == {"MOBIUS_RELEASE_ID": A, "MOBIUS_STATE_FILE": str(machine.host.state_file(A))}


def test_check_mode_says_what_a_promotion_does(make_worker: Callable[..., Any]) -> None:
    machine = make_worker()
    executor = machine.executor()
    promotion = Promotion(B, "canary", executor.actor)
    planned = executor.run(promotion.plan, check=True)
    done = executor.run(promotion.plan)
    assert [str(action) for action in planned.actions] == [str(action) for action in done.actions]
    assert planned.result()["diff"]["after"] == done.result()["diff"]["after"] == executor.observe().view()


def test_a_worker_that_does_not_start_is_reverted(make_worker: Callable[..., Any]) -> None:
    machine = make_worker()
    machine.systemd.failing.add(B)
    with pytest.raises(MobiusError, match="ended while it started"):
        machine.promote(B, "canary")
    machine.systemd.end_command()
    assert running(machine) == {A}


@pytest.mark.root("a health command runs as the service's user")
def test_the_health_command_decides_where_there_is_one(make_worker: Callable[..., Any]) -> None:
    machine = make_worker(health_command=["sh", "-c", 'id -un; test ! -e unwell; test -n "$MOBIUS_STATE_FILE"'])
    machine.root.chmod(0o755)
    assert request_instance(machine.host, A, "GET", "/any")[2] == b"nobody\n"
    assert is_answering(machine.host, A, 5)
    assert not is_answering(machine.host, B, 5), "it does not run"
    machine = make_worker(health_command=["sh", "-c", "! test -e unwell"])
    machine.root.chmod(0o755)
    (machine.host.release_dir(A) / "tree" / "unwell").touch()
    assert not is_answering(machine.host, A, 5)


@pytest.mark.slow
def test_after_a_kill_before_any_action_one_worker_runs(make_worker: Callable[..., Any]) -> None:
    for kill_at in itertools.count():
        machine = make_worker()
        try:
            machine.promote(B, kill_at=kill_at)
        except Killed:
            machine.systemd.end_command()
            assert len(running(machine)) == 1, kill_at
            machine.promote(B)
            machine.systemd.end_command()
            assert running(machine) == {B}, kill_at
        else:
            assert kill_at > 5
            return
