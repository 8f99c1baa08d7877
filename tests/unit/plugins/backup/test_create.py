# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is in a backup, when one is written, and what check mode predicts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import (
    database,
    service,
    source,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    BackupSpace,
    estimate_space,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import (
    PICTURE,
    START,
    back_up,
    everything,
    manifest_of,
    members,
    names,
    touch_state,
)

# what is in a backup


def test_a_full_backup_holds_activation_record_configuration_journal_index_and_pictures(host):
    result = back_up(host, run="20260131T230501Z-9f3a61c2")
    assert result.backup.id == "20260131T230501Z-full"
    contents = members(result.backup.path)
    assert list(contents)[-1] == "manifest.jsonl"
    assert sorted(contents) == [
        "activation.json",
        "config/settings.env",
        "manifest.jsonl",
        "state/index/library.sqlite",
        "state/journal.jsonl",
        "state/library/a.jpg",
        "state/library/deep/b.jpg",
    ]
    assert contents["state/library/deep/b.jpg"] == PICTURE * 2
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
    contents = members(result.backup.path)
    assert not [name for name in contents if name.endswith(("-wal", "-shm"))]
    copy = host.root / "copy.sqlite"
    copy.write_bytes(contents["state/index/library.sqlite"])
    reader = sqlite3.connect(copy)
    assert reader.execute("select path from images").fetchall() == [("a.jpg",), ("committed.jpg",)]
    assert reader.execute("pragma user_version").fetchone() == (7,)
    reader.close()


def test_an_index_that_sqlite_cannot_copy_is_saved_as_it_is_and_the_backup_is_marked(host):
    place = host.state_dir / "index" / "library.sqlite"
    place.write_bytes(place.read_bytes()[:20] + bytes(5000))
    result = back_up(host)
    assert "state/index/library.sqlite" in result.source_damage
    assert members(result.backup.path)["state/index/library.sqlite"] == place.read_bytes()


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


def test_a_host_without_a_backup_folder_is_refused(host):
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


def test_a_file_name_that_is_no_utf_8_is_saved_and_verified(host):
    place = os.fsencode(host.state_dir / "library") + b"/\xff\xfe.jpg"
    with open(place, "wb") as stream:
        stream.write(PICTURE)
    result = back_up(host)
    assert verify_backups(host) == {result.backup.id: None}
    assert not back_up(host).changed
    os.unlink(place)
    assert back_up(host).differences == ("state/library/\\udcff\\udcfe.jpg",)


def test_what_could_not_be_restored_is_refused_before_a_backup_gets_its_name(host):
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
    monkeypatch.setattr(source.pwd, "getpwuid", lambda number: (f"DOMAIN\\user{number}",))
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


@pytest.mark.slow
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


def test_an_invalid_activation_record_is_saved(host):
    (host.root / "activation.json").write_text("{broken")
    contents = members(back_up(host).backup.path)
    assert contents["activation.json"] == b"{broken"


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
def test_a_rotation_that_keeps_no_backup_is_refused(host, keep):
    with pytest.raises(MobiusError) as caught:
        back_up(host, keep=keep)
    assert caught.value.outcome == "invalid_input"


def test_a_full_disk_is_detected_before_anything_is_written(host, monkeypatch):
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


def test_a_file_with_known_size_times_and_inode_is_not_read_again(host, monkeypatch):
    back_up(host)
    later = datetime.fromtimestamp((host.state_dir / "library" / "a.jpg").stat().st_mtime + 3600, UTC)
    touch_state(host)
    result = back_up(host, now=later)  # records the stamps
    read = []
    real = source.SourceItem.sha256
    monkeypatch.setattr(source.SourceItem, "sha256", lambda item: read.append(item.entry.path) or real(item))
    assert not back_up(host, now=later).changed
    assert sorted(read) == ["activation.json", "state/index/library.sqlite", "state/journal.jsonl"]
    # the same size and the same time of change, but written again
    picture = host.state_dir / "library" / "a.jpg"
    about = picture.stat()
    picture.write_bytes(PICTURE[::-1])
    os.utime(picture, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert back_up(host, now=later).differences == ("state/library/a.jpg",)
    assert result.backup


@pytest.mark.slow
def test_memory_does_not_grow_with_the_library(host):
    """Ten thousand pictures more change the peak of memory of a backup and its verification by less than 5 MB."""
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
        """The smaller of two: how threads meet in the allocator only ever adds to it."""
        done = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=True) for _ in range(2)]
        return min(int(one.stdout) for one in done)

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


