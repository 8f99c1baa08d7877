# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns errors into failures with an outcome and a next step."""

from __future__ import annotations

from typing import Any

from ..durable import DISK_FULL_ERRNOS
from ..errors import MobiusError


class InstanceError(MobiusError):
    """An instance failed; `journal` has its last lines."""

    def __init__(self, outcome: str, reason: str, journal: list[str]) -> None:
        super().__init__(outcome, reason)
        self.journal = journal


def to_failure(error: Exception) -> MobiusError:
    """An operating system error as a failure with an outcome; a MobiusError unchanged."""
    if isinstance(error, MobiusError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return MobiusError("disk_full", f"There is no space left for {error.filename or 'the state of this host'}.")
    if isinstance(error, PermissionError):
        reason = f"Not allowed: {error.filename or error}."
        return MobiusError("environment_failed", reason, do_next="Run this as root, for example with sudo.")
    return MobiusError("environment_failed", f"{type(error).__name__}: {error}")


def failure_result(error: Exception) -> dict[str, Any]:
    """The arguments of a module's `fail_json`."""
    failure = to_failure(error)
    result: dict[str, Any] = {"msg": failure.reason, "mobius_failure": failure.as_dict()}
    if isinstance(failure, InstanceError):
        result["journal"] = failure.journal
    return result
