# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bringing a backup back: proven before a byte is extracted, the present state saved first, published in one step.

What comes back is the configuration and the state folder. The truth about releases and the journal of switches stay as
they are on the host (one without a journal gets the backup's): which release serves is not a matter of its data. With a
backup of scope `state` the library stays, too, once it is proven to hold every picture that the backup knows.

The new folders are made beside the old ones and exchanged with them, each in one step, while no instance runs.
`.<service>-restore.json` names them from just before the first exchange until the old ones are gone, so the next
restore finishes one that was killed between the two. A release that does not start on what was brought back gets the
old state again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pwd
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import archive
from ansible_collections.mobius.dhash.plugins.module_utils.backup import service as backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.archive import DamagedError, Entry
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_activation
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import plan_boot

_LIBRARY = "state/library"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100
_PER_FILE = 4096  # bytes that a file may take on disk beside its content
_MARGIN = 16 << 20
_NOTHING = "Nothing was touched."
_UNAVAILABLE_TIMEOUT = 10.0  # seconds until it answers


@dataclass(frozen=True)
class Restored:
    """What a restore did, or in check mode would do.

    `differences`: what on the host is another than in the backup, at most 20 names; `lost`: how many writes are later
    than the backup, None when nobody said how they are counted; `saved`: the id of the full backup that holds the state
    from before, `saved_state` that of the one with what was written while that was made. Both are None when they are
    only predicted, the second also on a host on which no instance ran. `renamed_owners`: how many files and folders
    belonged to somebody who may own nothing here, and are root's now.
    """

    backup: backup.Backup
    differences: tuple[str, ...]
    lost: int | None = None
    saved: str | None = None
    saved_state: str | None = None
    renamed_owners: int = 0

    @property
    def changed(self) -> bool:
        """Whether the host is, or would be, another than before."""
        return bool(self.differences)


@dataclass(frozen=True)
class Writes:
    """How later writes are counted.

    Attributes:
        database: path of an SQLite database below the state folder; a missing one holds none.
        query: gives one row with one number, and may use `:since`, RFC 3339 in UTC.
    """

    database: str
    query: str

    def later(self, host: Host, since: str) -> int:
        """How many are there that were made at `since` or later.

        Raises:
            MobiusError: invalid_input, when the query cannot be run.
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


def restore(
    switch: Executor,
    wanted: str,
    *,
    name: str | None = None,
    of_host: str | None = None,
    scratch: Path,
    writes: Writes | None = None,
    run: str | None = None,
    check_mode: bool = False,
) -> Restored:
    """Bring a backup back; nothing is done when the host already is as it says.

    The present state is saved while the service goes on, and what it wrote meanwhile once it has stopped; from then to
    its start clients are answered 503.

    Args:
        wanted: the backup's id, or `latest` for the newest full one.
        name: the host's own name; the kernel's when left out.
        of_host: the name of the host whose backup it may be, when that is another.
        scratch: a folder for copies of databases in check mode.
        writes: how those are counted that would be lost.

    Raises:
        MobiusError: backup_missing; backup_damaged or invalid_input when it is refused; disk_full; fenced while a
            promotion is pending; instance_failed and the like when the release did not start on it: the host is as it
            was before then. In none of these cases anything was lost.
    """
    host = switch.host
    if not check_mode:
        _finish(host)
    own = name or os.uname().nodename
    chosen = backup.find(host, wanted, of_host if of_host and of_host != own else None)
    manifest = prove(host, chosen, of_host or own)
    _require_swappable(host)
    if switch.observe().open:
        raise MobiusError("fenced", f"A promotion is pending on this host, so nothing is restored. {_NOTHING}")
    if chosen.scope == "state":
        _require_pictures(host, chosen, manifest)
    require_space(host.state_dir.parent, manifest)
    differences = _differences(host, chosen, manifest, scratch)
    lost = writes.later(host, manifest.head["created"]) if writes else None
    if not differences or check_mode:
        return Restored(chosen, tuple(differences), lost)

    def save(scope: str, held: bool) -> str | None:
        kept = backup.Keep(count=1_000_000)
        saved = backup.take(host, scope=scope, keep=kept, scratch=scratch, name=name, run=run, held=held).backup
        return saved.id if saved else None

    saved = save("full", held=False)
    with backup.exclusive(host, check_mode=False):
        prepared = _Prepared(host)
        try:
            owners = prepared.fill(chosen, manifest)
            saved_state = _publish(switch, prepared, manifest.head["scope"], lambda: save("state", held=True))
        finally:
            prepared.remove()
    return Restored(chosen, tuple(differences), lost, saved, saved_state, owners)


def prove(host: Host, chosen: backup.Backup, of_host: str) -> archive.Manifest:
    """Read a backup whole, and refuse one that is damaged or is another host's or service's.

    Raises:
        MobiusError: backup_damaged, invalid_input.
    """
    try:
        manifest, _ = backup.check(chosen)
    except DamagedError as error:
        reason = f"The backup {chosen.id} is not what was written: {error}. {_NOTHING}"
        raise MobiusError("backup_damaged", reason, do_next="Choose another backup.") from error
    for what, found, right in (
        ("service", manifest.head["service"], host.service),
        ("host", manifest.head["host"], of_host),
    ):
        if found != right:
            raise MobiusError(
                "invalid_input",
                f"The backup {chosen.id} is of the {what} {archive.shown(found)!r}, not of {right!r}. {_NOTHING}",
                do_next="Choose another backup; to take another host's on purpose, give its name as backup_of_host.",
            )
    return manifest


# --- What is refused before anything happens --------------------------------------------------------------------------


def _require_swappable(host: Host) -> None:
    for top in (host.state_dir, host.config_dir):
        if not top.is_dir():
            raise MobiusError("not_provisioned", f"The folder {top} is missing.")
        inner = [top, *(entry for entry in top.iterdir() if entry.is_dir())]
        if fixed := [place for place in inner if place.is_symlink() or os.path.ismount(place)]:
            raise MobiusError(
                "environment_failed",
                f"{fixed[0]} is a link or a file system of its own, so it cannot be exchanged in one step. {_NOTHING}",
                do_next="Restore by hand, as docs/backup.md says.",
            )
        for other in (host.backup_dir, host.log_dir, host.root, host.run_dir):
            if other.is_relative_to(top):
                raise MobiusError(
                    "environment_failed", f"{other} lies in {top}, which would be exchanged with it. {_NOTHING}"
                )


def require_space(folder: Path, manifest: archive.Manifest) -> None:
    """Refuse when all that an archive holds does not fit into the folder.

    Raises:
        MobiusError: disk_full.
    """
    needs = manifest.bytes + manifest.files * _PER_FILE + _MARGIN
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needs:
        raise MobiusError(
            "disk_full",
            f"To restore needs {needs / 1e6:.1f} MB in {folder}, and {free / 1e6:.1f} MB are free. {_NOTHING}",
        )


def _require_pictures(host: Host, chosen: backup.Backup, manifest: archive.Manifest) -> None:
    """The library stays, so it has to hold every picture that the index of the backup was made from."""
    wrong = []
    with open(chosen.path, "rb") as stream:
        for entry in archive.entries(stream, manifest):
            if entry.stored or entry.folder:
                continue
            place = host.state_dir.joinpath(*entry.parts[1:])
            try:
                about = place.lstat()
                stamp = f"{about.st_mtime_ns}.{about.st_ctime_ns}.{about.st_ino}"
                known = stat.S_ISREG(about.st_mode) and about.st_size == entry.size
                if not known or (stamp != entry.stamp and archive.file_sha256(place) != entry.sha256):
                    wrong.append(entry.path)
            except FileNotFoundError:
                wrong.append(entry.path)
    if wrong:
        raise MobiusError(
            "invalid_input",
            f"The backup {chosen.id} holds no pictures, and {len(wrong)} that it knows are missing or others in the "
            f"library: {archive.shown(wrong[0])} first. {_NOTHING}",
            do_next="Restore a full backup instead.",
        )


def _differences(host: Host, chosen: backup.Backup, manifest: archive.Manifest, scratch: Path) -> list[str]:
    place = Path(tempfile.mkdtemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=scratch))
    stays = {"activation.json", _journal(host)}

    def counts(entry: Entry) -> bool:
        library = entry.path == _LIBRARY or entry.path.startswith(f"{_LIBRARY}/")
        return entry.path not in stays and not (library and chosen.scope == "state")

    try:
        return backup.differences(host, chosen, manifest, place, counts)
    finally:
        shutil.rmtree(place)


def _journal(host: Host) -> str:
    return f"state/{host.journal_path.relative_to(host.state_dir)}"


# --- The new folders --------------------------------------------------------------------------------------------------


@dataclass
class _Prepared:
    """The new state folder beside the old one, and the new configuration beside its own."""

    host: Host
    folders: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)

    def fill(self, chosen: backup.Backup, manifest: archive.Manifest) -> int:
        """Extract everything unprivileged, give it its owners, and read it again; how many owners are others now."""
        host = self.host
        place = self._folder(host.state_dir.parent)
        owner_of, renamed = owners(host)
        try:
            unpack(chosen.path, manifest, place, owner_of)
        except DamagedError as error:
            reason = f"The backup {chosen.id} could not be brought back: {error}. {_NOTHING}"
            raise MobiusError("backup_damaged", reason) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MobiusError("disk_full", f"{place.parent} ran full. {_NOTHING}") from error
            raise
        if (place / "state").is_dir():
            self.pairs.append((host.state_dir, place / "state"))
        if (place / "config").is_dir():
            beside = self._folder(host.config_dir.parent) / "config"
            _copy_tree(place / "config", beside, shutil.copyfile)
            self.pairs.append((host.config_dir, beside))
        return len(renamed)

    def _folder(self, parent: Path) -> Path:
        self.folders.append(Path(tempfile.mkdtemp(prefix=_prefix(self.host), dir=parent)))
        return self.folders[-1]

    def remove(self) -> None:
        """Remove what is left of it: the old folders after a swap, the new ones when there was none."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        _intent(self.host).unlink(missing_ok=True)


def _prefix(host: Host) -> str:
    return f"{durable.TEMPORARY_PREFIX}{host.service}-restore-"


def unpack(path: Path, manifest: archive.Manifest, place: Path, owner_of: Callable[[Entry], tuple[int, int]]) -> int:
    """Extract an archive into the empty folder `place` as nobody, then own and read all of it again.

    Raises:
        DamagedError: what lies there is not what the manifest says.
    """
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        privileged = os.geteuid() == 0
        archive.extract(path, manifest, descriptor, user=pwd.getpwnam("nobody").pw_uid if privileged else None)
        if privileged:
            os.fchown(descriptor, 0, 0)
        files = archive.publish(path, manifest, descriptor, owner_of=owner_of)
        os.sync()
        return files
    finally:
        os.close(descriptor)


def owners(host: Host) -> tuple[Callable[[Entry], tuple[int, int]], list[str]]:
    """Who may own what is brought back: root and the service's user. All else is root's, in the service's group.

    The list fills with the paths of what belonged to somebody else.
    """
    renamed: list[str] = []
    if os.geteuid() != 0:
        return (lambda _: (-1, -1)), renamed
    try:
        user = pwd.getpwnam(host.user)
    except KeyError:
        raise MobiusError("not_provisioned", f"There is no user {host.user} on this host.") from None

    def owner_of(entry: Entry) -> tuple[int, int]:
        known = {"root": (0, 0), host.user: (user.pw_uid, user.pw_gid)}
        if entry.owner not in known or entry.group not in known:
            renamed.append(entry.path)
        return known.get(entry.owner, (0, 0))[0], known.get(entry.group, (0, user.pw_gid))[1]

    return owner_of, renamed


def _copy_tree(source: Path, target: Path, copy: Callable[[Path, Path], Any]) -> None:
    """The same tree, owners, modes and times included; `copy` makes the files."""
    target.mkdir(mode=0o700)
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _copy_tree(entry, target / entry.name, copy)
        else:
            copy(entry, target / entry.name)
            _dress(entry, target / entry.name)
    _dress(source, target)


def _dress(source: Path, target: Path) -> None:
    about = source.lstat()
    if os.geteuid() == 0:
        os.chown(target, about.st_uid, about.st_gid)
    os.chmod(target, stat.S_IMODE(about.st_mode))
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))


