# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns errors into failures with an outcome and a next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from ..durable import DISK_FULL_ERRNOS, TEMPORARY_PREFIX
from ..errors import MobiusError

MEDIUM_ERRNOS = (errno.EIO, errno.EBADMSG, errno.ENODATA, getattr(errno, "EUCLEAN", errno.EIO))
"""Of a disk that cannot give what was written to it, or of a file system whose checksums say so."""

_READ_KERNEL_LOG = "Read the reason in the kernel's log (`dmesg`)"


class InstanceError(MobiusError):
    """An instance failed; `journal` has its last lines."""

    def __init__(self, outcome: str, reason: str, journal: list[str]) -> None:
        super().__init__(outcome, reason)
        self.journal = journal


def to_failure(error: Exception) -> MobiusError:
    """An operating system error as a failure with an outcome; a MobiusError unchanged."""
    if isinstance(error, MobiusError):
        return error
    if not isinstance(error, OSError):
        return MobiusError("environment_failed", f"{type(error).__name__}: {error}")
    path = _path_of(error)
    if error.errno in DISK_FULL_ERRNOS:
        return MobiusError("disk_full", f"There is no space left for {path or 'the state of this host'}.")
    if error.errno == errno.EROFS:
        reason = f"The file system of {path.parent if path else 'a file of this host'} is read-only."
        return MobiusError(
            "environment_failed", reason, do_next=f"{_READ_KERNEL_LOG}, make it writable, and run again."
        )
    if error.errno in MEDIUM_ERRNOS:
        reason = f"The disk failed at {path or 'a file of this host'}: {error.strerror}."
        return MobiusError(
            "environment_failed", reason, do_next=f"{_READ_KERNEL_LOG}, and replace the disk if it is old."
        )
    if isinstance(error, PermissionError):
        reason = f"Not allowed: {path or error.strerror}."
        return MobiusError("environment_failed", reason, do_next="Run this as root, for example with sudo.")
    return MobiusError("environment_failed", f"{path}: {error.strerror}." if path else f"{error.strerror or error}.")


def _path_of(error: OSError) -> Path | None:
    """The path that a system call was given, without a temporary name; None when it was given none."""
    if not isinstance(error.filename, str | bytes):
        return None
    path = Path(os.fsdecode(error.filename))
    return path.parent / "a new file" if path.name.startswith(TEMPORARY_PREFIX) else path


def failure_result(error: Exception) -> dict[str, Any]:
    """The arguments of a module's `fail_json`."""
    failure = to_failure(error)
    result: dict[str, Any] = {"msg": failure.reason, "mobius_failure": failure.as_dict()}
    if isinstance(failure, InstanceError):
        result["journal"] = failure.journal
    return result
