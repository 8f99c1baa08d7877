"""The state files: what is read, what is refused, and the role of an instance."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import lock
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_canary
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_confirmed
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.repair import plan_repair
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
REFUSED = (["status"], ["rollback"], ["confirm"], ["verify"], ["pin", A])
STARTED_BY_SYSTEMD = (["boot"], ["guard"], ["role", A, "--env-file", "role.env"])


def contents(machine: Any) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in machine.root.rglob("*") if path.is_file() and path.name != "role.env"
    }


ACTIVATION_DAMAGE = {
    "empty": b"",
    "cut": b'{"schema": 1, "service": "any-ser',
    "no object": b"[]",
    "binary": b"\xff\xfe\x00",
    "another schema": {"schema": 2},
    "another service": {"service": "other"},
    "no token": {"token": None},
    "true for a number": {"token": True},
    "a word for a number": {"token": "1"},
    "no history": {"history": None},
    "an entry that is none": {"history": ["1.0.0"]},
    "an entry without a mark": {"history": [{"release": A, "activated": None, "confirmed": None}]},
    "a path for a release": {"confirmed": "../../etc"},
    "a release that was never confirmed": {"confirmed": C},
    "numbers pinned": {"pinned": [1]},
    "a word for the last line": {"last": "yes"},
}


def damage_record(path: Path, damage: Any) -> None:
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        content = {**json.loads(path.read_text()), **damage}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ACTIVATION_DAMAGE.values(), ids=ACTIVATION_DAMAGE)
def test_a_damaged_activation_is_read_from_its_copy_and_healed_by_the_next_write(machine: Any, damage: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    path, copy = machine.host.activation_path, machine.host.activation_copy_path
    assert path.read_bytes() == copy.read_bytes()
    damage_record(path, damage)
    damaged = path.read_bytes()
    assert machine.activation.confirmed == B
    assert str(path) in machine.observed().record_problem
    machine.run(plan_rollback, None)
    assert machine.serving == [A] and machine.observed().record_problem is None
    assert path.read_bytes() == copy.read_bytes() and json.loads(path.read_text())["confirmed"] == A
    kept = [item.read_bytes() for item in path.parent.glob("activation.json.damaged-*")]
    assert all(item == damaged for item in kept)
    assert len(kept) == (not isinstance(damage, dict) or "schema" in damage)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ACTIVATION_DAMAGE.values(), ids=ACTIVATION_DAMAGE)
def test_a_damaged_copy_disturbs_nothing_and_is_written_by_the_next_command(machine: Any, damage: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    path, copy = machine.host.activation_path, machine.host.activation_copy_path
    damage_record(copy, damage)
    observed = machine.observed()
    assert observed.activation.confirmed == B and observed.record_problem is None and not observed.is_copied
    predicted = machine.run(plan_confirmed, B, check=True)
    done = machine.run(plan_confirmed, B)
    assert [str(action) for action in predicted.actions] == [str(action) for action in done.actions]
    assert [action.verb for action in done.actions] == ["write_copy"]
    assert path.read_bytes() == copy.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["activation.json", "activation-copy.json"])
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "link to nothing", "link to a folder"])
def test_whatever_lies_in_place_of_one_of_the_two_the_other_one_counts(machine: Any, name: str, kind: str) -> None:
    machine.promote(A)
    machine.promote(B)
    path = machine.host.root / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to("nothing" if kind == "link to nothing" else "releases")
    assert machine.activation.confirmed == B
    machine.run(plan_mark, C, True)
    assert machine.serving == [B]
    assert path.read_bytes() == (path.parent / "activation-copy.json").read_bytes()
    assert machine.activation.is_bad(C) and machine.observed().is_copied


def test_an_activation_that_is_older_than_its_copy_does_not_count(machine: Any) -> None:
    machine.promote(A)
    older = machine.host.activation_path.read_bytes()
    machine.promote(B)
    machine.host.activation_path.write_bytes(older)
    assert machine.activation.confirmed == B
    assert "older than its copy" in machine.observed().record_problem


def test_a_copy_that_is_older_than_the_journal_does_not_count(machine: Any) -> None:
    machine.promote(A)
    older = machine.host.activation_copy_path.read_bytes()
    machine.promote(B)
    machine.host.activation_copy_path.write_bytes(older)
    assert machine.activation.confirmed == B and not machine.observed().is_copied
    machine.host.activation_path.write_bytes(b"")
    with pytest.raises(MobiusError, match="older than the journal") as caught:
        machine.run(plan_rollback, None)
    assert caught.value.outcome == "state_damaged" and machine.serving == [B]


def test_a_copy_that_cannot_be_written_fails_no_switch(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.promote(A)
    write_json = durable.write_json

    def full(path: Any, *arguments: Any, **more: Any) -> None:
        if path == machine.host.activation_copy_path:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_json(path, *arguments, **more)

    monkeypatch.setattr(durable, "write_json", full)
    machine.promote(B)
    assert machine.serving == [B] and machine.activation.confirmed == B and not machine.observed().is_copied
    monkeypatch.setattr(durable, "write_json", write_json)
    machine.run(plan_mark, C, True)
    assert machine.observed().is_copied


@pytest.mark.slow
@pytest.mark.parametrize("damage", ACTIVATION_DAMAGE.values(), ids=ACTIVATION_DAMAGE)
def test_a_damaged_activation_without_a_copy_is_one_sentence_and_nothing_changes(
    machine: Any, damage: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.promote(A)
    machine.promote(B)
    path = machine.host.activation_path
    damage_record(path, damage)
    damage_record(machine.host.activation_copy_path, damage)
    before = contents(machine)
    monkeypatch.chdir(machine.root)
    for command in REFUSED:
        capsys.readouterr()
        assert machine.command(*command) == 3, command
        output = capsys.readouterr()
        assert output.out == ""
        lines = output.err.splitlines()
        assert len(lines) == 2 and str(path) in lines[0] and "mobius-host repair" in lines[1], output.err
    for command in STARTED_BY_SYSTEMD:
        assert machine.command(*command) == 0, command
    assert contents(machine) == before
    assert machine.serving == [B]


def test_text_that_could_never_be_written_again_is_damage_and_a_repair_heals_it(machine: Any) -> None:
    """Half of an escaped pair is JSON, and no Unicode."""
    machine.promote(A)
    machine.promote(B)
    for path in (machine.host.activation_path, machine.host.activation_copy_path):
        content = json.loads(path.read_text())
        content["history"][0]["reason"] = "\ud800"
        path.write_text(json.dumps(content))
    assert machine.command("rollback") == 3
    assert machine.serving == [B]
    assert machine.command("repair", "--yes") == 0
    assert machine.command("rollback") == 0
    assert machine.serving == [A]


def test_an_activation_that_is_gone_is_not_taken_for_a_first_install(machine: Any) -> None:
    machine.promote(A)
    machine.host.activation_path.unlink()
    machine.host.activation_copy_path.unlink()
    with pytest.raises(MobiusError, match="missing") as caught:
        machine.run(plan_canary, B)
    assert caught.value.outcome == "state_damaged" and machine.serving == [A]


PENDING_DAMAGE = {
    "empty": b"",
    "an unknown stage": {"stage": "paused"},
    "no deadline": {"deadline": "soon"},
    "no boot": {"boot_id": 7},
    "a path for a release": {"release": "/"},
    "another schema": {"schema": 9},
}


@pytest.mark.parametrize("damage", PENDING_DAMAGE.values(), ids=PENDING_DAMAGE)
def test_a_damaged_pending_is_one_sentence_and_nothing_changes(machine: Any, damage: Any) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    path = machine.host.pending_path
    path.write_bytes(
        damage if isinstance(damage, bytes) else json.dumps({**json.loads(path.read_text()), **damage}).encode()
    )
    before = contents(machine)
    for make, release in ((plan_canary, B), (plan_rollback, None)):
        with pytest.raises(MobiusError) as caught:
            machine.run(make, release)
        assert caught.value.outcome == "state_damaged" and str(path) in caught.value.reason
    assert contents(machine) == before and machine.serving == [B]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["console", "module"])
@pytest.mark.parametrize(
    ("arguments", "expected", "bad"),
    [
        ({"from": C}, B, [C]),  # what is being promoted
        ({"from": B}, A, [B]),
        ({"to": A}, A, [B]),
        ({"to": B}, B, []),
        ({"from": C, "to": A}, A, [B, C]),
    ],
)
def test_a_damaged_pending_blocks_no_rollback_that_says_what_it_leaves_or_where_it_goes(
    machine: Any, run_module: Any, arguments: dict[str, str], expected: str, bad: list[str], by: str
) -> None:
    for release in (A, B):
        machine.promote(release)
    machine.promote(C, "provisional")
    path = machine.host.pending_path
    path.write_bytes(b"{")
    assert machine.command("rollback") == 3 and machine.serving == [C], "it may mean either of the two"
    assert run_module("rollback")["mobius_failure"]["outcome"] == "state_damaged" and path.exists()
    predicted = run_module("rollback", check=True, **arguments)
    assert machine.serving == [C] and path.exists()
    if by == "console":
        assert (
            machine.command("rollback", *(part for item in arguments.items() for part in ("--" + item[0], item[1])))
            == 0
        )
    else:
        result = run_module("rollback", **arguments)
        assert result["actions"] == predicted["actions"] and result["diff"] == predicted["diff"]
        assert str(path) in str(result["warnings"][0])
    assert machine.serving == [expected] and machine.activation.confirmed == expected and machine.pending is None
    assert [release for release in (A, B, C) if machine.activation.is_bad(release)] == bad
    assert len(list(path.parent.glob("pending.json.damaged-*"))) == 1
    assert not machine.run(plan_repair).changed


def test_a_damaged_pending_of_the_first_release_keeps_it_from_no_rollback(machine: Any) -> None:
    machine.promote(A, "provisional")
    machine.host.pending_path.write_bytes(b"{")
    assert machine.command("rollback", "--from", A) == 0
    assert machine.running == [] and machine.pending is None and machine.activation.is_bad(A)


CONFIG_DAMAGE = {
    "empty": (b"", "state_damaged"),
    "a relative path": ({"root": "opt"}, "state_damaged"),
    "a number for a path": ({"run_dir": 1}, "state_damaged"),
    "another service": ({"service": "other"}, "state_damaged"),
    "a word for seconds": ({"start_timeout": "long"}, "state_damaged"),
    "more seconds than there are": ({"start_timeout": 10**400}, "state_damaged"),
    "true for a command": ({"command": True}, "state_damaged"),
    "a number for the watch's signals": ({"watch": {"signals": 5}}, "state_damaged"),
    "a watch without end": (
        {"watch": {"seconds": 10**400, "interval": 5, "unhealthy_seconds": 30, "metrics_path": "/"}},
        "state_damaged",
    ),
}


@pytest.mark.parametrize(("damage", "outcome"), CONFIG_DAMAGE.values(), ids=CONFIG_DAMAGE)
def test_a_damaged_description_of_the_host_is_refused(machine: Any, damage: Any, outcome: str) -> None:
    data = damage if isinstance(damage, bytes) else json.dumps({**machine.config, **damage}).encode()
    machine.config_path.write_bytes(data)
    with pytest.raises(MobiusError) as caught:
        Host.load("any-service", machine.config_dir)
    assert caught.value.outcome == outcome


def test_a_host_without_a_description_is_not_provisioned(machine: Any) -> None:
    with pytest.raises(MobiusError) as caught:
        Host.load("other", machine.config_dir)
    assert caught.value.outcome == "not_provisioned"
    with pytest.raises(MobiusError) as caught:
        Host.load("../other", machine.config_dir)
    assert caught.value.outcome == "invalid_input"


# --- the role of an instance -----------------------------------------------------------------------------------------


@pytest.mark.slow
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
def test_a_starting_instance_gets_its_role(machine: Any, stage: str, expected: dict[str, str]) -> None:
    machine.promote(A)
    if stage in ("canary", "provisional", "confirmed"):
        machine.promote(B, stage)
    elif stage != "none":
        machine.promote(B, "provisional")
    if stage == "overdue":
        machine.now += 61
    if stage == "of another boot":
        machine.boot_id = "another"
    if stage == "overtaken":
        machine.host.pending_path.write_text(
            json.dumps({**machine.pending.as_dict(), "token": machine.activation.token - 1})
        )
    ports = {}
    for release, role in {**expected, C: "standby"}.items():
        env = machine.root / "role.env"
        assert machine.command("role", release, "--env-file", str(env)) == 0
        lines = dict(line.split("=", 1) for line in env.read_text().splitlines())
        assert (lines["HOST"], lines["MOBIUS_ADDRESS"]) == ("127.0.0.1", f"127.0.0.1:{lines['PORT']}")
        assert lines["MOBIUS_STATE_FILE"] == str(machine.host.state_file(release))
        assert machine.host.state_file(release).read_text() == f"{role}\n"
        ports[release] = int(lines["PORT"])
    assert set(ports.values()) <= set(machine.host.front.slot_ports)
    assert len({ports[release] for release in (*machine.running, C)}) == len(machine.running) + 1


def test_the_role_is_written_while_another_command_holds_the_lock(machine: Any) -> None:
    machine.promote(A)
    with durable.locked(machine.host.lock_path, 1.0):
        assert machine.command("role", A, "--env-file", str(machine.root / "role.env")) == 0


def test_a_switch_waits_for_the_lock_and_then_gives_up(machine: Any, set_lock_timeout: Callable[[float], None]) -> None:
    machine.promote(A)
    machine.promote(B)
    set_lock_timeout(0.1)
    with lock.hold_lock(machine.host, Actor("ansible", "r1")), pytest.raises(MobiusError) as caught:
        machine.run(plan_rollback, None)
    assert caught.value.outcome == "locked" and machine.serving == [B]
    assert f"ansible for the run r1 (process {os.getpid()}), since 20" in caught.value.reason
    assert f"kill -9 {os.getpid()}" in caught.value.do_next
    with durable.locked(machine.host.lock_path, 1.0), pytest.raises(MobiusError, match=r"for 0.1 s, until it ends"):
        machine.run(plan_rollback, None)
    machine.run(plan_rollback, None)
    assert machine.serving == [A]


def test_state_files_belong_to_the_writer_and_are_readable(machine: Any) -> None:
    machine.promote(A)
    assert os.stat(machine.host.activation_path).st_mode & 0o777 == 0o644
