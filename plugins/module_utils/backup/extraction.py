# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Extracts an archive that was verified, as nobody, and verifies what lies there before anybody else uses it."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .archive import (
    CHUNK_BYTES,
    ArchiveEntry,
    ArchiveManifest,
    DamagedError,
    open_archive,
    printable,
    range_sha256,
    read_entries,
    read_members,
)

OwnerOf = Callable[[ArchiveEntry], tuple[int, int]]
"""User and group, by number, that an entry gets; (-1, -1) leaves both."""

_CHILD_SUCCEEDED = b"done"
_COPY_NEEDS_MEMORY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def unpack_archive(path: Path, manifest: ArchiveManifest, folder: Path, owner_of: OwnerOf) -> int:
    """Extract an archive into the empty folder as nobody, then set owners and verify all of it.

    Returns:
        How many files there are.

    Raises:
        DamagedError: what lies there is not what the manifest says.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        privileged = os.geteuid() == 0
        extract_files(path, manifest, descriptor, user=pwd.getpwnam("nobody").pw_uid if privileged else None)
        if privileged:
            os.fchown(descriptor, 0, 0)
        files = finish_files(path, manifest, descriptor, owner_of=owner_of)
        os.sync()
        return files
    finally:
        os.close(descriptor)


def extract_files(path: Path, manifest: ArchiveManifest, folder: int, *, user: int | None) -> None:
    """Write every stored file into the empty folder behind the descriptor, in a child process of its own.

    What the child leaves is not trusted: `finish_files` verifies all of it.

    Args:
        user: number of the user that the child becomes, without any group but its own; None: who runs this.

    Raises:
        DamagedError: the archive changed since it was verified.
        OSError: with its number, of the first thing that failed.
    """
    with open_archive(path) as lines, open_archive(path) as stream:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            report = b"0 the child that extracts ended by a fault of the program"
            try:
                if user is not None:
                    os.fchown(folder, user, user)
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                _write_files(read_members(lines, stream, manifest), stream.fileno(), folder)
                report = _CHILD_SUCCEEDED
            except OSError as error:
                report = f"{error.errno or errno.EIO} {error.strerror}".encode()
            except DamagedError as error:
                report = f"0 {error}".encode()
            finally:
                os.write(writing, report)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            report = pipe.read()
        os.waitpid(child, 0)
    if report != _CHILD_SUCCEEDED:
        number, _, reason = report.decode(errors="replace").partition(" ")
        if number in ("", "0"):
            raise DamagedError(reason or "the child that extracts was killed")
        raise OSError(int(number), reason)


class _FolderStack:
    """The open folders from the top down to the entry that is being handled."""

    def __init__(self, top: int) -> None:
        self._descriptors = [os.dup(top)]
        self._expected_counts = [0]
        self._names: list[str] = []

    def enter_parent(self, entry: ArchiveEntry) -> int:
        """The descriptor of the folder that the entry lies in; the entry is counted as one of its names."""
        while len(self._descriptors) > len(entry.parts):
            self._leave()
        self._expected_counts[-1] += 1
        return self._descriptors[-1]

    def enter(self, entry: ArchiveEntry) -> int:
        """Open a folder of which the parent is open, never through a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptors.append(os.open(entry.parts[-1], flags, dir_fd=self._descriptors[-1]))
        self._expected_counts.append(0)
        self._names.append(entry.path)
        return self._descriptors[-1]

    def _leave(self) -> None:
        descriptor, expected = self._descriptors.pop(), self._expected_counts.pop()
        name = self._names.pop() if self._names else ""
        actual = len(os.listdir(descriptor))
        os.close(descriptor)
        if actual != expected:
            raise DamagedError(f"{printable(name)!r} holds {actual} names after it was extracted, and not {expected}")

    def leave_all(self) -> None:
        """Leave all folders; each must hold as many names as were counted in it."""
        while self._descriptors:
            self._leave()

    def close(self) -> None:
        """Close what is still open."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _write_files(members: Iterator[tuple[ArchiveEntry, int]], source: int, folder: int) -> None:
    stack = _FolderStack(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for entry, offset in members:
        if not entry.stored:
            continue
        parent = stack.enter_parent(entry)
        if entry.folder:
            os.mkdir(entry.parts[-1], 0o700, dir_fd=parent)
            stack.enter(entry)
            continue
        target = os.open(entry.parts[-1], flags, 0o600, dir_fd=parent)
        try:
            _copy_range(source, offset, entry.size, target)
        finally:
            os.close(target)
    stack.leave_all()


def _copy_range(source: int, offset: int, size: int, target: int) -> None:
    """Copy within the kernel where it can, else through memory."""
    while size:
        try:
            copied = os.copy_file_range(source, target, min(size, 64 * CHUNK_BYTES), offset_src=offset)
        except OSError as error:
            if error.errno not in _COPY_NEEDS_MEMORY:
                raise
            copied = os.write(target, os.pread(source, min(size, CHUNK_BYTES), offset))
        if not copied:
            raise DamagedError("it became shorter while it was extracted")
        offset += copied
        size -= copied


def finish_files(
    path: Path,
    manifest: ArchiveManifest,
    folder: int,
    *,
    owner_of: OwnerOf,
    threads: int = 2,
) -> int:
    """Set owners, modes and times of what was extracted, and verify all of it; how many files there are.

    The owner first: from then on nobody else can change the file, and what is verified is what stays.

    Raises:
        DamagedError: a file or folder is not what the manifest says, or more lies there.
    """
    stack = _FolderStack(folder)
    pending: list[tuple[ArchiveEntry, int, Future[str]]] = []
    files = 0

    def compare_digests(left_pending: int) -> None:
        while len(pending) > left_pending:
            entry, descriptor, digest = pending.pop(0)
            try:
                if digest.result() != entry.sha256:
                    raise _wrong_after_extraction(entry)
            finally:
                os.close(descriptor)

    with open_archive(path) as lines, ThreadPoolExecutor(threads) as pool:
        try:
            for entry in read_entries(lines, manifest):
                if not entry.stored:
                    continue
                parent = stack.enter_parent(entry)
                if entry.folder:
                    _set_attributes(stack.enter(entry), entry, owner_of)
                    continue
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(entry.parts[-1], flags, dir_fd=parent)
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size != entry.size:
                    os.close(descriptor)
                    raise _wrong_after_extraction(entry)
                _set_attributes(descriptor, entry, owner_of)
                pending.append((entry, descriptor, pool.submit(range_sha256, descriptor, 0, entry.size)))
                files += 1
                compare_digests(4 * threads)
            compare_digests(0)
            stack.leave_all()
        finally:
            for _, descriptor, digest in pending:
                digest.cancel()
                with contextlib.suppress(Exception):
                    digest.result()
                os.close(descriptor)
            stack.close()
    return files


def _wrong_after_extraction(entry: ArchiveEntry) -> DamagedError:
    return DamagedError(f"{printable(entry.path)!r} is not what its manifest says after it was extracted")


def _set_attributes(descriptor: int, entry: ArchiveEntry, owner_of: OwnerOf) -> None:
    os.fchown(descriptor, *owner_of(entry))
    os.fchmod(descriptor, int(entry.mode, 8) & ~0o002)
    os.utime(descriptor, (entry.mtime, entry.mtime))
