# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits that a process sets itself before it decodes pictures that others sent.

The kernel holds them against whatever a decoder does: memory above what the process has after its imports, processor
time for each request, no written file, no further descriptor (so no socket either), no new privileges. Linux has all of
them. Where a platform lacks one, it is left out; the deadline in the process that waits for the answer always holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

# not on Windows
resource: Any = importlib.import_module("resource") if importlib.util.find_spec("resource") else None

_PR_SET_NO_NEW_PRIVS: Final = 38
_ADDRESS_SPACE_SLACK_BYTES: Final = 128 << 20
"""Address space beyond the memory limit: what an allocator reserves and never uses."""
_RESIDENT_FIELD, _SIZE_FIELD, _DATA_FIELD = 1, 0, 5  # of /proc/self/statm, in pages


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of a process that decodes pictures, and of each of its requests.

    Attributes:
        memory_bytes: what it may allocate above its baseline; None for no limit.
        cpu_seconds: processor time of one picture.
        wall_seconds: time until the answer to a request about one picture; the process is killed then.
        open_files: whether it opens the pictures itself.
    """

    memory_bytes: int | None
    cpu_seconds: float
    wall_seconds: float
    open_files: bool = False


class ProcessMeter:
    """The memory of this process, also when it can open no file any more. 0 where the platform does not tell."""

    def __init__(self) -> None:
        self._statm: int | None = None
        with contextlib.suppress(OSError):
            self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self.baseline_bytes = self.resident_bytes()

    def resident_bytes(self) -> int:
        return self._read(_RESIDENT_FIELD)

    def address_space_bytes(self) -> int:
        return self._read(_SIZE_FIELD)

    def data_bytes(self) -> int:
        return self._read(_DATA_FIELD)

    def _read(self, field: int) -> int:
        if self._statm is None:
            return 0
        return int(os.pread(self._statm, 200, 0).split()[field]) * os.sysconf("SC_PAGE_SIZE")


def limit_process(limits: WorkerLimits, meter: ProcessMeter) -> None:
    """Set what holds until the process ends. Nothing that needs a file can be imported afterwards."""
    if resource is None:
        return
    _set_limit("RLIMIT_CORE", 0)
    _set_limit("RLIMIT_FSIZE", 0)
    if limits.memory_bytes is not None and (data := meter.data_bytes()):
        _set_limit("RLIMIT_DATA", data + limits.memory_bytes)
        _set_limit("RLIMIT_AS", meter.address_space_bytes() + limits.memory_bytes + _ADDRESS_SPACE_SLACK_BYTES)
    _set_limit("RLIMIT_NOFILE", _lowest_free_descriptor() + 1 if limits.open_files else 0)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def allow_cpu(seconds: float) -> None:
    """Let this process use so much processor time from now on; one more second ends it whatever it does."""
    if resource is None:
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(time.process_time() + seconds) + 1
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def stop_cpu_timer() -> None:
    """The request has been answered: what follows is not its time."""
    if resource is not None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _set_limit(name: str, value: int) -> None:
    """Lower a limit, if the platform has it and accepts the value."""
    number = getattr(resource, name, None)
    if number is None:
        return
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def _lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor
