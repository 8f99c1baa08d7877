# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run work in a child process that kills itself at a chosen point, to test what the next run makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

CHECKOUT = Path(__file__).resolve().parents[1]

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


def kill_at_times(program: str, step_seconds: float, times: int = 12) -> Iterator[None]:
    """Run a Python program so many times, and kill each run a step later than the one before; yields after each kill.

    Args:
        program: prints a line when its work begins.
    """
    for number in range(times):
        run = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE)
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(step_seconds * number)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        yield


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