def test_the_estimated_space_holds_what_is_written_and_is_nothing_when_nothing_changed(host: Host) -> None:
    scratch = host.root.parent / "scratch"
    scratch.mkdir()

    def estimate(scope: str, available: int) -> BackupSpace:
        contents = estimate_space(host, scope=scope, scratch=scratch, available=available)
        assert list(scratch.iterdir()) == []
        return contents

    measured, compared = estimate("full", 1 << 40), estimate("full", 0)
    assert measured.copies > 0
    assert measured.peak >= compared.peak
    written = back_up(host).backup
    assert written is not None
    assert compared.archive >= written.bytes > estimate("state", 0).archive - (1 << 20)
    assert estimate("full", 0) == BackupSpace()
    assert estimate("full", 1 << 40).peak > 0, "what fits is measured only"
    touch_state(host)
    assert estimate("full", 0).archive > 0


WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("insert into images values ('committed.jpg')")
if sys.argv[2] == "open":
    print("ready", flush=True)
    sys.stdin.read()
else:
    import os
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("ending", ["open", "killed"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_what_another_process_has_committed_is_saved_and_nothing_beside_the_index_changes(host, ending, mode):
    """A service that runs, or one that was killed and left its journal."""
    place = host.state_dir / "index" / "library.sqlite"
    with contextlib.closing(sqlite3.connect(place)) as index:
        index.execute(f"pragma journal_mode={mode}")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place), ending], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == ("ready\n" if ending == "open" else "")
        # where a reader enters itself when others have the index open
        shared = {f"{place}-shm": None} if ending == "open" else {}
        before = everything(place.parent) | shared
        folder = os.open(place.parent, os.O_RDONLY)
        assert database._is_in_use(place.name, folder) is (ending == "open" and mode == "wal")
        os.close(folder)
        result = back_up(host, databases=["index/library.sqlite"])
        assert everything(place.parent) | shared == before
        writer.stdin.close()
    assert result.source_damage is None
    copy = host.root / "copy.sqlite"
    copy.write_bytes(members(result.backup.path)["state/index/library.sqlite"])
    with contextlib.closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("select path from images").fetchall() == [("a.jpg",), ("committed.jpg",)]


def test_a_journal_of_a_killed_service_is_recovered_in_the_copy_only(host):
    """A rollback journal that undoes half a transaction: only a recovery makes the index sound again."""
    place = host.state_dir / "index" / "library.sqlite"
    with contextlib.closing(sqlite3.connect(place)) as index:
        index.execute("pragma journal_mode=delete")
        with index:
            index.executemany("insert into images values (?)", [(f"{number:06}",) for number in range(5000)])
    program = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size=2")
database.execute("begin")
database.execute("update images set path = 'half' || path")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(place)], check=False)
    assert Path(f"{place}-journal").stat().st_size > 0
    before = everything(place.parent)
    result = back_up(host, databases=["index/library.sqlite"])
    assert everything(place.parent) == before
    assert result.source_damage is None
    copy = host.root / "copy.sqlite"
    copy.write_bytes(members(result.backup.path)["state/index/library.sqlite"])
    with contextlib.closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("select count(*) from images where path like 'half%'").fetchone() == (0,)
        assert reader.execute("select count(*) from images").fetchone() == (5001,)
