# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List the pictures in a folder and below it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
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
"""File names that a scan considers, in upper or lower case; it ignores all others."""


SEPARATOR: Final = os.fsencode(os.sep)
"""Between the names of a path."""


class FileStatus(NamedTuple):
    """By what a changed file is recognised."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStatus:
        return cls(status.st_size, status.st_mtime_ns, signed(status.st_ino))


@dataclass
class FolderListing:
    """The files of a folder, the number of links, and the reason for each path that cannot be used."""

    files: dict[bytes, FileStatus] = field(default_factory=dict)
    links: int = 0
    # these could not be read, so known files at or below these paths are not known to be gone
    hidden: dict[bytes, str] = field(default_factory=dict)
    unusable: dict[bytes, str] = field(default_factory=dict)


def list_folder(root: bytes) -> FolderListing:
    """All files with a suffix of `SUFFIXES`, in the order of names.

    Raises:
        MobiusError: the folder itself cannot be listed.
    """
    listing = FolderListing()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"It cannot be listed: {error.strerror}."
            if folder == root:
                raise MobiusError(
                    "invalid_input", f"{printable(folder)} cannot be listed: {error.strerror}."
                ) from error
            listing.hidden[folder] = reason
            continue
        below = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                _note(entry, listing)
        folders += reversed(below)
    return listing


def list_files(paths: Iterable[bytes]) -> FolderListing:
    """These files, whatever their suffix."""
    listing = FolderListing()
    for path in paths:
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError as error:
            listing.unusable[path] = f"It cannot be read: {error.strerror}."
            continue
        if stat.S_ISREG(status.st_mode):
            listing.files[path] = FileStatus.of(status)
        else:
            listing.unusable[path] = "It is not a regular file."
    return listing


def below(folder: bytes) -> tuple[bytes, bytes]:
    """All paths below a folder are between these two: the second ends with the byte after the separator."""
    top = folder.rstrip(SEPARATOR)
    return top + SEPARATOR, top + bytes([SEPARATOR[0] + 1])


def _note(entry: os.DirEntry[bytes], listing: FolderListing) -> None:
    try:
        if entry.is_symlink():
            if os.path.exists(entry.path):
                listing.links += 1
            else:
                listing.unusable[entry.path] = "It is a link that leads nowhere."
            return
        # on Windows a listing has no file numbers, so that a file would differ from itself
        status = os.stat(entry.path, follow_symlinks=False) if os.name == "nt" else entry.stat(follow_symlinks=False)
    except OSError as error:
        listing.hidden[entry.path] = f"It cannot be read: {error.strerror}."
        return
    if stat.S_ISREG(status.st_mode):
        listing.files[entry.path] = FileStatus.of(status)
    else:
        listing.unusable[entry.path] = "It is not a regular file."


def is_below(path: bytes, hidden: dict[bytes, str]) -> bool:
    """Whether the path or a folder above it could not be read."""
    return bool(hidden) and any(path == other or path.startswith(other + SEPARATOR) for other in hidden)
