# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backup folder of a service: its archives, their digests, and when each was verified.

`<backup_dir>/<service>-<id>.tar` (its format: `archive.py`) and beside it `.sha256`, which `sha256sum -c --strict`
accepts; an id is the second in which the backup was begun, in UTC, and its scope, so that names sort by age whatever
the clock did. A final name always means a whole archive: whatever a killed run leaves has a temporary name, or is a
`.sha256` alone, and the next run removes it. `.<service>-verified.json` records when each was last verified; without
it nothing is lost but that knowledge.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from ..host.config import Host, make_room, read_regular_file
from .archive import DamagedError, describe_damage, open_archive, read_manifest
from .safe_open import NoFileError, open_file

SCOPES = ("full", "state")
LOCK_TIMEOUT_SECONDS = 600.0
"""How long one backup or restore waits for another one of the same service."""

NO_DIGEST = "its .sha256 is missing or is not a line of sha256sum"

ID_PATTERN = r"[0-9]{8}T[0-9]{6}Z-(?:full|state)"
_ID_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_DIGEST_MAX_BYTES = 4096
_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Backup:
    """One archive in the backup folder.

    `sha256` as its `.sha256` says, None when there is none; size in bytes; `verified`: when it was last read whole and
    was what was written, RFC 3339, None when never; `damaged`: what a read showed to be wrong, until a full read shows
    otherwise, or what is plain without one; `source_damage`: what was damaged on the host when it was made.
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
    source_damage: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether it is not known to be damaged, nor to be made of damaged data: what all that needs a backup uses."""
        return self.damaged is None and self.source_damage is None

    @property
    def scope(self) -> str:
        """`full` or `state`."""
        return self.id.rpartition("-")[2]

    @property
    def begun(self) -> datetime:
        """When it was begun, as its id says."""
        return datetime.strptime(self.id.partition("-")[0], _ID_TIME_FORMAT).replace(tzinfo=UTC)

    def as_dict(self) -> dict[str, Any]:
        """`{id, scope, host, created, release, bytes, sha256, verified, damaged, source_damage, path}`."""
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
            "source_damage": self.source_damage,
            "path": str(self.path),
        }


def next_id(backups: Sequence[Backup], scope: str, now: datetime) -> str:
    """An id that sorts after those of all backups (oldest first), even when the clock was set back."""
    if backups:
        now = max(now, backups[-1].begun + timedelta(seconds=1))
    return f"{now.astimezone(UTC).strftime(_ID_TIME_FORMAT)}-{scope}"


# --- Listing ----------------------------------------------------------------------------------------------------------


def backup_folder(host: Host, of_host: str | None = None) -> Path:
    """The folder of this host's backups, or of those that were pulled here of another host.

    Raises:
        MobiusError: invalid_input, when the other host's name cannot be a folder's.
    """
    if of_host is None:
        return host.backup_dir
    require_host_name(of_host)
    return host.backup_dir / of_host


def require_host_name(name: str) -> None:
    """Refuse a host's name that cannot be the name of a folder.

    Raises:
        MobiusError: invalid_input.
    """
    if not _HOST_NAME.fullmatch(name):
        raise MobiusError("invalid_input", f"The host name {name!r} cannot be the name of a folder.")


def archive_path(host: Host, backup_id: str) -> Path:
    """The final path of a backup of this host."""
    return host.backup_dir / f"{host.service}-{backup_id}.tar"


def list_backups(host: Host, of_host: str | None = None) -> list[Backup]:
    """All backups of the service, oldest first. Of each archive, only head and tail of its manifest are read.

    Args:
        of_host: list those that were pulled here of this other host, instead of this host's own.

    Raises:
        MobiusError: not_provisioned, when the backup folder is missing.
    """
    pattern = re.compile(rf"{re.escape(host.service)}-({ID_PATTERN})\.tar")
    folder = backup_folder(host, of_host)
    if of_host and not folder.is_dir():
        return []
    records = {} if of_host else read_records(host)
    backups = []
    for entry in _folder_entries(folder):
        match = pattern.fullmatch(entry.name)
        if match:
            with contextlib.suppress(FileNotFoundError):  # rotated meanwhile
                backups.append(_read_backup(match[1], Path(entry.path), records.get(match[1], {})))
    return sorted(backups, key=lambda backup: backup.id)


