# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exchanges the live state and configuration folders with restored ones, each in one step.

The new folders are made beside the old ones. `.<service>-restore.json` names them from just before the first exchange
until the old ones are removed, so the next restore finishes one that was killed between the two.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import durable
from ..host.config import Host

_RENAME_EXCHANGE = 2  # of renameat2(2)
_AT_FDCWD = -100


@dataclass
class FolderSwap:
    """New folders beside the live ones of a host; `pairs` are the live and the new ones that are exchanged."""

    host: Host
    folders: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)

    def create_folder(self, parent: Path) -> Path:
        """An empty folder that `remove_folders` removes, and the next restore after a kill."""
        self.folders.append(Path(tempfile.mkdtemp(prefix=_folder_prefix(self.host), dir=parent)))
        return self.folders[-1]

    def add_extracted(self, folder: Path) -> None:
        """Prepare the exchange of `state` and `config` in the folder, as far as they are there."""
        host = self.host
        if (folder / "state").is_dir():
            self.pairs.append((host.state_dir, folder / "state"))
        if (folder / "config").is_dir():
            # an exchange needs both on one file system
            config = self.create_folder(host.config_dir.parent) / "config"
            _copy_tree(folder / "config", config, shutil.copyfile)
            self.pairs.append((host.config_dir, config))

    def copy_what_stays(self, scope: str) -> None:
        """Give the new state folder this host's journal, and its library when the backup's scope has none.

        Called while nothing runs.
        """
        host = self.host
        new = dict(self.pairs).get(host.state_dir)
        if new is None:
            return
        if host.journal_path.exists():
            journal = new / host.journal_path.relative_to(host.state_dir)
            shutil.copyfile(host.journal_path, journal)
            _copy_attributes(host.journal_path, journal)
            with open(journal, "rb") as stream:
                os.fsync(stream.fileno())
        library = host.state_dir / "library"
        if scope == "state" and library.is_dir():
            shutil.rmtree(new / "library", ignore_errors=True)
            _copy_tree(library, new / "library", lambda source, target: os.link(source, target, follow_symlinks=False))

    def exchange(self) -> None:
        """Exchange all pairs; when one fails, those before it are exchanged back."""
        pairs = [[str(live), str(new), new.stat().st_ino] for live, new in self.pairs]
        os.sync()
        intent = {"schema": 1, "pairs": pairs, "folders": [str(folder) for folder in self.folders]}
        durable.write_json(_intent_path(self.host), intent, mode=0o600)
        exchanged: list[tuple[Path, Path]] = []
        try:
            for live, new in self.pairs:
                _exchange_folders(live, new)
                exchanged.append((live, new))
        except OSError:
            for live, new in exchanged:
                _exchange_folders(live, new)
            raise

    def exchange_back(self) -> None:
        """Undo `exchange`."""
        for live, old in reversed(self.pairs):
            _exchange_folders(live, old)

    def remove_folders(self) -> None:
        """Remove what is left beside the live folders: the old ones after an exchange, else the new ones."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        _intent_path(self.host).unlink(missing_ok=True)


def finish_killed_swap(host: Host) -> None:
    """Finish an exchange that was killed half way, and remove what a killed restore left.

    The caller holds `lock_backups`.
    """
    try:
        intent = json.loads(_intent_path(host).read_bytes())
    except FileNotFoundError:
        intent = {"pairs": [], "folders": []}
    for live, new, inode in intent["pairs"]:
        if os.stat(live).st_ino != inode and Path(new).is_dir() and os.stat(new).st_ino == inode:
            _exchange_folders(Path(live), Path(new))
    for parent in {host.state_dir.parent, host.config_dir.parent}:
        for folder in parent.glob(f"{_folder_prefix(host)}*"):
            shutil.rmtree(folder)
    _intent_path(host).unlink(missing_ok=True)


def _folder_prefix(host: Host) -> str:
    return f"{durable.TEMPORARY_PREFIX}{host.service}-restore-"


def _intent_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-restore.json"


def _exchange_folders(one: Path, other: Path) -> None:
    """Exchange two folders in one step (`renameat2(2)`)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))
    durable.fsync_dir(one.parent)
    durable.fsync_dir(other.parent)


def _copy_tree(source: Path, target: Path, copy: Callable[[Path, Path], Any]) -> None:
    """The same tree, owners, modes and times included; `copy` makes the files."""
    target.mkdir(mode=0o700)
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _copy_tree(entry, target / entry.name, copy)
        else:
            copy(entry, target / entry.name)
            _copy_attributes(entry, target / entry.name)
    _copy_attributes(source, target)


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.lstat()
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
