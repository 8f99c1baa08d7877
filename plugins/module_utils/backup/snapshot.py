# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What there is to save on a host, and what of it differs from a backup.

    activation.json    the activation record, when there is one
    config/...         the configuration
    state/...          the state folder: journal, index (through SQLite's backup API), and the library's pictures

What is damaged is saved as it is, with the journals beside a database, and named in `damage`: a database that SQLite
cannot copy, a declared one that is missing though a backup has it, is no file or fails its integrity check, and a file
that the disk cannot give.

Scope `full` holds the pictures (`state/library/...`), scope `state` only their digests. A file whose size, times and
inode are those that the newest backup recorded counts as unchanged without being read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import durable
from ..disk_space import SpaceNeed, require_space
from ..host.config import Host
from ..host.failures import MEDIUM_ERRNOS
from .archive import DEPTH_MAX_PARTS, LIBRARY_PATH, ArchiveEntry, ArchiveManifest, printable, read_entries
from .clock import Clock, utc_now
from .database import SQLITE_COMPANIONS, DamagedDatabaseError, copy_database, is_sqlite, require_sound_database
from .safe_open import NoFileError, copy_file, describe_kind, open_folder
from .source import Content, ReadFile, SalvagedContent, SourceItem, read_together, to_entry
from .store import Backup

RESERVE_BYTES = 1 << 20
"""What is kept free beside what an archive or a copy may need."""

_OVERHEAD_BYTES_PER_FILE = 3072  # header, padding and manifest (twice: it is written aside first) need no more
_DIFFERENCES_MAX = 20  # that are named

MISSING = "it is missing, though a backup has it"


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

    declared: frozenset[str] = frozenset()
    """Paths, as an archive has them, of what must be a sound database where it is."""

    copies: dict[str, tuple[Path, os.stat_result]] = field(default_factory=dict)
    copy_bytes: int = 0
    damage: dict[str, str] = field(default_factory=dict)
    """By path, as an archive has it, what is wrong there."""

    skipped_kinds: dict[str, str] = field(default_factory=dict)
    """By path, as an archive has it, what is there instead of a file or a folder."""

    displaced: dict[str, str] = field(default_factory=dict)
    """Those of them where the backup compared with has a file or a folder."""

    paths_met: set[str] = field(default_factory=set)
    """The declared paths at which there is something."""

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
        databases: Collection[str] = (),
    ) -> HostSnapshot:
        """Begin a snapshot of a host.

        Args:
            scratch: a folder for copies of databases.
            databases: paths below the state folder of what must be sound databases.
            locks_held: the caller holds the host's lock already.

        Raises:
            MobiusError: timeout, when a switch goes on for too long.
        """
        activation, journal = read_together(host, locks_held)
        confirmed = _confirmed_release(activation[1] if activation else None)
        declared = frozenset(f"state/{name}" for name in databases)
        return cls(host, scope, scratch, activation, journal, confirmed, clock, sizes_only, declared)

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
            self._note_change(path, item, before)
            if old is None or len(survey.differences) >= _DIFFERENCES_MAX or _is_unchanged(item, before):
                continue
            survey.differences.append(printable(path))
        return survey

    def _note_change(self, path: str, item: SourceItem | None, before: ArchiveEntry | None) -> None:
        """What a change of one path means, beyond that it is one."""
        if item is None and before is not None and path in self.skipped_kinds:
            self.displaced[path] = f"it is {self.skipped_kinds[path]}"
        if path not in self.declared or path in self.damage:
            return
        if item is None and self.confirmed is not None:  # where no release has ever served, it never was there
            self.damage[path] = MISSING
        elif item is not None and item.entry.folder:
            self.damage[path] = "it is a folder"

    def sources(self, old: Iterator[ArchiveEntry] | None) -> Iterator[tuple[ArchiveEntry, Content | None]]:
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
                    entry, stream = item.open()
                    yield entry, SalvagedContent(stream, self._on_unreadable(entry.path))
                elif before and entry.stamp and entry.stamp == before.stamp:
                    yield replace(entry, sha256=before.sha256), None
                else:
                    yield replace(entry, sha256=item.sha256()), None
            except FileNotFoundError:
                continue
            except NoFileError:
                self._skip(entry.path, item.path, "no file any more")
            except OSError as error:
                self._require_medium_error(error)
                self._on_unreadable(entry.path)(f"it cannot be read ({error.strerror}), and is left out")

    def _on_unreadable(self, archive_path: str) -> Callable[[str], None]:
        return lambda reason: self.damage.update({archive_path: reason})

    @staticmethod
    def _require_medium_error(error: OSError) -> None:
        if error.errno not in MEDIUM_ERRNOS:
            raise error

    def _skip(self, archive_path: str, path: Path, kind: str) -> None:
        self._skipped.add(printable(str(path)))
        self.skipped_kinds[archive_path] = kind
        if archive_path in self.declared:
            self.damage[archive_path] = f"it is {kind}"

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
        except NotADirectoryError:
            self._skip(name, top, describe_kind(top.stat().st_mode))
            return
        yield from self._walk_folder(descriptor, descriptor, top, name)

    def _walk_folder(self, descriptor: int, parent: int, folder: Path, archive_path: str) -> Iterator[SourceItem]:
        """A folder and all in it; closes the descriptor."""
        try:
            yield self._item(archive_path, os.fstat(descriptor), parent, folder)
            if archive_path.count("/") >= DEPTH_MAX_PARTS:  # that no archive can hold: there is no end to go to
                return
            with os.scandir(descriptor) as listed:
                names = sorted(item.name for item in listed)
            for name in names:
                if not name.startswith(durable.TEMPORARY_PREFIX):
                    yield from self._walk_name(descriptor, name, folder / name, f"{archive_path}/{name}")
        finally:
            os.close(descriptor)

    def _walk_name(self, folder: int, name: str, path: Path, archive_path: str) -> Iterator[SourceItem]:
        host = self.host
        if path == host.journal_path and self.journal:
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
                self._skip(archive_path, path, describe_kind(status.st_mode))
        except FileNotFoundError:
            return
        except NoFileError:
            self._skip(archive_path, path, "no file any more")
        except OSError as error:
            self._require_medium_error(error)
            self._on_unreadable(archive_path)(f"it cannot be read ({error.strerror}), and is left out")

    def _walk_file(
        self, folder: int, name: str, path: Path, archive_path: str, status: os.stat_result
    ) -> Iterator[SourceItem]:
        item = self._item(archive_path, status, folder, path)
        if archive_path in self.declared:
            self.paths_met.add(archive_path)
        if archive_path.startswith(f"{LIBRARY_PATH}/"):  # pictures, which nobody writes to
            yield replace(item, entry=replace(item.entry, stored=self.scope == "full"))
            return
        is_companion = name.endswith(SQLITE_COMPANIONS)
        is_database = archive_path in self.declared or is_sqlite(name, folder)
        if self.sizes_only:  # what lies in a journal beside a database may come into its copy
            self.copy_bytes += status.st_size if is_companion or is_database else 0
            yield item
            return
        if is_companion and self._is_beside_database(folder, name, archive_path):
            if archive_path.rpartition("-")[0] not in self.damage:
                return  # what it holds is in the copy
            self._copy_once(folder, name, path, archive_path, status, as_it_is=True)
        elif is_database:
            self._copy_once(folder, name, path, archive_path, status)
        if archive_path in self.copies:
            copy, status = self.copies[archive_path]
            entry = to_entry(archive_path, status, self.clock, size=copy.stat().st_size)
            yield replace(item, entry=entry, copy=copy)
        else:
            yield item

    def _is_beside_database(self, folder: int, name: str, archive_path: str) -> bool:
        return archive_path.rpartition("-")[0] in self.copies or is_sqlite(name.rpartition("-")[0], folder)

    def _copy_once(
        self,
        folder: int,
        name: str,
        path: Path,
        archive_path: str,
        status: os.stat_result,
        *,
        as_it_is: bool = False,
    ) -> None:
        """Copy a database, or as it is when it is damaged, so that it does not change until it is saved."""
        if archive_path in self.copies:
            return
        require_space(SpaceNeed(f"a copy of {path}", self.scratch, status.st_size + RESERVE_BYTES))
        copy = self.scratch / str(len(self.copies))
        if not as_it_is:
            try:
                copy_database(name, path, folder, copy)
                if archive_path in self.declared:
                    require_sound_database(copy)
            except DamagedDatabaseError as error:
                self.damage[archive_path] = str(error)
                as_it_is = True
        if as_it_is:
            copy_file(name, folder, copy)
        self.copies[archive_path] = (copy, status)

    def _item(self, archive_path: str, status: os.stat_result, folder: int, path: Path) -> SourceItem:
        return SourceItem(to_entry(archive_path, status, self.clock), folder, path, self.clock)

    def _item_of_data(self, archive_path: str, path: Path, file: ReadFile) -> SourceItem:
        status, data = file
        return SourceItem(to_entry(archive_path, status, self.clock, size=len(data)), -1, path, self.clock, data)


def archive_entries(backup: Backup, manifest: ArchiveManifest) -> Iterator[ArchiveEntry]:
    """The entries of a backup that was verified, to compare with."""
    with open(backup.path, "rb") as stream:
        yield from read_entries(stream, manifest)


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
    except OSError as error:
        if error.errno not in MEDIUM_ERRNOS:
            raise
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