def find_backup(host: Host, backup_id: str, of_host: str | None = None) -> Backup:
    """The backup of this id, or the newest good full one for `latest`.

    Args:
        of_host: search this other host's backups instead: among those that were pulled here, and among this host's own,
            since it may have had that name before.

    Raises:
        MobiusError: backup_missing.
    """
    backups = list_backups(host)
    if of_host:
        backups = [backup for backup in backups if backup.host == of_host] + list_backups(host, of_host)
        backups.sort(key=lambda backup: backup.id)
    others = ""
    if backup_id == "latest":
        full = [backup for backup in backups if backup.scope == "full"]
        matching = [backup for backup in full if backup.is_good]
        others = f" but for {len(full)} damaged or made of damaged data" if full else ""
    else:
        matching = [backup for backup in backups if backup.id == backup_id]
    if not matching:
        what = "no full backup" if backup_id == "latest" else f"no backup {backup_id}"
        service = f"{of_host}'s {host.service}" if of_host else host.service
        raise MobiusError("backup_missing", f"There is {what} of {service} in {host.backup_dir}{others}.")
    return matching[-1]


def _folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise MobiusError("not_provisioned", f"The backup folder {folder} is missing.") from None


def _read_backup(backup_id: str, path: Path, record: Mapping[str, Any]) -> Backup:
    """What can be known of a backup without reading it; what lies under its name need not be an archive.

    Raises:
        FileNotFoundError: it is removed meanwhile.
    """
    status = path.lstat()
    head: dict[str, Any] = {}
    sha256 = read_digest(path)
    obvious = None if sha256 else NO_DIGEST
    try:
        with open_archive(path) as stream:
            head = read_manifest(stream).head
    except DamagedError as error:
        obvious = str(error)
    except OSError:  # nothing can be known of it
        pass
    if obvious:
        path.lstat()  # what is missing because rotation removes it now is no damage
    damaged = record.get("damaged") or obvious
    return Backup(
        id=backup_id,
        path=path,
        bytes=status.st_size,
        sha256=sha256,
        **{field: head.get(field) for field in ("host", "created", "release", "run")},
        verified=None if damaged else record.get("verified"),
        damaged=damaged,
        source_damage=_source_damage(head) or record.get("source_damage"),
    )


def _source_damage(head: Mapping[str, Any]) -> str | None:
    damage = head.get("damage")
    if not isinstance(damage, dict):
        return None
    return describe_damage({str(path): str(reason) for path, reason in damage.items()}) or None


# --- Digests beside the archives --------------------------------------------------------------------------------------


def digest_path(path: Path) -> Path:
    """The file with an archive's SHA-256."""
    return Path(f"{path}.sha256")


def write_digest(path: Path, sha256: str) -> None:
    """Write the file with an archive's SHA-256, as sha256sum does."""
    durable.write_bytes(digest_path(path), f"{sha256}  {path.name}\n".encode(), mode=0o600)


def parse_digest(content: bytes, name: str) -> str | None:
    """The SHA-256 in a line of sha256sum about the file `name`; None when it is not such a line."""
    match = re.fullmatch(rb"([0-9a-f]{64})  ([^\n]+)\n", content)
    return match[1].decode() if match and match[2] == os.fsencode(name) else None


def read_digest(path: Path) -> str | None:
    """The SHA-256 in the file beside an archive; None when there is none."""
    try:
        with open_file(digest_path(path)) as stream:
            return parse_digest(stream.read(_DIGEST_MAX_BYTES), path.name)
    except (FileNotFoundError, NoFileError):
        return None


# --- What is known of each backup -------------------------------------------------------------------------------------


