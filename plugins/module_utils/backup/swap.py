# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exchanges the live state and configuration folders with restored ones, each in one step.

The new folders are made beside the old ones. `intent.json` in the first of them names them from just before the first
exchange, so the next restore finishes one that was killed or stopped by a bad disk. It lies there because that disk has
space, and the backups' may be full.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import durable
from ..host.config import Host, read_regular_file, set_aside
from .source import read_file

_RENAME_EXCHANGE = 2  # of renameat2(2)
_AT_FDCWD = -100
_INTENT_NAME = "intent.json"


@dataclass
class FolderSwap:
    """New folders beside the live ones of a host; `pairs` are the live and the new ones that are exchanged."""

    host: Host
    folders: list[Path] = field(default_factory=list)
    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    kept_aside: list[Path] = field(default_factory=list)
    _aside: list[tuple[Path, Path]] = field(default_factory=list)
    _new_inodes: dict[Path, int] = field(default_factory=dict)  # by the live folder's path
    _may_remove_old: bool = False

    def create_folder(self, parent: Path) -> Path:
        """An empty folder that `remove_folders` removes, and the next restore after a kill."""
        self.folders.append(Path(tempfile.mkdtemp(prefix=_folder_prefix(self.host), dir=parent)))
        return self.folders[-1]

    def add_extracted(self, folder: Path, *, with_configuration: bool = True) -> None:
        """Prepare the exchange of `state` and, if requested, `config` in the folder, as far as they are there."""
        host = self.host
        if (folder / "state").is_dir():
            self.pairs.append((host.state_dir, folder / "state"))
        if with_configuration and (folder / "config").is_dir():
            # an exchange needs both on one file system
            config = self.create_folder(host.config_dir.parent) / "config"
            _copy_tree(folder / "config", config, _copy_file)
            self.pairs.append((host.config_dir, config))

    def copy_what_stays(self, scope: str) -> None:
        """Give the new state folder this host's journal, and its library when the backup's scope has none.

        Called while nothing runs.
        """
        host = self.host
        new = dict(self.pairs).get(host.state_dir)
        if new is None:
            return
        # one that is no file any more stays where it is kept aside
        if (file := read_file(host.state_dir, host.journal_path)) is not None:
            status, content = file
            journal = new / host.journal_path.relative_to(host.state_dir)
            with open(journal, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            _set_attributes(journal, status)
        library = host.state_dir / "library"
        if scope == "state" and library.is_dir():
            shutil.rmtree(new / "library", ignore_errors=True)
            _copy_tree(library, new / "library", lambda source, target: os.link(source, target, follow_symlinks=False))

    def exchange(self, *, aside: str | None = None) -> None:
        """Exchange all pairs; when one fails, those before it are exchanged back.

        Args:
            aside: a time for the names under which `keep_aside` keeps the old folders; None when they are removed.
        """
        inodes = {live: new.stat().st_ino for live, new in self.pairs}
        if aside is not None:
            self._aside = [(new, _aside_path(live, aside)) for live, new in self.pairs if os.path.lexists(live)]
        os.sync()
        intent = {
            "schema": 1,
            "pairs": [[str(live), str(new), inodes[live]] for live, new in self.pairs],
            "folders": [str(folder) for folder in self.folders],
            "aside": [[str(old), str(path)] for old, path in self._aside],
        }
        durable.write_json(self.folders[0] / _INTENT_NAME, intent, mode=0o600)
        self._new_inodes = inodes
        try:
            for live, new in self.pairs:
                _exchange_folders(live, new)
        except OSError:
            self.exchange_back()
            raise

    def exchange_back(self) -> None:
        """Undo `exchange`, as far as it was done."""
        for live, old in reversed(self.pairs):
            if _inode(live) == self._new_inodes[live]:
                _exchange_folders(live, old)

    def keep_aside(self) -> None:
        """Keep the old folders under names of their own, if `exchange` was given a time for them."""
        for old, path in self._aside:
            _rename_folder(old, path)
            self.kept_aside.append(path)
        self._may_remove_old = True

    def old_folders(self) -> dict[Path, Path]:
        """By the live folder's path, where the one from before lies that is neither live again nor kept aside."""
        if self._may_remove_old:
            return {}
        inodes = self._new_inodes
        return {live: old for live, old in self.pairs if live in inodes and _inode(old) not in (None, inodes[live])}

    def remove_folders(self) -> None:
        """Remove what is left beside the live folders: the old ones after `keep_aside`, else the new ones.

        As long as there are `old_folders`, they stay, with the intent by which the next restore keeps them aside.
        """
        if self.old_folders():
            return
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def finish_killed_swap(host: Host) -> None:
    """Finish an exchange that was killed half way, keep aside what was to be, and remove what a killed restore left.

    An intent that cannot be read may be of an exchange that was done, so its folders may hold the only copy of the data
    from before: they are kept as `<live folder>.damaged-restore`. The caller holds `lock_backups`.
    """
    left = [
        (folder, live)
        for live in {host.config_dir.parent: host.config_dir, host.state_dir.parent: host.state_dir}.values()
        for folder in live.parent.glob(f"{_folder_prefix(host)}*")
    ]
    intents, damaged = _read_intents(host)
    for intent in intents:
        _finish_exchange(intent)
    for folder, live in left:
        if damaged:
            _rename_folder(folder, _free_path(live.with_name(f"{live.name}.damaged-restore")))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    former = _former_intent_path(host)
    if former in damaged:
        set_aside(former)
    former.unlink(missing_ok=True)


def _read_intents(host: Host) -> tuple[list[dict[str, Any]], list[Path]]:
    """The intents of killed restores, and the paths of those that cannot be read."""
    folders = sorted(host.state_dir.parent.glob(f"{_folder_prefix(host)}*"))
    intents, damaged = [], []
    for path in (_former_intent_path(host), *(folder / _INTENT_NAME for folder in folders)):
        if not os.path.lexists(path):
            continue
        intent = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            intent = json.loads(read_regular_file(path))
        if _is_intent(intent):
            intents.append(intent)
        else:
            damaged.append(path)
    return intents, damaged


def _is_intent(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("pairs"), list):
        return False
    aside = value.get("aside", [])
    return (
        all(_has_types(pair, str, str, int) for pair in value["pairs"])
        and isinstance(aside, list)
        and all(_has_types(item, str, str) for item in aside)
        and {item[0] for item in aside} <= {pair[1] for pair in value["pairs"]}
    )


def _has_types(value: Any, *types: type) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == list(types)


def _finish_exchange(intent: Mapping[str, Any]) -> None:
    is_live = [_inode(Path(live)) == inode for live, _, inode in intent["pairs"]]
    # a service that was started again since works on the old ones: they stay unless one of them has been exchanged
    if any(is_live):
        for (live, new, _), done in zip(intent["pairs"], is_live, strict=True):
            if not done:
                _exchange_folders(Path(live), Path(new))
    # whatever is live by now, an old folder is the only one of its kind
    new_inodes = {new: inode for _, new, inode in intent["pairs"]}
    for old, path in intent.get("aside", []):
        if _inode(Path(old)) not in (None, new_inodes[old]):
            _rename_folder(Path(old), _free_path(Path(path)))


def _folder_prefix(host: Host) -> str:
    return f"{durable.TEMPORARY_PREFIX}{host.service}-restore-"


def _former_intent_path(host: Host) -> Path:
    """Where an older version wrote its intent."""
    return host.backup_dir / f".{host.service}-restore.json"


def _aside_path(live: Path, time: str) -> Path:
    return _free_path(live.with_name(f"{live.name}.damaged-{time.replace('-', '').replace(':', '')}"))


def _free_path(path: Path) -> Path:
    """This path, or one with a number behind its name, that nothing has."""
    names = (path.name, *(f"{path.name}-{number}" for number in range(2, 1000)))
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))


def _inode(path: Path) -> int | None:
    """The number of what is there; None when nothing is."""
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _rename_folder(old: Path, path: Path) -> None:
    os.rename(old, path)
    durable.fsync_dir(path.parent)
    durable.fsync_dir(old.parent)


def _exchange_folders(one: Path, other: Path) -> None:
    """Exchange two folders in one step (`renameat2(2)`); a live one that is missing is moved there, or back."""
    for present, missing in ((one, other), (other, one)):
        if not os.path.lexists(missing):
            _rename_folder(present, missing)
            return
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
    _set_attributes(target, source.lstat())


def _copy_file(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _set_attributes(target, source.lstat())


def _set_attributes(target: Path, status: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
