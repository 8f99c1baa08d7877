# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of a service's state on its host: one archive each, proven by reading it back before it gets its name.

`<backup_dir>/<service>-<id>.tar` (its form: `archive.py`) and beside it `.sha256`, which `sha256sum -c --strict`
accepts; an id is the second it was begun in UTC and its scope, so that names sort by age whatever the clock did. Saved
are

    activation.json    the truth, when there is one
    config/...         the configuration
    state/...          the state folder: journal, index (through SQLite's backup API), and the library's pictures

Scope `full` holds the pictures (`state/library/...`), scope `state` only their digests. A final name always means a
whole archive: whatever a killed run leaves has a temporary name, or is a `.sha256` alone, and the next run removes it.
`.<service>-verified.json` says when each was last read back; without it nothing is lost but that knowledge.

A file that has the size, times and inode that the newest backup noted is taken for unchanged without being read.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import io
import json
import os
import pwd
import re
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import archive
from ansible_collections.mobius.dhash.plugins.module_utils.backup.archive import DamagedError, Entry
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_pending, staged_releases

SCOPES = ("full", "state")
LOCK_TIMEOUT = 600.0
"""Seconds to wait for another backup of the same service."""

_HOST_LOCK_TIMEOUT = 30.0  # seconds to wait for a switch that is going on
_MARGIN = 1 << 20  # bytes kept free beside what an archive may need
_PER_FILE = 3072  # bytes of header, padding and manifest (twice: it is written aside first) that a file needs at most
_SETTLED = 2_000_000_000  # nanoseconds after which a file's times tell that it was not changed
_SHOWN = 20  # differences that are named
_SQLITE_MAGIC = b"SQLite format 3\0"
_SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
ID = r"[0-9]{8}T[0-9]{6}Z-(?:full|state)"
_LIBRARY = "state/library"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Keep:
    """Which backups of a scope stay: those that any of these names. The newest whole one always does.

    `count`: the newest so many; `age_days`: those not older; `days`, `weeks`, `months`: the last of each of the newest
    so many calendar days, weeks and months (UTC) that have one.
    """

    count: int = 5
    age_days: int = 0
    days: int = 0
    weeks: int = 0
    months: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise MobiusError("invalid_input", f"keep is {self.count}, but at least one backup has to stay.")
        if min(self.age_days, self.days, self.weeks, self.months) < 0:
            raise MobiusError("invalid_input", "How long backups are kept is a negative number.")


@dataclass(frozen=True)
class Backup:
    """One archive in the backup folder.

    `sha256` as its `.sha256` promises, None when there is none; size in bytes; `verified`: when it was last read whole
    and was what was written, RFC 3339, None when never; `damaged`: what was wrong when it was last read.
    """

    id: str
    path: Path
    bytes: int
    sha256: str | None
    host: str | None = None
    created: str | None = None
    release: str | None = None
    run: str | None = None
    verified: str | None = None
    damaged: str | None = None

    @property
    def scope(self) -> str:
        """`full` or `state`."""
        return self.id.rpartition("-")[2]

    @property
    def moment(self) -> datetime:
        """When it was begun, as its id says."""
        return datetime.strptime(self.id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    def as_dict(self) -> dict[str, Any]:
        """`{id, scope, host, created, release, bytes, sha256, verified, damaged, path}`."""
        return {
            "id": self.id,
            "scope": self.scope,
            "host": self.host,
            "created": self.created,
            "release": self.release,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "verified": self.verified,
            "damaged": self.damaged,
            "path": str(self.path),
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


def folder(host: Host, of_host: str | None = None) -> Path:
    """Where the service's backups lie: this host's own, or those that were pulled here of another host.

    Raises:
        MobiusError: invalid_input, when the other one's name cannot be a folder's.
    """
    if of_host is None:
        return host.backup_dir
    require_plain(of_host)
    return host.backup_dir / of_host


def require_plain(name: str) -> None:
    """Refuse a host's name that a folder cannot have.

    Raises:
        MobiusError: invalid_input.
    """
    if not _PLAIN.fullmatch(name):
        raise MobiusError("invalid_input", f"{name!r} is no name of a host that a folder can have.")


def existing(host: Host, of_host: str | None = None) -> list[Backup]:
    """All backups of the service, oldest first. Only the few bytes are read that say what each is.

    Args:
        of_host: those that were pulled here of this other host, instead of this host's own.

    Raises:
        MobiusError: not_provisioned, when the backup folder is missing.
    """
    pattern = re.compile(rf"{re.escape(host.service)}-({ID})\.tar")
    place = folder(host, of_host)
    if of_host and not place.is_dir():
        return []
    records = {} if of_host else _records(host)
    found = []
    for entry in _entries_in(place):
        match = pattern.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False):
            found.append(_described(match[1], Path(entry.path), records.get(match[1], {})))
    return sorted(found, key=lambda backup: backup.id)


def find(host: Host, wanted: str, of_host: str | None = None) -> Backup:
    """The backup of this id, or the newest whole one of scope full for `latest`.

    Args:
        of_host: look for this other host's instead, among those that were pulled here and among this host's own: it
            may have had that name before.

    Raises:
        MobiusError: backup_missing.
    """
    found = existing(host)
    if of_host:
        found = [backup for backup in found if backup.host == of_host] + existing(host, of_host)
        found.sort(key=lambda backup: backup.id)
    if wanted == "latest":
        chosen = [backup for backup in found if backup.scope == "full" and backup.damaged is None]
    else:
        chosen = [backup for backup in found if backup.id == wanted]
    if not chosen:
        what = "no full backup" if wanted == "latest" else f"no backup {wanted}"
        whose = f"{of_host}'s {host.service}" if of_host else host.service
        raise MobiusError("backup_missing", f"There is {what} of {whose} in {host.backup_dir}.")
    return chosen[-1]


def take(
    host: Host,
    *,
    scope: str,
    keep: Keep,
    scratch: Path,
    name: str | None = None,
    run: str | None = None,
    check_mode: bool = False,
    held: bool = False,
    now: datetime | None = None,
) -> Taken:
    """Write a verified backup unless nothing changed since the newest whole one of this scope, then rotate.

    Args:
        scope: `full` or `state`.
        keep: which backups of this scope stay; the one just written or found whole is always among them.
        scratch: a folder for copies of databases in check mode, when the backup folder must stay as it is.
        name: the host's own name, which a restore compares; the kernel's when left out.
        check_mode: change nothing, and say exactly what would be.
        held: the caller holds `exclusive` and the host's lock already.

    Raises:
        MobiusError: disk_full, when there is not enough space (nothing was written then); environment_failed;
            state_damaged for a database that cannot be read; timeout when another backup goes on all the time.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    with contextlib.nullcontext() if held else exclusive(host, check_mode):
        leftovers = _leftovers(host)
        if not check_mode:
            _remove_leftovers(leftovers)
        before = existing(host)
        mine = [backup for backup in before if backup.scope == scope]
        with _scratch(host, scratch, check_mode) as place:
            newest, manifest, damaged = _newest_whole(host, mine, check_mode)
            view = _View.of(host, scope, place, held=held)
            survey = view.survey(_reference(newest, manifest))
            if survey.differences:
                _require_space(host.backup_dir, survey.needs, f"A backup of {host.service}")
            following = Backup(_new_id(before, scope, moment), Path(), 0, None, release=view.confirmed, run=run)
            if survey.differences and not check_mode:
                head = _head(host, following, name, moment)
                newest = _write(host, view, _reference(newest, manifest), head)
        if survey.differences:
            mine.append(following)
        removed = surplus([backup for backup in mine if backup.id != damaged], keep, moment, _needed(host, mine))
        if not check_mode:
            _rotate(host, removed)
        label = f"new {scope} backup of {survey.files} files, {survey.size} bytes"
        kept = [backup.id for backup in before if backup not in removed]
        return Taken(
            written=bool(survey.differences),
            backup=None if survey.differences and check_mode else newest,
            before=tuple(backup.id for backup in before),
            after=(*kept, label) if survey.differences else tuple(kept),
            removed=tuple(backup.id for backup in removed),
            leftovers=tuple(path.name for path in leftovers),
            differences=tuple(survey.differences),
            skipped=tuple(view.skipped),
            damaged=damaged,
            files=survey.files,
            size=survey.size,
        )


@dataclass(frozen=True)
class Space:
    """Bytes that a backup needs at most in the backup folder: `archive` stays, `aside` is only needed meanwhile."""

    archive: int = 0
    aside: int = 0

    @property
    def peak(self) -> int:
        """What is needed at one time."""
        return self.archive + self.aside


def space_needed(host: Host, *, scope: str, scratch: Path, at_hand: int) -> Space:
    """What a backup of this scope needs now; nothing when nothing changed since the newest whole one.

    Files are measured, not read, as long as they fit: only when there is more than `at_hand` is it compared with the
    newest backup, which a deploy does anyway.

    Args:
        scratch: a folder for copies of databases.
        at_hand: bytes that are free for it.

    Raises:
        MobiusError: as `take`.
    """
    measured = _View.of(host, scope, scratch, sizes_only=True)
    survey = measured.survey(None)
    most = Space(survey.needs, measured.aside)
    if most.peak <= at_hand:
        return most
    with exclusive(host, True), _scratch(host, scratch, True) as place:
        mine = [backup for backup in existing(host) if backup.scope == scope]
        newest, manifest, _ = _newest_whole(host, mine, True)
        survey = _View.of(host, scope, place).survey(_reference(newest, manifest))
    return Space(survey.needs, measured.aside) if survey.differences else Space()


def leftover_bytes(host: Host) -> int:
    """Bytes of what killed runs left in the backup folder: the next backup gives them back first."""
    return sum(
        path.stat().st_size
        for top in _leftovers(host)
        for path in ((top, *top.rglob("*")) if top.is_dir() else (top,))
        if path.is_file()
    )


@dataclass(frozen=True)
class Pruned:
    """What a rotation alone removed, or in check mode would remove: ids and names."""

    before: tuple[str, ...]
    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    damaged: tuple[str, ...]


def prune(host: Host, *, keep: Keep, check_mode: bool = False, now: datetime | None = None) -> Pruned:
    """Remove what the rules no longer keep, of every scope whose newest backup is whole: it is read again first."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    with exclusive(host, check_mode):
        leftovers = _leftovers(host)
        before = existing(host)
        removed: list[Backup] = []
        damaged: list[str] = []
        for scope in SCOPES:
            mine = [backup for backup in before if backup.scope == scope]
            newest, _, wrong = _newest_whole(host, mine, check_mode)
            if wrong:
                damaged.append(wrong)
            if newest:
                removed += surplus(mine, keep, moment, _needed(host, mine))
        if not check_mode:
            _remove_leftovers(leftovers)
            _rotate(host, removed)
        names = [backup.id for backup in before]
        ids = [backup.id for backup in removed]
        return Pruned(tuple(names), tuple(ids), tuple(path.name for path in leftovers), tuple(damaged))


def verify(host: Host, part: tuple[int, int] | None = None, *, record: bool = True) -> dict[str, str | None]:
    """Read every backup of the service again; by id, None for a whole one and else what is wrong with it.

    Args:
        part: `(k, n)` reads the k-th part of n only: all headers, and every n-th file. Once all n parts were read, the
            backup counts as verified since the oldest of them.
        record: note the outcome.
    """
    found: dict[str, str | None] = {}
    for backup in existing(host):
        try:
            if part is None:
                _, own = check(backup)
                known: dict[str, Any] = {"manifest_sha256": own, "verified": _stamp()}
            else:
                known = _check_part(host, backup, part)
        except DamagedError as error:
            if not backup.path.exists():  # rotated meanwhile
                continue
            found[backup.id] = str(error)
            known = {"verified": None, "parts": {}, "damaged": str(error)}
        else:
            found[backup.id] = None
            known["damaged"] = None
        if record:
            _note(host, backup.id, known)
    return found


def differences(
    host: Host, backup: Backup, manifest: archive.Manifest, scratch: Path, counts: Callable[[Entry], bool]
) -> list[str]:
    """What on the host is another than in a backup that was checked, at most 20 names, among the entries that count."""
    view = _View.of(host, "full", scratch)
    walk = (found for found in view.walk() if counts(found.entry))
    old = (entry for entry in _entries(backup.path, manifest) if counts(entry))
    return view.survey(old, walk).differences


def check(backup: Backup) -> tuple[archive.Manifest, str]:
    """Read a backup whole, compare it with its `.sha256` and every member with its manifest; gives the manifest.

    Raises:
        DamagedError: it is not what was written.
    """
    if backup.sha256 is None:
        raise DamagedError("its .sha256 is missing or is no line of sha256sum")
    manifest, own = archive.check(backup.path, backup.sha256)
    if manifest.head["id"] != backup.id:
        raise DamagedError(f"it is the backup {archive.shown(manifest.head['id'])!r} under another name")
    return manifest, own


def part_of(text: str | None) -> tuple[int, int] | None:
    """`(k, n)` of `k/n` or `today/n`; None for everything.

    Raises:
        MobiusError: invalid_input.
    """
    if not text:
        return None
    match = re.fullmatch(r"(today|[1-9][0-9]{0,2})/([1-9][0-9]{0,2})", text)
    of = int(match[2]) if match else 0
    part = datetime.now(UTC).toordinal() % of + 1 if match and match[1] == "today" else int(match[1]) if match else 1
    if not 1 <= part <= of:
        raise MobiusError("invalid_input", f"subset is {text!r}, which is neither a part like 1/7 nor today/7.")
    return part, of


def _check_part(host: Host, backup: Backup, part: tuple[int, int]) -> dict[str, Any]:
    if backup.sha256 is None:
        raise DamagedError("its .sha256 is missing or is no line of sha256sum")
    record = _records(host).get(backup.id, {})
    archive.check_part(backup.path, *part, record.get("manifest_sha256"))
    parts = record.get("parts") or {}
    times = {**(parts.get("times", {}) if parts.get("of") == part[1] else {}), str(part[0]): _stamp()}
    known: dict[str, Any] = {"parts": {"of": part[1], "times": times}}
    if len(times) == part[1]:
        known["verified"] = max(min(times.values()), record.get("verified") or "")
    return known


# --- Rotation ---------------------------------------------------------------------------------------------------------


def surplus(backups: Sequence[Backup], keep: Keep, now: datetime, needed: Collection[str] = ()) -> list[Backup]:
    """What rotation removes of the backups of one scope, oldest first.

    Args:
        backups: oldest first; the last one is whole.
        needed: ids that stay whatever the rules say.
    """
    # one that was found damaged is left for inspection, and takes no good one's place
    counted = [backup for backup in backups if backup.damaged is None]
    stay = {backup.id for backup in counted[-keep.count :]} | set(needed)
    if keep.age_days:
        stay |= {backup.id for backup in counted if now - backup.moment <= timedelta(days=keep.age_days)}
    for number, period in ((keep.days, "%Y-%m-%d"), (keep.weeks, "%G-%V"), (keep.months, "%Y-%m")):
        last = {backup.moment.strftime(period): backup.id for backup in counted}
        stay |= set(list(last.values())[len(last) - min(number, len(last)) :])
    return [backup for backup in counted if backup.id not in stay]


def _needed(host: Host, backups: Sequence[Backup]) -> set[str]:
    """The newest backup of each kept release's time, and all of a run that has not ended."""
    kept = set(staged_releases(host))
    needed = {backup.release: backup.id for backup in backups if backup.release in kept and backup.damaged is None}
    pending = read_pending(host)
    run = pending.run if pending else None
    return set(needed.values()) | {backup.id for backup in backups if run and backup.run == run}


def _rotate(host: Host, removed: Sequence[Backup]) -> None:
    for backup in removed:
        _remove(backup)
    if removed:
        _forget(host)


# --- The folder -------------------------------------------------------------------------------------------------------


def _entries_in(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise MobiusError("not_provisioned", f"The backup folder {place} is missing.") from None


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
def exclusive(host: Host, check_mode: bool) -> Iterator[None]:
    """One backup or restore of a service at a time. A check run does not make the lock's file when there is none."""
    place = host.backup_dir / f".{host.service}.lock"
    _entries_in(host.backup_dir)
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
    names = {entry.name for entry in _entries_in(host.backup_dir)}
    service = re.escape(host.service)
    temporary = re.compile(rf"{re.escape(durable.TEMPORARY_PREFIX)}({service}-)?[a-z0-9_]{{8}}")
    alone = re.compile(rf"({service}-{ID}\.tar)\.sha256")
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
        moment = max(moment, before[-1].moment + timedelta(seconds=1))
    return f"{moment:%Y%m%dT%H%M%SZ}-{scope}"


def _newest_whole(
    host: Host, backups: Sequence[Backup], check_mode: bool
) -> tuple[Backup | None, archive.Manifest | None, str | None]:
    """The newest backup, its manifest, and None; or nothing and the id of a newest one that is damaged.

    Behind a damaged one no older one is looked for: it makes a new backup necessary in any case.
    """
    if not backups:
        return None, None, None
    newest = backups[-1]
    try:
        manifest, own = check(newest)
    except DamagedError as error:
        if not check_mode:
            _note(host, newest.id, {"verified": None, "parts": {}, "damaged": str(error)})
        return None, None, newest.id
    verified = _stamp()
    if not check_mode:
        _note(host, newest.id, {"verified": verified, "manifest_sha256": own, "damaged": None})
    return replace(newest, verified=verified, damaged=None), manifest, None


def _reference(newest: Backup | None, manifest: archive.Manifest | None) -> Iterator[Entry] | None:
    """The entries of the newest whole backup, to compare with."""
    if newest is None or manifest is None:
        return None
    return _entries(newest.path, manifest)


def _entries(path: Path, manifest: archive.Manifest) -> Iterator[Entry]:
    with open(path, "rb") as stream:
        yield from archive.entries(stream, manifest)


def _described(name: str, path: Path, record: dict[str, Any]) -> Backup:
    head: dict[str, Any] = {}
    with contextlib.suppress(DamagedError, OSError), open(path, "rb") as stream:
        head = archive.open_manifest(stream).head
    return Backup(
        id=name,
        path=path,
        bytes=path.stat().st_size,
        sha256=_promised(path),
        **{field: head.get(field) for field in ("host", "created", "release", "run")},
        verified=record.get("verified"),
        damaged=record.get("damaged"),
    )


def _stamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-verified.json"


def _records(host: Host) -> dict[str, dict[str, Any]]:
    """By id, what is known of each backup. A file that cannot be understood tells nothing, and is written anew."""
    try:
        found = json.loads(_records_path(host).read_bytes())["backups"]
        return {name: record for name, record in found.items() if isinstance(record, dict)}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(host: Host, name: str, known: dict[str, Any]) -> None:
    with durable.locked(host.backup_dir / f".{host.service}-verified.lock", LOCK_TIMEOUT):
        records = _records(host)
        records[name] = {**records.get(name, {}), **known}
        durable.write_json(_records_path(host), {"schema": 1, "backups": records}, mode=0o600)


def _forget(host: Host) -> None:
    """Drop what is known of backups that are gone."""
    names = {backup.id for backup in existing(host)}
    with durable.locked(host.backup_dir / f".{host.service}-verified.lock", LOCK_TIMEOUT):
        records = {name: record for name, record in _records(host).items() if name in names}
        durable.write_json(_records_path(host), {"schema": 1, "backups": records}, mode=0o600)


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


def _open_folder(name: str | Path, folder: int | None = None) -> int:
    """A descriptor of a folder, which is never reached through a link below the top.

    The service's user may put a link in the place of anything of its own at any time.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return os.open(name, flags) if folder is None else _open_only(str(name), flags, folder)


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
class _Found:
    """A file or folder as a walk meets it. `data` or `copy` has its content, or else the file itself in its folder."""

    entry: Entry
    folder: int  # descriptor; open as long as the walk stands here
    where: Path  # for people; never opened
    data: bytes | None = None
    copy: Path | None = None

    def open(self) -> tuple[Entry, BinaryIO]:
        """Its content, and the entry as it is at this moment.

        Raises:
            FileNotFoundError: it is gone.
            _NoFileError: it is no file any more, or lies behind a link.
        """
        if self.data is not None:
            return self.entry, io.BytesIO(self.data)
        if self.copy is not None:
            return self.entry, open(self.copy, "rb")
        stream = _open_file(self.where.name, self.folder)
        return _as_entry(self.entry.path, os.fstat(stream.fileno()), stored=self.entry.stored), stream

    def sha256(self) -> str:
        """Its digest, read now."""
        _, stream = self.open()
        with stream:
            reader = hashlib.sha256()
            while chunk := stream.read(archive.CHUNK):
                reader.update(chunk)
        return reader.hexdigest()


def _as_entry(path: str, about: os.stat_result, *, stored: bool = True, size: int | None = None) -> Entry:
    changed = max(about.st_mtime_ns, about.st_ctime_ns)
    settled = changed < time.time_ns() - _SETTLED
    return Entry(
        path=path,
        folder=stat.S_ISDIR(about.st_mode),
        mode=f"{about.st_mode & 0o777:04o}",
        owner=_name(pwd.getpwuid, about.st_uid),
        group=_name(grp.getgrgid, about.st_gid),
        mtime=min(max(0, int(about.st_mtime)), archive.LATEST),
        size=0 if stat.S_ISDIR(about.st_mode) else about.st_size if size is None else size,
        stored=stored,
        stamp=f"{about.st_mtime_ns}.{about.st_ctime_ns}.{about.st_ino}" if settled and size is None else None,
    )


@dataclass
class _Survey:
    """All there is to save, and what of it is another than in the newest whole backup."""

    differences: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0

    @property
    def needs(self) -> int:
        """Bytes that the archive may need at most."""
        return self.size + self.files * _PER_FILE + _MARGIN


@dataclass
class _View:
    """What a backup sees of a host: the folders as they are, and truth and journal as they were at one moment."""

    host: Host
    scope: str
    scratch: Path
    truth: tuple[os.stat_result, bytes] | None
    journal: tuple[os.stat_result, bytes] | None
    confirmed: str | None
    copies: dict[str, tuple[Path, os.stat_result]] = field(default_factory=dict)
    told: dict[str, None] = field(default_factory=dict)
    sizes_only: bool = False
    """Databases are not copied; `aside` adds up what their copies may take."""
    aside: int = 0

    @classmethod
    def of(cls, host: Host, scope: str, scratch: Path, *, held: bool = False, sizes_only: bool = False) -> _View:
        """Look at a host; `held`: its lock is the caller's already."""
        truth, journal = _read_together(host, held)
        confirmed = _confirmed(truth[1] if truth else None)
        return cls(host, scope, scratch, truth, journal, confirmed, sizes_only=sizes_only)

    @property
    def skipped(self) -> list[str]:
        """What is not saved, as it is neither a file nor a folder."""
        return sorted(self.told)

    def survey(self, old: Iterator[Entry] | None, walk: Iterator[_Found] | None = None) -> _Survey:
        """Add up what there is, and compare it with a backup; a file is read only when its stamp does not tell."""
        survey = _Survey()
        different: list[str] = survey.differences
        if old is None:
            different.append("no backup")
        for path, found, before in _side_by_side(walk or self.walk(), old):
            if found is not None:
                survey.files += not found.entry.folder
                survey.size += found.entry.size if found.entry.stored else 0
            if old is None or len(different) >= _SHOWN or self._same(found, before):
                continue
            different.append(archive.shown(path))
        return survey

    def _same(self, found: _Found | None, before: Entry | None) -> bool:
        if found is None or before is None:
            return False
        entry = found.entry
        if replace(entry, sha256=before.sha256).content != before.content:
            return False
        if entry.folder or (entry.stamp and entry.stamp == before.stamp):
            return True
        try:
            return found.sha256() == before.sha256
        except (FileNotFoundError, _NoFileError):
            return False

    def sources(self, old: Iterator[Entry] | None) -> Iterator[tuple[Entry, BinaryIO | None]]:
        """What `archive.write` takes. A picture that stays out is read only when the backup before knows no digest."""
        for _, found, before in _side_by_side(self.walk(), old):
            if found is None:
                continue
            entry = found.entry
            if entry.folder:
                yield entry, None
                continue
            try:
                if entry.stored:
                    yield found.open()
                elif before and entry.stamp and entry.stamp == before.stamp:
                    yield replace(entry, sha256=before.sha256), None
                else:
                    yield replace(entry, sha256=found.sha256()), None
            except FileNotFoundError:
                continue
            except _NoFileError:
                self._tell(found.where)

    def _tell(self, where: Path) -> None:
        self.told[archive.shown(str(where))] = None

    def walk(self) -> Iterator[_Found]:
        """Every file and folder, in the order of an archive."""
        if self.truth:
            yield _found_data("activation.json", self.host.activation_path, *self.truth)
        yield from self._top(self.host.config_dir, "config")
        yield from self._top(self.host.state_dir, "state")

    def _top(self, top: Path, name: str) -> Iterator[_Found]:
        try:
            descriptor = _open_folder(top)
        except FileNotFoundError:
            return
        yield from self._below(descriptor, descriptor, top, name)

    def _below(self, descriptor: int, parent: int, where: Path, path: str) -> Iterator[_Found]:
        """A folder and all in it; closes the descriptor."""
        try:
            yield _Found(_as_entry(path, os.fstat(descriptor)), parent, where)
            with os.scandir(descriptor) as listed:
                names = sorted(item.name for item in listed)
            for name in names:
                if not name.startswith(durable.TEMPORARY_PREFIX):
                    yield from self._one(descriptor, name, where / name, f"{path}/{name}")
        finally:
            os.close(descriptor)

    def _one(self, folder: int, name: str, where: Path, path: str) -> Iterator[_Found]:
        host = self.host
        if where == host.journal_path:
            if self.journal:
                yield _found_data(path, where, *self.journal)
            return
        if where in (host.backup_dir, host.log_dir, host.root, host.run_dir, host.activation_path):
            return
        try:
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                yield from self._below(_open_folder(name, folder), folder, where, path)
            elif stat.S_ISREG(about.st_mode):
                yield from self._file(folder, name, where, path, about)
            elif path == _LIBRARY and where.is_dir() and _only_ours(os.fstat(folder)):
                # root may have put the library on another disk
                yield from self._below(_open_folder(where), folder, where, path)
            else:
                self._tell(where)
        except FileNotFoundError:
            return
        except _NoFileError:
            self._tell(where)

    def _file(self, folder: int, name: str, where: Path, path: str, about: os.stat_result) -> Iterator[_Found]:
        if path.startswith(f"{_LIBRARY}/"):  # pictures, which nobody writes to
            yield _Found(_as_entry(path, about, stored=self.scope == "full"), folder, where)
            return
        if self.sizes_only:  # what lies in a journal beside a database may come into its copy
            if name.endswith(_SQLITE_COMPANIONS) or _is_sqlite(name, folder):
                self.aside += about.st_size
            yield _Found(_as_entry(path, about), folder, where)
            return
        if name.endswith(_SQLITE_COMPANIONS) and _is_sqlite(name.rpartition("-")[0], folder):
            return
        if path not in self.copies and _is_sqlite(name, folder):
            _require_space(self.scratch, about.st_size + _MARGIN, f"A copy of {where}")
            copy = self.scratch / str(len(self.copies))
            _copy_database(name, where, folder, copy)
            self.copies[path] = (copy, about)
        if path in self.copies:
            copy, about = self.copies[path]
            yield _Found(_as_entry(path, about, size=copy.stat().st_size), folder, where, copy=copy)
        else:
            yield _Found(_as_entry(path, about), folder, where)


def _found_data(path: str, where: Path, about: os.stat_result, data: bytes) -> _Found:
    return _Found(_as_entry(path, about, size=len(data)), -1, where, data=data)


def _side_by_side(
    walk: Iterator[_Found], old: Iterator[Entry] | None
) -> Iterator[tuple[str, _Found | None, Entry | None]]:
    """Each path with what is there now and what a backup has of it; both come in the order of their parts."""
    found, before = next(walk, None), next(old, None) if old else None
    while found is not None or before is not None:
        if before is None or (found is not None and found.entry.parts < before.parts):
            assert found is not None
            yield found.entry.path, found, None
            found = next(walk, None)
        elif found is None or before.parts < found.entry.parts:
            yield before.path, None, before
            before = next(old, None) if old else None
        else:
            yield before.path, found, before
            found, before = next(walk, None), next(old, None) if old else None


def _read_together(
    host: Host, held: bool
) -> tuple[tuple[os.stat_result, bytes] | None, tuple[os.stat_result, bytes] | None]:
    """Truth and journal as they belong together: no switch goes on while they are read."""
    free = held or not host.lock_path.exists()
    try:
        with contextlib.nullcontext() if free else durable.locked(host.lock_path, _HOST_LOCK_TIMEOUT):
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


def _only_ours(folder: os.stat_result) -> bool:
    """Whether nobody but root, or who runs this, can put a link into the folder."""
    return folder.st_uid in (0, os.geteuid()) and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        name = str(look_up(number)[0])
    except KeyError:
        return str(number)
    return name if archive.OWNER.fullmatch(name) else str(number)


def _is_sqlite(name: str, folder: int) -> bool:
    try:
        with _open_file(name, folder) as stream:
            return stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except (FileNotFoundError, _NoFileError):
        return False


def _copy_database(name: str, path: Path, folder: int, copy: Path) -> None:
    """A consistent copy while the service writes; equal content gives an equal copy, whatever lies in the journal.

    A database in WAL mode that nobody has open is read as an immutable file: merely opening it otherwise would leave
    empty `-wal` and `-shm` files beside it, also in check mode. When somebody opened it meanwhile, it is read again.

    Raises:
        MobiusError: state_damaged.
    """
    try:
        quiet = _quiet(name, folder)
        if quiet:
            _copy_pages(name, path, folder, "?mode=ro&immutable=1", copy)
        if not quiet or _quiet(name, folder) != quiet:
            copy.unlink(missing_ok=True)
            _copy_pages(name, path, folder, "?mode=ro", copy)
    except sqlite3.Error as error:
        raise MobiusError("state_damaged", f"The database {path} cannot be read: {error}.") from error


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


def _copy_pages(name: str, path: Path, folder: int, options: str, copy: Path) -> None:
    """SQLite wants names, and resolves links in them, `/proc/self/fd` too; so it is shown nothing but the folder.

    The copy lies outside: all that SQLite opens for it is opened before, and its locks and journal are not looked for
    again.
    """
    confined = os.geteuid() == 0  # nobody else may, or could be led to what only root can read
    uri = (Path("/", name) if confined else path.absolute()).as_uri() + options
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


# --- Writing ----------------------------------------------------------------------------------------------------------


def _head(host: Host, backup: Backup, name: str | None, moment: datetime) -> dict[str, Any]:
    return {
        "service": host.service,
        "host": name or os.uname().nodename,
        "id": backup.id,
        "scope": backup.scope,
        "created": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "release": backup.release,
        "run": backup.run,
    }


def _write(host: Host, view: _View, old: Iterator[Entry] | None, head: dict[str, Any]) -> Backup:
    """Write, fsync, read back, and only then give the archive its name; `.sha256` has its name just before."""
    final = host.backup_dir / f"{host.service}-{head['id']}.tar"
    descriptor, temporary = tempfile.mkstemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=host.backup_dir)
    try:
        with os.fdopen(descriptor, "w+b", buffering=0) as raw:
            written = archive.write(raw, head, view.sources(old), host.backup_dir)
            os.fsync(raw.fileno())
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read it back from the disk, not from memory
        found = archive.file_sha256(Path(temporary))
        if found != written.sha256:
            raise MobiusError(
                "backup_damaged",
                f"The backup just written to {host.backup_dir} reads back wrong: "
                f"its SHA-256 is {found}, not {written.sha256}.",
                do_next="Check the disk under the backup folder; the backups there are as they were.",
            )
        verified = _stamp()
        _note(host, head["id"], {"verified": verified, "manifest_sha256": written.manifest_sha256, "damaged": None})
        durable.write_bytes(_sidecar(final), f"{written.sha256}  {final.name}\n".encode(), mode=0o600)
        os.rename(temporary, final)
        durable.fsync_dir(host.backup_dir)
    except archive.ShorterError as error:
        raise MobiusError(
            "environment_failed",
            f"{archive.shown(str(error))} became shorter while it was backed up.",
            do_next="Run it again.",
        ) from error
    except DamagedError as error:
        raise MobiusError(
            "environment_failed",
            f"Nothing was backed up, because a backup could not bring everything back: {error}.",
            do_next="Move or rename it, and run it again.",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MobiusError("disk_full", f"{host.backup_dir} ran full while the backup was written.") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if not final.exists():
            _sidecar(final).unlink(missing_ok=True)
    known = {name: head[name] for name in ("host", "created", "release", "run")}
    return Backup(head["id"], final, written.bytes, written.sha256, **known, verified=verified)
