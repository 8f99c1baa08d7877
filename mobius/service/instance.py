# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One release's instance: its life (standby, serving, draining), the pictures it works on, and its health."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

from loguru import logger
from PIL import Image

from mobius.dhash import Fingerprint, Mode, PictureError, hash_bytes
from mobius.errors import MobiusError
from mobius.service.listening import PublicSocket
from mobius.service.metrics import Metrics, memory_bytes
from mobius.service.problems import ProblemError
from mobius.service.settings import Settings

State = Literal["standby", "serving", "draining"]
Status = Literal["pass", "warn", "fail"]

STUCK_SECONDS: Final = 30.0
"""No picture is worth more time; when every thread is busy for longer, the instance is sick."""
LAG_SECONDS: Final = 0.5
"""The event loop may be late by this much."""
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
    """The process's one instance. Lives in the event loop; only hashing happens in threads."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.public: PublicSocket | None = None
        self.started = time.monotonic()
        self.stopping = False
        self.loop_lag = 0.0
        self._state: State = "standby"
        self._drain: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="hash")
        self._in_flight = 0
        self._running: dict[int, float] = {}
        self._images: tuple[float, int] = (float("-inf"), 0)

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def describe(self) -> dict[str, Any]:
        """The body of `/admin/state`."""
        connections = self.public.open_connections if self.public is not None else 0
        return {
            "release": self.settings.release_id,
            "state": self._state,
            "connections": connections,
            "pid": os.getpid(),
        }

    def serve(self) -> None:
        """Accept from the public socket. Serving already is as good.

        Raises:
            ProblemError: 409 when it holds no public socket or is about to exit.
        """
        if self.public is None:
            raise ProblemError(409, "This instance holds no public socket, so it cannot serve.")
        if self.stopping:
            raise ProblemError(409, "This instance is stopping, so it cannot serve.")
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        self.public.watch()
        self._enter("serving")

    def stand_by(self) -> None:
        """Accept no more and drain; standby once the connections have gone, or at the deadline."""
        if self._state != "serving" or self.public is None:
            return
        self.public.leave()
        self._enter("draining")
        self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def stop(self) -> None:
        """Drain for good: returns when every connection has gone, or at the deadline."""
        self.stopping = True
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        if self.public is not None:
            self.public.leave()
        self._enter("draining")
        await self._emptied()

    async def _drained(self) -> None:
        await self._emptied()
        self._drain = None
        self._enter("standby")

    async def _emptied(self) -> None:
        """Wait until no connection is open, at most until the deadline."""
        if self.public is None:
            return
        deadline = time.monotonic() + self.settings.drain_deadline
        while (left := self.public.open_connections) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        if left:
            logger.warning("{} connections were still open at the drain deadline", left)

    def _enter(self, state: State) -> None:
        if state != self._state:
            logger.bind(**{"mobius.state": state, "mobius.state.previous": self._state}).info("Now {}", state)
            self._state = state
        self.metrics.serving.set(state == "serving")

    def close(self) -> bool:
        """Give the threads up. Returns whether one of them is still at work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return bool(self._running)

    # -- work ------------------------------------------------------------------------------------------------------

    def enter_request(self) -> None:
        """Take one of the places for hash requests; `leave_request` gives it back.

        Raises:
            ProblemError: 503 when all are taken.
        """
        if self._in_flight >= self.settings.max_in_flight:
            raise ProblemError(503, "Too many pictures are being worked on; try again.", headers={"Retry-After": "1"})
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)

    def leave_request(self) -> None:
        self._in_flight -= 1
        self.metrics.in_flight.set(self._in_flight)

    async def hash(self, data: bytes, mode: Mode, declared: str | None) -> Fingerprint:
        """Hash in a thread.

        Raises:
            PictureError, MobiusError: as `mobius.dhash.hash_bytes`.
        """
        try:
            fingerprint, seconds = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._hash, data, mode, declared
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
        """Let Pillow load its readers now, so that the first client does not wait for it (70 ms)."""
        picture = io.BytesIO()
        Image.new("RGB", (160, 160)).save(picture, "JPEG")
        await asyncio.get_running_loop().run_in_executor(self._pool, self._hash, picture.getvalue(), "fast", None)

    def _hash(self, data: bytes, mode: Mode, declared: str | None) -> tuple[Fingerprint, float]:
        me, begun = threading.get_ident(), time.monotonic()
        self._running[me] = begun
        try:
            fingerprint = hash_bytes(data, mode, max_pixels=self.settings.max_pixels, declared=declared)
            return fingerprint, time.monotonic() - begun
        finally:
            del self._running[me]

    @property
    def stuck(self) -> bool:
        """Whether every thread has been at one picture for too long."""
        since = time.monotonic() - STUCK_SECONDS
        return sum(begun < since for begun in list(self._running.values())) >= self.settings.threads

    # -- health ----------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Look at oneself."""
        oldest = max((time.monotonic() - begun for begun in list(self._running.values())), default=0.0)
        busy = self._in_flight / self.settings.max_in_flight
        checks: dict[str, tuple[Status, Any, str, str]] = {
            "hash:inFlight": ("warn" if busy > 0.8 else "pass", self._in_flight, "requests",
                              "Nearly as many pictures in work as allowed."),
            "hash:oldest": ("fail" if self.stuck else "warn" if oldest > STUCK_SECONDS else "pass",
                            round(oldest, 3), "s", "Pictures take too long."),
            "loop:lag": ("warn" if self.loop_lag > LAG_SECONDS else "pass", round(self.loop_lag, 3), "s",
                         "The event loop is late."),
            "memory:resident": ("pass", memory_bytes(), "bytes", ""),
        }  # fmt: skip
        if self.settings.index is not None:
            schema, words = await asyncio.to_thread(self._index_schema)
            checks["index:schema"] = ("fail" if words else "pass", schema, "version", words)
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

    def _index_schema(self) -> tuple[int | None, str]:
        """The index's schema version (None before there is an index) and what is wrong with it."""
        path = self.settings.index
        if path is None or not path.exists():
            return None, ""
        try:
            database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)
            try:
                schema = int(database.execute("PRAGMA user_version").fetchone()[0])
                if time.monotonic() - self._images[0] > 10 and schema:
                    count = int(database.execute("SELECT count(*) FROM images").fetchone()[0])
                    self._images = (time.monotonic(), count)
            finally:
                database.close()
        except sqlite3.Error as error:
            return None, f"The index cannot be read: {error}."
        return schema, ""

    async def figures(self) -> dict[str, Any]:
        """The body of `/metrics/dhash` for this instance."""
        if self.settings.index is not None:
            await asyncio.to_thread(self._index_schema)
        totals = self.metrics.totals
        return {
            "release": self.settings.release_id,
            "up": 1,
            "state": self._state,
            "requests": totals.requests,
            "errors": totals.errors,
            "error_rate": totals.errors / totals.requests if totals.requests else 0.0,
            "pictures": totals.pictures,
            "extraction_failures": totals.failures,
            "extraction_failure_rate": totals.failures / totals.pictures if totals.pictures else 0.0,
            "hash_seconds": self.metrics.percentiles(),
            "doubtful_queue": 0,
            "images": self._images[1],
            "memory_bytes": memory_bytes(),
            "uptime_seconds": round(time.monotonic() - self.started, 3),
        }
