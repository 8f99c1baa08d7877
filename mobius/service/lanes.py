# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Threads for the work on the index, in lanes: what is slow waits for its own kind only."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

from mobius.service.problems import ProblemError

QUEUE_SECONDS: Final = 10.0
"""How long work waits for a thread of its lane."""

LaneName = Literal["read", "write", "compare", "verify", "page", "background"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Limits:
    threads: int
    waiting: int
    """Work that may wait for a thread; more is refused at once."""
    refusal: str


class _Waiting(NamedTuple):
    future: Future[Any]
    since: float


_LANES: Final[dict[LaneName, _Limits]] = {
    "read": _Limits(4, 256, "Too many requests wait for the index; try again."),
    # one writes at a time, whatever happens; a process that holds the lock delays these only
    "write": _Limits(1, 32, "The index is being written to; try again."),
    # wide searches: bounded in work, yet each takes as long as many small ones
    "compare": _Limits(1, 16, "Too many wide searches are waiting; try again."),
    # each holds two pictures of 2,048 pixels a side, and waits for their decoders
    "verify": _Limits(1, 16, "Too many searches are comparing pixels; try again."),
    # after the first start of a large library they wait until it has been compared
    "page": _Limits(1, 16, "The pictures of the library are being compared; try again."),
    "background": _Limits(1, 1, "The library is being counted."),
}


class Lanes:
    """The threads. `run` and `expire_waiting` are for the event loop's thread."""

    def __init__(self) -> None:
        self._executors = {
            name: ThreadPoolExecutor(limits.threads, thread_name_prefix=f"index-{name}")
            for name, limits in _LANES.items()
        }
        self._waiting: dict[LaneName, dict[int, _Waiting | None]] = {name: {} for name in _LANES}
        self._numbers = itertools.count()
        self._unfinished: set[Future[Any]] = set()

    async def run(self, lane: LaneName, work: Callable[[], _T]) -> _T:
        """Do the work in a thread of the lane. When the task is cancelled, work that has not begun is dropped.

        Raises:
            ProblemError: 503 when too much waits already, or it has waited for too long.
        """
        future = self.submit(lane, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if future.cancelled() and task is not None and not task.cancelling():
                raise _refusal(lane) from None
            raise

    def submit(self, lane: LaneName, work: Callable[[], _T]) -> Future[_T]:
        """Do the work in a thread of the lane; returns at once.

        Raises:
            ProblemError: 503 when too much waits already.
        """
        waiting, context = self._waiting[lane], contextvars.copy_context()
        if len(waiting) >= _LANES[lane].waiting + _LANES[lane].threads:
            raise _refusal(lane)

        number = next(self._numbers)
        waiting[number] = None

        def begin() -> _T:
            waiting.pop(number, None)
            return context.run(work)

        future: Future[_T] = self._executors[lane].submit(begin)
        if number in waiting:
            waiting[number] = _Waiting(future, time.monotonic())
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        future.add_done_callback(lambda _: waiting.pop(number, None))
        return future

    def expire_waiting(self) -> None:
        """Drop what has waited for too long. To be called about once a second."""
        now = time.monotonic()
        for waiting in self._waiting.values():
            for entry in list(waiting.values()):
                if entry is not None and now - entry.since > QUEUE_SECONDS:
                    entry.future.cancel()

    def close(self) -> bool:
        """Stop the threads. Returns whether one of them is still working."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
        return bool(self._unfinished)


def _refusal(lane: LaneName) -> ProblemError:
    return ProblemError(503, _LANES[lane].refusal, headers={"Retry-After": "5"})
