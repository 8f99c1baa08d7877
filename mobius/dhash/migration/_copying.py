# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files copied one by one, each durable under its name before it is noted as copied."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from mobius.dhash._picture import printable
from mobius.durable import TEMPORARY_PREFIX, fsync_dir
from mobius.errors import MobiusError

TEMPORARY_NAME: Final = os.fsencode(f"{TEMPORARY_PREFIX}move")
"""The file in the destination that is being written."""

_CHUNK_BYTES: Final = 1 << 20
_MAX_READ_ATTEMPTS: Final = 3


@dataclass
class Tree:
    """What is in a folder, by relative path: regular files with their status, links, and folders, upper ones first."""

    files: dict[bytes, os.stat_result] = field(default_factory=dict)
    links: list[bytes] = field(default_factory=list)
    folders: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class CopiedFile:
    """A line of the list: the SHA-256 of the bytes that were read, and by what both files are recognised."""

    sha256: str
    size: int
    mtime_ns: int
    copy_mtime_ns: int
    copy_inode: int

    def is_at(self, path: bytes, *, copy: bool) -> bool:
        """Whether a path has the copy, or the original, as it was."""
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        expected = (self.size, self.copy_mtime_ns if copy else self.mtime_ns)
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == expected


class FileList:
    """The list of the files that were copied, as a file that grows by a line a file."""

    def __init__(self, path: Path) -> None:
        self.files: dict[bytes, CopiedFile] = {}
        """By path, relative to the folder."""
        data = path.read_bytes() if path.exists() else b""
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a kill cut it short: that file is copied again
                values = json.loads(line)
                name = bytes.fromhex(values.pop("path"))
                self.files.pop(name, None)
                if values:
                    self.files[name] = CopiedFile(**values)
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115 - closed in __exit__
        if data and not data.endswith(b"\n"):
            self._stream.write(b"\n")

    def __enter__(self) -> FileList:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def holds(self, name: bytes, status: os.stat_result, destination: bytes) -> bool:
        """Whether a file was copied as it is now, and the copy is still there."""
        file = self.files.get(name)
        return (
            file is not None
            and (file.size, file.mtime_ns) == (status.st_size, status.st_mtime_ns)
            and file.is_at(os.path.join(destination, name), copy=True)
        )

    def add(self, name: bytes, file: CopiedFile) -> None:
        self.files[name] = file
        self._write({"path": name.hex(), **vars(file)})

    def forget(self, name: bytes) -> None:
        del self.files[name]
        self._write({"path": name.hex()})

    def _write(self, values: dict[str, object]) -> None:
        self._stream.write((json.dumps(values) + "\n").encode())

    def sync(self, destination: bytes, folders: list[bytes]) -> None:
        """Make the list durable, and the names of all copies."""
        os.fsync(self._stream.fileno())
        for name in (b"", *folders):
            fsync_dir(os.fsdecode(os.path.join(destination, name)))
        fsync_dir(os.path.dirname(os.fsdecode(destination)))


def list_tree(root: Path, *, strict: bool = True) -> Tree:
    """Everything in a folder and below.

    Args:
        strict: refuse what cannot be copied, and what cannot be listed; otherwise it is left out.

    Raises:
        MobiusError: invalid_input, with the path.
    """
    tree, folders = Tree(), [b""]
    top = os.fsencode(root)
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(top, folder)) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
            for entry in entries:
                name = os.path.join(folder, entry.name)
                status = os.stat(entry.path, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    tree.folders.append(name)
                    folders.append(name)
                elif stat.S_ISLNK(status.st_mode):
                    tree.links.append(name)
                elif stat.S_ISREG(status.st_mode):
                    tree.files[name] = status
                elif strict:
                    raise MobiusError(
                        "invalid_input", f"{printable(entry.path)} is neither a file nor a folder nor a link."
                    )
        except OSError as error:
            if strict:
                raise MobiusError(
                    "invalid_input", f"{printable(os.path.join(top, folder))} cannot be read: {error.strerror}."
                ) from error
    tree.folders.sort()
    if strict and TEMPORARY_NAME in tree.files:
        raise MobiusError("invalid_input", f"{printable(top)} holds {TEMPORARY_NAME.decode()}, left by a killed move.")
    return tree


def copy_file(source: bytes, target: bytes, temporary: bytes) -> CopiedFile:
    """Copy a file with its times, mode and owner; durable before it has its name.

    Raises:
        MobiusError: it cannot be read, or changes each time while it is read.
    """
    for _ in range(_MAX_READ_ATTEMPTS):
        digest = hashlib.sha256()
        try:
            with open(source, "rb") as stream:
                before = os.fstat(stream.fileno())
                with open(temporary, "wb") as copy:
                    while chunk := stream.read(_CHUNK_BYTES):
                        digest.update(chunk)
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                after = os.stat(source, follow_symlinks=False)
        except (PermissionError, FileNotFoundError) as error:
            raise MobiusError("invalid_input", f"{printable(source)} cannot be read: {error.strerror}.") from error
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            continue
        shutil.copystat(source, temporary)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(temporary, after.st_uid, after.st_gid)
            os.chmod(temporary, stat.S_IMODE(after.st_mode))  # changing the owner clears some bits
        os.replace(temporary, target)
        copied = os.stat(target, follow_symlinks=False)
        return CopiedFile(digest.hexdigest(), after.st_size, after.st_mtime_ns, copied.st_mtime_ns, copied.st_ino)
    raise MobiusError("environment_failed", f"{printable(source)} changes each time while it is read.")


def copy_link(source: bytes, target: bytes) -> None:
    """The same link; its target is not changed."""
    if not same_file(source, target):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
        os.symlink(os.readlink(source), target)
        shutil.copystat(source, target, follow_symlinks=False)


def same_file(one: bytes, other: bytes) -> bool:
    """Whether two paths are equal links."""
    try:
        return os.readlink(one) == os.readlink(other)
    except OSError:
        return False


def describe_folders(tree: Tree, source: bytes, destination: bytes) -> None:
    """Give the folders the modes and times of their originals, the lowest first, and leave no temporary file."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(destination, TEMPORARY_NAME))
    for name in (*reversed(tree.folders), b""):
        shutil.copystat(os.path.join(source, name), os.path.join(destination, name))


def file_sha256(path: bytes) -> str:
    """The SHA-256 of a file, read from the disk where the system allows that; empty when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
