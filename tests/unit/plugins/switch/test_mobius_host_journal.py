"""The chained journal of switches: what is detected, and that nothing about it blocks a rollback or loses a line."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_canary
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

from mobius.control.history.verifier.hosts import HostAnswer, find_record_problem
from tests.killing import die_after_writing, killed

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


def test_each_line_of_the_journal_carries_the_digest_of_the_one_before(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.run(plan_rollback, None, reason="ungünstig\nzwei Zeilen")
    assert journal_problems(machine.host) == []
    lines = machine.journal()
    assert lines[0]["prev_sha256"] == "0" * 64
    assert set(lines[0]) == {"at", "event", "from", "to", "run", "token", "reason", "actor", "prev_sha256"}
    assert [line["token"] for line in lines] == sorted(line["token"] for line in lines)


@pytest.mark.parametrize("change", ["edit", "drop", "swap", "insert", "tear"])
def test_a_changed_journal_is_detected(machine: Any, change: str) -> None:
    machine.promote(A)
    machine.promote(B)
    path = machine.host.journal_path
    lines = path.read_text().splitlines(keepends=True)
    if change == "edit":
        lines[1] = lines[1].replace('"run":"r1"', '"run":"r2"')
    elif change == "drop":
        del lines[1]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    elif change == "insert":
        lines.insert(1, lines[1])
    else:
        lines[1] = lines[1][: len(lines[1]) // 2] + "\n"
    path.write_text("".join(lines))
    assert journal_problems(machine.host)
    shutil.rmtree(machine.host.releases_dir)
    assert machine.command("verify") == 3


@pytest.mark.parametrize(
    ("make", "arguments", "event"), [(plan_mark, (C, True), "marked_bad"), (plan_rollback, (None,), "rollback")]
)
def test_a_line_that_a_kill_kept_from_the_journal_is_added_by_the_next_command(
    machine: Any, make: Any, arguments: tuple[Any, ...], event: str
) -> None:
    machine.promote(A)
    machine.promote(B)
    path = machine.host.journal_path
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:-1]))
    machine.run(make, *arguments)
    assert machine.events() == ["canary", "provisional", "confirmed"] * 2 + [event]
    assert path.read_text().startswith("".join(kept))


def test_a_torn_last_line_does_not_stop_a_rollback(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    with machine.host.journal_path.open("a") as stream:
        stream.write('{"half')
    machine.run(plan_rollback, None)
    assert machine.serving == [A]
    assert len(journal_problems(machine.host)) == 1


SET_ASIDE = ("folder", "pipe")
BROKEN = (*SET_ASIDE, "read-only", "broken", "unreadable", "no folder", "a file for its folder")


def break_journal(machine: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Break the journal; returns what repairs it."""
    path, folder = machine.host.journal_path, machine.host.state_dir
    if kind in SET_ASIDE:
        path.unlink()
        path.mkdir() if kind == "folder" else os.mkfifo(path)
        return lambda: None
    if kind in ("no folder", "a file for its folder"):
        return lose_folder(folder, has_file=kind != "no folder")
    append_line, open_file = durable.append_line, os.open

    def broken(written: Any, *arguments: Any, **more: Any) -> None:
        if written == path:
            raise OSError(errno.EROFS if kind == "read-only" else errno.EIO, kind, str(path))
        append_line(written, *arguments, **more)

    def unreadable(opened: Any, *arguments: Any, **more: Any) -> int:
        if opened == path:
            raise OSError(errno.EIO, kind, str(path))
        return open_file(opened, *arguments, **more)

    def repair() -> None:
        monkeypatch.setattr(durable, "append_line", append_line)
        monkeypatch.setattr(os, "open", open_file)

    if kind == "unreadable":
        monkeypatch.setattr(os, "open", unreadable)
    else:
        monkeypatch.setattr(durable, "append_line", broken)
    return repair


def lose_folder(folder: Path, *, has_file: bool = True) -> Callable[[], None]:
    """Take the state folder away, with a file in its place; what puts it back is returned."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    if has_file:
        folder.write_text("")

    def put_back() -> None:
        folder.unlink(missing_ok=True)
        aside.rename(folder)

    return put_back


def lines_of_rollbacks(machine: Any) -> list[tuple[str, str]]:
    return [(line["from"], line["to"]) for line in machine.journal() if line["event"] == "rollback"]


def problem_of_the_auditor(machine: Any, call_module: Callable[..., dict[str, Any]]) -> str | None:
    """What `mobius history verify` says of the journal beside the activation record."""
    answer = call_module(machine, "witness_info", dir=str(machine.root / "witness"))
    problem = find_record_problem(HostAnswer.read("lab1", answer))
    return problem.text if problem else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_journal_blocks_no_rollback_and_loses_no_line(
    machine: Any,
    call_module: Callable[..., dict[str, Any]],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for release in (A, B, C):
        machine.promote(release)
    repair = break_journal(machine, kind, monkeypatch)
    for leaves, release in ((C, B), (B, A)):
        assert machine.command("rollback", "--from", leaves) == 0
        assert machine.serving == [release] and machine.activation.confirmed == release
    if kind in SET_ASIDE:
        assert len(list(machine.host.state_dir.glob("journal.jsonl.damaged-*"))) == 1
    else:
        assert "The journal has no line of this rollback yet: " in capsys.readouterr().err
        with pytest.raises(OSError):
            machine.run(plan_canary, B, retry_bad=True)
        assert machine.serving == [A] and machine.pending is None, "a promotion is journaled before it serves"
        repair()
        text = problem_of_the_auditor(machine, call_module)
        assert text is not None and "lacks the newest switch" in text and "`mobius-host repair`" in text
    machine.run(plan_mark, D, True)
    assert lines_of_rollbacks(machine) == [(C, B), (B, A)] and machine.events()[-1] == "marked_bad"
    assert journal_problems(machine.host) == [] and not machine.activation.unjournaled
    if kind not in SET_ASIDE:
        assert problem_of_the_auditor(machine, call_module) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_journal_blocks_no_rollback_by_the_module(
    machine: Any, run_module: Callable[..., dict[str, Any]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in (A, B, C):
        machine.promote(release)
    break_journal(machine, kind, monkeypatch)
    for run, release in (("one", B), ("two", A)):
        predicted = run_module("rollback", run=run, check=True)
        result = run_module("rollback", run=run)
        assert result["confirmed"] == predicted["confirmed"] == release and machine.serving == [release]
        assert result["actions"] == predicted["actions"] and result["note"] == predicted["note"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_each_rollback_beside_a_broken_journal_is_another_step(
    machine: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed is completed by the next one; one that only lacks its line was done."""
    for release in (A, B, C):
        machine.promote(release)
    break_journal(machine, kind, monkeypatch)
    for release in (B, A):
        assert machine.command("rollback") == 0
        assert machine.serving == [release] and machine.activation.confirmed == release


