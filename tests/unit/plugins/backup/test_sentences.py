# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two at once, and disks that are read-only: one sentence, the right outcome, and nothing changed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import console
from ansible_collections.mobius.dhash.plugins.module_utils.backup import restore as restore_module
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import restore_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import console as host_console
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import to_failure
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from tests.backups import back_up, everything, flip, touch_state

needs_root = pytest.mark.root("only root mounts")


class NoUnits(Systemd):
    """A host on which no unit is loaded; all else is real."""

    def units(self, *patterns: str) -> dict[str, Unit]:
        return {}


@pytest.fixture(autouse=True)
def nothing_was_released(host: Host) -> None:
    durable.write_json(host.activation_path, Activation("svc").as_dict())


def restore(host: Host, **options: Any) -> Any:
    scratch = options.pop("scratch", host.root.parent / "scratch")
    scratch.mkdir(exist_ok=True)
    backup = list_backups(host)[0].id
    return restore_backup(Executor(host, Actor("test"), NoUnits()), backup, scratch=scratch, **options)


def reason_of(work: Callable[[], Any]) -> str:
    """The reason that a module or a command gives for the failure of the work."""
    with pytest.raises((MobiusError, OSError)) as caught:
        work()
    failure = to_failure(caught.value)
    assert failure.outcome == "environment_failed"
    return failure.reason


@pytest.mark.slow
def test_the_second_of_two_restores_is_answered_at_once_and_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(host)
    touch_state(host)
    at_work, may_go_on = threading.Event(), threading.Event()
    real = restore_module._extract_beside

    def extract(*arguments: Any, **options: Any) -> int:
        at_work.set()
        assert may_go_on.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(restore_module, "_extract_beside", extract)
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(restore(host, run="20260131T230501Z-9f3a61c2")))
    first.start()
    assert at_work.wait(30)
    before = everything(host.root.parent)
    for check_mode in (True, False):
        with pytest.raises(MobiusError, match="Nothing was changed") as caught:
            restore(host, check_mode=check_mode)
        assert (caught.value.outcome, int(caught.value.code)) == ("locked", 3)
        assert "at work on this host since 20" in caught.value.reason
        assert "(run 20260131T230501Z-9f3a61c2)" in caught.value.reason
    assert everything(host.root.parent) == before
    may_go_on.set()
    first.join()
    assert results[0].changed
    assert not restore(host).changed, "the lock ends with its restore"


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def run_command(host: Host, capsys: pytest.CaptureFixture[str]) -> Any:
    top = host.root.parent
    (top / "settings").mkdir()
    (top / "settings/svc.json").write_text(json.dumps({"keep": {"count": 1}}))
    folders = ["--config-dir", str(top / "settings"), "--host-config-dir", str(top / "mobius-host")]

    def run(*arguments: str) -> tuple[int, str, str]:
        code = console.main([*folders, *arguments])
        return code, *capsys.readouterr()

    return run


@needs_root
def test_each_command_on_a_read_only_backup_folder_says_so_in_one_sentence(host: Host, run_command: Any) -> None:
    assert run_command("create")[0] == 0
    assert run_command("verify")[0] == 0
    touch_state(host)
    (host.root.parent / "scratch").mkdir()
    before = everything(host.root.parent)
    with read_only(host.backup_dir):
        assert run_command("list")[0] == 0
        for command in ("create", "verify", "drill"):
            code, output, error = run_command(command)
            assert (code, output) == (3, "")
            assert error.startswith(f"mobius-backup: The file system of {host.backup_dir} is read-only.\n"), error
            assert "Errno" not in error and error.count("\n") == 2
        assert reason_of(lambda: restore(host)) == f"The file system of {host.backup_dir} is read-only."
    assert everything(host.root.parent) == before


@needs_root
def test_damage_on_a_read_only_disk_is_reported_with_the_reason_why_it_is_not_recorded(
    host: Host, run_command: Any
) -> None:
    run_command("create")
    flip(find_backup(host, "latest").path, 3000)
    with read_only(host.backup_dir):
        code, _, error = run_command("verify")
    assert code == 2
    assert "its SHA-256 is" in error and "could not be recorded" in error and "is read-only" in error


@needs_root
def test_a_restore_onto_a_read_only_disk_says_so_in_one_sentence(host: Host) -> None:
    back_up(host)
    touch_state(host)
    before = everything(host.root.parent)
    with read_only(host.root.parent):
        subprocess.run(["mount", "--bind", host.backup_dir, host.backup_dir], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,rw", host.backup_dir], check=True)
            (host.backup_dir / "x").touch()
            (host.backup_dir / "x").unlink()
            reason = reason_of(lambda: restore(host, scratch=Path(tempfile.gettempdir())))
            assert reason.startswith(f"The file system of {host.root.parent}") and reason.endswith(" is read-only.")
        finally:
            subprocess.run(["umount", host.backup_dir], check=True)
    after = everything(host.root.parent)
    live = str(host.backup_dir)
    assert {name: value for name, value in after.items() if not name.startswith(live)} == {
        name: value for name, value in before.items() if not name.startswith(live)
    }


@needs_root
def test_mobius_host_on_a_read_only_disk_says_so_in_one_sentence(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(host.root.parent / "mobius-host")
    (host.root / "activation.lock").unlink(missing_ok=True)
    with read_only(host.root):
        code = host_console.main(["--config-dir", config, "pin", "1.0.0-0123456789ab"])
    error = capsys.readouterr().err
    assert code == 3
    assert error.startswith(f"mobius-host: The file system of {host.root} is read-only.\n"), error


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA])
def test_a_disk_that_cannot_give_what_was_written_is_named_as_failing(number: int) -> None:
    failure = to_failure(OSError(number, os.strerror(number), "/var/lib/svc/index.sqlite"))
    assert failure.reason == f"The disk failed at /var/lib/svc/index.sqlite: {os.strerror(number)}."
    assert "dmesg" in failure.do_next
