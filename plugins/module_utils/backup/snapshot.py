# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What there is to save on a host, and what of it differs from a backup.

    activation.json    the activation record, when there is one
    config/...         the configuration
    state/...          the state folder: journal, index (through SQLite's backup API), and the library's pictures

Scope `full` holds the pictures (`state/library/...`), scope `state` only their digests. A file whose size, times and
inode are those that the newest backup recorded counts as unchanged without being read.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import io
import json
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from .. import durable
from ..disk_space import SpaceNeed, require_space
from ..errors import MobiusError
from ..host.config import Host
from .archive import (
    CHUNK_BYTES,
    LIBRARY_PATH,
    MTIME_MAX_SECONDS,
    OWNER_NAME,
    ArchiveEntry,
    ArchiveManifest,
    printable,
    read_entries,
)
from .clock import Clock, utc_now
from .database import SQLITE_COMPANIONS, copy_database, is_sqlite
from .safe_open import NoFileError, open_file, open_folder
from .store import Backup

RESERVE_BYTES = 1 << 20
"""What is kept free beside what an archive or a copy may need."""

_OVERHEAD_BYTES_PER_FILE = 3072  # header, padding and manifest (twice: it is written aside first) need no more
_HOST_LOCK_TIMEOUT_SECONDS = 30.0  # to wait for a switch that is going on
_STAMP_MIN_AGE_NS = 2_000_000_000  # from this age on, a file's times show every later change
_DIFFERENCES_MAX = 20  # that are named

ReadFile = tuple[os.stat_result, bytes]


@dataclass(frozen=True)
class SourceItem:
    """A file or folder as the walk meets it; its content is `data`, or `copy`, or else the file in its folder."""

    entry: ArchiveEntry
    folder: int  # descriptor; open until the walk goes on
    path: Path  # for messages; never opened
    clock: Clock = utc_now
    data: bytes | None = None
    copy: Path | None = None

    def open(self) -> tuple[ArchiveEntry, BinaryIO]:
        """Its content, and the entry as it is now.

        Raises:
            FileNotFoundError: it was removed.
            NoFileError: it is no file any more, or lies behind a link.
        """
        if self.data is not None:
            return self.entry, io.BytesIO(self.data)
        if self.copy is not None:
            return self.entry, open(self.copy, "rb")
        stream = open_file(self.path.name, self.folder)
        status = os.fstat(stream.fileno())
        return _to_entry(self.entry.path, status, self.clock, stored=self.entry.stored), stream

    def sha256(self) -> str:
        """Its digest, computed now."""
        _, stream = self.open()
        with stream:
            digest = hashlib.sha256()
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


def file_stamp(status: os.stat_result) -> str:
    """What identifies a version of a file on its host."""
    return f"{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_ino}"


def _to_entry(
    path: str, status: os.stat_result, clock: Clock, *, stored: bool = True, size: int | None = None
) -> ArchiveEntry:
    """The entry of a file or folder; `size` of a content that is not the file's own."""
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    is_old_enough = changed_ns < clock().timestamp() * 1e9 - _STAMP_MIN_AGE_NS
    is_folder = stat.S_ISDIR(status.st_mode)
    return ArchiveEntry(
        path=path,
        folder=is_folder,
        mode=f"{status.st_mode & 0o777:04o}",
        owner=_account_name(pwd.getpwuid, status.st_uid),
        group=_account_name(grp.getgrgid, status.st_gid),
        mtime=min(max(0, int(status.st_mtime)), MTIME_MAX_SECONDS),
        size=0 if is_folder else status.st_size if size is None else size,
        stored=stored,
        stamp=file_stamp(status) if is_old_enough and size is None else None,
    )


def _account_name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        name = str(look_up(number)[0])
    except KeyError:
        return str(number)
    return name if OWNER_NAME.fullmatch(name) else str(number)


@dataclass
class Survey:
    """How much there is to save, and the names of what differs from a backup (20 at most)."""

    differences: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0

    @property
    def needed_bytes(self) -> int:
        """Bytes that the archive may need at most."""
        return self.size + self.files * _OVERHEAD_BYTES_PER_FILE + RESERVE_BYTES


@dataclass
class HostSnapshot:
    """What a backup saves of a host: the folders as they are, and activation record and journal as of one moment."""

    host: Host
    scope: str
    scratch: Path
    activation: ReadFile | None
    journal: ReadFile | None
    confirmed: str | None
    clock: Clock = utc_now
    sizes_only: bool = False
    """Databases are not copied; `copy_bytes` adds up what their copies may take."""

    copies: dict[str, tuple[Path, os.stat_result]] = field(default_factory=dict)
    copy_bytes: int = 0
    _skipped: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        host: Host,
        scope: str,
        scratch: Path,
        *,
        clock: Clock = utc_now,
        locks_held: bool = False,
        sizes_only: bool = False,
    ) -> HostSnapshot:
        """Begin a snapshot of a host.

        Args:
            scratch: a folder for copies of databases.
            locks_held: the caller holds the host's lock already.

        Raises:
            MobiusError: timeout, when a switch goes on for too long.
        """
        activation, journal = _read_together(host, locks_held)
        confirmed = _confirmed_release(activation[1] if activation else None)
        return cls(host, scope, scratch, activation, journal, confirmed, clock, sizes_only)

    @property
    def skipped(self) -> list[str]:
        """What is not saved, as it is neither a file nor a folder."""
        return sorted(self._skipped)

    def survey(self, old: Iterator[ArchiveEntry] | None, walk: Iterator[SourceItem] | None = None) -> Survey:
        """Add up what there is, and compare it with a backup; a file is read only when its stamp is not enough.

        Args:
            old: the entries of the backup; None when there is none.
            walk: what there is, when that is not all of the snapshot.
        """
        survey = Survey()
        if old is None:
            survey.differences.append("no backup")
        for path, item, before in _pair_by_path(walk or self.walk(), old):
            if item is not None:
                survey.files += not item.entry.folder
                survey.size += item.entry.size if item.entry.stored else 0
            if old is None or len(survey.differences) >= _DIFFERENCES_MAX or _is_unchanged(item, before):
                continue
            survey.differences.append(printable(path))
        return survey

    def sources(self, old: Iterator[ArchiveEntry] | None) -> Iterator[tuple[ArchiveEntry, BinaryIO | None]]:
        """What `write_archive` takes. A picture that is left out is read only when the old backup has no digest of it.

        Args:
            old: the entries of the newest whole backup; None when there is none.
        """
        for _, item, before in _pair_by_path(self.walk(), old):
            if item is None:
                continue
            entry = item.entry
            if entry.folder:
                yield entry, None
                continue
            try:
                if entry.stored:
                    yield item.open()
                elif before and entry.stamp and entry.stamp == before.stamp:
                    yield replace(entry, sha256=before.sha256), None
                else:
                    yield replace(entry, sha256=item.sha256()), None
            except FileNotFoundError:
                continue
            except NoFileError:
                self._skip(item.path)

    def _skip(self, path: Path) -> None:
        self._skipped.add(printable(str(path)))

    def walk(self) -> Iterator[SourceItem]:
        """Every file and folder, in the order of an archive."""
        if self.activation:
            yield self._item_of_data("activation.json", self.host.activation_path, self.activation)
        yield from self._walk_top(self.host.config_dir, "config")
        yield from self._walk_top(self.host.state_dir, "state")

    def _walk_top(self, top: Path, name: str) -> Iterator[SourceItem]:
        try:
            descriptor = open_folder(top)
        except FileNotFoundError:
            return
        yield from self._walk_folder(descriptor, descriptor, top, name)

    def _walk_folder(self, descriptor: int, parent: int, folder: Path, archive_path: str) -> Iterator[SourceItem]:
        """A folder and all in it; closes the descriptor."""
        try:
            yield self._item(archive_path, os.fstat(descriptor), parent, folder)
            with os.scandir(descriptor) as listed:
                names = sorted(item.name for item in listed)
            for name in names:
                if not name.startswith(durable.TEMPORARY_PREFIX):
                    yield from self._walk_name(descriptor, name, folder / name, f"{archive_path}/{name}")
        finally:
            os.close(descriptor)

    def _walk_name(self, folder: int, name: str, path: Path, archive_path: str) -> Iterator[SourceItem]:
        host = self.host
        if path == host.journal_path:
            if self.journal:
                yield self._item_of_data(archive_path, path, self.journal)
            return
        if path in (host.backup_dir, host.log_dir, host.root, host.run_dir, host.activation_path):
            return
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk_folder(open_folder(name, folder), folder, path, archive_path)
            elif stat.S_ISREG(status.st_mode):
                yield from self._walk_file(folder, name, path, archive_path, status)
            elif archive_path == LIBRARY_PATH and path.is_dir() and _only_root_may_change(os.fstat(folder)):
                # root may have put the library on another disk
                yield from self._walk_folder(open_folder(path), folder, path, archive_path)
            else:
                self._skip(path)
        except FileNotFoundError:
            return
        except NoFileError:
            self._skip(path)

    def _walk_file(
        self, folder: int, name: str, path: Path, archive_path: str, status: os.stat_result
    ) -> Iterator[SourceItem]:
        item = self._item(archive_path, status, folder, path)
        if archive_path.startswith(f"{LIBRARY_PATH}/"):  # pictures, which nobody writes to
            yield replace(item, entry=replace(item.entry, stored=self.scope == "full"))
            return
        if self.sizes_only:  # what lies in a journal beside a database may come into its copy
            if name.endswith(SQLITE_COMPANIONS) or is_sqlite(name, folder):
                self.copy_bytes += status.st_size
            yield item
            return
        if name.endswith(SQLITE_COMPANIONS) and is_sqlite(name.rpartition("-")[0], folder):
            return
        if archive_path not in self.copies and is_sqlite(name, folder):
            require_space(SpaceNeed(f"a copy of {path}", self.scratch, status.st_size + RESERVE_BYTES))
            copy = self.scratch / str(len(self.copies))
            copy_database(name, path, folder, copy)
            self.copies[archive_path] = (copy, status)
        if archive_path in self.copies:
            copy, status = self.copies[archive_path]
            entry = _to_entry(archive_path, status, self.clock, size=copy.stat().st_size)
            yield replace(item, entry=entry, copy=copy)
        else:
            yield item

    def _item(self, archive_path: str, status: os.stat_result, folder: int, path: Path) -> SourceItem:
        return SourceItem(_to_entry(archive_path, status, self.clock), folder, path, self.clock)

    def _item_of_data(self, archive_path: str, path: Path, file: ReadFile) -> SourceItem:
        status, data = file
        return SourceItem(_to_entry(archive_path, status, self.clock, size=len(data)), -1, path, self.clock, data)


