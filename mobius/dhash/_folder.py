# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lies in a folder of pictures."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mobius.dhash._picture import printable, signed
from mobius.errors import MobiusError

SUFFIXES: Final = frozenset(
    f".{name}".encode()
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib"),
        *("tif", "tiff", "webp", "avif", "avifs", "heic", "heif", "hif"),
    )
)
"""Names that a scan takes for pictures, in any case; everything else in the folder is none of its business."""


class FileStatus(NamedTuple):
    """What tells a file from what it was before."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStatus:
        return cls(status.st_size, status.st_mtime_ns, signed(status.st_ino))


@dataclass
class FolderListing:
    """What lies in the folder."""

    files: dict[bytes, FileStatus] = field(default_factory=dict)
    links: int = 0
    # could not be looked at, so what was known at or below these places is not known to be gone
    hidden: dict[bytes, str] = field(default_factory=dict)
    unusable: dict[bytes, str] = field(default_factory=dict)


def list_folder(root: bytes) -> FolderListing:
    """All that has a picture's name, in the order of names.

    Raises:
        MobiusError: the folder itself cannot be listed.
    """
    found = FolderListing()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"It cannot be listed: {error.strerror}."
            if folder == root:
                raise MobiusError(
                    "invalid_input", f"{printable(folder)} cannot be listed: {error.strerror}."
                ) from error
            found.hidden[folder] = reason
            continue
        below = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                _note(entry, found)
        folders += reversed(below)
    return found


def _note(entry: os.DirEntry[bytes], found: FolderListing) -> None:
    try:
        if entry.is_symlink():
            if os.path.exists(entry.path):
                found.links += 1
            else:
                found.unusable[entry.path] = "It is a link that leads nowhere."
            return
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        found.hidden[entry.path] = f"It cannot be read: {error.strerror}."
        return
    if stat.S_ISREG(status.st_mode):
        found.files[entry.path] = FileStatus.of(status)
    else:
        found.unusable[entry.path] = "It is not a regular file."


def is_below(path: bytes, hidden: dict[bytes, str]) -> bool:
    """Whether the place or a folder above it could not be looked at."""
    return bool(hidden) and any(path == other or path.startswith(other + b"/") for other in hidden)
