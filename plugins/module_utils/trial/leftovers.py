# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clears what a trial has left that was killed: its processes, and its folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from . import machine

FOLDERS = "mobius-try-*"
_LOCK = "lock"


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Show other trials, while the block runs, that this folder is in use; that ends with this process in any case."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clear_leftovers(own: Path) -> None:
    """End the processes, and remove the folders, of this user's trials that nobody runs any more.

    Args:
        own: the folder of this trial; the others are beside it.
    """
    folders = {path for path in own.parent.glob(FOLDERS) if _is_own_folder(path)}
    running = machine.find_trials(own.parent) if machine.is_known() else {}
    for folder in (folders | set(running)) - {own}:
        with _unused(folder) as is_unused:
            if not is_unused:
                continue
            for pid in running.get(folder, ()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.is_dir() and path.lstat().st_uid == os.getuid()
    except OSError:
        return False


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether the trial of a folder has ended. One without its lock is being prepared."""
    if not folder.exists():
        yield True
        return
    try:
        lock = (folder / _LOCK).open("r+")
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