def archive_entries(backup: Backup, manifest: ArchiveManifest) -> Iterator[ArchiveEntry]:
    """The entries of a backup that was verified, to compare with."""
    with open(backup.path, "rb") as stream:
        yield from read_entries(stream, manifest)


def find_differences(
    host: Host, backup: Backup, manifest: ArchiveManifest, scratch: Path, counts: Callable[[ArchiveEntry], bool]
) -> list[str]:
    """What on the host differs from a backup that was verified, 20 names at most.

    Args:
        scratch: a folder for copies of databases.
        counts: whether an entry is compared.
    """
    snapshot = HostSnapshot.of(host, "full", scratch)
    walk = (item for item in snapshot.walk() if counts(item.entry))
    old = (entry for entry in archive_entries(backup, manifest) if counts(entry))
    return snapshot.survey(old, walk).differences


def _is_unchanged(item: SourceItem | None, before: ArchiveEntry | None) -> bool:
    if item is None or before is None:
        return False
    entry = item.entry
    if replace(entry, sha256=before.sha256).content != before.content:
        return False
    if entry.folder or (entry.stamp and entry.stamp == before.stamp):
        return True
    try:
        return item.sha256() == before.sha256
    except (FileNotFoundError, NoFileError):
        return False


def _pair_by_path(
    walk: Iterator[SourceItem], old: Iterator[ArchiveEntry] | None
) -> Iterator[tuple[str, SourceItem | None, ArchiveEntry | None]]:
    """Each path with what is there now and what a backup has of it; both come in the order of their parts."""
    item, before = next(walk, None), next(old, None) if old else None
    while item is not None or before is not None:
        if before is None or (item is not None and item.entry.parts < before.parts):
            assert item is not None
            yield item.entry.path, item, None
            item = next(walk, None)
        elif item is None or before.parts < item.entry.parts:
            yield before.path, None, before
            before = next(old, None) if old else None
        else:
            yield before.path, item, before
            item, before = next(walk, None), next(old, None) if old else None


