# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Errors of the operating system as failures that a person can act on."""

from __future__ import annotations

import errno
from typing import Any

from ..errors import MobiusError

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class InstanceError(MobiusError):
    """An instance did not do what it was to do; `journal` has its last lines."""

    def __init__(self, outcome: str, reason: str, journal: list[str]) -> None:
        super().__init__(outcome, reason)
        self.journal = journal


def to_failure(error: Exception) -> MobiusError:
    """An error of the operating system as a failure that a person can act on; a MobiusError as it is."""
    if isinstance(error, MobiusError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return MobiusError("disk_full", f"There is no space left for {error.filename or 'the state of this host'}.")
    if isinstance(error, PermissionError):
        what = f"Not allowed: {error.filename or error}."
        return MobiusError("environment_failed", what, do_next="Run this as root, for example with sudo.")
    return MobiusError("environment_failed", f"{type(error).__name__}: {error}")


def failure_result(error: Exception) -> dict[str, Any]:
    """The arguments of a module's `fail_json`."""
    failure = to_failure(error)
    result: dict[str, Any] = {"msg": failure.reason, "mobius_failure": failure.as_dict()}
    if isinstance(failure, InstanceError):
        result["journal"] = failure.journal
    return result
