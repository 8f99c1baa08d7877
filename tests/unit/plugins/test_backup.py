# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups: what is in them, when one is written, that damage is found, and what a kill leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import disk_space, durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import (
    clock,
    database,
    retention,
    safe_open,
    service,
    snapshot,
    store,
    verification,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules, surplus_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    BackupResult,
    BackupSpace,
    create_backup,
    estimate_space,
    prune_backups,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import Backup, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from hypothesis import given, settings
from hypothesis import strategies as st

from mobius.errors import OUTCOMES
from tests.killing import die_after_writing, die_before_line, killed

START = datetime(2026, 1, 31, 23, 5, 1, tzinfo=UTC)
PICTURE = bytes(range(256)) * 40


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A prepared host on which a release serves, with a library of two pictures and an index in WAL mode."""
    # a socket's path has 107 characters at most, and that of `tmp_path` may be long
    with tempfile.TemporaryDirectory(prefix="mobius-") as run_dir:
        yield _prepared(tmp_path, Path(run_dir))


def _prepared(tmp_path: Path, run_dir: Path) -> Host:
    folders = {"run_dir": run_dir} | {
        name: tmp_path / place
        for name, place in {
            "root": "opt",
            "state_dir": "state",
            "config_dir": "etc",
            "backup_dir": "backups",
            "log_dir": "log",
        }.items()
    }
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    description = {
        "schema": 1,
        "service": "svc",
        "user": "root",  # who exists on every machine; only root gives files away
        "health_path": "/health",
        "start_timeout": 60,
        "drain_deadline": 30,
        **{name: str(folder) for name, folder in folders.items()},
    }
    config = tmp_path / "mobius-host"
    config.mkdir()
    (config / "svc.json").write_text(json.dumps(description))
    host = Host.load("svc", config)
    (host.root / "activation.json").write_text('{"schema": 1, "confirmed": "1.0.0-0123456789ab"}\n')
    (host.root / "activation.lock").touch()
    host.journal_path.write_text('{"event": "confirmed"}\n')
    (host.config_dir / "settings.env").write_text("A=1\n")
    (host.config_dir / "settings.env").chmod(0o640)
    (host.state_dir / "library" / "deep").mkdir(parents=True)
    (host.state_dir / "library" / "a.jpg").write_bytes(PICTURE)
    (host.state_dir / "library" / "deep" / "b.jpg").write_bytes(PICTURE * 2)
    (host.state_dir / "index").mkdir()
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table images (path text)")
        database.execute("insert into images values ('a.jpg')")
    database.close()
    return host


def back_up(host: Host, *, now: datetime = START, keep: int | KeepRules = 5, **options) -> BackupResult:
    scratch = host.root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    arguments = {"scope": "full", "scratch": scratch, "clock": lambda: now, **options}
    result = create_backup(host, keep=KeepRules(keep) if isinstance(keep, int) else keep, **arguments)
    assert list(scratch.iterdir()) == []
    return result


def touch_state(host: Host, number: int = 0) -> None:
    with open(host.state_dir / "note", "a") as stream:
        stream.write(f"{number}\n")


def names(host: Host) -> list[str]:
    """What lies in the backup folder, but for locks and what is known of the backups."""
    found = (path.name for path in host.backup_dir.iterdir())
    return sorted(name for name in found if not name.endswith((".lock", "-verified.json")))


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened if not member.isdir()}


def manifest_of(archive: Path) -> tuple[dict, dict[str, dict]]:
    """The head, and the entries by path."""
    head, *entries, _ = (json.loads(line) for line in members(archive)["manifest.jsonl"].splitlines())
    return head, {entry["path"]: entry for entry in entries}


def everything(folder: Path) -> dict[str, tuple]:
    """Every path under a folder with its kind, mode, times and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".svc-verified."):  # when each was read; a backup that is found whole was read
            continue
        about = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (about.st_mode, about.st_mtime_ns, content)
    return found


# what is in a backup


def test_a_full_backup_holds_truth_configuration_journal_index_and_pictures(host):
    result = back_up(host, run="20260131T230501Z-9f3a61c2")
    assert result.backup.id == "20260131T230501Z-full"
    found = members(result.backup.path)
    assert list(found)[-1] == "manifest.jsonl"
    assert sorted(found) == [
        "activation.json",
        "config/settings.env",
        "manifest.jsonl",
        "state/index/library.sqlite",
        "state/journal.jsonl",
        "state/library/a.jpg",
        "state/library/deep/b.jpg",
    ]
    assert found["state/library/deep/b.jpg"] == PICTURE * 2
    head, entries = manifest_of(result.backup.path)
    assert head["scope"] == "full"
    assert head["release"] == "1.0.0-0123456789ab"
    assert head["run"] == "20260131T230501Z-9f3a61c2"
    assert head["created"] == "2026-01-31T23:05:01Z"
    assert head["host"]
    entry = entries["config/settings.env"]
    assert (entry["mode"], entry["size"], entry["stored"]) == ("0640", 4, True)
    assert entry["owner"]
    assert entry["mtime"] == int((host.config_dir / "settings.env").stat().st_mtime)
    folders = {path for path, entry in entries.items() if entry["kind"] == "folder"}
    assert folders == {"config", "state", "state/index", "state/library", "state/library/deep"}


