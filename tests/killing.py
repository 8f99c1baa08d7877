# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Work done in a child process that kills itself at a chosen place: what does the next run find?"""

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
"""Functions of `os` that are one system call each, and change what is on the disk."""


def killed(work: Callable[[], object]) -> bool:
    """Do the work in a child process; whether it was killed there before its end. One that fails is neither."""
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
    """Kill this process, but none that it starts, before the n-th line of these files that it executes from here on."""
    left, me = number, os.getpid()

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in sources or os.getpid() != me:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(me, signal.SIGKILL)
        return trace

    sys.settrace(trace)


def die_after_writing(number: int) -> None:
    """Kill this process after its n-th call of `WRITING` from here on; opening something to read it does not count."""
    left = number

    def mortal(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            found = real(*arguments, **options)
            reads = real.__name__ == "open" and not (arguments[1] & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY))
            left -= not reads
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        call.__name__ = real.__name__
        return call

    for name in WRITING:
        setattr(os, name, mortal(getattr(os, name)))
