# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restore of a host whose live state is damaged: it ends well, with what was there kept whole, or changes nothing."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import swap
from ansible_collections.mobius.dhash.plugins.module_utils.backup.live_state import WriteCounter
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import RestoreResult, restore_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import OUTCOMES, MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import to_failure
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation, ActivationEntry
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from tests.backups import back_up, members
from tests.killing import killed

RELEASE = "1.0.0-0123456789ab"
DATABASE = "index/library.sqlite"
WRITES = WriteCounter(DATABASE, "select count(*) from images where path >= :since")
needs_root = pytest.mark.root("only root gives files away and mounts")


class NoUnits(Systemd):
    """A host on which no unit is loaded; all else is real."""

    def units(self, *patterns: str) -> dict[str, Unit]:
        return {}


@pytest.fixture(autouse=True)
def one_release(host: Host) -> None:
    """A release was confirmed, and no instance runs."""
    entry = ActivationEntry(RELEASE, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", False, None, None)
    durable.write_json(host.activation_path, Activation("svc", 1, RELEASE, (entry,)).as_dict())


def restore(host: Host, backup_id: str = "latest", **options: Any) -> RestoreResult:
    scratch = host.root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    arguments = {"databases": [DATABASE], "writes": WRITES, "scratch": scratch, **options}
    return restore_backup(Executor(host, Actor("test"), NoUnits()), backup_id, **arguments)


def tree(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a path and itself: kind and mode, owner, and content or target."""
    entries: dict[str, tuple[Any, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))) if top.is_dir() and not top.is_symlink() else (top,):
        if not os.path.lexists(path):
            continue
        status = path.lstat()
        content: Any = b""
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        entries[str(path.relative_to(top))] = (status.st_mode, status.st_uid, content)
    return entries


def live(host: Host) -> dict[str, dict[str, tuple[Any, ...]]]:
    return {"state": tree(host.state_dir), "config": tree(host.config_dir)}


def restored(host: Host) -> dict[str, Any]:
    """What a restore must give: all but the journal, with the rows of the index in place of its bytes."""
    files = live(host)
    for name in ("journal.jsonl", *(f"{DATABASE}{end}" for end in ("", "-wal", "-shm"))):
        files["state"].pop(name, None)
    with contextlib.closing(
        sqlite3.connect(f"{(host.state_dir / DATABASE).as_uri()}?mode=ro&immutable=1", uri=True)
    ) as index:
        return {**files, "rows": index.execute("select path from images").fetchall()}


def leftovers(host: Host) -> list[str]:
    partial = [str(path) for path in host.root.parent.rglob(f"{durable.TEMPORARY_PREFIX}*")]
    return partial + [str(path) for path in [swap._former_intent_path(host)] if path.exists()]


def zero_start(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes(100) + content[100:])
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


# --- The case of the issue --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_zeroed_index_is_restored_with_consent_and_the_damaged_state_is_kept_whole(host: Host) -> None:
    back_up(host)
    good = restored(host)
    zero_start(host.state_dir / DATABASE)
    (host.state_dir / f"{DATABASE}-wal").write_bytes(b"torn" * 2000)
    (host.state_dir / f"{DATABASE}-shm").write_bytes(b"torn" * 8192)
    damaged = live(host)
    predicted = restore(host, check_mode=True)
    assert live(host) == damaged
    assert predicted.lost is None
    assert predicted.lost_unknown is not None
    assert predicted.lost_unknown.startswith(f"the live data is damaged (state/{DATABASE}: ")
    with pytest.raises(MobiusError) as caught:
        restore(host)
    assert "cannot be counted: the live data is damaged" in caught.value.reason
    assert predicted.finding == caught.value.reason
    assert restore(host, check_mode=True, accept_damage=True).finding == ""
    assert "Nothing was changed." in caught.value.reason
    assert "--yes" in caught.value.do_next and "Correct the value" not in caught.value.do_next
    assert live(host) == damaged
    done = restore(host, accept_damage=True)
    assert (done.lost, done.lost_unknown, done.damage) == (None, predicted.lost_unknown, predicted.damage)
    assert restored(host) == good
    assert (done.saved, done.saved_state) == (None, None)
    assert [path.rpartition("/")[2].partition(".damaged-")[0] for path in done.kept_aside] == ["state", "etc"]
    assert {"state": tree(Path(done.kept_aside[0])), "config": tree(Path(done.kept_aside[1]))} == damaged
    assert leftovers(host) == []
    assert len(list_backups(host)) == 1
    assert not restore(host).changed


@pytest.mark.slow
@pytest.mark.parametrize("query", ["select nothing from nowhere", "select path from images", "select 1, 2"])
def test_a_query_that_fails_needs_consent_too(host: Host, query: str) -> None:
    back_up(host)
    (host.config_dir / "settings.env").write_text("A=2\n")
    options = {"writes": WriteCounter(DATABASE, query)}
    before = live(host)
    with pytest.raises(MobiusError, match="cannot be counted: the query"):
        restore(host, **options)
    assert live(host) == before
    done = restore(host, accept_damage=True, **options)
    assert done.lost is None and done.lost_unknown and done.saved and not done.kept_aside


def test_a_missing_index_is_no_zero_when_the_backup_has_one(host: Host) -> None:
    back_up(host)
    shutil.rmtree(host.state_dir / "index")
    predicted = restore(host, check_mode=True)
    assert predicted.lost is None and predicted.lost_unknown is not None and "missing" in predicted.lost_unknown


def test_a_fresh_host_that_gets_the_data_of_a_lost_one_loses_nothing(host: Host) -> None:
    backup = back_up(host).backup
    assert backup is not None
    good = restored(host)
    durable.write_json(host.activation_path, Activation("svc").as_dict())
    for top in (host.state_dir, host.config_dir):
        shutil.rmtree(top)
        top.mkdir()
    done = restore(host, backup.id)
    assert (done.lost, done.lost_unknown, done.damage, done.kept_aside) == (0, None, (), ())
    assert restored(host) == good


def test_an_index_that_neither_has_holds_no_writes(host: Host) -> None:
    shutil.rmtree(host.state_dir / "index")
    back_up(host)
    (host.config_dir / "settings.env").write_text("A=2\n")
    done = restore(host)
    assert (done.lost, done.lost_unknown, done.kept_aside) == (0, None, ())


@pytest.mark.slow
@pytest.mark.parametrize("top", ["state", "etc"])
@pytest.mark.parametrize("instead", [None, "file", "pipe"])
def test_a_folder_that_is_gone_or_something_else_is_restored(host: Host, top: str, instead: str | None) -> None:
    back_up(host)
    good = restored(host)
    path = host.root.parent / top
    shutil.rmtree(path)
    if instead == "file":
        path.write_text("no folder\n")
    elif instead == "pipe":
        os.mkfifo(path)
    before = tree(path)
    done = restore(host, accept_damage=True)
    assert restored(host) == good
    assert leftovers(host) == []
    aside = [Path(name) for name in done.kept_aside if Path(name).name.startswith(f"{top}.")]
    assert [tree(name) for name in aside] == ([before] if instead else [])


def test_a_link_of_the_services_user_cannot_lead_the_journal_to_a_secret(host: Host) -> None:
    back_up(host)
    secret = host.root.parent / "secret"
    secret.write_text("what only root may read")
    (host.config_dir / "settings.env").write_text("A=2\n")
    host.journal_path.unlink()
    host.journal_path.symlink_to(secret)
    done = restore(host, accept_damage=True)
    assert host.journal_path.is_file() and not host.journal_path.is_symlink()
    assert "secret" not in host.journal_path.read_text()
    assert secret.stat().st_uid == os.geteuid()
    assert os.readlink(Path(done.kept_aside[0]) / "journal.jsonl") == str(secret)
    saved = [members(backup.path) for backup in list_backups(host)]
    assert not [content for contents in saved for content in contents.values() if b"only root" in content]


@needs_root
def test_a_link_in_the_library_keeps_its_target_as_it_is(host: Host) -> None:
    """With a backup of scope `state` the library's files are linked into the new folder, links among them too."""
    back_up(host, scope="state")
    target = host.root.parent / "target"
    target.write_text("x")
    target.chmod(0o600)
    (host.state_dir / "library/link").symlink_to(target)
    os.lchown(host.state_dir / "library/link", 12345, 12345)
    (host.config_dir / "settings.env").write_text("A=2\n")
    restore(host, list_backups(host)[0].id, accept_damage=True)
    status = target.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o600)
    assert (host.state_dir / "library/link").is_symlink()


# --- Kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [1, 2])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_damaged_state_outlives_a_kill_between_the_exchange_and_its_new_name(
    host: Host, exchanges: int, renames: int
) -> None:
    back_up(host)
    good = restored(host)
    zero_start(host.state_dir / DATABASE)
    damaged = live(host)

    def work() -> None:
        counts = {"exchange": exchanges, "rename": exchanges == 2 and renames}

        def dying(name: str, real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
            def call(one: Path, other: Path) -> None:
                real(one, other)
                counts[name] -= 1
                if counts["exchange"] <= 0 and counts["rename"] <= 0:
                    os.kill(os.getpid(), 9)

            return call

        swap._exchange_folders = dying("exchange", swap._exchange_folders)
        swap._rename_folder = dying("rename", swap._rename_folder)
        restore(host, accept_damage=True)

    assert killed(work)
    restore(host, accept_damage=True)
    assert restored(host) == good
    assert leftovers(host) == []
    aside = {path.name.partition(".")[0]: tree(path) for path in host.root.parent.glob("*.damaged-*")}
    assert aside == {"state": damaged["state"], "etc": damaged["config"]}


@pytest.mark.slow
def test_an_exchange_that_had_not_begun_when_it_was_killed_is_not_begun_by_the_next_restore(host: Host) -> None:
    """The service was started again on the state from before, and has written to it since."""
    backup = back_up(host).backup
    (host.config_dir / "settings.env").write_text("A=2\n")

    def work() -> None:
        swap._exchange_folders = lambda one, other: os.kill(os.getpid(), 9)
        restore(host)

    assert killed(work)
    (host.state_dir / "later").write_text("written since\n")
    done = restore(host, backup.id if backup else "")
    assert done.saved is not None
    [saved] = [item for item in list_backups(host) if item.id == done.saved]
    assert members(saved.path)["state/later"] == b"written since\n"


# --- Disks that fail in the exchange ----------------------------------------------------------------------------------


def failing_calls(monkeypatch: pytest.MonkeyPatch, fail_at: int, until: int) -> list[str]:
    """The calls that change names, from the exchange on; those from `fail_at` up to `until` fail, like a bad disk's."""
    calls: list[str] = []
    exchange = swap.FolderSwap.exchange

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if fail_at <= len(calls) <= until:
                raise OSError(5, "Input/output error")
            return real(*arguments, **options)

        return call

    def arm(self: swap.FolderSwap, **options: Any) -> None:
        for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (swap, "_exchange_folders")):
            monkeypatch.setattr(module, name, failing(name, getattr(module, name)))
        exchange(self, **options)

    monkeypatch.setattr(swap.FolderSwap, "exchange", arm)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("lasts", [False, True])
def test_a_disk_that_fails_at_any_call_of_the_exchange_loses_no_damaged_state(
    host: Host, monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    back_up(host)
    good = restored(host)
    zero_start(host.state_dir / DATABASE)
    damaged = live(host)
    fail_at, failed = 1, True
    while failed:
        failed = False
        with monkeypatch.context() as patch:
            calls = failing_calls(patch, fail_at, 10_000 if lasts else fail_at)
            try:
                restore(host, accept_damage=True)
            except (MobiusError, OSError):
                failed = True
        restore(host, accept_damage=True)
        assert restored(host) == good, (fail_at, calls)
        assert leftovers(host) == [], (fail_at, calls)
        aside = {path.name.partition(".")[0]: path for path in host.root.parent.glob("*.damaged-*")}
        assert {name: tree(path) for name, path in aside.items()} == {
            "state": damaged["state"],
            "etc": damaged["config"],
        }
        for name, path in aside.items():
            shutil.rmtree(host.root.parent / name)
            path.rename(host.root.parent / name)
        fail_at += 1
    assert fail_at > 10


# --- Damage at random -------------------------------------------------------------------------------------------------


class Damager:
    """Damages a live state at random, by a seed."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.chance = random.Random(seed)
        self.made: list[str] = []

    def paths(self) -> list[Path]:
        tops = [top for top in (self.host.state_dir, self.host.config_dir) if top.is_dir() and not top.is_symlink()]
        return tops + [path for top in tops for path in sorted(top.rglob("*"))]

    def damage(self) -> None:
        kinds = [
            *(self.truncate, self.zero, self.scribble, self.remove, self.link, self.dangling_link, self.folder),
            *(
                self.pipe,
                self.socket,
                self.chmod,
                self.chown,
                self.extra_link,
                self.extra_pipe,
                self.journal,
                self.deep,
            ),
        ]
        for _ in range(self.chance.randint(1, 4)):
            if paths := self.paths():
                kind, path = self.chance.choice(kinds), self.chance.choice(paths)
                kind(path)
                self.made.append(f"{kind.__name__} {path.relative_to(self.host.root.parent)}")

    def file(self, path: Path) -> Iterator[bytearray]:
        if path.is_file() and not path.is_symlink():
            content = bytearray(path.read_bytes())
            yield content
            path.write_bytes(content)

    def truncate(self, path: Path) -> None:
        for content in self.file(path):
            del content[self.chance.randrange(len(content) + 1) :]

    def zero(self, path: Path) -> None:
        for content in self.file(path):
            at = self.chance.choice((0, self.chance.randrange(len(content) + 1)))
            size = min(self.chance.choice((16, 100, 4096)), len(content) - at)
            content[at : at + size] = bytes(size)

    def scribble(self, path: Path) -> None:
        for content in self.file(path):
            at = self.chance.randrange(len(content) + 1)
            content[at : at + 64] = self.chance.randbytes(64)

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def link(self, path: Path) -> None:
        self.remove(path)
        path.symlink_to(self.chance.choice(("/etc/hostname", "/etc", ".")))

    def dangling_link(self, path: Path) -> None:
        self.remove(path)
        path.symlink_to("/nonexistent")

    def folder(self, path: Path) -> None:
        self.remove(path)
        path.mkdir()
        (path / "inside").write_text("x")

    def pipe(self, path: Path) -> None:
        self.remove(path)
        os.mkfifo(path)

    def socket(self, path: Path) -> None:
        self.remove(path)
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
            listener.bind(path.name)

    def chmod(self, path: Path) -> None:
        if not path.is_symlink():
            path.chmod(self.chance.choice((0, 0o4777, 0o111)))

    def chown(self, path: Path) -> None:
        os.lchown(path, *self.chance.choice(((12345, 12345), (65534, 0), (0, 4294967294))))

    def extra_link(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink() and not (path / "extra").is_symlink():
            (path / "extra").symlink_to(self.chance.choice(("/etc/hostname", "/nonexistent")))

    def extra_pipe(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink() and not (path / "extra-pipe").exists():
            os.mkfifo(path / "extra-pipe")

    def journal(self, path: Path) -> None:
        """What a service that was killed leaves beside its index, torn; or something that is no file at all."""
        if (self.host.state_dir / "index").is_dir() and not (self.host.state_dir / "index").is_symlink():
            beside = self.host.state_dir / f"{DATABASE}{self.chance.choice(('-wal', '-shm', '-journal'))}"
            if not os.path.lexists(beside):
                beside.write_bytes(self.chance.randbytes(self.chance.choice((0, 32, 5000, 40000))))
                if self.chance.random() < 0.3:
                    self.chance.choice((self.link, self.folder, self.pipe))(beside)

    def deep(self, path: Path) -> None:
        """Deeper than an archive may be."""
        if path.is_dir() and not path.is_symlink() and self.chance.random() < 0.3:
            (path / "/".join(["deep"] * 80)).mkdir(parents=True, exist_ok=True)


@needs_root
@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 40))])
def test_a_restore_of_a_state_damaged_at_random_ends_well_or_changes_nothing(host: Host, seed: int) -> None:
    one_damaged_restore(host, seed)


@needs_root
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_many_more_states_damaged_at_random(host: Host, seed: int) -> None:
    one_damaged_restore(host, seed)


def one_damaged_restore(host: Host, seed: int) -> None:
    with contextlib.closing(sqlite3.connect(host.state_dir / DATABASE)) as index, index:
        index.executemany("insert into images values (?)", [(f"{number:05}.jpg",) for number in range(400)])
    backup = back_up(host, databases=[DATABASE]).backup
    assert backup is not None
    good = restored(host)
    damager = Damager(host, seed)
    damager.damage()
    before = live(host)
    about = (seed, damager.made)

    def attempt(**options: Any) -> RestoreResult | MobiusError:
        try:
            return restore(host, **options)
        except MobiusError as error:
            assert live(host) == before, (about, error)
            assert leftovers(host) == [], (about, error)
            assert error.outcome in OUTCOMES and "Errno" not in error.reason and "\n" not in error.reason, about
            return error

    predicted = attempt(check_mode=True)
    assert live(host) == before, about
    if isinstance(predicted, RestoreResult) and predicted.lost_unknown and predicted.changed:
        assert isinstance(attempt(), MobiusError), about
    done = attempt(accept_damage=True)
    assert type(done) is type(predicted), (about, done, predicted)
    if isinstance(done, MobiusError):
        # what stands on another disk is exchanged by hand only: a link of root's in place of a whole folder
        assert done.outcome == "environment_failed" and "is a link" in done.reason, (about, done.reason)
        return
    assert isinstance(predicted, RestoreResult)
    for name in ("differences", "damage", "lost", "lost_unknown"):
        assert getattr(predicted, name) == getattr(done, name), about
    if not done.changed:  # nothing differs but what no backup holds: a link or a pipe more, a journal without effect
        for top, files in good.items():
            if top != "rows":
                assert files.items() <= restored(host)[top].items(), about
        return
    assert restored(host) == good, about
    assert leftovers(host) == [], about
    assert set(verify_backups(host).values()) == {None}, about
    if done.kept_aside:
        names = {"state": "state", "etc": "config"}
        aside = {names[Path(path).name.partition(".")[0]]: tree(Path(path)) for path in done.kept_aside}
        assert aside == {name: files for name, files in before.items() if files}, about
    elif any(before.values()):  # else there was nothing to keep
        contents = members(next(item.path for item in list_backups(host) if item.id == done.saved))
        for top, files in before.items():
            for name, (mode, _, content) in files.items():
                if stat.S_ISREG(mode) and not name.startswith(DATABASE):
                    assert contents[f"{top}/{name}"] == content, (about, name)
    assert not restore(host, backup.id).changed, about


# --- Full and read-only disks -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@needs_root
def test_a_full_disk_under_the_backups_keeps_the_state_aside_instead(host: Host) -> None:
    with small_disk(host.backup_dir, "3m"):
        back_up(host)
        good = restored(host)
        (host.state_dir / "library/new.jpg").write_bytes(os.urandom(100_000))
        before = live(host)
        with pytest.raises(OSError, match="No space"), open(host.backup_dir / "filler", "wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        assert os.statvfs(host.backup_dir).f_bavail == 0
        done = restore(host)
        assert restored(host) == good
        assert (done.saved, done.lost_unknown) == (None, None)
        assert tree(Path(done.kept_aside[0])) == before["state"]
        assert leftovers(host) == []


@needs_root
def test_a_read_only_disk_under_the_backups_is_one_sentence_and_nothing_is_changed(host: Host) -> None:
    with small_disk(host.backup_dir, "3m"):
        back_up(host)
        restore(host)
        (host.config_dir / "settings.env").write_text("A=2\n")
        before = live(host)
        subprocess.run(["mount", "-o", "remount,ro", host.backup_dir], check=True)
        with pytest.raises((MobiusError, OSError)) as caught:
            restore(host)
        failure = to_failure(caught.value)
        assert failure.outcome == "environment_failed"
        assert failure.reason == f"The file system of {host.backup_dir} is read-only."
        assert live(host) == before
        assert leftovers(host) == []


# --- What a killed restore left ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff torn", b"[]", b'{"pairs": [["/a", "/b"]]}', b'{"pairs": [], "aside": [["/a", "/b"]]}', b"[" * 9999],
)
@pytest.mark.parametrize("is_former", [False, True])
def test_what_a_killed_restore_left_is_kept_when_its_intent_cannot_be_read(
    host: Host, content: bytes, is_former: bool
) -> None:
    """The folder may hold the only copy of the data from before the restore."""
    back_up(host)
    folder = host.state_dir.parent / f"{swap._folder_prefix(host)}abc"
    (folder / "state").mkdir(parents=True)
    (folder / "state/only.jpg").write_bytes(b"the only copy")
    intent = swap._former_intent_path(host) if is_former else folder / "intent.json"
    intent.write_bytes(content)
    for _ in range(2):
        restore(host, accept_damage=True)
        kept = host.state_dir.with_name(f"{host.state_dir.name}.damaged-restore")
        assert (kept / "state/only.jpg").read_bytes() == b"the only copy"
        assert leftovers(host) == []
    assert len(list(host.state_dir.parent.glob("*.damaged-restore*"))) == 1, "the second restore found nothing to keep"


def test_a_pipe_in_place_of_an_intent_holds_no_restore_up(host: Host) -> None:
    back_up(host)
    folder = host.state_dir.parent / f"{swap._folder_prefix(host)}abc"
    folder.mkdir()
    os.mkfifo(folder / "intent.json")
    restore(host, accept_damage=True)
    assert leftovers(host) == []
