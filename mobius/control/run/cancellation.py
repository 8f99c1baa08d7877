# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stops a run at its time limit or on a signal, with every process that it has started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 10.0
"""How long ansible-playbook may take to stop its workers, before everything of it is killed."""


class Cancellation:
    """Ends a run that is over its time or that a signal stops: first SIGINT, later SIGKILL for all of it."""

    def __init__(self, timeout: float) -> None:
        self.signal: signal.Signals | None = None
        self.timed_out = False
        self._deadline = time.monotonic() + timeout
        self._interrupted_at: float | None = None
        self._unrelated = set(_descendants(os.getpid()))
        self._to_kill: set[RunProcess] = set()
        self._kill_now = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler; a second signal means at once."""
        self._kill_now = self.signal is not None
        self.signal = self.signal or signal.Signals(number)

    def due(self) -> bool:
        """Whether ansible-runner is to kill its child now. Called again and again while the run goes on."""
        now = time.monotonic()
        if self.signal is None and now >= self._deadline:
            self.timed_out = True
        if self.signal is None and not self.timed_out:
            return False
        if self._interrupted_at is None:
            self._interrupted_at = now
            for process in self._list_started():
                if process.parent == os.getpid():
                    process.send(signal.SIGINT)  # it tells its workers, which have sessions of their own
            return False
        if self._kill_now or now >= self._interrupted_at + GRACE_SECONDS:
            self._list_started()
            return True
        return False

    def _list_started(self) -> list[RunProcess]:
        """Everything that this run has started and that lives now; it is remembered for the sweep."""
        started = [process for process in _descendants(os.getpid()) if process not in self._unrelated]
        self._to_kill.update(started)
        return started

    def sweep(self) -> None:
        """Kill what is left of a stopped run: a worker has a session of its own and outlives its killed parent."""
        for process in self._to_kill:
            process.send(signal.SIGKILL)


@contextmanager
def cancel_on_signals(timeout: float) -> Iterator[Cancellation]:
    cancellation = Cancellation(timeout)
    # what the caller ignores stays ignored: nohup ignores SIGHUP, a shell SIGINT for its background jobs
    handled = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, cancellation.on_signal) for number in handled}
    try:
        yield cancellation
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class RunProcess:
    """A process that a reused id is not taken for: the id and the time it started, in clock ticks since boot."""

    pid: int
    started: int
    parent: int = field(compare=False)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        now = _read_process(self.pid)
        if now == self:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _read_process(pid: int) -> RunProcess | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return RunProcess(pid, int(fields[19]), int(fields[1]))


def _descendants(pid: int) -> list[RunProcess]:
    """All processes that stem from `pid`, from /proc."""
    processes = [_read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    descendants: list[RunProcess] = []
    family = {pid}
    while True:
        more = [process for process in processes if process and process.parent in family and process.pid not in family]
        if not more:
            return descendants
        descendants += more
        family.update(process.pid for process in more)