def read_records(host: Host) -> dict[str, dict[str, Any]]:
    """What is known of each backup, by id. An invalid file counts as empty, and is written again."""
    try:
        records = json.loads(read_regular_file(_records_path(host)))["backups"]
        return {name: record for name, record in records.items() if isinstance(record, dict)}
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def update_record(host: Host, backup_id: str, values: Mapping[str, Any]) -> None:
    """Add to what is known of a backup."""
    with _lock_records(host):
        records = read_records(host)
        records[backup_id] = {**records.get(backup_id, {}), **values}
        _write_records(host, records)


def _drop_old_records(host: Host) -> None:
    """Forget the backups that do not exist any more."""
    ids = {backup.id for backup in list_backups(host)}
    with _lock_records(host):
        _write_records(host, {name: record for name, record in read_records(host).items() if name in ids})


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-verified.json"


def _lock_records(host: Host) -> contextlib.AbstractContextManager[None]:
    return durable.locked(host.backup_dir / f".{host.service}-verified.lock", LOCK_TIMEOUT_SECONDS)


def _write_records(host: Host, records: Mapping[str, Any]) -> None:
    make_room(_records_path(host))
    durable.write_json(_records_path(host), {"schema": 1, "backups": records}, mode=0o600)


# --- The folder as a whole --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock_backups(host: Host, check_mode: bool) -> Iterator[None]:
    """One backup or restore of a service at a time. A check run does not create the lock's file.

    Raises:
        MobiusError: timeout; not_provisioned, when the backup folder is missing.
    """
    path = host.backup_dir / f".{host.service}.lock"
    _folder_entries(host.backup_dir)
    if check_mode and not path.exists():
        yield
        return
    try:
        with durable.locked(path, LOCK_TIMEOUT_SECONDS):
            yield
    except TimeoutError as error:
        raise MobiusError(
            "timeout", f"Another backup or restore of {host.service} went on for {LOCK_TIMEOUT_SECONDS:g} s."
        ) from error


@contextlib.contextmanager
def temporary_folder(host: Host, scratch: Path, check_mode: bool) -> Iterator[Path]:
    """A folder for copies of databases: in the backup folder, or in `scratch` in check mode."""
    parent = scratch if check_mode else host.backup_dir
    folder = Path(tempfile.mkdtemp(prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def find_leftovers(host: Host) -> list[Path]:
    """What killed runs left: temporary names, and a `.sha256` whose archive never got its name or lost it."""
    names = {entry.name for entry in _folder_entries(host.backup_dir)}
    service = re.escape(host.service)
    temporary = re.compile(rf"{re.escape(durable.TEMPORARY_PREFIX)}({service}-)?[a-z0-9_]{{8}}")
    digest = re.compile(rf"({service}-{ID_PATTERN}\.tar)\.sha256")
    leftovers = []
    for name in sorted(names):
        match = digest.fullmatch(name)
        if temporary.fullmatch(name) or (match and match[1] not in names):
            leftovers.append(host.backup_dir / name)
    return leftovers


def leftover_bytes(host: Host) -> int:
    """Bytes of what killed runs left in the backup folder, which the next backup removes first."""
    return sum(
        path.stat().st_size
        for top in find_leftovers(host)
        for path in ((top, *top.rglob("*")) if top.is_dir() else (top,))
        if path.is_file()
    )


def remove_leftovers(paths: Sequence[Path]) -> None:
    """Remove the leftovers that `find_leftovers` gives."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if paths:
        durable.fsync_dir(paths[0].parent)


def remove_backups(host: Host, backups: Sequence[Backup]) -> None:
    """Remove backups, and what is known of them.

    The archive first: what a kill leaves then is a `.sha256` alone, and no archive without one.
    """
    for backup in backups:
        backup.path.unlink()
        durable.fsync_dir(backup.path.parent)
        digest_path(backup.path).unlink(missing_ok=True)
        durable.fsync_dir(backup.path.parent)
    if backups:
        _drop_old_records(host)
