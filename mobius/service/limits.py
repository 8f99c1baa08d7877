# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What bounds the memory: bytes of bodies held, and pixels decoded, at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

from mobius.service.problems import ProblemError


class Bodies:
    """Bytes of request bodies held by this process. For one thread (the event loop's)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def room(self) -> Room:
        """A body's account; what it took is given back at the end of its block."""
        return Room(self)


class Room:
    """The account of one body."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held = 0

    def expect(self, count: int) -> None:
        """Refuse at once a body that does not fit now; nothing is taken before it arrives, since nobody is to take
        room by announcing what he never sends.

        Raises:
            ProblemError: 503.
        """
        if self._bodies.held + count > self._bodies.most:
            raise ProblemError(503, "Too much is being uploaded; try again.", headers={"Retry-After": "1"})

    def take(self, count: int) -> None:
        """Account for bytes that have arrived.

        Raises:
            ProblemError: 503 when they do not fit.
        """
        self.expect(count)
        self._bodies.held += count
        self._held += count

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.held -= self._held
        self._held = 0


class Decodes:
    """Pixels decoded at the same time, by several threads.

    As many as there are threads for requests may have pictures of a share each in work, whoever they are; a larger one
    is worked on alone. So the common picture costs nothing, and the sum never passes the limit. Nobody may ask for
    room while he has some.

    Args:
        most: pixels of all pictures in work.
        threads: that work on requests.
    """

    def __init__(self, most: int, threads: int) -> None:
        self.share = most // threads
        self._threads = threads
        self._changed = threading.Condition()
        self._shared = 0
        self._alone = False
        self._waiting = 0

    def room(self, pixels: int) -> contextlib.AbstractContextManager[None]:
        """For a picture of at most so many pixels: among others, or alone. Blocks until it may."""
        return self._among_others() if pixels <= self.share else self._by_itself()

    @contextlib.contextmanager
    def _among_others(self) -> Iterator[None]:
        with self._changed:
            # one that waits to be alone goes first, or a stream of small ones would keep it out for ever
            self._changed.wait_for(lambda: not self._alone and not self._waiting and self._shared < self._threads)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
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