def test_a_state_backup_holds_the_digests_of_the_pictures_but_not_the_pictures(host):
    full, state = back_up(host), back_up(host, scope="state")
    assert "state/library/a.jpg" not in members(state.backup.path)
    entries = [manifest_of(result.backup.path)[1]["state/library/a.jpg"] for result in (full, state)]
    assert entries[1] == {**entries[0], "stored": False, "stamp": entries[1]["stamp"]}
    assert entries[1]["sha256"] == hashlib.sha256(PICTURE).hexdigest()
    assert state.backup.bytes < full.backup.bytes


def test_the_index_is_copied_whole_while_a_writer_has_it_open(host):
    place = host.state_dir / "index" / "library.sqlite"
    writer = sqlite3.connect(place)
    writer.execute("pragma user_version=7")
    writer.execute("insert into images values ('committed.jpg')")
    writer.commit()  # in the -wal file only
    writer.execute("insert into images values ('uncommitted.jpg')")
    result = back_up(host)
    writer.rollback()
    writer.close()
    found = members(result.backup.path)
    assert not [name for name in found if name.endswith(("-wal", "-shm"))]
    copy = host.root / "copy.sqlite"
    copy.write_bytes(found["state/index/library.sqlite"])
    reader = sqlite3.connect(copy)
    assert reader.execute("select path from images").fetchall() == [("a.jpg",), ("committed.jpg",)]
    assert reader.execute("pragma user_version").fetchone() == (7,)
    reader.close()


def test_an_index_that_is_no_database_any_more_is_refused(host):
    place = host.state_dir / "index" / "library.sqlite"
    place.write_bytes(place.read_bytes()[:20] + bytes(5000))
    with pytest.raises(MobiusError) as caught:
        back_up(host)
    assert caught.value.outcome == "state_damaged"
    assert names(host) == []


def test_sha256sum_accepts_what_lies_beside_a_backup(host):
    result = back_up(host)
    subprocess.run(
        ["sha256sum", "-c", "--strict", f"{result.backup.path.name}.sha256"],
        cwd=host.backup_dir,
        check=True,
        capture_output=True,
    )


def test_a_prepared_host_without_any_release_is_backed_up(host):
    shutil.rmtree(host.state_dir)
    host.state_dir.mkdir()
    for path in host.root.iterdir():
        path.unlink()
    result = back_up(host)
    assert sorted(members(result.backup.path)) == ["config/settings.env", "manifest.jsonl"]
    assert verify_backups(host) == {result.backup.id: None}
    assert not back_up(host).changed


def test_an_unprepared_host_is_told_so(host):
    host.backup_dir.rmdir()
    with pytest.raises(MobiusError) as caught:
        back_up(host)
    assert caught.value.outcome == "not_provisioned"


def test_a_library_that_is_a_link_to_another_disk_is_saved(host):
    elsewhere = host.root.parent / "disk"
    shutil.move(host.state_dir / "library", elsewhere)
    (host.state_dir / "library").symlink_to(elsewhere)
    assert "state/library/deep/b.jpg" in members(back_up(host).backup.path)


def test_what_is_neither_a_file_nor_a_folder_is_named_as_not_saved(host):
    os.mkfifo(host.state_dir / "pipe")
    (host.state_dir / "link").symlink_to("/etc/passwd")
    result = back_up(host)
    assert result.skipped == (str(host.state_dir / "link"), str(host.state_dir / "pipe"))
    assert not any("link" in name or "pipe" in name for name in members(result.backup.path))


SECRET = b"what only root may read"


@pytest.fixture
def secret(host: Host) -> Path:
    """A folder that is none of the service's, with names that the index folder has too."""
    folder = host.root.parent / "secret"
    (folder / "deep").mkdir(parents=True)
    for name in ("key", "deep/key"):
        (folder / name).write_bytes(SECRET)
    with contextlib.closing(sqlite3.connect(folder / "library.sqlite")) as database, database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table images (path text)")
        database.execute("insert into images values (?)", (SECRET.decode(),))
    database.close()
    (host.state_dir / "index" / "deep").mkdir()
    for name in ("key", "deep/key"):
        (host.state_dir / "index" / name).write_bytes(b"the service's own")
    return folder


def put_aside(path: Path) -> None:
    path.rename(path.with_name(f"{durable.TEMPORARY_PREFIX}aside"))


def swap_file(host: Host, secret: Path) -> None:
    put_aside(host.state_dir / "index" / "key")
    (host.state_dir / "index" / "key").symlink_to(secret / "key")


def swap_file_for_a_pipe(host: Host, secret: Path) -> None:
    put_aside(host.state_dir / "index" / "key")
    os.mkfifo(host.state_dir / "index" / "key")


def swap_folder(host: Host, secret: Path) -> None:
    put_aside(host.state_dir / "index" / "deep")
    (host.state_dir / "index" / "deep").symlink_to(secret / "deep")


def swap_index(host: Host, secret: Path) -> None:
    put_aside(host.state_dir / "index")
    (host.state_dir / "index").symlink_to(secret)


def swap_database(host: Host, secret: Path) -> None:
    put_aside(host.state_dir / "index" / "library.sqlite")
    (host.state_dir / "index" / "library.sqlite").symlink_to(secret / "library.sqlite")


SWAPPED = {
    swap_file: "index/key",
    swap_file_for_a_pipe: "index/key",
    swap_folder: "index/deep",
    swap_index: "index",
}


def after_listing(host: Host, monkeypatch: pytest.MonkeyPatch, path: Path, swap) -> None:
    """Swap as soon as the folder has been listed."""
    real = os.scandir

    class Listed:
        def __init__(self, place) -> None:
            self.ours = Path(os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else place) == path
            with real(place) as entries:
                self.entries = list(entries)

        def __enter__(self):
            if self.ours:
                monkeypatch.setattr(os, "scandir", real)
                swap()
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(os, "scandir", Listed)


