# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A lost activation record: what serves goes on, what starts knows its role, and `mobius-host repair` rebuilds it."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import sys
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.rebuild import rebuild_activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_canary
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_reverted
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark, plan_pin
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


def lose_record(machine: Any) -> None:
    machine.host.activation_path.write_bytes(b"\0" * 100)
    machine.host.activation_copy_path.write_bytes(b"{")


def comparable(activation: Activation) -> Activation:
    """Without what the journal does not have: when the canary of a confirmed release began."""
    history = tuple(dataclasses.replace(entry, activated=None) for entry in activation.history)
    return dataclasses.replace(activation, history=history, journal=None)


def files(machine: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in machine.root.rglob("*") if path.is_file()}


def role(machine: Any, release: str) -> str:
    """The state in which the instance of a release is started."""
    assert machine.command("role", release, "--env-file", str(machine.root / "role.env")) == 0
    return str(machine.state_word(release))


def test_what_restarts_with_a_lost_record_serves_what_was_confirmed_last(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    lose_record(machine)
    assert machine.serving == [B]
    assert (role(machine, A), role(machine, B)) == ("standby", "serving")
    machine.systemd.kill(machine.host.unit(B))
    assert machine.serving == [B]
    machine.reboot()
    assert machine.serving == [B]


@pytest.mark.parametrize("stage", ["canary", "provisional"])
def test_the_guard_reverts_an_overdue_promotion_although_the_record_is_lost(machine: Any, stage: str) -> None:
    machine.promote(A)
    machine.promote(B, stage)
    lose_record(machine)
    assert role(machine, B) == "serving", "its promotion is not over"
    machine.now += 61
    assert machine.command("guard") == 0
    assert machine.serving == [A] and machine.pending is None


def test_without_a_journal_the_current_release_is_the_last_one_known(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    lose_record(machine)
    machine.host.journal_path.unlink()
    assert (role(machine, A), role(machine, B)) == ("standby", "serving")


@pytest.mark.slow
@pytest.mark.parametrize("command", [("guard",), ("boot",), ("repair", "--yes")], ids=" ".join)
@pytest.mark.parametrize("has_link", [True, False])
def test_when_nothing_is_known_any_more_one_of_what_serves_goes_on_serving(
    machine: Any, command: tuple[str, ...], has_link: bool
) -> None:
    """A canary beside the release before, and every file that tells them apart is lost."""
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, "canary")
    assert machine.serving == [B, C]
    lose_record(machine)
    machine.host.journal_path.unlink()
    machine.host.pending_path.write_text("{")
    if not has_link:
        machine.host.current_path.unlink()
    assert machine.command(*command) == 0
    assert machine.serving == [B]


def test_a_pipe_in_place_of_the_journal_makes_no_instance_wait(machine: Any) -> None:
    machine.promote(A)
    lose_record(machine)
    machine.host.journal_path.unlink()
    os.mkfifo(machine.host.journal_path)
    assert role(machine, A) == "serving"


@pytest.mark.slow
@pytest.mark.parametrize("command", [("guard",), ("boot",), ("repair", "--yes")])
@pytest.mark.parametrize("kind", ["damaged", "folder"])
def test_a_promotion_whose_file_is_damaged_is_over(machine: Any, command: tuple[str, ...], kind: str) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    path = machine.host.pending_path
    path.unlink()
    path.mkdir() if kind == "folder" else path.write_bytes(b"{")
    with pytest.raises(MobiusError) as caught:
        machine.run(plan_rollback, None)
    assert "mobius-host repair" in caught.value.do_next and machine.serving == [B]
    assert (role(machine, A), role(machine, B)) == ("serving", "standby")
    assert machine.command(*command) == 0
    assert machine.serving == [A] and machine.pending is None
    assert len(list(path.parent.glob("pending.json.damaged-*"))) == 1
    machine.promote(C)
    assert machine.serving == [C]


@pytest.mark.slow
def test_a_switch_is_refused_until_the_record_is_repaired_and_works_then(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for release in (A, B, C):
        machine.promote(release)
    lose_record(machine)
    for make, release in ((plan_rollback, None), (plan_canary, D)):
        with pytest.raises(MobiusError) as caught:
            machine.run(make, release)
        assert caught.value.outcome == "state_damaged" and "mobius-host repair" in caught.value.do_next
    assert machine.command("repair", "--yes", "--reason", "power cut") == 0
    assert "repaired" in capsys.readouterr().out and machine.serving == [C]
    assert journal_problems(machine.host) == []
    assert (machine.journal()[-1]["event"], machine.journal()[-1]["reason"]) == ("repaired", "power cut")
    kept = sorted(path.name.partition(".damaged-")[0] for path in machine.host.root.glob("*.damaged-*"))
    assert kept == ["activation-copy.json", "activation.json"]
    machine.run(plan_rollback, None)
    assert machine.serving == [B] and machine.activation.is_bad(C)
    machine.promote(D)
    assert machine.serving == [D]


@pytest.mark.slow
def test_the_plan_is_shown_first_and_check_changes_nothing(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for release in (A, B, C):
        machine.promote(release)
    machine.run(plan_rollback, None, run="other")
    machine.run(plan_pin, A, True)
    lose_record(machine)
    before = files(machine)
    assert machine.command("repair", "--check") == 0
    shown = capsys.readouterr().out
    assert f"confirmed  {B}" in shown and f"previous   {A}" in shown and f"bad        {C}" in shown
    assert f"pinned     {A}" in shown and "write activation.json and its copy" in shown
    assert machine.command("repair") == 1, "no terminal to ask at"
    assert "--yes" in capsys.readouterr().err
    assert files(machine) == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_a_person_at_a_terminal_is_asked(machine: Any, answer: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.promote(A)
    lose_record(machine)
    terminal = io.StringIO(answer + "\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert machine.command("repair") == code
    if code == 0:
        assert machine.activation.confirmed == A
    else:
        with pytest.raises(MobiusError):
            machine.observed()


def test_a_healthy_host_has_nothing_to_repair(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    before = files(machine)
    assert machine.command("repair", "--yes") == 0
    assert "nothing is to be repaired" in capsys.readouterr().out and files(machine) == before


@pytest.mark.slow
def test_a_promotion_stays_open_through_a_repair(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.promote(C, "provisional")
    lose_record(machine)
    assert machine.command("repair", "--yes") == 0
    assert machine.serving == [C] and machine.activation.confirmed == B and machine.observed().is_live
    machine.promote(C)
    assert machine.serving == [C] and machine.activation.confirmed == C


def test_what_serves_alone_was_confirmed_although_the_journal_lacks_its_line(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    lose_record(machine)
    lines = machine.host.journal_path.read_text().splitlines(keepends=True)
    machine.host.journal_path.write_text("".join(lines[:3]))
    assert machine.command("repair", "--yes") == 0
    assert machine.serving == [B] and machine.activation.confirmed == B
    machine.run(plan_rollback, None)
    assert machine.serving == [A]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["missing", "damaged"])
def test_without_a_journal_the_record_is_rebuilt_from_what_serves(machine: Any, loss: str) -> None:
    machine.promote(A)
    machine.promote(B)
    lose_record(machine)
    path = machine.host.journal_path
    path.unlink()
    if loss == "damaged":
        path.write_bytes(b"\xff\n[1]\n{}\n")
    token = 7
    machine.host.lease_path.write_text(
        '{"run": "r", "actor": "a", "since": "", "seconds": 1, "expires": 1, "boot_id": "first boot", "token": 7}'
    )
    assert machine.command("repair", "--yes") == 0
    assert machine.activation.confirmed == B and machine.activation.token == token, "no run is fenced by a lower token"
    machine.promote(C)
    machine.run(plan_rollback, None)
    assert machine.serving == [B]


def test_a_stale_copy_is_brought_up_to_the_journal(machine: Any) -> None:
    machine.promote(A)
    older = machine.host.activation_copy_path.read_bytes()
    machine.promote(B)
    machine.run(plan_mark, D, True, reason="wrong")
    expected = machine.activation
    machine.host.activation_copy_path.write_bytes(older)
    machine.host.activation_path.unlink()
    assert machine.command("repair", "--yes") == 0
    assert comparable(dataclasses.replace(machine.activation, last=expected.last)) == comparable(expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_record_rebuilt_from_the_journal_is_the_one_that_was_lost(machine: Any, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(14):
        run = f"r{number}"
        release = chance.choice((A, B, C, D))
        command = chance.choice(("promote", "promote", "revert", "bad revert", "rollback", "roll back", "mark", "pin"))
        try:
            if command == "promote":
                machine.run(plan_canary, release, run=run, retry_bad=True)
                machine.promote(release, run=run)
            elif command.endswith("revert"):
                machine.run(plan_canary, release, run=run, retry_bad=True)
                machine.run(plan_reverted, release, run=run, mark_bad=command.startswith("bad"), reason="no")
            elif command == "rollback":
                machine.run(plan_rollback, None, run=run)
            elif command == "roll back":
                if chance.random() < 0.5:
                    machine.run(plan_canary, release, run=run, retry_bad=True)
                machine.run(plan_rollback, chance.choice((A, B, C, D)), run=run, reason="by name")
            elif command == "mark":
                machine.run(plan_mark, release, chance.random() < 0.6, run=run, reason="marked")
            else:
                machine.run(plan_pin, release, chance.random() < 0.6, run=run)
        except MobiusError:
            continue
    expected = machine.activation
    lose_record(machine)
    assert comparable(rebuild_activation(machine.host, machine.serving, machine.boot_id)) == comparable(expected)