# --- The swap ---------------------------------------------------------------------------------------------------------


def _publish(switch: Executor, prepared: _Prepared, scope: str, save: Callable[[], str | None]) -> str | None:
    """Stop all instances, save what they wrote last, exchange the folders, start again; what `save` gave.

    Back to the old folders when the release does not start. All of it under the host's lock: as long as that is held,
    clients are answered 503, and when it is let go of by a kill, systemd starts what the truth names.
    """
    running = [release for release, item in switch.observe().instances.items() if item.exists]
    saved = None
    with switch.locked():
        _stop(switch, running)
        try:
            if running:
                saved = save()
            _keep_what_stays(switch.host, prepared, scope)
            _swap(switch.host, prepared)
        except BaseException:
            _start_again(switch, running)
            raise
        try:
            _start_again(switch, running)
        except MobiusError as error:
            _stop(switch, running)
            for live, other in reversed(prepared.pairs):
                _exchange(live, other)
            _start_again(switch, running)
            reason = f"{error.reason} It did so on what was restored, so the state from before is there again."
            raise MobiusError(error.outcome, reason) from error
    return saved


def _stop(switch: Executor, releases: list[str]) -> None:
    if not releases:
        return
    seen = switch.observe()
    if seen.listening and not switch.systemd.start(switch.host.unavailable_unit, _UNAVAILABLE_TIMEOUT):
        raise MobiusError("environment_failed", f"{switch.host.unavailable_unit} did not start. {_NOTHING}")
    switch.systemd.stop(*(switch.host.unit(release) for release in releases))
    for release in releases:
        switch.wait_until_stopped(release)


def _start_again(switch: Executor, releases: list[str]) -> None:
    if not releases:
        return
    if switch.observe().listening:
        # new clients wait in the socket's queue from here on
        switch.systemd.kill(switch.host.unavailable_unit, "USR1")
    for release in releases:
        switch.systemd.start(switch.host.unit(release), switch.host.start_timeout)
    confirmed = read_activation(switch.host).confirmed
    if confirmed in releases:
        switch.perform(plan_boot(switch.observe(), switch.who))
        if switch.observe().instance(str(confirmed)).unit != "active":
            raise MobiusError("instance_failed", f"{confirmed} did not start.")


def _keep_what_stays(host: Host, prepared: _Prepared, scope: str) -> None:
    """The journal of this host, and its library when the backup has none. Called while nothing runs."""
    new = dict(prepared.pairs).get(host.state_dir)
    if new is None:
        return
    journal = host.journal_path.relative_to(host.state_dir)
    if host.journal_path.exists():
        shutil.copyfile(host.journal_path, new / journal)
        _dress(host.journal_path, new / journal)
        with open(new / journal, "rb") as stream:
            os.fsync(stream.fileno())
    library = host.state_dir / "library"
    if scope == "state" and library.is_dir():
        shutil.rmtree(new / "library", ignore_errors=True)
        _copy_tree(library, new / "library", lambda source, target: os.link(source, target, follow_symlinks=False))


def _swap(host: Host, prepared: _Prepared) -> None:
    pairs = [[str(live), str(new), new.stat().st_ino] for live, new in prepared.pairs]
    os.sync()
    intent = {"schema": 1, "pairs": pairs, "folders": [str(folder) for folder in prepared.folders]}
    durable.write_json(_intent(host), intent, mode=0o600)
    done: list[tuple[Path, Path]] = []
    try:
        for live, new in prepared.pairs:
            _exchange(live, new)
            done.append((live, new))
    except OSError:
        for live, new in done:
            _exchange(live, new)
        raise


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step (`renameat2(2)`)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))
    durable.fsync_dir(one.parent)
    durable.fsync_dir(other.parent)


def _intent(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-restore.json"


def _finish(host: Host) -> None:
    """Finish a swap that was killed half way, and remove what a killed restore left."""
    with backup.exclusive(host, check_mode=False):
        try:
            intent = json.loads(_intent(host).read_bytes())
        except FileNotFoundError:
            intent = {"pairs": [], "folders": []}
        for live, new, inode in intent["pairs"]:
            if os.stat(live).st_ino != inode and Path(new).is_dir() and os.stat(new).st_ino == inode:
                _exchange(Path(live), Path(new))
        for parent in {host.state_dir.parent, host.config_dir.parent}:
            for folder in parent.glob(f"{_prefix(host)}*"):
                shutil.rmtree(folder)
        _intent(host).unlink(missing_ok=True)