def swap_before(monkeypatch: pytest.MonkeyPatch, module: ModuleType, swap) -> None:
    """Swap between two steps: space is required before a database is copied (`snapshot`), and before the archive is
    written (`service`)."""
    real = disk_space.require_space

    def require_space(*needs: disk_space.SpaceNeed) -> None:
        real(*needs)
        monkeypatch.setattr(module, "require_space", real)
        swap()

    monkeypatch.setattr(module, "require_space", require_space)


def assert_no_secret(result: BackupResult) -> None:
    assert result.backup is not None
    for name, content in members(result.backup.path).items():
        assert SECRET not in content, name


@pytest.mark.parametrize("swap", [swap_file, swap_file_for_a_pipe, swap_folder, swap_index])
def test_what_is_swapped_for_a_link_before_the_archive_is_written_is_left_out_and_told(host, secret, monkeypatch, swap):
    swap_before(monkeypatch, service, lambda: swap(host, secret))
    result = back_up(host)
    assert_no_secret(result)
    assert str(host.state_dir / SWAPPED[swap]) in result.skipped
    # a folder that is a link by now is left out with all that is in it
    assert ("state/index/library.sqlite" in members(result.backup.path)) == (swap is not swap_index)
    assert verify_backups(host) == {result.backup.id: None}


@pytest.mark.parametrize(
    ("swap", "listed", "told"),
    [
        (swap_file, "index", "index/key"),
        (swap_file_for_a_pipe, "index", "index/key"),
        (swap_folder, "index", "index/deep"),
        (swap_index, ".", "index"),
    ],
)
def test_what_is_swapped_for_a_link_while_the_folders_are_read_is_left_out_and_told(
    host, secret, monkeypatch, swap, listed, told
):
    after_listing(host, monkeypatch, host.state_dir / listed, lambda: swap(host, secret))
    result = back_up(host)
    assert_no_secret(result)
    assert str(host.state_dir / told) in result.skipped


@pytest.mark.parametrize("swap", [swap_database, swap_index])
@pytest.mark.parametrize("open_meanwhile", [False, True])
def test_a_database_that_is_swapped_for_a_link_before_sqlite_opens_it_tells_no_secret(
    host, secret, monkeypatch, swap, open_meanwhile
):
    with contextlib.ExitStack() as held:
        if open_meanwhile:  # then there is a -wal
            writer = held.enter_context(contextlib.closing(sqlite3.connect(host.state_dir / "index/library.sqlite")))
            writer.execute("insert into images values ('new.jpg')")
            writer.commit()
        swap_before(monkeypatch, snapshot, lambda: swap(host, secret))
        result = back_up(host)
    assert_no_secret(result)
    assert str(host.state_dir / ("index/library.sqlite" if swap is swap_database else "index")) in result.skipped
    assert "state/index/library.sqlite" not in members(result.backup.path)


