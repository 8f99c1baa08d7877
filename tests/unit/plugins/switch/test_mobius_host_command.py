"""`mobius-host` at the console: exit codes, one sentence, and no traceback."""

from __future__ import annotations

import errno
import json
import shutil
import time
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))


def test_status_tells_people_and_programs_the_same(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    assert rig.command("status") == 0
    text = capsys.readouterr().out
    assert (
        f"confirmed  {A}" in text and f"serving    {B}" in text and f"pending    {B} (serving), reverts in 60 s" in text
    )
    assert rig.command("status", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["confirmed"], facts["serving"], facts["pending"]["release"]) == (A, [B], B)


def test_the_service_may_be_left_out_when_there_is_one(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert rig.command("--service", "any-service", "status") == 0
    durable.write_json(rig.config_dir / "other.json", {**rig.config, "service": "other"})
    assert rig.command("status") == 1
    assert "any-service, other" in capsys.readouterr().err
    rig.config_path.unlink()
    (rig.config_dir / "other.json").unlink()
    assert rig.command("status") == 3
    assert "not prepared" in capsys.readouterr().err


def test_confirm_and_rollback_say_what_they_did(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rig.promote(A)
    rig.promote(B, "provisional")
    assert rig.command("confirm") == 0
    assert f"{B} is confirmed and serves" in capsys.readouterr().out
    assert rig.command("rollback", "--reason", "slow", "--run", "r7") == 0
    assert f"rolled back from {B} to {A}" in capsys.readouterr().out
    line = rig.journal()[-1]
    assert (line["reason"], line["run"]) == ("slow", "r7") and line["actor"].startswith("console:")
    assert rig.command("rollback", "--to", B) == 0
    assert rig.serving == [B]


def test_pin_and_unpin_are_shown_by_status(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rig.promote(A)
    assert rig.command("pin", B, "--reason", "audit") == 0
    assert f"{B} is pinned." in capsys.readouterr().out
    assert rig.command("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("  pinned")] == [B]
    assert rig.journal()[-1]["reason"] == "audit" and rig.journal()[-1]["actor"].startswith("console:")
    assert rig.command("unpin", B) == 0
    assert f"{B} is no longer pinned." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "code", "said"),
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
    rig: Any, command: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rig.command(*command) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/opt/x"), 5, "no space left for /opt/x"),
        (PermissionError(errno.EACCES, "Permission denied", "/opt/x"), 3, "Not allowed: /opt/x"),
        (OSError(errno.EIO, "Input/output error"), 3, "Input/output error"),
        (KeyboardInterrupt(), 2, "Interrupted"),
    ],
)
def test_what_the_system_refuses_is_a_failure_that_can_be_acted_on(
    rig: Any,
    error: BaseException,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig.promote(A)
    rig.promote(B)

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(durable, "write_json", broken)
    assert rig.command("rollback") == code
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 2
    assert B in rig.serving and rig.truth.confirmed == B


def test_verify_finds_a_release_that_is_not_what_was_built(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert rig.command("verify", A) == 2, "a folder without its manifest is no release"
    assert A in capsys.readouterr().err


def test_verify_of_a_host_without_releases_checks_the_journal(rig: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rig.promote(A)
    shutil.rmtree(rig.host.releases_dir)
    assert rig.command("verify") == 0
    assert capsys.readouterr().out == "journal: intact\n"


def test_a_watch_rolls_back_a_release_that_stays_unwell(
    rig: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.promote(A)
    rig.promote(B)
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(rig, "now", rig.now + seconds))
    assert rig.command("watch", "--seconds", "30") == 0
    assert rig.serving == [B]
    rig.systemd.instances.pop(B).end()
    assert rig.command("watch", "--seconds", "30", "--grace", "4") == 2
    assert rig.serving == [A] and rig.truth.is_bad(B)
    assert "unhealthy for 4 s" in capsys.readouterr().err
    assert rig.journal()[-1]["actor"] == "watch"


def test_a_watch_without_anything_to_go_back_to_says_so(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.promote(A)
    rig.systemd.instances.pop(A).end()
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(rig, "now", rig.now + seconds))
    assert rig.command("watch", "--seconds", "30", "--grace", "4") == 1
