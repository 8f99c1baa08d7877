# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores a backup: verified before a byte is extracted, the present state saved first, published in one step.

What is restored is the configuration and the state folder. The activation record and the journal of switches stay as
they are on the host (one without a journal gets the backup's): which release serves is not a matter of its data. With a
backup of scope `state` the library stays, too, once it is verified to hold every picture of the backup.

The restored folders are exchanged with the live ones (`swap.py`) while no instance runs. A release that does not start
on the restored state gets the state from before again.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from ..disk_space import SpaceNeed, require_space
from ..errors import MobiusError
from ..host.config import Host
from ..host.executor import Executor
from ..host.state import read_activation
from ..host.transitions.upkeep import plan_boot
from .archive import ArchiveEntry, ArchiveManifest, DamagedError, file_sha256, printable, read_entries
from .clock import Clock, utc_now
from .extraction import OwnerOf, unpack_archive
from .retention import KeepRules
from .safe_open import NoFileError
from .service import create_backup
from .snapshot import file_stamp, find_differences
from .store import Backup, find_backup, lock_backups
from .swap import FolderSwap, finish_killed_swap
from .verification import read_whole

UNCHANGED = "Nothing was changed."
_DISK_BYTES_PER_FILE = 4096  # that a file may take beside its content
_RESERVE_BYTES = 16 << 20
_KEEP_ALL = KeepRules(count=1_000_000)
_UNAVAILABLE_TIMEOUT_SECONDS = 10.0  # until it answers


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did, or in check mode would do.

    `differences`: what on the host differs from the backup, at most 20 names; `lost`: how many writes are later than
    the backup, None when they were not counted; `saved`: the id of the full backup that holds the state from before,
    `saved_state` that of the one with what was written while that was made. Both are None when they are only predicted,
    the second also on a host on which no instance ran. `renamed_owners`: how many files and folders belonged to neither
    root nor the service's user, and are root's now.
    """

    backup: Backup
    differences: tuple[str, ...]
    lost: int | None = None
    saved: str | None = None
    saved_state: str | None = None
    renamed_owners: int = 0

    @property
    def changed(self) -> bool:
        """Whether the host changed, or would change."""
        return bool(self.differences)


@dataclass(frozen=True)
class WriteCounter:
    """How later writes are counted.

    Attributes:
        database: path of an SQLite database below the state folder; a missing one holds none.
        query: gives one row with one number, and may use `:since`, RFC 3339 in UTC.
    """

    database: str
    query: str

    def count_since(self, host: Host, since: str) -> int:
        """How many writes there are at `since` or later.

        Raises:
            MobiusError: invalid_input, when the query fails or gives no number.
        """
        path = host.state_dir / self.database
        if not path.exists():
            return 0
        try:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as database:
                row = database.execute(self.query, {"since": since}).fetchone()
        except sqlite3.Error as error:
            raise MobiusError("invalid_input", f"The writes in {path} cannot be counted: {error}.") from error
        if row is None or len(row) != 1 or not isinstance(row[0], int):
            raise MobiusError("invalid_input", f"Counting the writes in {path} gave no number.")
        return row[0]


def restore_backup(
    executor: Executor,
    backup_id: str,
    *,
    host_name: str | None = None,
    of_host: str | None = None,
    scratch: Path,
    writes: WriteCounter | None = None,
    run: str | None = None,
    check_mode: bool = False,
    clock: Clock = utc_now,
) -> RestoreResult:
    """Restore a backup; nothing is done when the host already is as the backup says.

    The present state is saved while the service goes on, and what it wrote meanwhile once it has stopped; from then to
    its start clients get 503.

    Args:
        backup_id: an id, or `latest` for the newest full backup.
        host_name: this host's name; the kernel's when left out.
        of_host: the name of the host whose backup it may be, when that is another.
        scratch: a folder for copies of databases in check mode.
        writes: how those are counted that would be lost.

    Raises:
        MobiusError: backup_missing; backup_damaged or invalid_input when it is refused; disk_full; fenced while a
            promotion is pending; instance_failed and the like when the release did not start on it: the host is as it
            was before then. In none of these cases anything was lost.
    """
    host = executor.host
    if not check_mode:
        with lock_backups(host, check_mode=False):
            finish_killed_swap(host)
    this_host = host_name or os.uname().nodename
    backup = find_backup(host, backup_id, of_host if of_host and of_host != this_host else None)
    manifest = require_restorable(host, backup, of_host or this_host, record=not check_mode, clock=clock)
    _require_exchangeable(host)
    if executor.observe().open_promotion:
        raise MobiusError("fenced", f"A promotion is pending on this host, so nothing is restored. {UNCHANGED}")
    if backup.scope == "state":
        _require_pictures(host, backup, manifest)
    require_space(restore_need(host, manifest))
    differences = _find_differences(host, backup, manifest, scratch)
    lost = writes.count_since(host, manifest.head["created"]) if writes else None
    if not differences or check_mode:
        return RestoreResult(backup, tuple(differences), lost)

    def save(scope: str, locks_held: bool) -> str | None:
        saved = create_backup(
            host,
            scope=scope,
            keep=_KEEP_ALL,
            scratch=scratch,
            host_name=host_name,
            run=run,
            locks_held=locks_held,
            clock=clock,
        ).backup
        return saved.id if saved else None

    saved = save("full", locks_held=False)
    with lock_backups(host, check_mode=False):
        swap = FolderSwap(host)
        try:
            renamed = _extract_beside(swap, backup, manifest)
            saved_state = _publish(executor, swap, backup.scope, lambda: save("state", locks_held=True))
        finally:
            swap.remove_folders()
    return RestoreResult(backup, tuple(differences), lost, saved, saved_state, renamed)


def require_restorable(
    host: Host, backup: Backup, of_host: str, *, record: bool, clock: Clock = utc_now
) -> ArchiveManifest:
    """Verify a backup, and refuse one that is damaged, or of another host or service.

    Args:
        of_host: whose it must be.
        record: whether it is recorded what reading it shows.

    Raises:
        MobiusError: backup_damaged, invalid_input.
    """
    try:
        manifest = read_whole(host, backup, record=record, clock=clock)
    except DamagedError as error:
        reason = f"The backup {backup.id} is not what was written: {error}. {UNCHANGED}"
        raise MobiusError("backup_damaged", reason, do_next="Choose another backup.") from error
    for what, actual, expected in (
        ("service", manifest.head["service"], host.service),
        ("host", manifest.head["host"], of_host),
    ):
        if actual != expected:
            raise MobiusError(
                "invalid_input",
                f"The backup {backup.id} is of the {what} {printable(actual)!r}, not of {expected!r}. {UNCHANGED}",
                do_next="Choose another backup; to use another host's on purpose, give its name as backup_of_host.",
            )
    return manifest


def restore_need(host: Host, manifest: ArchiveManifest) -> SpaceNeed:
    """The space that the content of an archive needs beside the state folder."""
    size = manifest.bytes + manifest.files * _DISK_BYTES_PER_FILE + _RESERVE_BYTES
    return SpaceNeed("the restored files", host.state_dir.parent, size)


def allowed_owners(host: Host) -> tuple[OwnerOf, list[str]]:
    """Who may own what is restored: root and the service's user. All else is root's, in the service's group.

    Returns:
        A function for `unpack_archive`, and a list that it fills with the paths of what belonged to others.

    Raises:
        MobiusError: not_provisioned, when the service's user does not exist.
    """
    renamed: list[str] = []
    if os.geteuid() != 0:
        return (lambda _: (-1, -1)), renamed
    try:
        user = pwd.getpwnam(host.user)
    except KeyError:
        raise MobiusError("not_provisioned", f"There is no user {host.user} on this host.") from None

    def owner_of(entry: ArchiveEntry) -> tuple[int, int]:
        known = {"root": (0, 0), host.user: (user.pw_uid, user.pw_gid)}
        if entry.owner not in known or entry.group not in known:
            renamed.append(entry.path)
        return known.get(entry.owner, (0, 0))[0], known.get(entry.group, (0, user.pw_gid))[1]

    return owner_of, renamed


# --- What is refused before anything is changed -----------------------------------------------------------------------


def _require_exchangeable(host: Host) -> None:
    for top in (host.state_dir, host.config_dir):
        if not top.is_dir():
            raise MobiusError("not_provisioned", f"The folder {top} is missing.")
        folders = [top, *(entry for entry in top.iterdir() if entry.is_dir())]
        if fixed := [folder for folder in folders if folder.is_symlink() or os.path.ismount(folder)]:
            raise MobiusError(
                "environment_failed",
                f"{fixed[0]} is a link or a mounted file system, so it cannot be exchanged in one step. {UNCHANGED}",
                do_next="Restore by hand, as docs/backup.md says.",
            )
        for other in (host.backup_dir, host.log_dir, host.root, host.run_dir):
            if other.is_relative_to(top):
                raise MobiusError(
                    "environment_failed", f"{other} lies in {top}, which would be exchanged with it. {UNCHANGED}"
                )


def _require_pictures(host: Host, backup: Backup, manifest: ArchiveManifest) -> None:
    """The library stays, so it has to hold every picture that the index of the backup was made from."""
    wrong = []
    with open(backup.path, "rb") as stream:
        for entry in read_entries(stream, manifest):
            if entry.stored or entry.folder:
                continue
            path = host.state_dir.joinpath(*entry.parts[1:])
            try:
                status = path.lstat()
                same_size = stat.S_ISREG(status.st_mode) and status.st_size == entry.size
                if not same_size or (file_stamp(status) != entry.stamp and file_sha256(path) != entry.sha256):
                    wrong.append(entry.path)
            except (OSError, NoFileError):  # missing, unreadable, or no file
                wrong.append(entry.path)
    if wrong:
        raise MobiusError(
            "invalid_input",
            f"The backup {backup.id} holds no pictures, and {len(wrong)} of those that it names are missing from the "
            f"library or differ, {printable(wrong[0])} first. {UNCHANGED}",
            do_next="Restore a full backup instead.",
        )


def _find_differences(host: Host, backup: Backup, manifest: ArchiveManifest, scratch: Path) -> list[str]:
    folder = Path(tempfile.mkdtemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=scratch))
    unchanged = {"activation.json", f"state/{host.journal_path.relative_to(host.state_dir)}"}

    def counts(entry: ArchiveEntry) -> bool:
        return entry.path not in unchanged and not (entry.is_in_library and backup.scope == "state")

    try:
        return find_differences(host, backup, manifest, folder, counts)
    finally:
        shutil.rmtree(folder)


# --- Extract and publish ----------------------------------------------------------------------------------------------


def _extract_beside(swap: FolderSwap, backup: Backup, manifest: ArchiveManifest) -> int:
    """Extract the backup beside the live folders; how many files and folders got another owner."""
    folder = swap.create_folder(swap.host.state_dir.parent)
    owner_of, renamed = allowed_owners(swap.host)
    try:
        unpack_archive(backup.path, manifest, folder, owner_of)
    except DamagedError as error:
        reason = f"The backup {backup.id} could not be restored: {error}. {UNCHANGED}"
        raise MobiusError("backup_damaged", reason) from error
    except OSError as error:
        if error.errno in durable.DISK_FULL_ERRNOS:
            raise MobiusError("disk_full", f"The disk of {folder.parent} ran full. {UNCHANGED}") from error
        raise
    swap.add_extracted(folder)
    return len(renamed)


def _publish(executor: Executor, swap: FolderSwap, scope: str, save: Callable[[], str | None]) -> str | None:
    """Stop all instances, save what they wrote last, exchange the folders, start again; what `save` gave.

    The folders are exchanged back when the release does not start. All of it under the host's lock: as long as that is
    held, clients get 503, and when a kill releases it, systemd starts what the activation record names.
    """
    running = [release for release, instance in executor.observe().instances.items() if instance.exists]
    saved = None
    with executor.locked():
        _stop_instances(executor, running)
        try:
            if running:
                saved = save()
            swap.copy_what_stays(scope)
            swap.exchange()
        except BaseException:
            _start_instances(executor, running)
            raise
        try:
            _start_instances(executor, running)
        except MobiusError as error:
            _stop_instances(executor, running)
            swap.exchange_back()
            _start_instances(executor, running)
            reason = f"{error.reason} This happened on the restored state; the state from before is live again."
            raise MobiusError(error.outcome, reason) from error
    return saved


def _stop_instances(executor: Executor, releases: list[str]) -> None:
    if not releases:
        return
    unavailable = executor.host.unavailable_unit
    if executor.observe().is_listening and not executor.systemd.start(unavailable, _UNAVAILABLE_TIMEOUT_SECONDS):
        raise MobiusError("environment_failed", f"{unavailable} did not start. {UNCHANGED}")
    executor.systemd.stop(*(executor.host.unit(release) for release in releases))
    for release in releases:
        executor.wait_until_stopped(release)


def _start_instances(executor: Executor, releases: list[str]) -> None:
    if not releases:
        return
    if executor.observe().is_listening:
        # new clients wait in the socket's queue from here on
        executor.systemd.kill(executor.host.unavailable_unit, "USR1")
    for release in releases:
        executor.systemd.start(executor.host.unit(release), executor.host.start_timeout)
    confirmed = read_activation(executor.host).confirmed
    if confirmed in releases:
        executor.perform(plan_boot(executor.observe(), executor.actor))
        if executor.observe().instance(str(confirmed)).unit != "active":
            raise MobiusError("instance_failed", f"{confirmed} did not start.")
