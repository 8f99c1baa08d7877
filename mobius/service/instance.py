# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The instance of one release: its state (standby, serving, draining), the pictures it works on, and its health."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from loguru import logger

from mobius.dhash import (
    Dhash,
    Fingerprint,
    Mode,
    PictureError,
    TooManyPixelsError,
    VerificationImage,
    hash_bytes,
    load_for_verification,
    thumbnail_of,
)
from mobius.errors import MobiusError
from mobius.logs import losses
from mobius.service import golden
from mobius.service.index import Index, problem_of
from mobius.service.limits import Bodies, Decodes
from mobius.service.listening import Acceptor
from mobius.service.metrics import Metrics, memory_bytes
from mobius.service.problems import ProblemError
from mobius.service.settings import ServiceSettings
from mobius.service.state_file import State, read_state
from mobius.service.tokens import Tokens

_T = TypeVar("_T")
Status = Literal["pass", "warn", "fail"]

STUCK_SECONDS: Final = 30.0
"""Longest time that a picture should take; the instance is stuck when every thread is busy for longer."""
LAG_SECONDS: Final = 0.5
"""Longest lag of the event loop that health accepts."""
LOSS_SECONDS: Final = 600.0
"""How long health reports a lost line of the log."""
GOLDEN_SECONDS: Final = 10.0
"""How long a result of the self-test stays valid."""
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Health:
    """The body of `/health` (application/health+json) and whether it is good enough for traffic."""

    status: Status
    body: dict[str, Any]

    @property
    def code(self) -> int:
        """The HTTP status."""
        return 503 if self.status == "fail" else 200


