# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens files and folders that belong to a service's user, without ever following a link.

That user may put a link in the place of any of its own files at any time, while a backup runs as root.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}


class NoFileError(Exception):
    """Where a file or folder was is, or leads through, a link or something else that is not saved."""


def describe_kind(mode: int) -> str:
    """What a path is, by the mode that `lstat` gives: a file, a folder, a link, ..."""
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def open_folder(name: str | Path, parent: int | None = None) -> int:
    """A descriptor of a folder, never through a link; `parent` None: of one that only root may replace.

    Raises:
        NoFileError: it is no folder.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return os.open(name, flags) if parent is None else _open_without_link(str(name), flags, parent)


def open_file(name: str | Path, folder: int | None = None) -> BinaryIO:
    """A regular file, never through a link at its name; `folder` None: in one that only root may replace.

    Raises:
        NoFileError: it is no regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a pipe must not keep it waiting
    descriptor = _open_without_link(str(name), flags, folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoFileError(str(name))
    return os.fdopen(descriptor, "rb")


def copy_file(name: str, folder: int, copy: Path) -> None:
    """Copy a regular file in a folder, byte by byte.

    Raises:
        NoFileError: it is no regular file.
    """
    with open_file(name, folder) as stream, open(copy, "wb") as target:
        shutil.copyfileobj(stream, target)


def _open_without_link(name: str, flags: int, folder: int | None) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a link, no folder, a socket
            raise NoFileError(name) from None
        raise
