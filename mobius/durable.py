# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes that survive a kill or a power cut after any line.

A reader sees the old file or the new one, never a part: temporary name in the same folder, fsync, rename, fsync of the
folder. Hosts use this same file (`plugins/module_utils/durable.py` is a link to it), so it imports the standard library
only. `mobius.dhash` writes on Windows too, which has no modes, no owners, and no folder that can be opened: a file is
replaced in one step there as well, and a power cut may undo the replacement.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".mobius-tmp-"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)  # of a full disk and an exhausted quota


def fsync_dir(path: Path | str) -> None:
    """Make the folder's entries (names, renames, removals) durable."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` by `data` in one step.

    Args:
        mode: permission bits of the new file.
        owner: `(uid, gid)`; by default that of the process.

    Raises:
        OSError: nothing is changed then; ENOSPC leaves no temporary file behind.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_dir(target.parent)


def json_bytes(value: Any) -> bytes:
    """The one form in which state files are written: sorted keys, two spaces, a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def write_json(path: Path | str, value: Any, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """`write_bytes` of `json_bytes(value)`."""
    write_bytes(path, json_bytes(value), mode=mode, owner=owner)


def append_line(path: Path | str, line: str, *, mode: int = 0o644) -> None:
    """Append one line and make it durable.

    A line that a kill cut short is ended first, so that the new one stands alone and the damage stays visible.
    """
    target = Path(path)
    existed = target.exists()
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (("\n" if torn else "") + line.rstrip("\n") + "\n").encode()
        written = 0
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            # a full disk takes a part of the line; nobody else's is behind it
            if os.fstat(descriptor).st_size == size + written:
                os.ftruncate(descriptor, size)
            raise
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not existed:
        fsync_dir(target.parent)


def replace_symlink(link: Path | str, target: str) -> None:
    """Point `link` at `target` in one step, whatever was there before."""
    path = Path(link)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


@contextlib.contextmanager
def locked(path: Path | str, timeout: float = 30.0) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is made when missing and never removed.

    The kernel drops the lock with its holder, so a killed one leaves nothing behind.

    Args:
        timeout: seconds to wait for another holder.

    Raises:
        TimeoutError: another process held it all the time.
    """
    import fcntl  # Windows has none

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is held by another process") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
