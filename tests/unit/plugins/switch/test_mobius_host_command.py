"""`mobius-host` at the console: exit codes, one sentence, and no traceback."""

from __future__ import annotations

import errno
import json
import shutil
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, lease

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))


def test_status_is_the_same_as_text_and_as_json(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    assert machine.command("status") == 0
    text = capsys.readouterr().out
    assert (
        f"confirmed  {A}" in text and f"serving    {B}" in text and f"pending    {B} (serving), reverts in 60 s" in text
    )
    assert text.splitlines()[4] == f"roll back  mobius-host --service any-service rollback --from {B}"
    assert machine.command("status", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["confirmed"], facts["serving"], facts["pending"]["release"]) == (A, [B], B)


def test_status_names_no_way_back_where_nothing_is_to_be_left(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    assert machine.command("status") == 0
    assert f"rollback --from {A}" in capsys.readouterr().out
    for path in (machine.host.activation_path, machine.host.activation_copy_path, machine.host.current_path):
        path.unlink()
    assert machine.command("status") == 2
    output = capsys.readouterr().out
    assert f"serving    {A}" in output and "roll back" not in output


def test_status_names_the_run_that_holds_the_host(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lease.acquire(machine.executor(), "r1", "ada@control", "2026-01-01T00:00:00Z", 60)
    machine.now += 20
    assert machine.command("status") == 0
    held = "held       by the run r1 of ada@control since 2026-01-01T00:00:00Z, and for 40 s more\n"
    assert held in capsys.readouterr().out
    machine.now += 41
    assert machine.command("status") == 0
    assert "held" not in capsys.readouterr().out


def test_the_service_may_be_left_out_when_there_is_one(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.command("--service", "any-service", "status") == 0
    durable.write_json(machine.config_dir / "other.json", {**machine.config, "service": "other"})
    assert machine.command("status") == 1
    assert "any-service, other" in capsys.readouterr().err
    machine.config_path.unlink()
    (machine.config_dir / "other.json").unlink()
    assert machine.command("status") == 3
    assert "not prepared" in capsys.readouterr().err


def test_confirm_and_rollback_report_what_they_did(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    machine.promote(B, "provisional")
    assert machine.command("confirm") == 0
    assert f"{B} is confirmed and serves" in capsys.readouterr().out
    assert machine.command("rollback", "--reason", "slow", "--run", "r7") == 0
    assert f"rolled back from {B} to {A}" in capsys.readouterr().out
    line = machine.journal()[-1]
    assert (line["reason"], line["run"]) == ("slow", "r7") and line["actor"].startswith("console:")
    assert machine.command("rollback", "--to", B) == 0
    assert machine.serving == [B]


def test_pin_and_unpin_are_shown_by_status(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    assert machine.command("pin", B, "--reason", "audit") == 0
    assert f"{B} is pinned." in capsys.readouterr().out
    assert machine.command("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  pinned")] == [B]
    assert machine.journal()[-1]["reason"] == "audit" and machine.journal()[-1]["actor"].startswith("console:")
    assert machine.command("unpin", B) == 0
    assert f"{B} is no longer pinned." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (["pin", "9.9.9-0123456789ab"], 1, "not staged"),
        (["pin", "latest"], 1, "not a release id"),
        (["confirm"], 1, "no promotion"),
        (["rollback"], 1, "Nothing was ever confirmed"),
        (["rollback", "--to", "9.9.9-0123456789ab"], 1, "not staged"),
        (["verify", "9.9.9-0123456789ab"], 1, "not staged"),
        (["no-such-command"], 1, "invalid choice"),
        (["--service", "other", "status"], 3, "not prepared"),
        (["--help"], 0, ""),
    ],
)
def test_each_failure_has_its_exit_code_and_a_sentence(
    machine: Any, command: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.command(*command) == code
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/opt/x"), 5, "no space left for /opt/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/opt/x"), 3, "Not allowed: /opt/x"),
        (OSError(errno.EIO, "Input/output error"), 3, "Input/output error"),
        (KeyboardInterrupt(), 2, "Interrupted"),
    ],
)
def test_what_the_system_refuses_is_a_failure_that_can_be_acted_on(
    machine: Any,
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.promote(A)
    machine.promote(B)

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(durable, "write_json", broken)
    assert machine.command("rollback") == code
    err = capsys.readouterr().err
    assert sentence in err and len(err.splitlines()) == 2
    assert B in machine.serving and machine.activation.confirmed == B


def test_verify_finds_a_release_that_is_not_what_was_built(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.command("verify", A) == 2, "a folder without its manifest is no release"
    assert A in capsys.readouterr().err


def test_verify_of_a_host_without_releases_checks_the_journal(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(machine.host.releases_dir)
    assert machine.command("verify") == 0
    assert capsys.readouterr().out == "journal: intact\nhost: intact\n"


def test_a_watch_rolls_back_a_release_that_stays_unhealthy(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine.promote(A)
    machine.promote(B)
    machine.sleep = machine.advance
    assert machine.command("watch", "--seconds", "30") == 0
    assert machine.serving == [B]
    machine.systemd.instances.pop(B).end()
    assert machine.command("watch", "--seconds", "30", "--grace", "4") == 2
    assert machine.serving == [A] and machine.activation.is_bad(B)
    assert "unhealthy for 4 s" in capsys.readouterr().err
    assert machine.journal()[-1]["actor"] == "watch"


def test_a_watch_without_a_rollback_target_fails_with_a_sentence(machine: Any) -> None:
    machine.promote(A)
    machine.systemd.instances.pop(A).end()
    machine.sleep = machine.advance
    assert machine.command("watch", "--seconds", "30", "--grace", "4") == 1
