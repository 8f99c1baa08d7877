"""The state files: what is read, what is refused, what an instance is told, and the chained journal."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import journal_problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.rollback import plan_rollback
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import plan_canary, plan_mark

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
COMMANDS = (
    ["status"],
    ["rollback"],
    ["confirm"],
    ["boot"],
    ["guard"],
    ["verify"],
    ["role", A, "--env-file", "role.env"],
)


def contents(rig: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in rig.root.rglob("*") if path.is_file() and path.name != "role.env"}


ACTIVATION_DAMAGE = {
    "empty": b"",
    "cut": b'{"schema": 1, "service": "any-ser',
    "no object": b"[]",
    "binary": b"\xff\xfe\x00",
    "another schema": {"schema": 2},
    "another service": {"service": "other"},
    "no token": {"token": None},
    "a truth for a number": {"token": True},
    "a word for a number": {"token": "1"},
    "no history": {"history": None},
    "an entry that is none": {"history": ["1.0.0"]},
    "an entry without a mark": {"history": [{"release": A, "activated": None, "confirmed": None}]},
    "a path for a release": {"confirmed": "../../etc"},
    "a release that was never confirmed": {"confirmed": C},
    "numbers pinned": {"pinned": [1]},
    "a word for the last line": {"last": "yes"},
}


@pytest.mark.parametrize("damage", ACTIVATION_DAMAGE.values(), ids=ACTIVATION_DAMAGE)
def test_a_damaged_activation_is_one_sentence_and_nothing_changes(
    rig: Any, damage: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.promote(A)
    rig.promote(B)
    path = rig.host.activation_path
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        content = {**json.loads(path.read_text()), **damage}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    before = contents(rig)
    monkeypatch.chdir(rig.root)
    for command in COMMANDS:
        capsys.readouterr()
        assert rig.command(*command) == 3, command
        said = capsys.readouterr()
        assert said.out == ""
        lines = said.err.splitlines()
        assert len(lines) == 2 and str(path) in lines[0], said.err
    assert contents(rig) == before
    assert rig.serving == [B]


def test_an_activation_that_is_gone_is_not_taken_for_a_first_install(rig: Any) -> None:
    rig.promote(A)
    rig.host.activation_path.unlink()
    with pytest.raises(MobiusError, match="missing") as caught:
        rig.run(plan_canary, B)
    assert caught.value.outcome == "state_damaged" and rig.serving == [A]


PENDING_DAMAGE = {
    "empty": b"",
    "an unknown stage": {"stage": "paused"},
    "no deadline": {"deadline": "soon"},
    "no boot": {"boot_id": 7},
    "a path for a release": {"release": "/"},
    "another schema": {"schema": 9},
}


@pytest.mark.parametrize("damage", PENDING_DAMAGE.values(), ids=PENDING_DAMAGE)
def test_a_damaged_pending_is_one_sentence_and_nothing_changes(rig: Any, damage: Any) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    path = rig.host.pending_path
    path.write_bytes(
        damage if isinstance(damage, bytes) else json.dumps({**json.loads(path.read_text()), **damage}).encode()
    )
    before = contents(rig)
    for make, release in ((plan_canary, B), (plan_rollback, None)):
        with pytest.raises(MobiusError) as caught:
            rig.run(make, release)
        assert caught.value.outcome == "state_damaged" and str(path) in caught.value.reason
    assert contents(rig) == before and rig.serving == [B]


CONFIG_DAMAGE = {
    "empty": (b"", "state_damaged"),
    "a relative path": ({"root": "opt"}, "state_damaged"),
    "a number for a path": ({"run_dir": 1}, "state_damaged"),
    "another service": ({"service": "other"}, "state_damaged"),
    "a word for seconds": ({"start_timeout": "long"}, "state_damaged"),
}


@pytest.mark.parametrize(("damage", "outcome"), CONFIG_DAMAGE.values(), ids=CONFIG_DAMAGE)
def test_a_damaged_description_of_the_host_is_refused(rig: Any, damage: Any, outcome: str) -> None:
    data = damage if isinstance(damage, bytes) else json.dumps({**rig.config, **damage}).encode()
    rig.config_path.write_bytes(data)
    with pytest.raises(MobiusError) as caught:
        Host.load("any-service", rig.config_dir)
    assert caught.value.outcome == outcome


def test_a_host_without_a_description_is_not_provisioned(rig: Any) -> None:
    with pytest.raises(MobiusError) as caught:
        Host.load("other", rig.config_dir)
    assert caught.value.outcome == "not_provisioned"
    with pytest.raises(MobiusError) as caught:
        Host.load("../other", rig.config_dir)
    assert caught.value.outcome == "invalid_input"


# --- what an instance is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("none", {A: "serving", B: "standby"}),
        ("canary", {A: "serving", B: "serving"}),
        ("provisional", {A: "standby", B: "serving"}),
        ("confirmed", {A: "standby", B: "serving"}),
        ("overdue", {A: "serving", B: "standby"}),
        ("of another boot", {A: "serving", B: "standby"}),
        ("overtaken", {A: "serving", B: "standby"}),
    ],
)
def test_an_instance_that_starts_is_told_its_role(rig: Any, stage: str, expected: dict[str, str]) -> None:
    rig.promote(A)
    if stage in ("canary", "provisional", "confirmed"):
        rig.promote(B, stage)
    elif stage != "none":
        rig.promote(B, "provisional")
    if stage == "overdue":
        rig.now += 61
    if stage == "of another boot":
        rig.boot_id = "another"
    if stage == "overtaken":
        rig.host.pending_path.write_text(json.dumps({**rig.pending.as_dict(), "token": rig.truth.token - 1}))
    for release, role in {**expected, C: "standby"}.items():
        env = rig.root / "role.env"
        assert rig.command("role", release, "--env-file", str(env)) == 0
        assert env.read_text() == f"MOBIUS_START={role}\n"


def test_the_role_is_told_while_another_command_holds_the_lock(rig: Any) -> None:
    rig.promote(A)
    with durable.locked(rig.host.lock_path, 1.0):
        assert rig.command("role", A, "--env-file", str(rig.root / "role.env")) == 0


def test_a_switch_waits_for_the_lock_and_then_gives_up(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.promote(A)
    rig.promote(B)
    monkeypatch.setattr(executor, "LOCK_TIMEOUT_SECONDS", 0.1)
    with durable.locked(rig.host.lock_path, 1.0), pytest.raises(MobiusError) as caught:
        rig.run(plan_rollback, None)
    assert caught.value.outcome == "timeout" and rig.serving == [B]


# --- the journal ------------------------------------------------------------------------------------------------------


def test_each_line_of_the_journal_carries_the_digest_of_the_one_before(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    rig.run(plan_rollback, None, reason="ungünstig\nzwei Zeilen")
    assert journal_problems(rig.host) == []
    lines = rig.journal()
    assert lines[0]["prev_sha256"] == "0" * 64
    assert set(lines[0]) == {"at", "event", "from", "to", "run", "token", "reason", "actor", "prev_sha256"}
    assert [line["token"] for line in lines] == sorted(line["token"] for line in lines)


@pytest.mark.parametrize("change", ["edit", "drop", "swap", "insert", "tear"])
def test_a_changed_journal_is_found(rig: Any, change: str) -> None:
    rig.promote(A)
    rig.promote(B)
    path = rig.host.journal_path
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
    assert journal_problems(rig.host)
    shutil.rmtree(rig.host.releases_dir)
    assert rig.command("verify") == 3


@pytest.mark.parametrize(
    ("make", "arguments", "event"), [(plan_mark, (C, True), "marked_bad"), (plan_rollback, (None,), "rollback")]
)
def test_a_line_that_a_kill_kept_from_the_journal_is_added_by_the_next_command(
    rig: Any, make: Any, arguments: tuple[Any, ...], event: str
) -> None:
    rig.promote(A)
    rig.promote(B)
    path = rig.host.journal_path
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:-1]))
    rig.run(make, *arguments)
    assert rig.events() == ["canary", "provisional", "confirmed"] * 2 + [event]
    assert path.read_text().startswith("".join(kept))


def test_a_torn_last_line_does_not_stop_a_rollback(rig: Any) -> None:
    rig.promote(A)
    rig.promote(B)
    with rig.host.journal_path.open("a") as stream:
        stream.write('{"half')
    rig.run(plan_rollback, None)
    assert rig.serving == [A]
    assert len(journal_problems(rig.host)) == 1


def test_state_files_belong_to_the_writer_and_are_readable(rig: Any) -> None:
    rig.promote(A)
    assert os.stat(rig.host.activation_path).st_mode & 0o777 == 0o644
