# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run work in a child process that kills itself at a chosen point, to test what the next run makes of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any, Final

WRITING: Final = (
    *("write", "open", "mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync"),
    *("fchmod", "chmod", "chown", "fchown", "utime", "truncate"),
)
"""Functions of `os` that are one system call each, and change the disk."""


def killed(work: Callable[[], object]) -> bool:
    """Do the work in a child process. Returns whether it was killed before its end; fails when the work raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def die_before_line(number: int, sources: Collection[str]) -> None:
    """Kill this process, but no child of it, before the n-th line of these files that it executes from now on."""
    remaining, process = number, os.getpid()

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal remaining
        if frame.f_code.co_filename not in sources or os.getpid() != process:
            return None
        if event == "line":
            remaining -= 1
            if remaining == 0:
                os.kill(process, signal.SIGKILL)
        return trace

    sys.settrace(trace)


def die_after_writing(number: int) -> None:
    """Kill this process after its n-th call of `WRITING` from now on; opening a file to read it does not count."""
    remaining = number

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal remaining
            result = real(*arguments, **options)
            reads = real.__name__ == "open" and not (arguments[1] & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY))
            remaining -= not reads
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        call.__name__ = real.__name__
        return call

    for name in WRITING:
        setattr(os, name, counted(getattr(os, name)))
