# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of a service's state on its host: one archive each, proven by reading it back before it gets its name.

`<backup_dir>/<service>-<id>.tar.gz` and beside it `.sha256`, which `sha256sum -c --strict` accepts; an id is the second
it was begun in UTC and its scope, so that names sort by age whatever the clock did. The archive's members are

    activation.json    the truth, when there is one
    config/...         the configuration
    state/...          the state folder: journal, index (through SQLite's backup API), and the library's pictures
    manifest.json      last: what was really written, with SHA-256, size, mode, owner and group of each file

Scope `full` holds the pictures (`state/library/...`), scope `state` only their digests. A final name always means a
whole archive: whatever a killed run leaves has a temporary name, or is a `.sha256` alone, and the next run removes it.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import gzip
import hashlib
import io
import json
import os
import pwd
import re
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.mobius_host import Host

SCHEMA = 1
SCOPES = ("full", "state")
MANIFEST = "manifest.json"
LOCK_TIMEOUT = 600.0
"""Seconds to wait for another backup of the same service."""

_HOST_LOCK_TIMEOUT = 30.0  # seconds to wait for a switch that is going on
_CHUNK = 1 << 20
_MANIFEST_LIMIT = 1 << 30  # bytes; about 250 per file
_MARGIN = 1 << 20  # bytes kept free beside what an archive may need
_PER_FILE = 2048  # bytes of tar headers, padding and manifest that a file may need at most
_SQLITE_MAGIC = b"SQLite format 3\0"
_SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
_ID = r"[0-9]{8}T[0-9]{6}Z-(?:full|state)"


class DamagedError(ValueError):
    """A backup is not what was written. The message is one sentence without the backup's name."""


@dataclass(frozen=True)
class Backup:
    """One archive in the backup folder; `sha256` as its `.sha256` promises, None when there is none; size in bytes."""

    id: str
    path: Path
    bytes: int
    sha256: str | None

    @property
    def scope(self) -> str:
        """`full` or `state`."""
        return self.id.rpartition("-")[2]

    def as_dict(self) -> dict[str, Any]:
        """`{id, path, bytes, sha256, scope}`."""
        return {
            "id": self.id,
            "path": str(self.path),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "scope": self.scope,
        }


@dataclass(frozen=True)
class Taken:
    """What a backup did, or in check mode would do.

    `backup` is the newest one afterwards (None when it is only predicted), `differences` name what changed since the
    one before, `removed` are the ids that rotation removes, `leftovers` the names of what killed runs left, `skipped`
    what is neither a file nor a folder, `damaged` the id of a newest backup that no longer is what was written.
    """

    written: bool
    backup: Backup | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    differences: tuple[str, ...]
    skipped: tuple[str, ...]
    damaged: str | None
    files: int
    size: int

    @property
    def changed(self) -> bool:
        """Whether anything in the backup folder is, or would be, another than before."""
        return bool(self.written or self.removed or self.leftovers)


def existing(host: Host) -> list[Backup]:
    """All backups of the service, oldest first.

    Raises:
        MobiusError: not_provisioned, when the backup folder is missing.
    """
    pattern = re.compile(rf"{re.escape(host.service)}-({_ID})\.tar\.gz")
    found = []
    for entry in _folder(host):
        match = pattern.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            path = Path(entry.path)
            found.append(Backup(match[1], path, entry.stat(follow_symlinks=False).st_size, _promised(path)))
    return sorted(found, key=lambda backup: backup.id)


def take(
    host: Host,
    *,
    scope: str,
    keep: int,
    scratch: Path,
    run: str | None = None,
    check_mode: bool = False,
    now: datetime | None = None,
) -> Taken:
    """Write a verified backup unless nothing changed since the newest whole one of this scope, then rotate.

    Args:
        scope: `full` or `state`.
        keep: how many backups of this scope stay, at least 1; the one just written or found whole is always among them.
        scratch: a folder for copies of databases in check mode, when the backup folder must stay as it is.
        check_mode: change nothing, and say exactly what would be.

    Raises:
        MobiusError: disk_full, when there is not enough space (nothing was written then); environment_failed;
            state_damaged for a database that cannot be read; timeout when another backup goes on all the time.
    """
    if keep < 1:
        raise MobiusError("invalid_input", f"keep is {keep}, but at least one backup has to stay.")
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    with _exclusive(host, check_mode):
        leftovers = _leftovers(host)
        if not check_mode:
            _remove_leftovers(leftovers)
        before = existing(host)
        with _scratch(host, scratch, check_mode) as place:
            survey = _survey(host, scope, place)
            newest, manifest, damaged = _newest_whole([backup for backup in before if backup.scope == scope])
            differences = _differences(manifest, survey)
            if differences:
                _require_space(host.backup_dir, survey.needs, f"A backup of {host.service}")
            if differences and not check_mode:
                newest = _write(host, survey, _new_id(before, scope, moment), moment, run)
        removed = _surplus([backup for backup in before if backup.scope == scope], keep, bool(differences), damaged)
        if not check_mode:
            for backup in removed:
                _remove(backup)
        label = f"new {scope} backup of {len(survey.sources)} files, {survey.size} bytes"
        kept = [backup.id for backup in before if backup not in removed]
        return Taken(
            written=bool(differences),
            backup=None if differences and check_mode else newest,
            before=tuple(backup.id for backup in before),
            after=(*kept, label) if differences else tuple(kept),
            removed=tuple(backup.id for backup in removed),
            leftovers=tuple(path.name for path in leftovers),
            differences=tuple(differences),
            skipped=tuple(survey.skipped),
            damaged=damaged,
            files=len(survey.sources),
            size=survey.size,
        )


def verify(host: Host) -> dict[str, str | None]:
    """Read every backup of the service again; by id, None for a whole one and else what is wrong with it."""
    found: dict[str, str | None] = {}
    for backup in existing(host):
        try:
            check(backup)
        except DamagedError as error:
            found[backup.id] = str(error)
        else:
            found[backup.id] = None
    return found


def check(backup: Backup) -> dict[str, Any]:
    """Read a backup whole, compare it with its `.sha256` and every member with its manifest; gives the manifest.

    Raises:
        DamagedError: it is not what was written.
    """
    if backup.sha256 is None:
        raise DamagedError("its .sha256 is missing or is no line of sha256sum")
    return _read_archive(backup.path, backup.sha256)


# --- The folder -------------------------------------------------------------------------------------------------------


def _folder(host: Host) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(host.backup_dir) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise MobiusError("not_provisioned", f"The backup folder {host.backup_dir} is missing.") from None


def _sidecar(path: Path) -> Path:
    return Path(f"{path}.sha256")


def _promised(path: Path) -> str | None:
    try:
        text = _sidecar(path).read_bytes()
    except FileNotFoundError:
        return None
    match = re.fullmatch(rb"([0-9a-f]{64})  ([^\n]+)\n", text)
    return match[1].decode() if match and match[2] == os.fsencode(path.name) else None


@contextlib.contextmanager
def _exclusive(host: Host, check_mode: bool) -> Iterator[None]:
    """One backup of a service at a time. A check run does not make the lock's file when there is none."""
    place = host.backup_dir / f".{host.service}.lock"
    _folder(host)
    if check_mode and not place.exists():
        yield
        return
    try:
        with durable.locked(place, LOCK_TIMEOUT):
            yield
    except TimeoutError as error:
        raise MobiusError("timeout", f"Another backup of {host.service} went on for {LOCK_TIMEOUT:g} s.") from error


def _leftovers(host: Host) -> list[Path]:
    """What killed runs left: temporary names, and a `.sha256` whose archive never got its name or lost it."""
    names = {entry.name for entry in _folder(host)}
    service = re.escape(host.service)
    temporary = re.compile(rf"{re.escape(durable.TEMPORARY_PREFIX)}({service}-)?[a-z0-9_]{{8}}")
    alone = re.compile(rf"({service}-{_ID}\.tar\.gz)\.sha256")
    found = []
    for name in sorted(names):
        match = alone.fullmatch(name)
        if temporary.fullmatch(name) or (match and match[1] not in names):
            found.append(host.backup_dir / name)
    return found


def _remove_leftovers(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if paths:
        durable.fsync_dir(paths[0].parent)


@contextlib.contextmanager
def _scratch(host: Host, scratch: Path, check_mode: bool) -> Iterator[Path]:
    parent = scratch if check_mode else host.backup_dir
    place = Path(tempfile.mkdtemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _new_id(before: Sequence[Backup], scope: str, moment: datetime) -> str:
    """An id that sorts after all there are, even when the clock went back."""
    if before:
        newest = datetime.strptime(before[-1].id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        moment = max(moment, newest + timedelta(seconds=1))
    return f"{moment:%Y%m%dT%H%M%SZ}-{scope}"


def _newest_whole(backups: Sequence[Backup]) -> tuple[Backup | None, dict[str, Any] | None, str | None]:
    """The newest backup, its manifest, and None; or nothing and the id of a newest one that is damaged.

    Behind a damaged one no older one is looked for: it makes a new backup necessary in any case.
    """
    if not backups:
        return None, None, None
    try:
        return backups[-1], check(backups[-1]), None
    except DamagedError:
        return None, None, backups[-1].id


def _surplus(backups: Sequence[Backup], keep: int, written: bool, damaged: str | None) -> list[Backup]:
    """What rotation removes, oldest first. A damaged newest one is left for inspection and does not count."""
    counted = [backup for backup in backups if backup.id != damaged]
    stay = keep - 1 if written else keep
    return list(counted[: max(0, len(counted) - stay)])


def _remove(backup: Backup) -> None:
    """The archive first: what a kill leaves then is a `.sha256` alone, and no archive without one."""
    backup.path.unlink()
    durable.fsync_dir(backup.path.parent)
    _sidecar(backup.path).unlink(missing_ok=True)
    durable.fsync_dir(backup.path.parent)


def _require_space(folder: Path, needs: int, what: str) -> None:
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needs:
        raise MobiusError(
            "disk_full",
            f"{what} may need {_megabytes(needs)} in {folder}, and {_megabytes(free)} are free.",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# --- What is there to save --------------------------------------------------------------------------------------------


class _NoFileError(Exception):
    """Where a file or folder was is, or leads through, a link or something else that is not saved."""


@dataclass(frozen=True)
class _Folder:
    """The folder `parts` below `top`.

    `top` is root's, and may be a link. Below it the service's user may put a link in the place of anything at any time,
    so each part is opened for itself, relative to the one before, and never through a link.
    """

    top: Path
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """For people; never opened."""
        return self.top.joinpath(*self.parts)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the folder.

        Raises:
            FileNotFoundError: it is gone.
            _NoFileError: a part of it is a link, or no folder.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(self.top, flags)
        try:
            for part in self.parts:
                inner = _open_only(part, flags, descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Place:
    """Where a file lies."""

    folder: _Folder
    name: str

    @property
    def path(self) -> Path:
        """For people; never opened."""
        return self.folder.path / self.name

    def open(self) -> BinaryIO:
        """The regular file itself, for reading.

        Raises:
            FileNotFoundError: it is gone.
            _NoFileError: it is none, or lies behind a link.
        """
        with self.folder.opened() as folder:
            return _open_file(self.name, folder)


def _open_only(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a link, no folder, a socket
            raise _NoFileError(name) from None
        raise


def _open_file(name: str, folder: int) -> BinaryIO:
    descriptor = _open_only(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, folder)  # a pipe must not keep it waiting
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _NoFileError(name)
    return os.fdopen(descriptor, "rb")


@dataclass(frozen=True)
class _Source:
    """One file: where its content comes from (`place`, or `data` when it was read under the lock), and how it is."""

    place: _Place
    data: bytes | None
    mode: str
    owner: str
    group: str
    mtime: int
    stored: bool

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data) if self.data is not None else self.place.open()

    def size(self, stream: BinaryIO) -> int:
        return len(self.data) if self.data is not None else os.fstat(stream.fileno()).st_size

    def described(self, digest: str, size: int) -> dict[str, Any]:
        """The file's entry in the manifest."""
        return {
            "sha256": digest,
            "size": size,
            "mode": self.mode,
            "owner": self.owner,
            "group": self.group,
            "stored": self.stored,
        }


@dataclass
class _Survey:
    """All there is to save; `described` has every file's manifest entry as it was when it was looked at."""

    scope: str
    confirmed: str | None
    sources: dict[str, _Source] = field(default_factory=dict)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files that the archive holds."""
        return sum(entry["size"] for entry in self.described.values() if entry["stored"])

    @property
    def needs(self) -> int:
        """Bytes that the archive may need at most; pictures do not compress."""
        return self.size + self.size // 500 + len(self.described) * _PER_FILE + _MARGIN


def _survey(host: Host, scope: str, scratch: Path) -> _Survey:
    truth, journal = _read_together(host)
    survey = _Survey(scope, _confirmed(truth[1] if truth else None))
    if truth:
        survey.sources["activation.json"] = _source(_place(host.activation_path), truth[0], data=truth[1])
    _walk(survey, host, host.config_dir, "config", scratch)
    _walk(survey, host, host.state_dir, "state", scratch)
    if journal:
        name = f"state/{host.journal_path.relative_to(host.state_dir)}"
        survey.sources[name] = _source(_place(host.journal_path), journal[0], data=journal[1])
    for name in sorted(survey.sources):
        try:
            with survey.sources[name].open() as stream:
                digest = hashlib.sha256()
                size = 0
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except FileNotFoundError:  # removed since the folder was read
            del survey.sources[name]
            continue
        except _NoFileError:
            survey.skipped.append(_shown(str(survey.sources.pop(name).place.path)))
            continue
        survey.described[name] = survey.sources[name].described(digest.hexdigest(), size)
    return survey


def _read_together(host: Host) -> tuple[tuple[os.stat_result, bytes] | None, tuple[os.stat_result, bytes] | None]:
    """Truth and journal as they belong together: no switch goes on while they are read."""
    held = (
        contextlib.nullcontext() if not host.lock_path.exists() else durable.locked(host.lock_path, _HOST_LOCK_TIMEOUT)
    )
    try:
        with held:
            return _read_whole(host.activation_path), _read_whole(host.journal_path)
    except TimeoutError as error:
        raise MobiusError(
            "timeout", f"A switch of {host.service} held the host for {_HOST_LOCK_TIMEOUT:g} s."
        ) from error


def _read_whole(path: Path) -> tuple[os.stat_result, bytes] | None:
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()), stream.read()
    except FileNotFoundError:
        return None


def _confirmed(truth: bytes | None) -> str | None:
    """The release that the truth names, for people; a truth that cannot be understood is saved all the same."""
    try:
        value = json.loads(truth or b"{}")
    except ValueError:
        return None
    confirmed = value.get("confirmed") if isinstance(value, dict) else None
    return confirmed if isinstance(confirmed, str) else None


def _walk(survey: _Survey, host: Host, top: Path, prefix: str, scratch: Path) -> None:
    """Add every file and folder under `top`; the library may be a link to a folder elsewhere."""
    library = host.state_dir / "library"
    left_out = {host.backup_dir, host.log_dir, host.root, host.run_dir, host.journal_path, host.activation_path}
    pending = [(_Folder(top), prefix)]
    while pending:
        folder, name = pending.pop()
        try:
            with folder.opened() as descriptor:
                about = os.fstat(descriptor)
                with os.scandir(descriptor) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
                survey.folders[name] = {"mode": _mode(about), **_owner(about)}
                for entry in found:
                    path, inner = folder.path / entry.name, f"{name}/{entry.name}"
                    if path in left_out or entry.name.startswith(durable.TEMPORARY_PREFIX):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((_Folder(folder.top, (*folder.parts, entry.name)), inner))
                    elif path == library and entry.is_dir() and _only_ours(about):
                        pending.append((_Folder(path), inner))
                    elif entry.is_file(follow_symlinks=False):
                        stored = survey.scope == "full" or not inner.startswith("state/library/")
                        _add_file(survey, _Place(folder, entry.name), descriptor, inner, stored, scratch)
                    else:
                        survey.skipped.append(_shown(str(path)))
        except FileNotFoundError:
            continue
        except _NoFileError:
            survey.skipped.append(_shown(str(folder.path)))


def _only_ours(folder: os.stat_result) -> bool:
    """Whether nobody but root, or who runs this, can put a link into the folder."""
    return folder.st_uid in (0, os.geteuid()) and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _add_file(survey: _Survey, place: _Place, folder: int, name: str, stored: bool, scratch: Path) -> None:
    """Add a file of the folder that the descriptor `folder` holds."""
    if place.name.endswith(_SQLITE_COMPANIONS) and _is_sqlite(place.name.rpartition("-")[0], folder):
        return
    try:
        with _open_file(place.name, folder) as stream:
            about = os.fstat(stream.fileno())
            database = stored and stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
        if database:
            _require_space(scratch, about.st_size + _MARGIN, f"A copy of {place.path}")
            copy = scratch / str(len(survey.sources))
            _copy_database(place, folder, copy)
            place = _place(copy)
        survey.sources[name] = _source(place, about, stored=stored)
    except FileNotFoundError:
        return
    except _NoFileError:
        survey.skipped.append(_shown(str(place.path)))


def _place(path: Path) -> _Place:
    """A file in a folder that is root's."""
    return _Place(_Folder(path.parent), path.name)


def _source(place: _Place, about: os.stat_result, *, data: bytes | None = None, stored: bool = True) -> _Source:
    return _Source(place, data, _mode(about), **_owner(about), mtime=int(about.st_mtime), stored=stored)


def _mode(about: os.stat_result) -> str:
    return f"{stat.S_IMODE(about.st_mode):04o}"


def _owner(about: os.stat_result) -> dict[str, str]:
    """Names, since another host has other numbers; a number where there is no name."""
    return {"owner": _name(pwd.getpwuid, about.st_uid), "group": _name(grp.getgrgid, about.st_gid)}


def _name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _is_sqlite(name: str, folder: int) -> bool:
    try:
        with _open_file(name, folder) as stream:
            return stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except (FileNotFoundError, _NoFileError):
        return False


def _copy_database(place: _Place, folder: int, copy: Path) -> None:
    """A consistent copy while the service writes; equal content gives an equal copy, whatever lies in the journal.

    A database in WAL mode that nobody has open is read as an immutable file: merely opening it otherwise would leave
    empty `-wal` and `-shm` files beside it, also in check mode. When somebody opened it meanwhile, it is read again.

    Raises:
        MobiusError: state_damaged.
    """
    try:
        quiet = _quiet(place.name, folder)
        if quiet:
            _copy_pages(place, folder, "?mode=ro&immutable=1", copy)
        if not quiet or _quiet(place.name, folder) != quiet:
            copy.unlink(missing_ok=True)
            _copy_pages(place, folder, "?mode=ro", copy)
    except sqlite3.Error as error:
        raise MobiusError("state_damaged", f"The database {place.path} cannot be read: {error}.") from error


def _quiet(name: str, folder: int) -> tuple[int, int] | None:
    """Size and time of change of a database that no other process has open in WAL mode, else None."""
    with _open_file(name, folder) as stream:
        in_wal_mode = stream.read(20)[18:20] == b"\x02\x02"
        about = os.fstat(stream.fileno())
    alone = not any(_is_there(name + companion, folder) for companion in _SQLITE_COMPANIONS)
    return (about.st_size, about.st_mtime_ns) if in_wal_mode and alone else None


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _copy_pages(place: _Place, folder: int, options: str, copy: Path) -> None:
    """SQLite wants names, and resolves links in them, `/proc/self/fd` too; so it is shown nothing but the folder.

    The copy lies outside: all that SQLite opens for it is opened before, and its locks and journal are not looked for
    again.
    """
    confined = os.geteuid() == 0  # nobody else may, or could be led to what only root can read
    uri = (Path("/", place.name) if confined else place.path.absolute()).as_uri() + options
    with contextlib.closing(sqlite3.connect(copy)) as target:
        for pragma in ("locking_mode=exclusive", "journal_mode=off", "user_version"):
            target.execute(f"pragma {pragma}").fetchall()
        with (
            _confined_to(folder) if confined else contextlib.nullcontext(),
            contextlib.closing(sqlite3.connect(uri, uri=True)) as source,
        ):
            source.backup(target)


@contextlib.contextmanager
def _confined_to(folder: int) -> Iterator[None]:
    """The folder is this process's `/` meanwhile: no link in it leads out of it. Nothing may be imported in there."""
    with contextlib.ExitStack() as held:
        outside, here = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/", "."))
        held.callback(os.close, outside)
        held.callback(os.close, here)
        try:
            os.fchdir(folder)
            os.chroot(".")
            yield
        finally:
            os.fchdir(outside)
            os.chroot(".")
            os.fchdir(here)


def _differences(manifest: Mapping[str, Any] | None, survey: _Survey) -> list[str]:
    """Names of what is another than in the backup, at most 20; a name of its own when there is none."""
    if manifest is None:
        return ["no backup"]
    found = []
    for old, new in ((manifest["files"], survey.described), (manifest["folders"], survey.folders)):
        found += [_shown(name) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return found[:20]


def _shown(name: str) -> str:
    """A name that may be no UTF-8, so that every program can print it."""
    return name.encode("utf-8", "backslashreplace").decode()


# --- Writing and reading an archive -----------------------------------------------------------------------------------


def _write(host: Host, survey: _Survey, name: str, moment: datetime, run: str | None) -> Backup:
    """Write, fsync, read back, and only then give the archive its name; `.sha256` has its name just before."""
    final = host.backup_dir / f"{host.service}-{name}.tar.gz"
    descriptor, temporary = tempfile.mkstemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=host.backup_dir)
    try:
        with os.fdopen(descriptor, "w+b") as raw:
            head = {
                "schema": SCHEMA,
                "service": host.service,
                "id": name,
                "scope": survey.scope,
                "created": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
                "run": run,
                "confirmed": survey.confirmed,
            }
            digest = _write_archive(raw, survey, head)
            os.fsync(raw.fileno())
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read it back from the disk, not from memory
            size = os.fstat(raw.fileno()).st_size
        try:
            _read_archive(Path(temporary), digest)
        except DamagedError as error:
            raise MobiusError(
                "backup_damaged",
                f"The backup just written to {host.backup_dir} reads back wrong: {error}.",
                do_next="Check the disk under the backup folder; the backups there are as they were.",
            ) from error
        durable.write_bytes(_sidecar(final), f"{digest}  {final.name}\n".encode(), mode=0o600)
        os.rename(temporary, final)
        durable.fsync_dir(host.backup_dir)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MobiusError("disk_full", f"{host.backup_dir} ran full while the backup was written.") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if not final.exists():
            _sidecar(final).unlink(missing_ok=True)
    return Backup(name, final, size, digest)


def _write_archive(raw: BinaryIO, survey: _Survey, head: Mapping[str, Any]) -> str:
    """Write all files and then the manifest of what was written; gives the SHA-256 of all bytes."""
    out = _Hashing(raw)
    files: dict[str, dict[str, Any]] = {}
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
    ):
        for name, source in sorted(survey.sources.items()):
            if source.stored:
                try:
                    entry = _write_member(archive, name, source)
                except _NoFileError:
                    survey.skipped.append(_shown(str(source.place.path)))
                    continue
                if entry is not None:
                    files[name] = entry
            else:
                files[name] = survey.described[name]
        manifest = {**head, "files": files, "folders": survey.folders}
        # ASCII: a file name that is no UTF-8 survives as an escaped surrogate
        data = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode("ascii")
        archive.addfile(_member(MANIFEST, len(data), 0o600, "root", "root", 0), io.BytesIO(data))
    raw.flush()
    return out.digest.hexdigest()


def _write_member(archive: tarfile.TarFile, name: str, source: _Source) -> dict[str, Any] | None:
    """Write one file and give its manifest entry, from the very bytes written; None when it is gone by now."""
    try:
        stream = source.open()
    except FileNotFoundError:
        return None
    with stream:
        size = source.size(stream)
        reader = _Hashing(stream)
        member = _member(name, size, int(source.mode, 8), source.owner, source.group, source.mtime)
        try:
            archive.addfile(member, reader)
        except OSError as error:
            if error.errno is None:  # tarfile's own: fewer bytes than the size promised
                raise MobiusError(
                    "environment_failed",
                    f"{source.place.path} became shorter while it was backed up.",
                    do_next="Run it again.",
                ) from error
            raise
    return source.described(reader.digest.hexdigest(), size)


def _member(name: str, size: int, mode: int, owner: str, group: str, mtime: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, mtime
    member.uname, member.gname = owner, group
    return member


class _Hashing:
    """A stream that takes the digest of all that passes through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def _read_archive(path: Path, expected: str) -> dict[str, Any]:
    """Read an archive whole, compare its digest and every member; gives its manifest.

    Raises:
        DamagedError: anything is another than what was written.
    """
    try:
        with open(path, "rb") as raw:
            found = _Hashing(raw)
            members, manifest = _read_members(found)
    except FileNotFoundError:
        raise DamagedError("it is gone") from None
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise DamagedError(f"it cannot be read to its end ({error})") from error
    if found.digest.hexdigest() != expected:
        raise DamagedError(f"its SHA-256 is {found.digest.hexdigest()}, not {expected}")
    files = manifest.get("files")
    if manifest.get("schema") != SCHEMA or not isinstance(files, dict) or not isinstance(manifest.get("folders"), dict):
        raise DamagedError("its manifest cannot be understood")
    stored = {name: (entry["sha256"], entry["size"]) for name, entry in files.items() if entry["stored"]}
    wrong = sorted(name for name in {*stored, *members} if stored.get(name) != members.get(name))
    if wrong:
        raise DamagedError(f"{_shown(wrong[0])!r} is another than its manifest says")
    return manifest


def _read_members(raw: _Hashing) -> tuple[dict[str, tuple[str, int]], dict[str, Any]]:
    members: dict[str, tuple[str, int]] = {}
    manifest: dict[str, Any] | None = None
    with (
        gzip.GzipFile(mode="rb", fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="r|", encoding="utf-8") as archive,
    ):
        for member in archive:
            if not member.isreg() or member.name in members or manifest is not None:
                raise DamagedError(f"{_shown(member.name)!r} should not be in it")
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            if member.name == MANIFEST:
                if member.size > _MANIFEST_LIMIT:
                    raise DamagedError("its manifest is too large")
                try:
                    manifest = json.loads(content.read())
                except ValueError as error:
                    raise DamagedError("its manifest cannot be understood") from error
                continue
            digest = hashlib.sha256()
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
            members[member.name] = (digest.hexdigest(), member.size)
        while packed.read(_CHUNK):  # to the end of the file: the digest is over all of it
            pass
    if not isinstance(manifest, dict):
        raise DamagedError("it has no manifest")
    return members, manifest