def _read_together(host: Host, locks_held: bool) -> tuple[ReadFile | None, ReadFile | None]:
    """Activation record and journal as they belong together: no switch goes on while they are read."""
    needs_no_lock = locks_held or not host.lock_path.exists()
    try:
        with contextlib.nullcontext() if needs_no_lock else durable.locked(host.lock_path, _HOST_LOCK_TIMEOUT_SECONDS):
            return _read_file(host.activation_path), _read_file(host.journal_path)
    except TimeoutError as error:
        raise MobiusError(
            "timeout", f"A switch of {host.service} held the host's lock for {_HOST_LOCK_TIMEOUT_SECONDS:g} s."
        ) from error


def _read_file(path: Path) -> ReadFile | None:
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()), stream.read()
    except FileNotFoundError:
        return None


def _confirmed_release(activation: bytes | None) -> str | None:
    """The release that the activation record names, for people; a record that is invalid is saved all the same."""
    try:
        value = json.loads(activation or b"{}")
    except ValueError:
        return None
    confirmed = value.get("confirmed") if isinstance(value, dict) else None
    return confirmed if isinstance(confirmed, str) else None


def _only_root_may_change(folder: os.stat_result) -> bool:
    """Whether nobody but root, or who runs this, can put a link into the folder."""
    return folder.st_uid in (0, os.geteuid()) and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
