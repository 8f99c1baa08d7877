# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Several rollbacks at once go back one release: each names what it leaves, and the host refuses what no longer serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import recovery
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import utc_now
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_reverted
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def served(machine: Any) -> Any:
    for release in (A, B, C):
        machine.promote(release)
    return machine


def at_once(*commands: Callable[[], Any]) -> list[Any]:
    """The results of commands that begin together."""
    start, results = threading.Barrier(len(commands)), []

    def run(command: Callable[[], Any]) -> None:
        start.wait()
        results.append(command())

    threads = [threading.Thread(target=run, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def rollback_of_run(machine: Any, run: str, since: str) -> Callable[[], Any]:
    """What the module does for one run."""

    def roll_back() -> Any:
        actor = Actor("ansible", run)
        return machine.executor(actor).run(lambda observed: plan_rollback(observed, None, actor, since=since))

    return roll_back


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["console", "runs", "mixed"])
def test_of_rollbacks_at_once_one_is_carried_out(served: Any, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    now = utc_now()
    console = [lambda: served.command("rollback", requested_at=now)] * 2
    runs = [rollback_of_run(served, f"r{number}", now) for number in range(2)]
    at_once(*{"console": console * 2, "runs": runs, "mixed": [*console, *runs]}[kind])
    assert served.serving == [B] and served.activation.confirmed == B
    assert served.activation.is_bad(C) and not served.activation.is_bad(B)
    assert served.events().count("rollback") == 1
    if kind == "console":
        assert capsys.readouterr().out.count(f"already rolled back to {B}") == 3


@pytest.mark.slow
def test_a_run_that_began_before_another_rollback_goes_no_further(served: Any, run_module: Module) -> None:
    began = time.time()
    assert run_module("rollback", run="one", requested_at=began)["confirmed"] == B
    for check in (True, False):
        second = run_module("rollback", run="two", requested_at=began, check=check)
        assert (second["changed"], second["confirmed"], second["actions"]) == (False, B, [])
        assert second["note"] == f"already rolled back to {B}; {C} no longer serves; to roll back from {B}: --from {B}"
    assert served.command("rollback", "--from", C) == 0
    assert served.serving == [B]


@pytest.mark.slow
def test_one_that_is_requested_later_is_another_step(served: Any, run_module: Module) -> None:
    assert served.command("rollback") == 0
    assert served.command("rollback") == 0
    assert served.serving == [A]
    served.promote(D)
    assert run_module("rollback", run="three")["confirmed"] == A


@pytest.mark.slow
@pytest.mark.parametrize("by", ["console", "module"])
def test_a_rollback_of_a_clock_that_was_ahead_is_none_at_once(
    served: Any, run_module: Module, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    with monkeypatch.context() as clock:
        clock.setattr(recovery, "utc_now", lambda: "2999-01-01T00:00:00.000000Z")
        assert served.command("rollback") == 0
    assert served.journal()[-1]["at"].startswith("2999") and served.serving == [B]
    if by == "console":
        assert served.command("rollback") == 0
    else:
        assert run_module("rollback", run="two", check=True)["confirmed"] == A
        assert run_module("rollback", run="two")["confirmed"] == A
    assert served.serving == [A]


@pytest.mark.slow
@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300])
def test_a_time_that_is_none_counts_as_now(served: Any, run_module: Module, at: float) -> None:
    assert run_module("rollback", run="one", requested_at=at)["confirmed"] == B
    assert run_module("rollback", run="two", requested_at=at)["confirmed"] == A


@pytest.mark.slow
@pytest.mark.parametrize("check", [True, False])
def test_a_rollback_leaves_only_what_it_names(served: Any, run_module: Module, check: bool) -> None:
    def roll_back(**arguments: Any) -> dict[str, Any]:
        return run_module("rollback", check=check, **arguments)

    superseded = roll_back(**{"from": B})
    assert superseded["mobius_failure"]["outcome"] == "invalid_input" and f"{C} has replaced it" in superseded["msg"]
    unknown = roll_back(**{"from": "9.9.9-0123456789ab"})
    assert unknown["mobius_failure"]["outcome"] == "invalid_input" and "not known" in unknown["msg"]
    assert "not a release id" in roll_back(**{"from": "latest"})["msg"]
    assert served.serving == [C]
    assert roll_back(**{"from": C})["confirmed"] == B
    if not check:
        assert f"not to {A}" in roll_back(**{"from": C, "to": A})["msg"]
        assert "already rolled back" in roll_back(**{"from": C, "to": B})["note"]
        assert served.serving == [B]
        assert roll_back(**{"from": B})["confirmed"] == A


@pytest.mark.slow
def test_a_promotion_that_was_reverted_meanwhile_is_not_left_again(served: Any) -> None:
    served.promote(D, "provisional")
    served.run(plan_reverted, D)
    plan = served.run(plan_rollback, None, leaves=D, run="late")
    assert not plan.changed and served.serving == [C]


@pytest.mark.slow
def test_a_rollback_that_was_killed_is_completed_by_one_that_names_the_same_release(served: Any) -> None:
    journal = served.host.journal_path.read_bytes()
    served.run(plan_rollback, None, run="killed")
    served.host.journal_path.write_bytes(journal)
    plan = served.run(plan_rollback, None, leaves=C, run="next")
    assert plan.note == f"completed the rollback to {B}" and served.events()[-1] == "rollback"
    assert served.run(plan_rollback, None, leaves=B, run="last").after.activation.confirmed == A


def test_a_first_release_that_was_rolled_back_to_nothing_is_not_left_again(machine: Any) -> None:
    machine.promote(A, "provisional")
    for run in ("one", "two"):
        machine.run(plan_rollback, None, leaves=A, run=run)
    assert machine.running == [] and machine.events().count("rollback") == 1
    with pytest.raises(MobiusError, match="nothing to roll back to"):
        machine.run(plan_rollback, None, run="three")
