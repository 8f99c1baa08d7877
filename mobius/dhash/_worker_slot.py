# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A process that decodes pictures, and the one that takes its place."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Final

from mobius.dhash._worker_limits import WorkerLimits
from mobius.dhash._worker_process import WorkerProcess
from mobius.errors import MobiusError

_START_ATTEMPTS: Final = 3
_START_PAUSE_SECONDS: Final = 0.5


class WorkerSlot:
    """The place of one process: where it ends or is due for replacement, another one is started in the background."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._current: WorkerProcess | None = None
        self._next: Future[WorkerProcess] | None = None
        self._starting: WorkerProcess | None = None
        self._starter: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        process = self._current or _result_of(self._next)
        return None if process is None else process.pid

    def start(self) -> Future[WorkerProcess]:
        """Start a process, unless that was done; returns when it is ready, or MobiusError."""
        return self._next or self._start_next()

    def process(self) -> WorkerProcess:
        """A process that is ready. Only for the thread that holds the slot.

        Raises:
            MobiusError: none can be started.
        """
        following = self._next
        if following is None and self._current is None:
            following = self._start_next()
        if following is not None and (self._current is None or following.done()):
            self._next = None
            try:
                started = following.result()
            except MobiusError:
                if self._current is None:
                    self._start_next()  # for the next picture; this one is told
                    raise
            else:
                if self._current is not None:
                    self._current.end()
                self._current = started
        if self._current is not None and self._current.ended:
            # something other than a picture has ended it
            self.replace()
            return self.process()
        assert self._current is not None
        return self._current

    def replace(self) -> None:
        """The process has ended, or is of no use."""
        if self._current is not None:
            self._current.end()
            self._current = None
        if self._next is None:
            self._start_next()

    def renew(self) -> None:
        """Start another process, which takes over once it is ready."""
        if self._next is None:
            self._start_next()

    def kill(self) -> None:
        """Start no process any more, and kill those that run: whoever waits for an answer gets none."""
        with self._lock:
            self._closed.set()
            for process in (self._current, self._starting, _result_of(self._next)):
                if process is not None:
                    process.kill()

    def close(self) -> None:
        """Release what is left of the processes, once nobody waits for an answer."""
        if self._starter is not None:
            self._starter.join()
        for process in (self._current, _result_of(self._next)):
            if process is not None:
                process.end()

    def _start_next(self) -> Future[WorkerProcess]:
        following: Future[WorkerProcess] = Future()
        self._next = following
        self._starter = threading.Thread(target=self._start, args=(following,), name="decode-start", daemon=True)
        self._starter.start()
        return following

    def _start(self, following: Future[WorkerProcess]) -> None:
        reason = "the service is stopping"
        for attempt in range(_START_ATTEMPTS):
            if self._closed.wait(attempt * _START_PAUSE_SECONDS):
                break
            process = None
            try:
                with self._lock:
                    if self._closed.is_set():
                        break
                    process = self._starting = WorkerProcess(self._limits)
                process.wait_until_ready()
                with self._lock:
                    self._starting = None
                    following.set_result(process)
                return
            except (EOFError, OSError, ValueError) as error:
                if process is not None:
                    process.end()
                reason = str(error) or "it ended at once"
        following.set_exception(
            MobiusError("out_of_memory", f"No process could be started to decode pictures: {reason}.")
        )


def _result_of(future: Future[WorkerProcess] | None) -> WorkerProcess | None:
    if future is None or not future.done() or future.exception() is not None:
        return None
    return future.result()
