# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores: what is restored, what is refused without a change, and what a kill at any line leaves."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import swap
from ansible_collections.mobius.dhash.plugins.module_utils.backup.archive import DamagedError, file_sha256
from ansible_collections.mobius.dhash.plugins.module_utils.backup.extraction import extract_files, finish_files
from ansible_collections.mobius.dhash.plugins.module_utils.backup.live_state import WriteCounter
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import (
    RestoreResult,
    restore_backup,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups, lock_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backup, verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from tests.backups import CHANGES, PICTURE, back_up, everything, rewrite
from tests.killing import die_before_line, killed


class NoSystemd(Systemd):
    """A host on which no unit is loaded; all else is real."""

    def units(self, *patterns: str) -> dict[str, Unit]:
        return {}


@pytest.fixture(autouse=True)
def nothing_was_released(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no user `svc` on this machine; whoever runs the tests owns everything. Nothing was ever released."""
    durable.write_json(host.activation_path, Activation("svc").as_dict())


def restore(host: Host, backup_id: str = "latest", **options: Any) -> RestoreResult:
    scratch = host.root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return restore_backup(Executor(host, Actor("test"), NoSystemd()), backup_id, scratch=scratch, **options)


def state(host: Host) -> dict[str, tuple[Any, ...]]:
    """All that is restored: kind, mode and content by path."""
    entries = {}
    for top in (host.state_dir, host.config_dir):
        for name, (mode, _, content) in everything(top).items():
            if not name.endswith(("-wal", "-shm", "journal.jsonl")):
                entries[name] = (mode, b"" if name.endswith(".sqlite") else content)
    return entries


def rows(host: Host) -> list[tuple[str]]:
    database = sqlite3.connect(host.state_dir / "index" / "library.sqlite")
    try:
        return database.execute("select path from images").fetchall()
    finally:
        database.close()


def damage(host: Host) -> None:
    """Change everything that is restored."""
    (host.state_dir / "library" / "a.jpg").write_bytes(b"spoilt")
    (host.state_dir / "library" / "new.jpg").write_bytes(b"new")
    shutil.rmtree(host.state_dir / "library" / "deep")
    (host.config_dir / "settings.env").write_text("A=spoilt\n")
    (host.config_dir / "settings.env").chmod(0o600)
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        database.execute("delete from images")


def nothing_left(host: Host) -> bool:
    return not list(host.root.parent.glob(".mobius-tmp-*")) and not swap._former_intent_path(host).exists()


@pytest.mark.slow
def test_everything_is_restored_and_the_state_from_before_is_another_backup(host):
    before = state(host)
    result = back_up(host)
    damage(host)
    spoilt = state(host)
    (host.journal_path).write_text("longer by now\n")
    done = restore(host, result.backup.id)
    assert state(host) == before
    assert rows(host) == [("a.jpg",)]
    assert host.journal_path.read_text() == "longer by now\n"
    assert "state/library/a.jpg" in done.differences
    assert nothing_left(host)
    assert restore(host, done.saved).changed
    assert state(host) == spoilt
    assert rows(host) == []


def test_a_host_that_is_as_the_backup_says_is_left_alone(host):
    result = back_up(host)
    before = everything(host.root.parent)
    assert not restore(host, result.backup.id).changed
    after = everything(host.root.parent)
    scratch = str(host.root.parent / "scratch")
    assert {**after, scratch: None} == {**before, scratch: None}


@pytest.mark.slow
def test_check_mode_reports_what_would_be_restored_and_changes_nothing(host):
    result = back_up(host)
    damage(host)
    (host.root.parent / "scratch").mkdir(exist_ok=True)
    before = everything(host.root.parent)
    predicted = restore(host, result.backup.id, check_mode=True)
    after = everything(host.root.parent)
    scratch = str(host.root.parent / "scratch")
    assert {**after, scratch: None} == {**before, scratch: None}
    assert predicted.saved is None
    assert predicted.differences == restore(host, result.backup.id).differences


@pytest.mark.slow
def test_the_writes_that_are_later_than_the_backup_are_counted_before_and_after(host):
    count = WriteCounter("index/library.sqlite", "select count(*) from images where path >= :since")
    result = back_up(host)
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        # the backup's time is what they are compared with
        database.executemany("insert into images values (?)", [("2026-01-31T23:05:01Z",), ("2026-02-01T00:00:00Z",)])
        database.execute("insert into images values ('2026-01-31T23:05:00Z')")
    predicted = restore(host, result.backup.id, writes=count, check_mode=True)
    done = restore(host, result.backup.id, writes=count)
    # a.jpg of the fixture sorts after every year
    assert predicted.lost == done.lost == 3
    assert done.saved is not None and done.saved_state is None, "no instance ran that could have written meanwhile"
    assert restore(host, result.backup.id).lost is None


@pytest.mark.parametrize("query", ["select nothing from nowhere", "select path from images", "select 1, 2"])
def test_writes_that_cannot_be_counted_are_refused_and_nothing_is_changed(host, query):
    result = back_up(host)
    damage(host)
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        database.execute("insert into images values ('b.jpg')")
    before = state(host)
    with pytest.raises(MobiusError, match=r"[Cc]ount") as caught:
        restore(host, result.backup.id, writes=WriteCounter("index/library.sqlite", query))
    assert caught.value.outcome == "invalid_input"
    assert state(host) == before
    assert len(list_backups(host)) == 1


def test_a_journal_is_restored_on_a_host_that_has_none(host):
    result = back_up(host)
    journal = host.journal_path.read_text()
    shutil.rmtree(host.state_dir)
    host.state_dir.mkdir()
    restore(host, result.backup.id)
    assert host.journal_path.read_text() == journal


def test_of_a_state_backup_the_library_stays_when_it_has_every_picture(host):
    result = back_up(host, scope="state")
    (host.state_dir / "library" / "later.jpg").write_bytes(b"later")
    with contextlib.closing(sqlite3.connect(host.state_dir / "index" / "library.sqlite")) as database, database:
        database.execute("delete from images")
    library = everything(host.state_dir / "library")
    restore(host, result.backup.id)
    assert everything(host.state_dir / "library") == library
    assert rows(host) == [("a.jpg",)]
    (host.state_dir / "library" / "a.jpg").write_bytes(PICTURE[::-1])
    (host.config_dir / "settings.env").write_text("A=2\n")
    before = state(host)
    with pytest.raises(MobiusError, match=r"state/library/a\.jpg"):
        restore(host, result.backup.id)
    assert state(host) == before


# what is refused


def refused(host: Host, backup_id: str, outcome: str, **options: Any) -> str:
    """The reason, once nothing was changed."""
    (host.root.parent / "scratch").mkdir(exist_ok=True)
    with lock_backups(host, check_mode=False):  # the lock's file is there
        before = everything(host.root.parent)
    with pytest.raises(MobiusError) as caught:
        restore(host, backup_id, **options)
    after = everything(host.root.parent)
    assert after == before
    assert caught.value.outcome == outcome
    return str(caught.value.reason)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_an_archive_that_was_changed_with_a_fitting_digest_is_refused_and_nothing_is_changed(host, name):
    result = back_up(host)
    rewrite(result, CHANGES[name])
    damage(host)
    (host.backup_dir / ".svc-verified.lock").touch()
    reason = refused(host, result.backup.id, "backup_damaged")
    assert "Nothing was changed" in reason
    assert "SHA-256" not in reason


REASONS = {
    "swapped": "the content of 'state/library/a.jpg'",
    "dropped": "'state/library/a.jpg'",
    "added": "a file 'state/zz'",
    "added, a link": "a link 'state/zz'",
    "added, a hard link": "a hard link 'state/zz'",
    "added, a device": "a device 'state/zz'",
    "added, absolute": "'/etc/cron.d/x'",
    "a link instead": "a link 'state/library/a.jpg'",
    "setuid": "mode",
    "setuid, in the manifest too": "has the mode '4640'",
    "above, in the manifest": "leads out of the archive",
    "absolute, in the manifest": "leads out of the archive",
    "another id": "under another name",
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_names_what_is_wrong(host, name):
    result = back_up(host)
    rewrite(result, CHANGES[name])
    assert REASONS[name] in verify_backups(host)[result.backup.id]


@pytest.mark.slow
def test_another_hosts_archive_is_refused_unless_that_host_is_named(host):
    result = back_up(host, host_name="lab7")
    damage(host)
    assert "'lab7'" in refused(host, result.backup.id, "invalid_input", host_name="lab8")
    assert restore(host, result.backup.id, host_name="lab8", of_host="lab7").changed


@pytest.mark.slow
def test_the_data_alone_is_restored_and_the_configuration_stays(host):
    backup_id = back_up(host).backup.id
    before = state(host)
    damage(host)
    settings = host.config_dir / "settings.env"
    settings.write_text("A=this host's\n")
    options = {"keep_configuration": True, "of_host": os.uname().nodename}
    predicted = restore(host, backup_id, check_mode=True, **options)
    done = restore(host, backup_id, **options)
    assert predicted.differences == done.differences
    assert not [name for name in done.differences if "config" in name]
    assert settings.read_text() == "A=this host's\n"
    assert {path: entry for path, entry in state(host).items() if path != str(settings)} == {
        path: entry for path, entry in before.items() if path != str(settings)
    }
    assert not restore(host, backup_id, check_mode=True, **options).changed
    assert restore(host, backup_id, check_mode=True).differences, "the configuration does differ"


def test_a_backup_that_is_not_there_is_named(host):
    assert "20250101T000000Z-full" in refused(host, "20250101T000000Z-full", "backup_missing")
    assert "no full backup" in refused(host, "latest", "backup_missing")


def test_too_little_space_is_reported_before_anything_is_done(host, monkeypatch):
    result = back_up(host)
    damage(host)
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda place: real("/proc"))
    assert str(host.state_dir.parent) in refused(host, result.backup.id, "disk_full")


def test_a_folder_that_cannot_be_exchanged_is_named(host):
    result = back_up(host)
    elsewhere = host.root.parent / "disk"
    shutil.move(host.state_dir / "library", elsewhere)
    (host.state_dir / "library").symlink_to(elsewhere)
    assert "library is a link" in refused(host, result.backup.id, "environment_failed")


@pytest.mark.slow
def test_flipped_cut_dropped_and_added_bytes_anywhere_are_refused(host):
    """A fuzz: seeded, so that a failure can be repeated; the digest beside the archive is left as it is, or fits."""
    result = back_up(host)
    whole = result.backup.path.read_bytes()
    sidecar = Path(f"{result.backup.path}.sha256").read_bytes()
    damage(host)
    before = state(host)
    chance = random.Random(20261124)
    for round_ in range(400):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        kind = chance.choice(("flip", "cut", "drop", "add", "swap"))
        if kind == "flip":
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + chance.choice((1, 512, 5000))]
        elif kind == "add":
            data[at:at] = chance.randbytes(chance.choice((1, 512, 5000)))
        else:
            other = chance.randrange(len(data))
            data[at], data[other] = data[other], data[at]
        if data == whole:
            continue
        result.backup.path.write_bytes(data)
        fits = chance.random() < 0.5
        if fits:
            digest = file_sha256(result.backup.path)
            Path(f"{result.backup.path}.sha256").write_text(f"{digest}  {result.backup.path.name}\n")
        else:
            Path(f"{result.backup.path}.sha256").write_bytes(sidecar)
        wrong = verify_backups(host)[result.backup.id]
        if not fits:
            assert wrong, (round_, kind, at)
        elif wrong is None:
            # only what no other byte of the archive vouches for: text of the manifest's head, or a stamp
            assert kind in ("flip", "swap")
            manifest_at = whole.index(b'{"created"')
            assert at > manifest_at or other > manifest_at
            continue
        with pytest.raises(MobiusError, match="Nothing was changed"):
            restore(host, result.backup.id)
        assert state(host) == before


@pytest.mark.slow
def test_what_the_child_leaves_is_not_trusted(host, monkeypatch, tmp_path):
    """Whoever takes the unprivileged child over gets nothing published."""
    result = back_up(host)
    manifest, _ = verify_backup(result.backup)

    def tampered(number: int, change: Callable[[Path], None]) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        descriptor = os.open(place, os.O_RDONLY)
        extract_files(result.backup.path, manifest, descriptor, user=None)
        change(place)
        try:
            finish_files(result.backup.path, manifest, descriptor, owner_of=lambda _: (-1, -1))
        finally:
            os.close(descriptor)

    def hard_link(place: Path) -> None:
        os.link(place / "state/library/a.jpg", tmp_path / "held")

    def link(place: Path) -> None:
        (place / "state/library/a.jpg").rename(tmp_path / "moved")
        (place / "state/library/a.jpg").symlink_to(tmp_path / "moved")

    tampered(0, lambda place: None)
    changes: list[Callable[[Path], None]] = [
        lambda place: (place / "state/library/a.jpg").write_bytes(PICTURE[::-1]) and None,
        lambda place: (place / "state/library/extra").touch(),
        lambda place: (place / "extra").touch(),
        lambda place: (place / "state/library/a.jpg").unlink(),
        hard_link,
        link,
    ]
    for number, change in enumerate(changes, 1):
        with pytest.raises((DamagedError, OSError)):
            tampered(number, change)


@pytest.mark.root("only root can become somebody else")
def test_the_child_that_extracts_is_nobody(host, tmp_path, monkeypatch):
    result = back_up(host)
    manifest, _ = verify_backup(result.backup)
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    descriptor = os.open(place, os.O_RDONLY)
    extract_files(result.backup.path, manifest, descriptor, user=65534)
    os.close(descriptor)
    assert {path.stat().st_uid for path in place.rglob("*")} == {65534}


@pytest.mark.slow
@pytest.mark.root("only root gives files away")
def test_only_root_and_the_services_user_own_what_is_restored(host, monkeypatch):
    monkeypatch.undo()
    import dataclasses

    theirs = dataclasses.replace(host, user="daemon")
    shutil.chown(host.state_dir / "index", "daemon", "daemon")
    shutil.chown(host.state_dir / "library" / "a.jpg", "games", "games")
    (host.state_dir / "library" / "a.jpg").chmod(0o4777)
    result = back_up(host)
    damage(host)
    done = restore(theirs, result.backup.id)
    assert (host.state_dir / "index").owner() == "daemon"
    picture = (host.state_dir / "library" / "a.jpg").stat()
    assert (picture.st_uid, stat.S_IMODE(picture.st_mode)) == (0, 0o775)
    assert (host.state_dir / "library" / "a.jpg").group() == "daemon"
    assert done.renamed_owners == 1


# kills


def killed_at(host: Host, line: int, backup_id: str) -> bool:
    sources = {durable.__file__, *(str(path) for path in Path(swap.__file__).parent.glob("*.py"))}

    def work() -> None:
        die_before_line(line, sources)
        restore(host, backup_id)

    return killed(work)


@pytest.mark.slow
def test_a_restore_that_is_killed_anywhere_loses_nothing_and_the_next_one_finishes(host, tmp_path):
    backup_id = back_up(host).backup.id
    good = state(host)
    damage(host)
    spoilt = state(host)
    pristine = tmp_path / "pristine"
    top = host.root.parent
    shutil.copytree(top, pristine, ignore=lambda _, names: [name for name in names if name == "pristine"])
    stages = set()

    def check(where: object) -> None:
        """What the kill left is whole, the next restore finishes, and everything is put back for the next kill."""
        current = state(host)
        tops = tuple(
            {name: value for name, value in current.items() if name.startswith(str(place))}
            == {name: value for name, value in whole.items() if name.startswith(str(place))}
            for place in (host.state_dir, host.config_dir)
            for whole in (spoilt, good)
        )
        assert any(tops[:2]), (where, "the state is neither the old nor the new one")
        assert any(tops[2:]), (where, "the configuration is neither the old nor the new one")
        if current != spoilt:
            assert len(list_backups(host)) == 2, (where, "the state from before was not saved")
        stages.add(tops)
        assert set(verify_backups(host).values()) == {None}, where
        restore(host, backup_id)
        assert state(host) == good, where
        assert nothing_left(host), where
        reset()

    def reset() -> None:
        for name in ("state", "etc", "backups"):
            shutil.rmtree(top / name)
            shutil.copytree(pristine / name, top / name)

    line = 1
    while killed_at(host, line, backup_id):
        check(line)
        line += 149
    reset()  # the last one was not killed
    # and precisely between the exchanges, which are few lines
    for number in (1, 2):
        assert killed_in_exchange(host, number, backup_id)
        check(f"exchange {number}")
    assert len(stages) == 3, "old, half, and new"


def killed_in_exchange(host: Host, number: int, backup_id: str) -> bool:
    def work() -> None:
        real, done = swap._exchange_folders, 0

        def exchange(one: Path, other: Path) -> None:
            nonlocal done
            real(one, other)
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)

        swap._exchange_folders = exchange
        restore(host, backup_id)

    return killed(work)


@pytest.mark.slow
def test_an_exchange_that_fails_leaves_the_old_state(host, monkeypatch):
    backup_id = back_up(host).backup.id
    damage(host)
    spoilt = state(host)
    real = swap._exchange_folders

    def exchange(one: Path, other: Path) -> None:
        if one == host.config_dir:
            raise OSError(5, "Input/output error")
        real(one, other)

    monkeypatch.setattr(swap, "_exchange_folders", exchange)
    with pytest.raises(OSError, match="Input/output"):
        restore(host, backup_id)
    assert state(host) == spoilt
    assert nothing_left(host)
    monkeypatch.setattr(swap, "_exchange_folders", real)
    assert restore(host, backup_id).changed


needs_root_for_tar = pytest.mark.root("tar compares owners, which only root restores")
PAGE = Path(__file__).resolve().parents[4] / "docs" / "backup.md"


def by_hand(host: Host, identifier: str, tmp_path: Path) -> tuple[list[str], Path, dict[str, str]]:
    """The commands of the page, with this host's folders; where it extracts; and an environment with a systemctl.

    That systemctl records its arguments, since no unit of the service is on this machine.
    """
    section = PAGE.read_text().partition("by hand?")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    aside = tmp_path / "aside"
    for name, value in {
        "service": "svc",
        "id": identifier,
        "backups": host.backup_dir,
        "aside": aside,
        "state": host.state_dir,
        "config": host.config_dir,
    }.items():
        blocks = [re.sub(rf"^{name}=.*$", f"{name}={value}", block, flags=re.MULTILINE) for block in blocks]
    command = tmp_path / "bin" / "systemctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/requests\n')
    command.chmod(0o755)
    return blocks, aside, {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}


@needs_root_for_tar
def test_a_person_with_tar_and_coreutils_restores_it_as_the_page_says(host, tmp_path):
    (host.state_dir / "library" / "grün.jpg").write_bytes(b"not ASCII")
    result = back_up(host)
    good, pictures = state(host), rows(host)
    damage(host)
    host.journal_path.write_text('{"event": "later"}\n')
    blocks, aside, environment = by_hand(host, result.backup.id, tmp_path)
    assert len(blocks) == 2
    done = subprocess.run(["bash", "-c", "\n".join(blocks)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (state(host), rows(host)) == (good, pictures)
    assert "later" in host.journal_path.read_text()
    assert (tmp_path / "requests").read_text().splitlines() == [
        "stop svc-boot.service svc@*.service",
        "start svc-boot.service",
    ]
    assert (aside / "manifest.jsonl").is_file()


@pytest.mark.parametrize("fits", [False, pytest.param(True, marks=needs_root_for_tar)])
def test_a_person_with_tar_and_coreutils_detects_a_changed_picture(host, tmp_path, fits):
    """With the digest beside the archive as it was, and with one that was made to fit."""
    result = back_up(host)
    blocks, _, environment = by_hand(host, result.backup.id, tmp_path)
    data = result.backup.path.read_bytes()
    at = data.index(PICTURE)
    result.backup.path.write_bytes(data[: at + 9] + b"!" + data[at + 10 :])
    if fits:
        digest = file_sha256(result.backup.path)
        Path(f"{result.backup.path}.sha256").write_text(f"{digest}  {result.backup.path.name}\n")
    done = subprocess.run(["bash", "-c", blocks[0]], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert ("state/library/a.jpg: FAILED" in done.stdout) is fits
    assert ("svc-" in done.stdout and ".tar: FAILED" in done.stdout) is not fits
