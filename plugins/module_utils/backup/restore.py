# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores a backup: verified before a byte is extracted, the present state saved first, published in one step.

What is restored is the configuration and the state folder. The activation record and the journal of switches stay as
they are on the host (one without a journal gets the backup's): which release serves is not a matter of its data. With a
backup of scope `state` the library stays, too, once it is verified to hold every picture of the backup.

The restored folders are exchanged with the live ones (`swap.py`) while no instance runs. A release that does not start
on the restored state gets the state from before again.

A live state that no backup can hold as it is, because it is damaged or a backup of it fails, is kept aside whole: the
folders themselves stay beside the restored ones under another name, with every byte, link and journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import durable
from ..disk_space import SpaceNeed, require_space
from ..errors import MobiusError
from ..host.config import Host
from ..host.executor import Executor
from ..host.failures import to_failure
from ..host.state import read_activation
from ..host.transitions.upkeep import plan_boot
from .archive import ArchiveEntry, ArchiveManifest, DamagedError, printable
from .clock import Clock, timestamp, utc_now
from .extraction import OwnerOf, unpack_archive
from .live_state import UNCHANGED, WriteCounter, examine_live_state
from .retention import KeepRules
from .service import create_backup
from .store import Backup, find_backup, lock_backups
from .swap import FolderSwap, finish_killed_swap
from .verification import read_whole

_DISK_BYTES_PER_FILE = 4096  # that a file may take beside its content
_RESERVE_BYTES = 16 << 20
_NOT_SAVED_OUTCOMES = ("disk_full", "environment_failed", "state_damaged", "backup_damaged")
"""How a backup of the present state may fail so that the state is kept aside instead."""

_KEEP_ALL = KeepRules(count=1_000_000)


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did, or in check mode would do.

    `differences`: what on the host differs from the backup, at most 20 names; `damage`: what of it is damaged; `lost`:
    how many writes are later than the backup, None when they were not counted, or cannot be for the reason
    `lost_unknown`; `finding`: in check mode, what the restore itself would be refused for. `saved`: the id of the full
    backup that holds the state from before, `saved_state` that of the one with what was written while that was made.
    Both are None when they are only predicted, the second also on a host on which no instance ran, and both when the
    state from before is in the folders `kept_aside`. `renamed_owners`: how many files and folders belonged to neither
    root nor the service's user, and are root's now.
    """

    backup: Backup
    differences: tuple[str, ...]
    damage: tuple[str, ...] = ()
    lost: int | None = None
    lost_unknown: str | None = None
    finding: str = ""
    saved: str | None = None
    saved_state: str | None = None
    kept_aside: tuple[str, ...] = ()
    renamed_owners: int = 0

    @property
    def changed(self) -> bool:
        """Whether the host changed, or would change."""
        return bool(self.differences)


def restore_backup(
    executor: Executor,
    backup_id: str,
    *,
    host_name: str | None = None,
    of_host: str | None = None,
    scratch: Path,
    databases: Collection[str] = (),
    writes: WriteCounter | None = None,
    accept_damage: bool = False,
    keep_configuration: bool = False,
    run: str | None = None,
    check_mode: bool = False,
    clock: Clock = utc_now,
) -> RestoreResult:
    """Restore a backup; nothing is done when the host already is as the backup says.

    The present state is saved while the service goes on, and what it wrote meanwhile once it has stopped; from then to
    its start clients get 503. One that no backup can hold as it is, is kept aside instead.

    Args:
        backup_id: an id, or `latest` for the newest good full backup.
        host_name: this host's name; the kernel's when left out.
        of_host: the name of the host whose backup it may be, when that is another.
        scratch: a folder for copies of databases in check mode.
        databases: paths below the state folder of what must be sound databases.
        writes: how those are counted that would be lost.
        accept_damage: restore although the lost writes cannot be counted.
        keep_configuration: restore the state folder only, for the data of a host that is set up otherwise.

    Raises:
        MobiusError: locked while another restore is at work; backup_missing; backup_damaged or invalid_input when it is
            refused; disk_full; fenced while a promotion is pending; instance_failed and the like when the release did
            not start on it: the host is as it was before then. In none of these cases anything was lost.
    """
    host = executor.host
    with _one_restore(host, run, check_mode, clock):
        if not check_mode:
            with lock_backups(host, check_mode=False):
                finish_killed_swap(host)
        this_host = host_name or os.uname().nodename
        backup = find_backup(host, backup_id, of_host if of_host and of_host != this_host else None)
        manifest = require_restorable(host, backup, of_host or this_host, record=not check_mode, clock=clock)
        if executor.observe().open_promotion:
            raise MobiusError("fenced", f"A promotion is pending on this host, so nothing is restored. {UNCHANGED}")
        live = examine_live_state(
            host, backup, manifest,
            scratch=scratch, databases=databases, writes=writes, with_configuration=not keep_configuration,
        )  # fmt: skip
        require_space(restore_need(host, manifest))
        result = RestoreResult(backup, live.differences, live.damage, live.lost, live.lost_unknown)
        if not live.differences:
            return result
        if live.lost_unknown and not accept_damage:
            refusal = MobiusError(
                "invalid_input",
                f"How many writes the restore would lose cannot be counted: {live.lost_unknown}. {UNCHANGED}",
                do_next="Give --yes (or -e mobius_accept_loss=true) to restore it; the present state is kept aside.",
            )
            if not check_mode:
                raise refusal
            return replace(result, finding=refusal.reason)
        if check_mode:
            return result
        saving = _Saving(host, scratch, databases, host_name, run, clock, live.must_be_kept_aside)
        saved = saving.save("full", locks_held=False)
        with lock_backups(host, check_mode=False):
            swap = FolderSwap(host)
            try:
                renamed = _extract_beside(swap, backup, manifest, with_configuration=not keep_configuration)
                saved_state = _publish(executor, swap, backup.scope, saving)
            except (MobiusError, OSError) as error:
                if old_folders := swap.old_folders():
                    raise _unfinished(to_failure(error), old_folders) from error
                raise
            finally:
                swap.remove_folders()
        return replace(
            result,
            saved=None if saving.keeps_aside else saved,
            saved_state=saved_state,
            kept_aside=tuple(str(path) for path in swap.kept_aside),
            renamed_owners=renamed,
        )


@dataclass
class _Saving:
    """How the present state is saved: as backups, or aside (`keeps_aside`) when no backup can hold it as it is."""

    host: Host
    scratch: Path
    databases: Collection[str]
    host_name: str | None
    run: str | None
    clock: Clock
    keeps_aside: bool

    def save(self, scope: str, *, locks_held: bool) -> str | None:
        """Save it as a backup of this scope; its id, or None when it is to be kept aside."""
        if self.keeps_aside:
            return None
        try:
            saved = create_backup(
                self.host,
                scope=scope,
                keep=_KEEP_ALL,
                scratch=self.scratch,
                host_name=self.host_name,
                run=self.run,
                locks_held=locks_held,
                databases=self.databases,
                clock=self.clock,
            )
        except (MobiusError, OSError) as error:
            if to_failure(error).outcome not in _NOT_SAVED_OUTCOMES:
                raise
            self.keeps_aside = True
            return None
        self.keeps_aside = saved.source_damage is not None or saved.backup is None
        return saved.backup.id if saved.backup else None


@contextlib.contextmanager
def _one_restore(host: Host, run: str | None, check_mode: bool, clock: Clock) -> Iterator[None]:
    """One restore at a time; a second one does not wait, since it would restore over what the first one restores.

    Raises:
        MobiusError: locked, with who is at work since when; not_provisioned, when the backup folder is missing.
    """
    path = host.backup_dir / f".{host.service}-restore.lock"
    if check_mode and not path.exists():
        yield
        return
    if not host.backup_dir.is_dir():
        raise MobiusError("not_provisioned", f"The backup folder {host.backup_dir} is missing.")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(path, timeout=0))
        except TimeoutError:
            raise MobiusError(
                "locked",
                f"Another restore of {host.service} is at work on this host{_describe_holder(path)}. {UNCHANGED}",
                do_next="Wait until it has ended, and compare what was restored; then run again if it is still needed.",
            ) from None
        if not check_mode:
            with contextlib.suppress(OSError):  # on a full disk, a second one is not named since when
                path.write_text(json.dumps({"run": run, "since": timestamp(clock())}))
        yield


def _describe_holder(path: Path) -> str:
    """Since when the holder of a lock has it, and for which run, as far as it has written that."""
    try:
        holder = json.loads(path.read_bytes())
        run = f" (run {holder['run']})" if holder["run"] else ""
        return f" since {holder['since']}{run}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
        manifest = read_whole(host, backup, record=record, must_record=False, clock=clock)
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


# --- Extract and publish ----------------------------------------------------------------------------------------------


def _extract_beside(swap: FolderSwap, backup: Backup, manifest: ArchiveManifest, *, with_configuration: bool) -> int:
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
    swap.add_extracted(folder, with_configuration=with_configuration)
    return len(renamed)


def _publish(executor: Executor, swap: FolderSwap, scope: str, saving: _Saving) -> str | None:
    """Stop all instances, save what they wrote last, exchange the folders, start again; the id of what was saved.

    The folders are exchanged back when the release does not start. All of it under the host's lock: as long as that is
    held, clients get 503, and when a kill releases it, systemd starts what the activation record names.
    """
    running = [release for release, instance in executor.observe().instances.items() if instance.exists]
    saved = None
    with executor.locked():
        _stop_instances(executor, running)
        try:
            if running:
                saved = saving.save("state", locks_held=True)
            swap.copy_what_stays(scope)
            swap.exchange(aside=timestamp(saving.clock()) if saving.keeps_aside else None)
        except BaseException as error:
            problem = _start_again(executor, running)
            if problem and isinstance(error, MobiusError | OSError):
                failure = to_failure(error)
                reason = f"{failure.reason} Then the release did not start again: {problem}"
                raise MobiusError(failure.outcome, reason, do_next=failure.do_next) from error
            raise
        try:
            _start_instances(executor, running)
        except (MobiusError, OSError) as error:
            raise _undo(executor, swap, running, to_failure(error)) from error
        swap.keep_aside()
    return None if saving.keeps_aside else saved


def _undo(executor: Executor, swap: FolderSwap, running: list[str], failure: MobiusError) -> MobiusError:
    """Make the state from before live again; the failure of the start, with what came of that."""
    _stop_instances(executor, running)
    reason = f"{failure.reason} This happened on the restored state"
    try:
        swap.exchange_back()
        reason += "; the state from before is live again"
    except OSError as error:
        reason += f"; it cannot be exchanged back ({to_failure(error).reason.rstrip('.')})"
    if problem := _start_again(executor, running):  # on damaged data it may not have run before, either
        reason += f", and the release does not start on that either ({problem.rstrip('.')})"
    return MobiusError(failure.outcome, f"{reason}.")


def _unfinished(failure: MobiusError, old_folders: Mapping[Path, Path]) -> MobiusError:
    """A failure that has left restored folders live, and those from before without names of their own."""
    live, old = (" and ".join(map(str, paths)) for paths in (old_folders, old_folders.values()))
    return MobiusError(
        failure.outcome,
        f"{failure.reason} {live}: what was restored is live. What was there before is whole in {old}.",
        do_next=f"{failure.do_next} The next restore keeps it aside.",
    )


def _stop_instances(executor: Executor, releases: list[str]) -> None:
    if not releases:
        return
    try:
        executor.pause()
    except MobiusError as error:
        raise MobiusError(error.outcome, f"{error.reason} {UNCHANGED}", do_next=error.do_next) from None
    executor.systemd.stop(*(executor.host.unit(release) for release in releases))
    for release in releases:
        executor.wait_until_stopped(release)


def _start_again(executor: Executor, releases: list[str]) -> str | None:
    """Start them after a failure; why they do not start, None when they do."""
    try:
        _start_instances(executor, releases)
    except (MobiusError, OSError) as error:
        return to_failure(error).reason
    return None


def _start_instances(executor: Executor, releases: list[str]) -> None:
    if not releases:
        return
    for release in releases:
        executor.systemd.start(executor.host.unit(release), executor.host.start_timeout)
    confirmed = read_activation(executor.host).confirmed
    if confirmed in releases:
        executor.perform(plan_boot(executor.observe(), executor.actor))
        if executor.observe().instance(str(confirmed)).unit != "active":
            raise MobiusError("instance_failed", f"{confirmed} did not start.")
