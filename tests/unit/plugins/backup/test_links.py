# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service's user that swaps files for links while a backup runs as root: no secret gets into an archive."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import disk_space, durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import (
    service,
    snapshot,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    BackupResult,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import (
    back_up,
    members,
)

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
        def __init__(self, folder) -> None:
            self.ours = Path(os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) else folder) == path
            with real(folder) as entries:
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
def test_what_is_swapped_for_a_link_before_the_archive_is_written_is_left_out_and_reported(
    host, secret, monkeypatch, swap
):
    swap_before(monkeypatch, service, lambda: swap(host, secret))
    result = back_up(host)
    assert_no_secret(result)
    assert str(host.state_dir / SWAPPED[swap]) in result.skipped
    # a folder that is a link by now is left out with all that is in it
    assert ("state/index/library.sqlite" in members(result.backup.path)) == (swap is not swap_index)
    assert verify_backups(host) == {result.backup.id: None}


@pytest.mark.parametrize(
    ("swap", "listed", "reported"),
    [
        (swap_file, "index", "index/key"),
        (swap_file_for_a_pipe, "index", "index/key"),
        (swap_folder, "index", "index/deep"),
        (swap_index, ".", "index"),
    ],
)
def test_what_is_swapped_for_a_link_while_the_folders_are_read_is_left_out_and_reported(
    host, secret, monkeypatch, swap, listed, reported
):
    after_listing(host, monkeypatch, host.state_dir / listed, lambda: swap(host, secret))
    result = back_up(host)
    assert_no_secret(result)
    assert str(host.state_dir / reported) in result.skipped


@pytest.mark.parametrize("swap", [swap_database, swap_index])
@pytest.mark.parametrize("open_meanwhile", [False, True])
def test_a_database_that_is_swapped_for_a_link_before_sqlite_opens_it_reveals_no_secret(
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


@pytest.mark.root("only root can confine SQLite, and only root reads what the user may not")
def test_a_database_that_is_swapped_at_the_last_moment_reveals_no_secret(host, secret, monkeypatch):
    real = sqlite3.connect

    def connect(database, **options):
        if options.get("uri"):
            database_path = host.state_dir / "index" / "library.sqlite"
            if not database_path.exists():  # the folder is the process's root
                database_path = Path("/library.sqlite")
            if not database_path.is_symlink():
                database_path.rename(f"{database_path}.aside")
                database_path.symlink_to(secret / "library.sqlite")
        return real(database, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    result = back_up(host)
    assert_no_secret(result)
    assert "state/index/library.sqlite" not in members(result.backup.path)
    assert "state/index/library.sqlite" in result.source_damage
    assert host.state_dir.is_dir()  # and the process has the host's root again


def test_a_library_that_others_could_have_made_a_link_is_left_out(host, secret):
    shutil.rmtree(host.state_dir / "library")
    (host.state_dir / "library").symlink_to(secret)
    host.state_dir.chmod(0o777)
    result = back_up(host)
    assert_no_secret(result)
    assert result.skipped == (str(host.state_dir / "library"),)