def test_a_database_that_is_swapped_at_the_last_moment_is_refused(host, secret, monkeypatch):
    real = sqlite3.connect

    def connect(database, **options):
        if options.get("uri"):
            place = host.state_dir / "index" / "library.sqlite"
            if not place.exists():  # the process sees the folder only
                place = Path("/library.sqlite")
            place.rename(f"{place}.aside")
            place.symlink_to(secret / "library.sqlite")
        return real(database, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(MobiusError) as caught:
        back_up(host)
    assert caught.value.outcome == "state_damaged"
    assert names(host) == []
    assert host.state_dir.is_dir()  # and the process sees the whole host again


def test_a_library_that_others_could_have_made_a_link_is_left_out(host, secret):
    shutil.rmtree(host.state_dir / "library")
    (host.state_dir / "library").symlink_to(secret)
    host.state_dir.chmod(0o777)
    result = back_up(host)
    assert_no_secret(result)
    assert result.skipped == (str(host.state_dir / "library"),)


def test_a_file_name_that_is_no_utf_8_is_saved_and_verified(host):
    place = os.fsencode(host.state_dir / "library") + b"/\xff\xfe.jpg"
    with open(place, "wb") as stream:
        stream.write(PICTURE)
    result = back_up(host)
    assert verify_backups(host) == {result.backup.id: None}
    assert not back_up(host).changed
    os.unlink(place)
    assert back_up(host).differences == ("state/library/\\udcff\\udcfe.jpg",)


def test_what_could_not_be_brought_back_is_refused_before_a_backup_gets_its_name(host):
    before = back_up(host)
    place = host.state_dir
    for _ in range(70):
        place /= "deep"
        place.mkdir()
    with pytest.raises(MobiusError, match="too deep") as caught:
        back_up(host)
    assert caught.value.outcome == "environment_failed"
    assert verify_backups(host) == {before.backup.id: None}
    assert len(names(host)) == 2


def test_an_owner_whose_name_is_unusual_is_kept_by_number(host, monkeypatch):
    monkeypatch.setattr(snapshot.pwd, "getpwuid", lambda number: (f"DOMAIN\\user{number}",))
    result = back_up(host)
    owners = {entry["owner"] for entry in manifest_of(result.backup.path)[1].values()}
    assert owners == {str(os.geteuid())}
    assert verify_backups(host) == {result.backup.id: None}


def test_a_backup_is_readable_by_its_owner_only(host):
    path = back_up(host).backup.path
    assert [oct(place.stat().st_mode & 0o777) for place in (path, Path(f"{path}.sha256"))] == ["0o600", "0o600"]


# when one is written


def test_nothing_changed_means_nothing_written(host):
    first = back_up(host)
    before = everything(host.backup_dir)
    again = back_up(host, now=START + timedelta(hours=1))
    assert not again.changed
    assert again.backup == dataclasses.replace(first.backup, verified="2026-02-01T00:05:01Z")
    assert everything(host.backup_dir) == before


def test_an_index_that_is_only_read_and_checkpointed_has_not_changed(host):
    back_up(host)
    place = host.state_dir / "index" / "library.sqlite"
    reader = sqlite3.connect(place)
    reader.execute("select * from images").fetchall()
    assert not back_up(host).changed
    reader.execute("pragma wal_checkpoint(truncate)")
    assert not back_up(host).changed
    reader.close()
    assert not back_up(host).changed


@pytest.mark.parametrize(
    "change",
    [
        lambda host: (host.state_dir / "library" / "a.jpg").write_bytes(PICTURE[::-1]),
        lambda host: (host.state_dir / "library" / "a.jpg").unlink(),
        lambda host: (host.state_dir / "library" / "c.jpg").write_bytes(b"new"),
        lambda host: (host.state_dir / "library" / "a.jpg").chmod(0o600),
        lambda host: (host.state_dir / "empty").mkdir(),
        lambda host: (host.config_dir / "settings.env").write_text("A=2\n"),
        lambda host: durable.append_line(host.journal_path, "{}"),
        lambda host: (host.root / "activation.json").write_text("{}"),
        lambda host: (host.root / "activation.json").unlink(),
    ],
)
@pytest.mark.parametrize("scope", ["full", "state"])
def test_any_change_of_the_state_makes_a_new_backup(host, change, scope):
    back_up(host, scope=scope)
    change(host)
    result = back_up(host, scope=scope)
    assert result.written
    assert len(result.differences) == 1
    assert len(list_backups(host)) == 2


def test_a_truth_that_cannot_be_understood_is_saved_all_the_same(host):
    (host.root / "activation.json").write_text("{broken")
    found = members(back_up(host).backup.path)
    assert found["activation.json"] == b"{broken"


def test_names_sort_by_age_even_when_the_clock_went_back(host):
    ids = []
    for number, moment in enumerate((START, START, START - timedelta(days=400), START + timedelta(days=1))):
        touch_state(host, number)
        ids.append(back_up(host, now=moment).backup.id)
    assert ids == sorted(set(ids))
    assert [item.id for item in list_backups(host)] == ids


def test_rotation_keeps_the_newest_and_removes_the_oldest_with_their_digests(host):
    ids = []
    for number in range(5):
        touch_state(host, number)
        result = back_up(host, keep=3)
        ids.append(result.backup.id)
    assert result.removed == (ids[1],)
    assert names(host) == sorted(f"svc-{name}.tar{end}" for name in ids[2:] for end in ("", ".sha256"))


def test_rotation_happens_when_fewer_are_to_be_kept_though_nothing_changed(host):
    for number in range(3):
        touch_state(host, number)
        last = back_up(host)
    result = back_up(host, keep=1)
    assert (result.written, result.changed, len(result.removed)) == (False, True, 2)
    assert verify_backups(host) == {last.backup.id: None}


def test_rotation_of_one_scope_leaves_the_other_alone(host):
    full = back_up(host, keep=1)
    for number in range(3):
        touch_state(host, number)
        back_up(host, scope="state", keep=1)
    assert full.backup.id in verify_backups(host)
    assert len(list_backups(host)) == 2


@pytest.mark.parametrize("keep", [0, -1])
def test_to_keep_none_is_refused(host, keep):
    with pytest.raises(MobiusError) as caught:
        back_up(host, keep=keep)
    assert caught.value.outcome == "invalid_input"


def test_a_full_disk_is_found_before_anything_is_written(host, monkeypatch):
    back_up(host)
    before = everything(host.backup_dir)
    (host.state_dir / "library" / "big.jpg").write_bytes(bytes(500_000))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=300, f_frsize=4096))
    for check_mode in (True, False):
        with pytest.raises(MobiusError) as caught:
            back_up(host, check_mode=check_mode)
        assert caught.value.outcome == "disk_full"
        assert int(caught.value.code) == 5
        assert str(host.backup_dir) in caught.value.reason
        assert everything(host.backup_dir) == before


def test_a_disk_that_fills_up_meanwhile_leaves_the_old_backups_and_nothing_else(host, monkeypatch):
    old = back_up(host)
    touch_state(host)
    real = os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(host.backup_dir / ".mobius-tmp-svc-")):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MobiusError) as caught:
        back_up(host)
    assert caught.value.outcome == "disk_full"
    assert verify_backups(host) == {old.backup.id: None}
    assert len(names(host)) == 2


# check mode


@pytest.mark.parametrize("keep", [1, 5])
def test_check_mode_changes_nothing_and_predicts_what_the_run_then_does(host, keep):
    for number in range(3):
        touch_state(host, number)
        back_up(host)
    (host.backup_dir / ".mobius-tmp-svc-abcd1234").write_text("left")
    touch_state(host, 9)
    before = everything(host.root.parent)
    predicted = back_up(host, keep=keep, check_mode=True)
    after = everything(host.root.parent)
    scratch = str(host.root.parent / "scratch")  # the module's own temporary folder, used and left empty
    assert {**after, scratch: None} == {**before, scratch: None}
    done = back_up(host, keep=keep)
    assert predicted.backup is None
    assert done.backup is not None
    for name in ("written", "before", "after", "removed", "leftovers", "differences", "files", "size", "changed"):
        assert getattr(predicted, name) == getattr(done, name), name


