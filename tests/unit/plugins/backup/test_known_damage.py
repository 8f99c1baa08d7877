# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Damage that was read once stays known until a full read shows otherwise, and what is no archive is damage."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup import console, store
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import metrics_text
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import require_restorable
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup, list_backups, remove_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import PICTURE, back_up, touch_state

DAMAGED_GAUGE = 'mobius_backup_damaged{service="svc",scope="full"} 1\n'


def damage_content(path: Path) -> bytes:
    """Change a picture, which one part of seven reads; the bytes from before."""
    whole = path.read_bytes()
    at = whole.index(PICTURE)
    path.write_bytes(whole[: at + 9] + b"!" + whole[at + 10 :])
    return whole


def parts_without_damage(host: Host, backup_id: str) -> list[tuple[int, int]]:
    """The parts of seven that read the damaged backup and meet nothing wrong."""
    every = [(number, 7) for number in range(1, 8)]
    return [part for part in every if verify_backups(host, part, record=False)[backup_id] is None]


def run_console(host: Host, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    top = host.root.parent
    (top / "settings").mkdir(exist_ok=True)
    (top / "settings/svc.json").write_text(json.dumps({"metrics_dir": str(top / "settings")}))
    folders = ["--config-dir", str(top / "settings"), "--host-config-dir", str(top / "mobius-host")]
    code = console.main([*folders, *arguments])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_a_part_that_meets_nothing_wrong_does_not_clear_known_damage(host, capsys):
    touch_state(host)
    good = back_up(host).backup
    touch_state(host, 2)
    bad = back_up(host).backup
    damage_content(bad.path)
    parts = parts_without_damage(host, bad.id)
    assert len(parts) == 6
    reason = verify_backups(host)[bad.id]
    assert reason is not None
    for number, parts_count in parts:
        code, output, error = run_console(host, capsys, "verify", "--subset", f"{number}/{parts_count}")
        assert (code, output) == (2, "")
        assert bad.id in error and good.id not in error
        assert f"part {number} of 7" in error
        assert (host.root.parent / "settings/svc-backup.prom").read_text().count(DAMAGED_GAUGE) == 1
    [listed] = [backup for backup in list_backups(host) if backup.id == bad.id]
    assert reason in listed.damaged
    assert listed.verified is None
    code, output, _ = run_console(host, capsys, "list")
    assert code == 0
    assert [line for line in output.splitlines() if bad.id in line and "damaged: " in line]
    assert not [line for line in output.splitlines() if good.id in line and "damaged" in line]
    assert find_backup(host, "latest").id == good.id


def test_a_full_read_that_meets_nothing_wrong_clears_known_damage(host):
    bad = back_up(host).backup
    whole = damage_content(bad.path)
    verify_backups(host)
    bad.path.write_bytes(whole)
    for number in range(1, 8):
        assert verify_backups(host, (number, 7))[bad.id] is not None, "all parts together read no padding"
    assert verify_backups(host) == {bad.id: None}
    [listed] = list_backups(host)
    assert listed.damaged is None and listed.verified
    assert "mobius_backup_damaged" in metrics_text(host) and DAMAGED_GAUGE not in metrics_text(host)


def test_an_answer_names_what_was_read(host, capsys):
    back_up(host)
    code, output, _ = run_console(host, capsys, "verify")
    assert (code, output) == (0, "1 backup read in full: what was written.\n")
    code, output, _ = run_console(host, capsys, "verify", "--subset", "3/7")
    assert code == 0
    assert output == "1 backup read in part (all headers and part 3 of 7 of the files): as written, as far as read.\n"


def test_damage_that_a_restore_or_a_drill_meets_is_known_from_then_on(host):
    bad = back_up(host).backup
    damage_content(bad.path)
    with pytest.raises(MobiusError, match="not what was written"):
        require_restorable(host, list_backups(host)[0], str(bad.host), record=False)
    assert list_backups(host)[0].damaged is None
    with pytest.raises(MobiusError, match="not what was written"):
        require_restorable(host, list_backups(host)[0], str(bad.host), record=True)
    assert list_backups(host)[0].damaged is not None


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        folder_descriptor = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{folder_descriptor}/{path.name}")
        os.close(folder_descriptor)


def empty(path: Path) -> None:
    path.write_bytes(b"")


EXCHANGES = (link, dangling_link, folder, pipe, unix_socket, empty)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("part", [None, (2, 7)])
def test_what_lies_under_a_backups_name_and_is_no_archive_is_damage(
    host: Host, exchange: Callable[[Path], None], part: tuple[int, int] | None
) -> None:
    touch_state(host)
    good = back_up(host).backup
    touch_state(host, 2)
    bad = back_up(host).backup
    assert good is not None and bad is not None
    exchange(bad.path)
    listed = {backup.id: backup for backup in list_backups(host)}
    assert listed[bad.id].damaged, "a list shows what can be known without a read"
    assert listed[good.id].damaged is None
    assert DAMAGED_GAUGE in metrics_text(host)
    assert find_backup(host, "latest").id == good.id
    results = verify_backups(host, part)
    assert results[bad.id] and results[good.id] is None
    again = back_up(host, keep=1)
    assert (again.written, again.damaged) == (True, bad.id)
    assert os.path.lexists(bad.path), "it is kept for inspection"
    assert verify_backups(host)[again.backup.id] is None


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_digest_that_is_no_file_is_damage_of_its_backup(host: Host, exchange: Callable[[Path], None]) -> None:
    backup = back_up(host).backup
    assert backup is not None
    exchange(Path(f"{backup.path}.sha256"))
    assert verify_backups(host)[backup.id] is not None
    with pytest.raises(MobiusError, match="sha256"):
        require_restorable(host, list_backups(host)[0], str(backup.host), record=True)


def test_a_backup_that_is_removed_while_it_is_listed_is_no_damage(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = back_up(host).backup
    assert backup is not None
    real = store.read_digest

    def read_digest(path: Path) -> str | None:
        remove_backups(host, [backup])
        return real(path)

    monkeypatch.setattr(store, "read_digest", read_digest)
    assert list_backups(host) == []