@pytest.mark.slow
def test_a_rollback_after_one_whose_line_can_no_longer_be_read_is_another_step(machine: Any) -> None:
    for release in (A, B, C):
        machine.promote(release)
    assert machine.command("rollback") == 0 and machine.serving == [B]
    lose_folder(machine.host.state_dir)
    assert machine.command("rollback") == 0 and machine.serving == [A]


@pytest.mark.slow
def test_a_repair_writes_the_lines_that_wait_in_their_order(
    machine: Any, call_module: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for release in (A, B, C):
        machine.promote(release)
    put_back = lose_folder(machine.host.state_dir)
    for leaves in (C, B):
        assert machine.command("rollback", "--from", leaves) == 0
    assert [line["to"] for line in machine.activation.unjournaled][-2:] == [B, A]
    put_back()
    capsys.readouterr()
    assert machine.command("repair", "--check") == 0
    assert capsys.readouterr().out.count("write the journal") == 2
    assert machine.command("repair", "--yes") == 0
    assert lines_of_rollbacks(machine) == [(C, B), (B, A)]
    assert problem_of_the_auditor(machine, call_module) is None
    assert machine.command("repair", "--check") == 0
    assert "nothing is to be repaired" in capsys.readouterr().out


def test_a_line_of_a_promotion_that_was_reverted_is_written_later(machine: Any) -> None:
    """The guard reverts it without a new activation record."""
    machine.promote(A)
    machine.promote(B, "provisional")
    put_back = lose_folder(machine.host.state_dir)
    machine.now += 61
    assert machine.command("guard") == 0 and machine.serving == [A]
    put_back()
    machine.run(plan_mark, D, True)
    assert machine.events()[-2:] == ["reverted", "marked_bad"] and journal_problems(machine.host) == []


@pytest.mark.slow
def test_a_kill_while_lines_wait_loses_none_of_them(machine: Any, call_module: Callable[..., dict[str, Any]]) -> None:
    """The second rollback beside a broken journal, and what writes the lines later, are killed after each write."""
    for release in (A, B, C):
        machine.promote(release)
    restore = machine.keep()
    for work in ("rollback", "repair"):
        number, was_killed = 0, True
        while was_killed:
            number += 1
            restore()
            put_back = lose_folder(machine.host.state_dir)
            assert machine.command("rollback", "--from", C) == 0
            if work == "rollback":
                was_killed = killed_after_writing(number, lambda: machine.command("rollback", "--from", B))
                assert machine.command("rollback", "--from", B) == 0
            else:
                assert machine.command("rollback", "--from", B) == 0
            put_back()
            if work == "repair":
                was_killed = killed_after_writing(number, lambda: machine.command("repair", "--yes"))
            assert machine.command("repair", "--yes") == 0
            where = f"{work} killed after write {number}"
            assert machine.serving == [A] and machine.activation.confirmed == A, where
            assert lines_of_rollbacks(machine) == [(C, B), (B, A)], where
            assert journal_problems(machine.host) == [], where
            assert problem_of_the_auditor(machine, call_module) is None, where
        assert number > 3, "the work was killed at no write"


def killed_after_writing(number: int, work: Callable[[], object]) -> bool:
    def work_and_die() -> None:
        die_after_writing(number)
        work()

    return killed(work_and_die)


@pytest.mark.parametrize("number", [-1, -100])
def test_a_head_with_a_negative_number_of_lines_blocks_no_rollback(machine: Any, number: int) -> None:
    for release in (A, B):
        machine.promote(release)
    for path in (machine.host.activation_path, machine.host.activation_copy_path):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "journal": {"lines": number, "sha256": ""}}))
    assert machine.command("rollback") == 0 and machine.serving == [A]
    head = machine.activation.journal
    assert head is not None and head["lines"] == len(machine.journal()) - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_a_journal_that_cannot_be_written_keeps_no_overdue_promotion(
    machine: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    break_journal(machine, kind, monkeypatch)
    machine.now += 61
    assert machine.command("guard") == 0
    assert machine.serving == [A] and machine.pending is None