def test_check_mode_leaves_no_trace_beside_an_index_that_nobody_has_open(host):
    back_up(host, check_mode=True)
    assert [path.name for path in (host.state_dir / "index").iterdir()] == ["library.sqlite"]
    assert names(host) == []
    assert not (host.backup_dir / ".svc.lock").exists()


def test_check_mode_of_an_unchanged_state_predicts_nothing(host):
    back_up(host)
    assert not back_up(host, check_mode=True).changed


# damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found(host):
    result = back_up(host)
    whole = result.backup.path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        flip(result.backup.path, at)
        assert verify_backups(host)[result.backup.id] is not None, at
        result.backup.path.write_bytes(whole)
    assert verify_backups(host) == {result.backup.id: None}


@pytest.mark.parametrize("size", [0, 1, 10, 500, -1])
def test_a_backup_that_was_cut_short_is_found(host, size):
    result = back_up(host)
    result.backup.path.write_bytes(result.backup.path.read_bytes()[:size])
    assert verify_backups(host)[result.backup.id] is not None


def test_bytes_behind_the_end_are_found(host):
    result = back_up(host)
    with open(result.backup.path, "ab") as stream:
        stream.write(b"\0" * 512)
    assert "SHA-256" in verify_backups(host)[result.backup.id]


@pytest.mark.parametrize("text", [None, "", "x\n", "0" * 64 + "\n", "{digest} name\n", "{digest}  another\n"])
def test_a_backup_whose_digest_is_missing_or_wrong_is_not_whole(host, text):
    result = back_up(host)
    place = Path(f"{result.backup.path}.sha256")
    if text is None:
        place.unlink()
    else:
        place.write_text(text.format(digest=result.backup.sha256))
    assert verify_backups(host)[result.backup.id] is not None


def rewrite(result: BackupResult, change) -> None:
    """Write the archive anew with changed members and a digest that fits: only the manifest can tell.

    `change` gets a list of `[header, content]`, in their order; the place of the manifest is made to fit, too.
    """
    with tarfile.open(result.backup.path) as archive:
        found = [[member, b"" if member.isdir() else archive.extractfile(member).read()] for member in archive]
    change(found)
    out = b""
    for member, content in found:
        if member.name == "manifest.jsonl" and content.count(b"\n") > 2:
            *lines, tail = content.splitlines(keepends=True)
            tail = json.dumps({**json.loads(tail), "manifest_at": len(out)}, sort_keys=True, separators=(",", ":"))
            content = b"".join(lines) + tail.encode() + b"\n"
        member.size = len(content)
        member.pax_headers = {}
        out += member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)
    path = result.backup.path
    path.write_bytes(out + bytes(1024))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")


def member(found, name):
    return next(item for item in found if item[0].name == name)


def add(found, name, content=b"added", **about) -> None:
    info = tarfile.TarInfo(name)
    info.uname = info.gname = "root"
    for key, value in about.items():
        setattr(info, key, value)
    found.insert(len(found) - 1, [info, content])


def edit(found, old: bytes, new: bytes) -> None:
    item = member(found, "manifest.jsonl")
    assert old in item[1]
    item[1] = item[1].replace(old, new, 1)