class Instance:
    """The one instance of this process. It runs in the event loop; only hashing and the index run in threads."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.tokens = Tokens(settings.tokens)
        self.bodies = Bodies(settings.bodies_bytes)
        self._decodes = Decodes(settings.decode_pixels, settings.threads)
        self.index = Index(
            settings.index, settings.release_id, max_pixels=settings.max_pixels, memory_budget=self._decodes.reserve
        )
        self.started = time.monotonic()
        self.stopping = False
        self.loop_lag = 0.0
        self._state: State = "standby"
        self._state_problem = ""
        self._acceptor: Acceptor | None = None
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="hash")
        self._in_flight = 0
        self._running: dict[int, float] = {}
        self._tested: tuple[float, int | None, str] = (float("-inf"), None, "")

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def accept(self, acceptor: Acceptor) -> None:
        """Accept connections, in every state: who listens in front of it decides who gets requests."""
        self._acceptor = acceptor
        acceptor.watch()
        self.follow_state()

    def follow_state(self) -> None:
        """Enter the state that the state file has; without one, serve. Nothing changes before `accept`.

        While the file cannot be read, the instance is in standby: it answers, and verifies no pairs.
        """
        if self._acceptor is None or self.stopping:
            return
        state, problem = read_state(self.settings.state_file)
        if problem and problem != self._state_problem:
            logger.warning("{}", problem)
        self._state_problem = problem
        self._enter(state)

    async def stop(self) -> None:
        """Drain before the process ends: returns when every connection is closed, or at the deadline."""
        self.stopping = True
        self._enter("draining")
        if self._acceptor is None:
            return
        self._acceptor.close()
        deadline = time.monotonic() + self.settings.drain_deadline
        while (remaining := self._acceptor.open_connections) and time.monotonic() < deadline:
            self._acceptor.endpoint.close_kept_alive()
            await asyncio.sleep(_POLL_SECONDS)
        if remaining:
            logger.warning("{} connections were still open at the drain deadline", remaining)

    def _enter(self, state: State) -> None:
        if state != self._state:
            logger.bind(**{"mobius.state": state, "mobius.state.previous": self._state}).info("Now {}", state)
            self._state = state
        self.metrics.serving.set(state == "serving")
        self.index.verifies_pairs = state == "serving"

    def close(self) -> bool:
        """Stop the threads. Returns whether one of them is still working."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self.index.close() or bool(self._running)

    # -- work ------------------------------------------------------------------------------------------------------

    def enter_request(self) -> None:
        """Count one more request in flight; `leave_request` ends it.

        Raises:
            ProblemError: 503 when there are as many as allowed.
        """
        if self._in_flight >= self.settings.max_in_flight:
            raise ProblemError(503, "Too many requests are being worked on; try again.", headers={"Retry-After": "1"})
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)

    def leave_request(self) -> None:
        self._in_flight -= 1
        self.metrics.in_flight.set(self._in_flight)

    async def hash(
        self, data: bytes | memoryview, mode: Mode, declared: str | None, *, descriptor: bool = False
    ) -> Fingerprint:
        """Hash in a thread.

        Args:
            declared: the format that the client declared.
            descriptor: whether to compute the descriptor as well.

        Raises:
            PictureError, MobiusError: as `mobius.dhash.hash_bytes`.
        """
        try:
            fingerprint, seconds = await asyncio.get_running_loop().run_in_executor(
                self._pool, contextvars.copy_context().run, self._hash, data, mode, declared, descriptor
            )
        except PictureError as error:
            self.metrics.failed(type(error).__name__.removesuffix("Error"))
            raise
        except MobiusError as error:
            self.metrics.failed(error.outcome)
            raise
        self.metrics.hashed(fingerprint.dhash.algorithm, seconds)
        return fingerprint

    async def warm_up(self) -> None:
        """Make Pillow load its readers and the library its hashes, so that the first client does not wait for them."""
        await asyncio.to_thread(self._golden)
        with contextlib.suppress(ProblemError):  # logged; health reports it too, and the next call tries again
            await self.index.run(lambda library: library.search(Dhash(0, 0), limit=1))
        self.index.count()

    def _hash(
        self, data: bytes | memoryview, mode: Mode, declared: str | None, descriptor: bool
    ) -> tuple[Fingerprint, float]:
        encoded, limit, share = bytes(data), self.settings.max_pixels, self._decodes.share
        try:
            with self._decodes.reserve(share):
                return self._timed(encoded, mode, declared, descriptor, min(share, limit))
        except TooManyPixelsError:
            if share >= limit:
                raise
        with self._decodes.reserve(limit):
            return self._timed(encoded, mode, declared, descriptor, limit)

    def _timed(
        self, data: bytes, mode: Mode, declared: str | None, descriptor: bool, max_pixels: int
    ) -> tuple[Fingerprint, float]:
        thread, started = threading.get_ident(), time.monotonic()
        self._running[thread] = started
        try:
            fingerprint = hash_bytes(
                data,
                mode,
                max_pixels=max_pixels,
                declared=declared,
                formats=self.settings.formats,
                descriptor=descriptor,
            )
            return fingerprint, time.monotonic() - started
        finally:
            del self._running[thread]

    async def thumbnail(self, data: bytes) -> bytes:
        """A thumbnail of a picture that was hashed already."""
        limit = self.settings.max_pixels
        try:
            return await self._decode(limit, lambda: thumbnail_of(data, max_pixels=limit))
        except PictureError as error:
            raise ProblemError(422, error.reason) from error

    def load_for_verification(self, data: bytes, found: Fingerprint | Dhash, side: int) -> VerificationImage | None:
        """A picture as `Library.search` looks at it; None of a mere hash, and of what is damaged and could be hashed in
        spite of it. Blocks: for threads."""
        if isinstance(found, Fingerprint) and not found.warnings:
            with self._decodes.reserve(found.width * found.height), contextlib.suppress(PictureError):
                return load_for_verification(data, side, max_pixels=self.settings.max_pixels)
        return None

    async def stored_thumbnail(self, sha256: str, side: int) -> bytes | None:
        """A thumbnail of a picture in the index; None when there is none, or it has more pixels than allowed."""
        picture = await self.index.run(lambda library: library.get(sha256))
        if picture is None:
            return None
        pixels = 0 if picture.path is None else picture.width * picture.height
        if pixels > self.settings.max_pixels:
            return None
        try:
            return await self._decode(pixels, lambda: self.index.library().thumbnail(sha256, side))
        except MobiusError as error:
            raise problem_of(error, 422) from error

    async def _decode(self, pixels: int, work: Callable[[], _T]) -> _T:
        """Decode a picture of at most `pixels` pixels in a thread of the pool."""

        def within_limits() -> _T:
            with self._decodes.reserve(pixels):
                return work()

        return await asyncio.get_running_loop().run_in_executor(
            self._pool, contextvars.copy_context().run, within_limits
        )

    @property
    def stuck(self) -> bool:
        """Whether every thread works on one picture for too long."""
        since = time.monotonic() - STUCK_SECONDS
        return sum(begun < since for begun in list(self._running.values())) >= self.settings.threads

    # -- health ----------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Run every health check."""
        oldest = max((time.monotonic() - begun for begun in list(self._running.values())), default=0.0)
        busy = self._in_flight / self.settings.max_in_flight
        lately = losses.last is not None and time.monotonic() - losses.last < LOSS_SECONDS
        wrong, golden_words = await asyncio.to_thread(self._golden)
        checks: dict[str, tuple[Status, Any, str, str]] = {
            "hash:golden": ("fail" if golden_words else "pass", wrong, "bits", golden_words),
            "requests:inFlight": ("warn" if busy > 0.8 else "pass", self._in_flight, "requests",
                              "Nearly as many requests are worked on as allowed."),
            "hash:oldest": ("fail" if self.stuck else "warn" if oldest > STUCK_SECONDS else "pass",
                            round(oldest, 3), "s", "Pictures take too long."),
            "loop:lag": ("warn" if self.loop_lag > LAG_SECONDS else "pass", round(self.loop_lag, 3), "s",
                         "The event loop is late."),
            "memory:resident": ("pass", memory_bytes(), "bytes", ""),
            "bodies:held": ("pass", self.bodies.held, "bytes", ""),
            "logs:lost": ("warn" if lately else "pass", losses.count, "lines", "Lines of the log are lost."),
            "tokens:file": ("warn" if self.tokens.error else "pass", len(self.tokens), "tokens", self.tokens.error),
        }  # fmt: skip
        if self.settings.state_file is not None:
            checks["state:file"] = ("warn" if self._state_problem else "pass", self._state, "state",
                                    self._state_problem)  # fmt: skip
        if self.index.path is not None:
            checks.update(await asyncio.to_thread(self._index_checks))
        found = [status for status, *_ in checks.values()]
        status: Status = "fail" if "fail" in found else "warn" if "warn" in found else "pass"
        return Health(
            status,
            {
                "status": status,
                "version": self.settings.version,
                "releaseId": self.settings.release_id,
                "serviceId": self.settings.service,
                "state": self._state,
                "uptime": round(time.monotonic() - self.started, 3),
                "warnings": [words for value, _, _, words in checks.values() if value != "pass"],
                "checks": {
                    name: [{"status": value, "observedValue": seen, "observedUnit": unit}]
                    for name, (value, seen, unit, _) in checks.items()
                },
            },
        )

    def _golden(self) -> tuple[int | None, str]:
        """Wrong bits of the built-in picture and a message about them; cached for `GOLDEN_SECONDS`."""
        if time.monotonic() - self._tested[0] > GOLDEN_SECONDS:
            try:
                wrong: int | None = golden.wrong_bits()
                words = f"The built-in picture hashes wrongly: {wrong} bits differ." if wrong else ""
            except MobiusError as error:
                wrong, words = None, f"The built-in picture cannot be hashed: {error.reason}"
            self._tested = (time.monotonic(), wrong, words)
        return self._tested[1:]

    def _index_checks(self) -> dict[str, tuple[Status, Any, str, str]]:
        assert self.index.path is not None
        schema, unreadable = self.index.read_schema()
        unreadable = unreadable or self.index.error
        unwritable = "" if unreadable else self.index.check_writable()
        free = shutil.disk_usage(self.index.path.parent).free
        low = free < self.settings.disk_free_bytes
        self.index.count()
        return {
            "index:schema": ("fail" if unreadable else "pass", schema, "version", unreadable),
            "index:writable": ("warn" if unwritable else "pass", not (unreadable or unwritable), "boolean", unwritable),
            "index:pictures": ("pass", self.index.figures.get("pictures"), "pictures", ""),
            "review:queue": ("pass", self.index.figures.get("review"), "pairs", ""),
            "disk:free": ("warn" if low else "pass", free, "bytes",
                          f"Only {free} bytes are free beside the index."),
        }  # fmt: skip

    def measure(self) -> None:
        """Set the gauges that are not set as things happen."""
        self.index.count()
        self.metrics.connections.set(0 if self._acceptor is None else self._acceptor.open_connections)
        self.metrics.bodies.set(self.bodies.held)
        self.metrics.lost_lines(losses.count)
        for gauge, name in ((self.metrics.pictures, "pictures"), (self.metrics.doubtful, "review")):
            gauge.set(self.index.figures.get(name, 0))

    async def figures(self) -> dict[str, Any]:
        """The body of `/metrics/dhash`."""
        self.index.count()
        totals = self.metrics.totals
        return {
            "release": self.settings.release_id,
            "state": self._state,
            "requests": totals.requests,
            "errors": totals.errors,
            "error_rate": totals.errors / totals.requests if totals.requests else 0.0,
            "pictures": totals.pictures,
            "extraction_failures": totals.failures,
            "extraction_failure_rate": totals.failures / totals.pictures if totals.pictures else 0.0,
            "hash_seconds": self.metrics.percentiles(),
            "doubtful_queue": self.index.figures.get("review", 0),
            "images": self.index.figures.get("pictures", 0),
            "memory_bytes": memory_bytes(),
            "uptime_seconds": round(time.monotonic() - self.started, 3),
        }
