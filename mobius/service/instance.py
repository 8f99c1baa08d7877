# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The instance of one release: its state (standby, serving, draining), the pictures it works on, and its health."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from loguru import logger

from mobius.dhash import (
    VERIFIED_FILE_MAX_BYTES,
    Decoding,
    DecodingPool,
    Dhash,
    Fingerprint,
    Mode,
    PictureError,
    PoolLimits,
    VerificationImage,
)
from mobius.errors import MobiusError
from mobius.logs import losses
from mobius.service import golden
from mobius.service.index import Index, problem_of
from mobius.service.limits import Bodies, PixelBudget
from mobius.service.listening import Acceptor
from mobius.service.metrics import Metrics, memory_bytes
from mobius.service.problems import ProblemError
from mobius.service.settings import ServiceSettings
from mobius.service.state_file import State, read_state
from mobius.service.tokens import Tokens

_T = TypeVar("_T")
Status = Literal["pass", "warn", "fail"]

STUCK_SECONDS: Final = 35.0
"""Longer than a picture may take: the process that decodes it should have been ended."""
QUICK_SHARE: Final = 4
"""A common picture may take this part of the memory of a large one."""
THUMBNAIL_SIDE_PX: Final = 256
"""Longer side of the thumbnail of a posted picture."""
THUMBNAIL_THREADS: Final = 2
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
    """The one instance of this process. It runs in the event loop, the index in threads, decoders in processes."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.tokens = Tokens(settings.tokens)
        self.bodies = Bodies(settings.bodies_bytes)
        limits = PoolLimits(settings.threads, settings.decode_bytes // QUICK_SHARE, settings.decode_bytes)
        self.decoders = DecodingPool(limits, max_pixels=settings.max_pixels, formats=settings.formats)
        self._compared = PixelBudget(settings.decode_pixels, settings.threads)
        self.index = Index(
            settings.index, settings.release_id, max_pixels=settings.max_pixels, memory_budget=self._compared.reserve,
            decoder=self.decoders,
        )  # fmt: skip
        self.started = time.monotonic()
        self.stopping = False
        self.loop_lag = 0.0
        self._state: State = "standby"
        self._state_problem = ""
        self._acceptor: Acceptor | None = None
        self._thumbnails = ThreadPoolExecutor(THUMBNAIL_THREADS, thread_name_prefix="thumbnail")
        self._in_flight = 0
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
        """Stop the processes and the threads. Returns whether one of them was still working."""
        busy = self.decoders.oldest_seconds > 0
        self.decoders.close()
        self._thumbnails.shutdown(wait=False, cancel_futures=True)
        return self.index.close() or busy

    # -- work ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """One more request is being worked on until the block ends. One whose body is still arriving is not.

        Raises:
            ProblemError: 503 when there are as many as allowed.
        """
        if self._in_flight >= self.settings.max_in_flight:
            raise ProblemError(503, "Too many requests are being worked on; try again.", headers={"Retry-After": "1"})
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)

    async def hash(
        self, data: bytes | memoryview, mode: Mode, declared: str | None, *, descriptor: bool = False
    ) -> Fingerprint:
        """Hash in a process.

        Args:
            declared: the format that the client declared.
            descriptor: whether to compute the descriptor as well.

        Raises:
            PictureError, MobiusError: as `DecodingPool.hash`.
        """
        try:
            fingerprint, seconds = await _result_of(
                self.decoders.hash(data, mode, declared=declared, descriptor=descriptor)
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
        """Wait for the decoders, and make the library load its hashes, so that the first client does not wait for them.

        Raises:
            MobiusError: no process can be started to decode pictures.
        """
        await asyncio.to_thread(self._golden)
        await asyncio.to_thread(self.decoders.start)
        with contextlib.suppress(ProblemError):  # logged; health reports it too, and the next call tries again
            await self.index.run(lambda library: library.search(Dhash(0, 0), limit=1))
        self.index.count()

    async def thumbnail(self, data: bytes) -> bytes:
        """A thumbnail of a picture that was hashed already."""
        try:
            return await _result_of(self.decoders.thumbnail(data, THUMBNAIL_SIDE_PX))
        except PictureError as error:
            raise ProblemError(422, error.reason) from error
        except MobiusError as error:
            raise problem_of(error, 422) from error

    def load_for_verification(self, data: bytes, found: Fingerprint | Dhash, side: int) -> VerificationImage | None:
        """A picture as `Library.search` looks at it; None of a mere hash, and of what is damaged and could be hashed in
        spite of it. Blocks: for threads."""
        if isinstance(found, Fingerprint) and not found.warnings:
            with self._compared.reserve(side * side), contextlib.suppress(PictureError):
                return self.decoders.verification_image(data, side).result.result()
        return None

    async def stored_thumbnail(self, sha256: str, side: int) -> bytes | None:
        """A thumbnail of a picture in the index; None when there is none, or it is larger than allowed."""
        picture = await self.index.run(lambda library: library.get(sha256))
        if picture is None:
            return None
        if picture.path is not None and (
            picture.width * picture.height > self.settings.max_pixels or picture.size > VERIFIED_FILE_MAX_BYTES
        ):
            return None
        try:
            # not in the threads of the index: this waits for a decoder
            return await asyncio.get_running_loop().run_in_executor(
                self._thumbnails, lambda: self.index.library().thumbnail(sha256, side)
            )
        except MobiusError as error:
            raise problem_of(error, 422) from error

    @property
    def stuck(self) -> bool:
        """Whether a picture has been worked on for longer than its deadline: nothing ends it."""
        return self.decoders.oldest_seconds > STUCK_SECONDS

    # -- health ----------------------------------------------------------------------------------------------------

    async def health(self, *, shows_paths: bool = True) -> Health:
        """Run every health check.

        Args:
            shows_paths: whether warnings have the paths of files; else only their names.
        """
        self.tokens.refresh()
        token_problem = self.tokens.error or self.tokens.warning
        oldest = self.decoders.oldest_seconds
        busy = self._in_flight / self.settings.max_in_flight
        lately = losses.last is not None and time.monotonic() - losses.last < LOSS_SECONDS
        wrong, golden_words = await asyncio.to_thread(self._golden)
        checks: dict[str, tuple[Status, Any, str, str]] = {
            "hash:golden": ("fail" if golden_words else "pass", wrong, "bits", golden_words),
            "requests:inFlight": ("warn" if busy > 0.8 else "pass", self._in_flight, "requests",
                              "Nearly as many requests are worked on as allowed."),
            "hash:oldest": ("fail" if self.stuck else "pass", round(oldest, 3), "s", "Pictures take too long."),
            "hash:waiting": ("pass", self.decoders.waiting, "pictures", ""),
            "loop:lag": ("warn" if self.loop_lag > LAG_SECONDS else "pass", round(self.loop_lag, 3), "s",
                         "The event loop is late."),
            "memory:resident": ("pass", self._memory_bytes(), "bytes", ""),
            "bodies:held": ("pass", self.bodies.held, "bytes", ""),
            "logs:lost": ("warn" if lately else "pass", losses.count, "lines", "Lines of the log are lost."),
            "tokens:file": ("warn" if token_problem else "pass", len(self.tokens), "tokens", token_problem),
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
                "warnings": [
                    words if shows_paths else self._without_paths(words)
                    for value, _, _, words in checks.values()
                    if value != "pass"
                ],
                "checks": {
                    name: [{"status": value, "observedValue": seen, "observedUnit": unit}]
                    for name, (value, seen, unit, _) in checks.items()
                },
            },
        )

    def _without_paths(self, words: str) -> str:
        for path in (self.settings.tokens, self.settings.state_file, self.settings.index, self.settings.log_file):
            words = words if path is None else words.replace(str(path), path.name)
        return words

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
        schema, unusable = self.index.find_problem()
        unwritable = "" if unusable else self.index.find_write_problem()
        free = 0
        with contextlib.suppress(OSError):  # the folder is gone, as the index is
            free = shutil.disk_usage(self.index.path.parent).free
        low = free < self.settings.disk_free_bytes
        self.index.count()
        return {
            "index:schema": ("fail" if unusable else "pass", schema, "version", unusable),
            "index:writable": ("warn" if unwritable else "pass", not (unusable or unwritable), "boolean", unwritable),
            "index:pictures": ("pass", self.index.figures.get("pictures"), "pictures", ""),
            "review:queue": ("pass", self.index.figures.get("review"), "pairs", ""),
            "disk:free": ("warn" if low else "pass", free, "bytes",
                          f"Only {free} bytes are free beside the index."),
        }  # fmt: skip

    def _memory_bytes(self) -> int:
        """Resident memory of this process and of those that decode for it. Pages that they share count for each."""
        return memory_bytes() + sum(memory_bytes(pid) for pid in self.decoders.pids)

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
            "memory_bytes": self._memory_bytes(),
            "uptime_seconds": round(time.monotonic() - self.started, 3),
        }


async def _result_of(decoding: Decoding[_T]) -> _T:
    """What came of it. When the task is cancelled, since its client has gone, nobody waits for it any more.

    Raises:
        MobiusError: the pool was closed, and as `Decoding.result`.
    """
    try:
        return await asyncio.wrap_future(decoding.result)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise MobiusError("interrupted", "The service is stopping.") from None
        decoding.abandon()
        raise