A = "state/library/a.jpg"
CHANGES = {
    "swapped": lambda found: member(found, A).__setitem__(1, PICTURE[::-1]),
    "shorter": lambda found: member(found, A).__setitem__(1, PICTURE[:-1]),
    "dropped": lambda found: found.remove(member(found, A)),
    "doubled": lambda found: found.insert(3, member(found, A)),
    "added": lambda found: add(found, "state/zz"),
    "added, absolute": lambda found: add(found, "/etc/cron.d/x"),
    "added, above": lambda found: add(found, "../x"),
    "added, a link": lambda found: add(found, "state/zz", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "added, a hard link": lambda found: add(found, "state/zz", b"", type=tarfile.LNKTYPE, linkname=A),
    "added, a device": lambda found: add(found, "state/zz", b"", type=tarfile.CHRTYPE),
    "a link instead": lambda found: (
        setattr(member(found, A)[0], "type", tarfile.SYMTYPE),
        member(found, A).__setitem__(1, b""),
    ),
    "setuid": lambda found: setattr(member(found, A)[0], "mode", 0o4755),
    "setuid, in the manifest too": lambda found: (
        setattr(member(found, "config/settings.env")[0], "mode", 0o4640),
        edit(found, b'"0640"', b'"4640"'),
    ),
    "owner": lambda found: setattr(member(found, A)[0], "uname", "daemon"),
    "order": lambda found: found.insert(0, found.pop(1)),
    "behind the manifest": lambda found: found.append(found.pop(0)),
    "no manifest": lambda found: found.pop(),
    "an empty manifest": lambda found: found[-1].__setitem__(1, b"{}\n"),
    "a manifest that is no JSON": lambda found: found[-1].__setitem__(1, b"no JSON" * 100),
    "another name in the manifest": lambda found: edit(found, b"state/library/a.jpg", b"state/library/b.jpg"),
    "above, in the manifest": lambda found: edit(found, b"state/library/a.jpg", b"state/../../../.jpg"),
    "absolute, in the manifest": lambda found: edit(found, b"state/library/a.jpg", b"/tate/library/a.jpg"),
    "a folder that is not there": lambda found: edit(found, b"state/library/a.jpg", b"state/librarx/a.jpg"),
    "another digest": lambda found: edit(
        found, hashlib.sha256(PICTURE).hexdigest().encode(), hashlib.sha256(b"").hexdigest().encode()
    ),
    "another count": lambda found: edit(found, b'"entries":11', b'"entries":10'),
    "another id": lambda found: edit(found, b"20260131T230501Z-full", b"20260131T230502Z-full"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_backup_whose_members_are_not_what_its_manifest_says_is_found(host, name):
    result = back_up(host)
    rewrite(result, CHANGES[name])
    found = verify_backups(host)[result.backup.id]
    assert found is not None
    assert "SHA-256" not in found


def test_an_unchanged_rewrite_is_whole(host):
    """The negative proof of the test above."""
    result = back_up(host)
    whole = result.backup.path.read_bytes()
    rewrite(result, lambda found: None)
    assert result.backup.path.read_bytes() == whole
    assert verify_backups(host) == {result.backup.id: None}


def test_a_damaged_newest_backup_is_kept_for_inspection_and_another_is_written(host):
    old = back_up(host)
    flip(old.backup.path, 100)
    result = back_up(host, keep=1)
    assert (result.written, result.damaged, result.removed) == (True, old.backup.id, ())
    found = verify_backups(host)
    assert found[result.backup.id] is None
    assert found[old.backup.id] is not None


def test_verification_of_several_names_each_damaged_one(host):
    ids = []
    for number in range(3):
        touch_state(host, number)
        ids.append(back_up(host).backup.id)
    flip(list_backups(host)[1].path, 50)
    found = verify_backups(host)
    assert [name for name in ids if found[name] is not None] == [ids[1]]


# kills


SOURCES = {
    module.__file__
    for module in (clock, database, durable, retention, safe_open, service, snapshot, store, verification)
}


def killed_at(host: Host, line: int, **options) -> bool:
    """Take a backup in a child process that is killed before the n-th line it executes; whether it came that far."""

    def work() -> None:
        die_before_line(line, SOURCES)
        create_backup(host, scope="full", keep=KeepRules(2), scratch=host.root, clock=lambda: START, **options)

    return killed(work)


@pytest.mark.slow
def test_a_kill_at_any_line_leaves_whole_backups_only_and_the_next_run_cleans_up(host, tmp_path):
    for number in range(2):
        touch_state(host, number)
        back_up(host)
    touch_state(host, 9)
    old = [item.id for item in list_backups(host)]
    pristine = tmp_path / "pristine"
    shutil.copytree(host.backup_dir, pristine)
    line, killed, seen = 1, 0, set()
    while killed_at(host, line):
        killed += 1
        found = verify_backups(host)
        seen.add(tuple(found))
        assert set(found.values()) == {None}, line  # a final name means whole, and the digest is there
        # the old ones go only after the new one is there
        assert old[-1] in found
        assert old[0] in found or len(found) == 2, line
        result = back_up(host, keep=2)
        assert [item.id for item in list_backups(host)][-1] > old[-1]
        assert verify_backups(host).keys() == {old[-1], result.backup.id}
        assert len(names(host)) == 4, names(host)
        shutil.rmtree(host.backup_dir)
        shutil.copytree(pristine, host.backup_dir)
        line += 7 if line < 1500 else 31
    assert killed > 60
    assert len(seen) >= 3, "the kills met every stage: before, between and after"


def killed_after_call(host: Host, number: int) -> bool:
    """Take a backup in a child process that is killed right after its n-th system call that writes."""

    def work() -> None:
        die_after_writing(number)
        create_backup(host, scope="full", keep=KeepRules(2), scratch=host.root, clock=lambda: START)

    return killed(work)


@pytest.mark.slow
def test_a_kill_after_any_system_call_that_writes_lists_no_partial_backup_and_loses_no_good_one(host, tmp_path):
    (host.state_dir / "library" / "long.jpg").write_bytes(PICTURE * 300)  # several writes
    for number in range(2):
        touch_state(host, number)
        back_up(host)
    touch_state(host, 9)
    old = [item.id for item in list_backups(host)]
    pristine = tmp_path / "pristine"
    shutil.copytree(host.backup_dir, pristine)
    number, stages = 0, []
    while killed_after_call(host, number + 1):
        number += 1
        found = verify_backups(host)
        assert set(found.values()) == {None}, number
        # an old one is gone only once there are two others, and of these one is new
        assert old[1] in found, number
        assert old[0] in found or len(found) == 2, number
        if not stages or stages[-1] != len(found):
            stages.append(len(found))
        shutil.rmtree(host.backup_dir)
        shutil.copytree(pristine, host.backup_dir)
    assert number > 20
    assert stages == [2, 3, 2], "before the new one, with it, and after the rotation"


@pytest.mark.slow
def test_a_system_call_that_fails_leaves_whole_backups_only(host, monkeypatch):
    """Every rename, fsync, unlink and mkstemp in turn fails; afterwards everything old is whole and the next run works."""
    touch_state(host, 1)
    old = back_up(host)
    calls = 0
    fail_at = 0

    def failing(real):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(5, "Input/output error")
            return real(*arguments, **options)

        return call

    for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "unlink"), (os, "fchmod")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    touch_state(host, 2)
    rounds = 0
    while True:
        calls, fail_at = 0, rounds + 1
        try:
            result = create_backup(host, scope="full", keep=KeepRules(1), scratch=host.root, clock=lambda: START)
        except OSError:
            pass
        finally:
            fail_at = 0
        if calls <= rounds:
            break
        rounds += 1
        found = verify_backups(host)
        assert set(found.values()) == {None}
        assert found
        result = back_up(host, keep=1)
        assert verify_backups(host) == {result.backup.id: None}
        assert len(names(host)) == 2
        touch_state(host, rounds)
    assert rounds >= 8
    assert old.backup.id not in verify_backups(host)


def test_what_killed_runs_left_is_removed_and_nothing_else(host):
    left = [".mobius-tmp-svc-abcd1234", ".mobius-tmp-ab_d1234", "svc-20250101T000000Z-full.tar.sha256"]
    others = [".mobius-tmp-other-abcd1234", "notes.txt", "svc-old.tar", "other-20250101T000000Z-full.tar.sha256"]
    for name in (*left, *others):
        (host.backup_dir / name).write_text("x")
    (host.backup_dir / ".mobius-tmp-svc-efgh5678").mkdir()
    result = back_up(host)
    assert set(result.leftovers) == {*left, ".mobius-tmp-svc-efgh5678"}
    assert set(others) <= set(names(host))
    assert not set(result.leftovers) & set(names(host))


def test_two_backups_at_once_make_one(host):
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                take_alone(host)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(verify_backups(host)) == 1
    assert set(verify_backups(host).values()) == {None}


def take_alone(host: Host) -> None:
    create_backup(host, scope="full", keep=KeepRules(5), scratch=host.root, clock=lambda: START)


def test_every_outcome_that_a_backup_may_have_is_in_the_table():
    assert {"disk_full", "state_damaged", "not_provisioned", "timeout", "backup_damaged"} <= set(OUTCOMES)


# rotation, over random histories


RELEASES = ("1.0.0-0123456789ab", "1.1.0-0123456789ab")


@st.composite
def histories(draw) -> tuple[list[Backup], KeepRules, datetime]:
    gaps = draw(st.lists(st.integers(1, 40 * 86400), min_size=1, max_size=30))
    moments = [START + timedelta(seconds=sum(gaps[: number + 1])) for number in range(len(gaps))]
    found = [
        Backup(
            f"{moment:%Y%m%dT%H%M%SZ}-full",
            Path(),
            0,
            None,
            release=draw(st.sampled_from((None, *RELEASES))),
            damaged=draw(st.sampled_from((None, None, None, "a bit"))) if moment is not moments[-1] else None,
        )
        for moment in moments
    ]
    numbers = st.integers(0, 6)
    keep = KeepRules(draw(st.integers(1, 6)), draw(st.integers(0, 100)), draw(numbers), draw(numbers), draw(numbers))
    return found, keep, moments[-1] + timedelta(days=draw(st.integers(-400, 400)))


@pytest.mark.slow
@settings(deadline=None)
@given(histories(), st.data())
def test_rotation_keeps_what_each_rule_names_and_removes_all_else(history, data):
    found, keep, now = history
    needed = data.draw(st.sets(st.sampled_from([item.id for item in found])))
    removed = surplus_backups(found, keep, now, needed)
    left = [item for item in found if item not in removed]
    whole = [item for item in found if item.damaged is None]
    assert found[-1] in left
    assert needed <= {item.id for item in left}
    assert not [item for item in removed if item.damaged]
    assert whole[-keep.count :] == [item for item in left if item in whole[-keep.count :]]
    for number, period in ((keep.days, "%Y%j"), (keep.weeks, "%G%V"), (keep.months, "%Y%m")):
        periods = sorted({item.begun.strftime(period) for item in whole})
        for one in periods[len(periods) - min(number, len(periods)) :]:
            last = [item for item in whole if item.begun.strftime(period) == one][-1]
            assert last in left
    # nothing stays without a reason
    bound = len(needed) + keep.count + keep.days + keep.weeks + keep.months
    young = [item for item in whole if keep.age_days and now - item.begun <= timedelta(days=keep.age_days)]
    assert {item.id for item in young} <= {item.id for item in left}
    assert len([item for item in left if item.damaged is None]) <= bound + len(young)
    # a rotation that was cut short anywhere, and is done again, ends where the whole one does
    cut = data.draw(st.integers(0, len(removed)))
    rest = [item for item in found if item not in removed[:cut]]
    assert surplus_backups(rest, keep, now, needed) == removed[cut:]


def test_a_backup_that_a_kept_release_or_an_unfinished_run_needs_stays(host):
    old = back_up(host, run="20260131T230501Z-9f3a61c2")
    (host.releases_dir / "1.0.0-0123456789ab").mkdir(parents=True)
    (host.root / "activation.json").write_text('{"schema": 1, "confirmed": "1.1.0-0123456789ab"}\n')
    for number in range(3):
        touch_state(host, number)
        result = back_up(host, keep=1)
    assert [item.id for item in list_backups(host)] == [old.backup.id, result.backup.id]
    (host.releases_dir / "1.0.0-0123456789ab").rmdir()
    pending = {
        "schema": 1,
        "release": "1.1.0-0123456789ab",
        "previous": None,
        "stage": "canary",
        "deadline": 1.0,
        "boot_id": "x",
        "run": "20260131T230501Z-9f3a61c2",
        "token": 0,
        "activated": "x",
    }
    host.pending_path.write_text(json.dumps(pending))
    assert not prune_backups(host, keep=KeepRules(1)).removed
    host.pending_path.unlink()
    predicted = prune_backups(host, keep=KeepRules(1), check_mode=True)
    assert predicted.removed == (old.backup.id,)
    assert len(list_backups(host)) == 2
    assert prune_backups(host, keep=KeepRules(1)) == predicted
    assert [item.id for item in list_backups(host)] == [result.backup.id]


def test_rotation_alone_removes_nothing_when_the_newest_is_damaged(host):
    for number in range(3):
        touch_state(host, number)
        result = back_up(host)
    flip(result.backup.path, 5000)
    pruned = prune_backups(host, keep=KeepRules(1))
    assert (pruned.removed, pruned.damaged) == ((), (result.backup.id,))
    assert len(list_backups(host)) == 3


# what is known of a backup


def test_a_list_tells_host_release_and_when_each_was_last_verified(host):
    result = back_up(host, host_name="lab7")
    (listed,) = list_backups(host)
    assert listed == result.backup
    assert listed.as_dict() == {
        "id": "20260131T230501Z-full",
        "scope": "full",
        "host": "lab7",
        "created": "2026-01-31T23:05:01Z",
        "release": "1.0.0-0123456789ab",
        "bytes": listed.path.stat().st_size,
        "sha256": hashlib.sha256(listed.path.read_bytes()).hexdigest(),
        "verified": listed.verified,
        "damaged": None,
        "path": str(listed.path),
    }
    assert listed.verified
    flip(listed.path, 3000)
    verify_backups(host)
    (listed,) = list_backups(host)
    assert listed.verified is None
    assert "SHA-256" in listed.damaged


def test_all_parts_together_read_every_file_once(host):
    for number in range(9):
        (host.state_dir / "library" / f"{number}.jpg").write_bytes(PICTURE + bytes([number]))
    result = back_up(host)
    (host.backup_dir / ".svc-verified.json").unlink()
    for part in range(1, 8):
        assert list_backups(host)[0].verified is None, part
        assert verify_backups(host, (part, 7)) == {result.backup.id: None}
    assert list_backups(host)[0].verified is not None
    whole = result.backup.path.read_bytes()
    for name, content in members(result.backup.path).items():
        if name == "manifest.jsonl":
            continue
        at = whole.index(content)
        flip(result.backup.path, at)
        finders = [part for part in range(1, 8) if verify_backups(host, (part, 7))[result.backup.id]]
        assert len(finders) == 1, name
        result.backup.path.write_bytes(whole)


def test_a_part_finds_a_changed_manifest_by_what_was_noted_when_it_was_written(host):
    result = back_up(host)
    rewrite(result, lambda found: edit(found, b'"run":null', b'"run":   1'))
    assert "manifest" in verify_backups(host, (1, 7))[result.backup.id]


def test_a_file_with_known_size_times_and_inode_is_not_read_again(host, monkeypatch):
    back_up(host)
    later = datetime.fromtimestamp((host.state_dir / "library" / "a.jpg").stat().st_mtime + 3600, UTC)
    touch_state(host)
    result = back_up(host, now=later)  # records the stamps
    read = []
    real = snapshot.SourceItem.sha256
    monkeypatch.setattr(snapshot.SourceItem, "sha256", lambda item: read.append(item.entry.path) or real(item))
    assert not back_up(host, now=later).changed
    assert sorted(read) == ["activation.json", "state/index/library.sqlite", "state/journal.jsonl"]
    # the same size and the same time of change, but written anew
    picture = host.state_dir / "library" / "a.jpg"
    about = picture.stat()
    picture.write_bytes(PICTURE[::-1])
    os.utime(picture, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert back_up(host, now=later).differences == ("state/library/a.jpg",)
    assert result.backup


@pytest.mark.slow
def test_memory_does_not_grow_with_the_library(host):
    """Ten thousand pictures more change the most memory that a backup and its verification take by less than 5 MB."""
    program = (
        "import sys, pathlib, re\n"
        f"sys.path.insert(0, {str(Path(service.__file__).parents[6])!r})\n"
        "from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules\n"
        "from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import create_backup\n"
        "from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host\n"
        f"host = Host.load('svc', {str(host.root.parent / 'mobius-host')!r})\n"
        "create_backup(host, scope='full', keep=KeepRules(1), scratch=pathlib.Path('/tmp'))\n"
        "create_backup(host, scope='full', keep=KeepRules(1), scratch=pathlib.Path('/tmp'))\n"
        # not ru_maxrss: that begins with what the tests' own process held when it started this one
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])\n"
    )

    def peak() -> int:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return int(done.stdout)

    (host.state_dir / "library" / "long.jpg").write_bytes(bytes(20_000_000))
    few = peak()
    for folder in range(20):
        place = host.state_dir / "library" / str(folder)
        place.mkdir()
        for number in range(500):
            (place / f"{number}.jpg").write_bytes(b"picture")
    many = peak()
    assert many - few < 5_000, (few, many)
    assert many < 100_000


def test_the_space_asked_for_holds_what_is_written_and_nothing_is_asked_for_when_nothing_changed(host: Host) -> None:
    scratch = host.root.parent / "scratch"
    scratch.mkdir()

    def asked(scope: str, available: int) -> BackupSpace:
        found = estimate_space(host, scope=scope, scratch=scratch, available=available)
        assert list(scratch.iterdir()) == []
        return found

    measured, compared = asked("full", 1 << 40), asked("full", 0)
    assert measured.copies > 0
    assert measured.peak >= compared.peak
    written = back_up(host).backup
    assert written is not None
    assert compared.archive >= written.bytes > asked("state", 0).archive - (1 << 20)
    assert asked("full", 0) == BackupSpace()
    assert asked("full", 1 << 40).peak > 0, "what fits is measured only"
    touch_state(host)
    assert asked("full", 0).archive > 0
