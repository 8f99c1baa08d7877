# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Limits of memory: bytes of request bodies held, and pixels compared, at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

from mobius.service.problems import ProblemError


class Bodies:
    """Bytes of request bodies held by this process. For one thread (the event loop's)."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held = 0

    def open(self) -> BodyReservation:
        """The reservation of one body; its bytes are released at the end of the `with` block."""
        return BodyReservation(self)


class BodyReservation:
    """The bytes that one body holds."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held = 0

    def check(self, count: int) -> None:
        """Refuse a body that does not fit now. Reserves nothing: announcing a body must not hold memory.

        Raises:
            ProblemError: 503.
        """
        if self._bodies.held + count > self._bodies.limit_bytes:
            raise ProblemError(503, "Too much is being uploaded; try again.", headers={"Retry-After": "1"})

    def reserve(self, count: int) -> None:
        """Reserve bytes that have arrived.

        Raises:
            ProblemError: 503 when they do not fit.
        """
        self.check(count)
        self._bodies.held += count
        self._held += count

    def __enter__(self) -> BodyReservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.held -= self._held
        self._held = 0


class PixelBudget:
    """Limits the pixels that several threads hold to compare pictures at the same time.

    The limit is divided into equal shares, one for each thread that works on requests. Pictures that fit into a share
    are held side by side, up to one per share; a larger picture is held alone. So a common picture does not wait, and
    the sum never exceeds the limit. A thread must not call `reserve` while it holds a reservation.

    Args:
        limit_pixels: of all pictures that are being compared.
        threads: number of threads that work on requests.
    """

    def __init__(self, limit_pixels: int, threads: int) -> None:
        self.share = limit_pixels // threads
        self._threads = threads
        self._changed = threading.Condition()
        self._shared = 0
        self._alone = False
        self._waiting = 0

    def reserve(self, pixels: int) -> contextlib.AbstractContextManager[None]:
        """Reserve pixels for one picture; blocks until they are free."""
        return self._reserve_share() if pixels <= self.share else self._reserve_all()

    @contextlib.contextmanager
    def _reserve_share(self) -> Iterator[None]:
        with self._changed:
            # a large picture that waits goes first, or a stream of small ones would block it for ever
            self._changed.wait_for(lambda: not self._alone and not self._waiting and self._shared < self._threads)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def _reserve_all(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._shared)
            finally:
                self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
