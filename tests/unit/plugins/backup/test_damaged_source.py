# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup of damaged data is kept, marked, reported, and never the one that anything relies on."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup import console, database, source
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import metrics_text
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.safe_open import open_folder
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    BackupResult,
    prune_backups,
    require_sound_source,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import START, back_up, manifest_of, members, touch_state

DATABASE = "index/library.sqlite"
MEMBER = f"state/{DATABASE}"


def declared(host: Host, **options: Any) -> BackupResult:
    return back_up(host, databases=[DATABASE], **options)


def fill(host: Host, rows: int = 2000) -> None:
    """Make the index several pages long; all of it in the database itself."""
    with contextlib.closing(sqlite3.connect(host.state_dir / DATABASE)) as database:
        with database:
            database.execute("create index by_path on images (path)")
            database.executemany("insert into images values (?)", [(f"{number:06}.jpg",) for number in range(rows)])
        database.execute("pragma wal_checkpoint(truncate)")


def zero_start(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes(100) + content[100:])


def zero_middle(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + bytes(4096) + content[12288:])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def other_content(path: Path) -> None:
    path.write_bytes(b"a letter to a friend\n" * 500)


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


IN_PLACE = (zero_start, zero_middle, cut, empty, other_content)
DAMAGES = (*IN_PLACE, remove, link, folder, pipe, unix_socket)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_backup_of_a_damaged_database_is_kept_marked_and_not_the_latest(
    host: Host, damage: Callable[[Path], None]
) -> None:
    fill(host)
    good = declared(host).backup
    assert good is not None
    damage(host.state_dir / DATABASE)
    predicted = declared(host, check_mode=True)
    result = declared(host)
    marked = result.backup
    assert marked is not None
    assert result.written
    assert result.source_damage is not None and MEMBER in result.source_damage
    assert predicted.source_damage == result.source_damage
    for outcome in (predicted, result):
        with pytest.raises(MobiusError) as caught:
            require_sound_source(host, outcome)
        assert (caught.value.outcome, int(caught.value.code)) == ("source_damaged", 3)
        assert MEMBER in caught.value.reason and good.id in caught.value.reason
    assert verify_backups(host) == {good.id: None, marked.id: None}, "the archive is what was written"
    assert find_backup(host, "latest").id == good.id
    assert find_backup(host, marked.id).source_damage == result.source_damage
    # a second one has nothing new to save, and reports it again
    again = declared(host)
    assert (again.written, again.source_damage) == (False, result.source_damage)
    assert 'mobius_backup_source_damaged{service="svc",scope="full"} 1\n' in metrics_text(host)
    assert f"{good.begun.timestamp():.0f}\n" in metrics_text(host)
    assert f"{marked.begun.timestamp():.0f}\n" not in metrics_text(host)


@pytest.mark.parametrize("damage", IN_PLACE)
def test_damaged_bytes_are_kept_as_they_are_with_the_journals_beside_them(
    host: Host, damage: Callable[[Path], None]
) -> None:
    fill(host)
    path = host.state_dir / DATABASE
    damage(path)
    companions = {f"{DATABASE}-wal": b"w" * 5000, f"{DATABASE}-shm": b"s" * 32768}
    for name, content in companions.items():
        (host.state_dir / name).write_bytes(content)
    expected = path.read_bytes()
    result = declared(host)
    assert result.backup is not None and result.source_damage
    contents = members(result.backup.path)
    assert contents[MEMBER] == expected
    assert {name: contents[f"state/{name}"] for name in companions} == companions
    assert {name: (host.state_dir / name).read_bytes() for name in companions} == companions, "nothing live changed"
    head, _ = manifest_of(result.backup.path)
    assert list(head["damage"]) == [MEMBER]


def test_a_sound_database_is_copied_and_its_manifest_has_no_mark(host: Host) -> None:
    fill(host)
    result = declared(host)
    assert result.backup is not None
    assert result.source_damage is None
    require_sound_source(host, result)
    head, _ = manifest_of(result.backup.path)
    assert "damage" not in head


def test_a_host_that_never_had_the_database_is_backed_up_as_before(host: Host) -> None:
    shutil.rmtree(host.state_dir / "index")
    result = declared(host)
    assert result.written and result.source_damage is None
    assert not declared(host).changed


def test_a_backup_is_written_without_a_mark_as_soon_as_the_source_is_sound_again(host: Host) -> None:
    fill(host)
    path = host.state_dir / DATABASE
    whole = path.read_bytes()
    for damage in (zero_middle, remove):
        damage(path)
        assert declared(host).source_damage
        path.write_bytes(whole)
        result = declared(host)
        assert result.written and result.source_damage is None
        assert result.backup is not None
        assert find_backup(host, "latest").id == result.backup.id


def test_a_backup_from_before_the_database_was_declared_is_marked_when_nothing_changed(host: Host) -> None:
    fill(host)
    other_content(host.state_dir / DATABASE)
    old = back_up(host).backup
    assert old is not None and old.source_damage is None
    assert not declared(host, check_mode=True).written
    assert list_backups(host)[0].source_damage is None
    result = declared(host)
    assert (result.written, bool(result.source_damage)) == (False, True)
    [listed] = list_backups(host)
    assert listed.source_damage == result.source_damage
    verify_backups(host)
    assert list_backups(host)[0].source_damage == result.source_damage, "a full read says nothing about the source"
    with pytest.raises(MobiusError, match="made of damaged data") as caught:
        find_backup(host, "latest")
    assert caught.value.outcome == "backup_missing"


@pytest.mark.slow
def test_marked_backups_never_push_a_good_one_out_and_do_not_fill_the_disk(host: Host) -> None:
    fill(host)
    good = []
    for number in range(3):
        touch_state(host, number)
        good.append(declared(host, keep=3).backup)
    zero_middle(host.state_dir / DATABASE)
    for number in range(6):
        touch_state(host, number)
        now = START + timedelta(days=400 + number)
        rules = KeepRules(3, age_days=1)
        predicted = declared(host, keep=rules, now=now, check_mode=True)
        result = declared(host, keep=rules, now=now)
        assert predicted.removed == result.removed
        listed = list_backups(host)
        assert [backup.id for backup in listed if backup.source_damage is None] == [item.id for item in good if item]
        assert sum(backup.source_damage is not None for backup in listed) == min(number + 1, 3)
    pruned = prune_backups(host, keep=KeepRules(1))
    assert [backup.id for backup in list_backups(host) if not backup.source_damage] == [good[-1].id], pruned
    assert sum(backup.source_damage is not None for backup in list_backups(host)) == 1


def test_a_file_that_the_disk_cannot_give_is_marked_and_all_else_is_saved(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: every read of one picture fails from its second block on, as Linux reports it."""
    good = declared(host).backup
    bad = host.state_dir / "library/deep/b.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content)  # another time, so that it is read

    class BadSector(io.RawIOBase):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def fileno(self) -> int:
            return int(self.stream.fileno())

        def close(self) -> None:
            self.stream.close()
            super().close()

        def read(self, size: int = -1) -> bytes:
            if self.stream.tell() >= 4096:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(self.stream.read(min(4096, size) if size > 0 else 4096))

    real = source.open_file

    def open_file(name: Any, folder: int | None = None) -> Any:
        stream = real(name, folder)
        return BadSector(stream) if str(name).endswith("b.jpg") else stream

    monkeypatch.setattr(source, "open_file", open_file)
    result = declared(host)
    assert result.backup is not None
    assert "state/library/deep/b.jpg" in str(result.source_damage)
    contents = members(result.backup.path)
    assert contents["state/library/deep/b.jpg"] == content[:4096] + bytes(len(content) - 4096)
    assert contents["state/library/a.jpg"]
    assert verify_backups(host)[result.backup.id] is None
    assert good is not None and find_backup(host, "latest").id == good.id
    monkeypatch.undo()
    again = declared(host)
    assert again.written and not again.source_damage
    assert again.backup is not None
    assert members(again.backup.path)["state/library/deep/b.jpg"] == content


def test_the_command_ends_with_the_outcome_and_shows_the_mark(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    fill(host)
    top = host.root.parent
    (top / "settings").mkdir()
    (top / "settings/svc.json").write_text(json.dumps({"databases": [DATABASE], "metrics_dir": str(top / "settings")}))
    folders = ["--config-dir", str(top / "settings"), "--host-config-dir", str(top / "mobius-host")]
    assert console.main([*folders, "create"]) == 0
    zero_start(host.state_dir / DATABASE)
    capsys.readouterr()
    for _ in range(2):
        assert console.main([*folders, "create"]) == 3
        output, error = capsys.readouterr()
        assert output == ""
        assert MEMBER in error and "mobius backup restore latest" in error
    assert console.main([*folders, "list"]) == 0
    good, marked = capsys.readouterr()[0].splitlines()
    assert "made of damaged data" in marked and "damaged" not in good
    assert (
        'mobius_backup_source_damaged{service="svc",scope="full"} 1\n' in (top / "settings/svc-backup.prom").read_text()
    )


# --- What is no damage ------------------------------------------------------------------------------------------------


def copy_now(host: Host) -> Path:
    """Copy the index as a backup does."""
    path = host.state_dir / DATABASE
    copy = host.root / "copy"
    folder = open_folder(path.parent)
    try:
        database.copy_database(path.name, path, folder, copy)
    finally:
        os.close(folder)
    return copy


def test_a_copy_that_cannot_be_written_is_no_damage_of_the_source(host: Host) -> None:
    fill(host)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(MobiusError) as caught:
            copy_now(host)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.outcome == "environment_failed"
    assert "cannot be copied now: disk I/O error" in caught.value.reason


HOLD_THE_WRITE_LOCK = """
import fcntl, os, sqlite3, struct, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("insert into images values ('later')")
connection.commit()
shm = os.open(sys.argv[1] + "-shm", os.O_RDWR)
fcntl.lockf(shm, fcntl.LOCK_EX, 1, 120)  # as a writer that is about to change the header of the index of the journal
header = os.pread(shm, 96, 0)
os.pwrite(shm, bytes(96), 0)
print("held", flush=True)
sys.stdin.readline()
os.pwrite(shm, header, 0)
fcntl.lockf(shm, fcntl.LOCK_UN, 1, 120)
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow  # SQLite waits for ten seconds
def test_a_race_for_locks_is_tried_again_and_is_no_damage(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(host)
    errors: list[int | None] = []
    copy_pages = database._copy_pages
    command = [sys.executable, "-c", HOLD_THE_WRITE_LOCK, str(host.state_dir / DATABASE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin and writer.stdout
        assert writer.stdout.readline() == "held\n"

        def copy_and_release(*arguments: Any) -> None:
            try:
                copy_pages(*arguments)
            except sqlite3.Error as error:
                errors.append(error.sqlite_errorcode)
                writer.stdin.write("\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == "released\n"
                raise

        monkeypatch.setattr(database, "_copy_pages", copy_and_release)
        copy = copy_now(host)
        writer.stdin.write("\n")
    assert errors == [sqlite3.SQLITE_PROTOCOL]
    with contextlib.closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("select count(*) from images where path = 'later'").fetchone() == (1,)
