# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Processes that decode pictures that clients send to a service, in two lanes.

Nearly every picture needs little. So the *quick* lane has a process for each processor, with little memory and a second
of processor time; a picture that says that it needs more, or that breaks these limits, goes to the *large* lane: one
process with much memory and time. Whatever a picture does, the next one in the quick lane waits no longer than that
second, and the memory of all is bounded by the limits of their processes.

A picture that breaks the limits of the large lane is refused, and one that crashes its decoder is, too. That costs the
process, which is replaced in the background.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from loguru import logger

from mobius.dhash._fingerprint import Fingerprint, Mode
from mobius.dhash._formats import FORMATS
from mobius.dhash._verification_image import VerificationImage
from mobius.dhash._wire import Payload, parse_error, parse_fingerprint, parse_verification_image
from mobius.dhash._worker_limits import WorkerLimits
from mobius.dhash._worker_process import WorkerEndedError, WorkerProcess
from mobius.dhash._worker_slot import WorkerSlot
from mobius.dhash.errors import DecoderCrashedError, DecodingLimitError, UnopenedPictureError
from mobius.errors import MobiusError

QUICK_CPU_SECONDS: Final = 1.0
QUICK_WALL_SECONDS: Final = 4.0
LEASH_CPU_SECONDS: Final = 0.25
LEASH_SECONDS: Final = 30.0
"""After a picture has broken the limit of time of the quick lane, others have less of it there for so long."""
QUICK_BODY_SHARE: Final = 8
"""A picture whose bytes are more than this part of the quick lane's memory goes to the large lane at once."""
LARGE_CPU_SECONDS: Final = 15.0
LARGE_WALL_SECONDS: Final = 30.0
QUEUE_SECONDS: Final = 10.0
"""How long a picture waits for a process of its lane."""
ABANDONED_SECONDS: Final = 0.5
"""How long a process may go on with a picture that nobody waits for: ending it costs more than most pictures."""

_COMMON: Final = (b"\xff\xd8\xff", b"\x89PNG")
_MAX_SUSPECTS: Final = 64

_T = TypeVar("_T")
_Parse = Callable[[dict[str, Any], bytearray], _T]


class _TooSlowError(DecodingLimitError):
    """Decoding takes more time than allowed."""


class QueueFullError(MobiusError):
    """A picture has waited as long as it may for a process."""

    def __init__(self) -> None:
        super().__init__("timeout", "Too many pictures are waiting; try again.")


@dataclass(frozen=True)
class PoolLimits:
    """The limits of a pool.

    Attributes:
        processes: of the quick lane.
        quick_bytes: memory that each of them may allocate above its baseline.
        large_bytes: the same for the process of the large lane.
    """

    processes: int
    quick_bytes: int
    large_bytes: int


class Decoding(Generic[_T]):
    """One picture on its way through the pool.

    Attributes:
        result: what came of it. Its exceptions are those of the call, DecoderCrashedError, QueueFullError, and
            MobiusError when no process can be started.
    """

    def __init__(self, header: dict[str, Any], payload: Payload, parse: _Parse[_T]) -> None:
        self.result: Future[_T] = Future()
        self.header = header
        self.payload = payload
        self.parse = parse
        self.context = contextvars.copy_context()
        self.queued_at = 0.0
        self.started_at: float | None = None
        self.process: WorkerProcess | None = None
        self.abandoned = False
        self.queued: Future[None] | None = None

    def abandon(self) -> None:
        """Nobody waits for it any more: it leaves the queue, or its process is ended unless it is ready soon."""
        self.abandoned = True
        if self.queued is not None and self.queued.cancel():
            self.result.cancel()
        elif self.started_at is not None:
            left = self.started_at + ABANDONED_SECONDS - time.monotonic()
            timer = threading.Timer(max(0.0, left), self._kill)
            timer.daemon = True
            timer.start()

    def expire(self, now: float) -> None:
        """Give up waiting for a process, if it has waited too long."""
        waited = now - self.queued_at
        if self.started_at is None and waited > QUEUE_SECONDS and self.queued is not None and self.queued.cancel():
            with contextlib.suppress(InvalidStateError):
                self.result.set_exception(QueueFullError())

    def _kill(self) -> None:
        process = self.process
        if process is not None and not self.result.done():
            process.kill()


class DecodingPool:
    """The processes of one service. Thread-safe.

    Args:
        max_pixels: larger pictures are refused.
        formats: the formats that are read.
    """

    def __init__(self, limits: PoolLimits, *, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> None:
        self.limits = limits
        self._max_pixels = max_pixels
        self._formats = formats
        self._quick = _Lane(
            "quick", limits.processes, WorkerLimits(limits.quick_bytes, QUICK_CPU_SECONDS, QUICK_WALL_SECONDS)
        )
        self._large = _Lane("large", 1, WorkerLimits(limits.large_bytes, LARGE_CPU_SECONDS, LARGE_WALL_SECONDS))
        self._suspects: dict[bytes, float] = {}
        self._leash_until = 0.0
        self._waiting: set[Decoding[Any]] = set()

    def start(self) -> None:
        """Start the processes of the quick lane, and wait until they are ready. The others start when they are needed.

        Raises:
            MobiusError: one cannot be started.
        """
        for following in [slot.start() for slot in self._quick.slots]:
            following.result()

    def close(self) -> None:
        """End the processes, whatever they do."""
        for lane in (self._quick, self._large):
            lane.close()

    @property
    def pids(self) -> list[int]:
        """Those of the processes that run."""
        return self._quick.pids + self._large.pids

    @property
    def oldest_seconds(self) -> float:
        """For how long the picture that has been worked on longest has been."""
        return max(self._quick.oldest_seconds, self._large.oldest_seconds)

    @property
    def waiting(self) -> int:
        """Pictures that wait for a process."""
        return self._quick.waiting + self._large.waiting

    def expire_waiting(self) -> None:
        """Give up those that have waited too long. To be called about once a second."""
        now = time.monotonic()
        for decoding in list(self._waiting):
            decoding.expire(now)

    # -- what it does -----------------------------------------------------------------------------------------------

    def hash(
        self, data: Payload, mode: Mode = "fast", *, declared: str | None = None, descriptor: bool = False
    ) -> Decoding[tuple[Fingerprint, float]]:
        """As `hash_bytes`; the result comes with the seconds that it took."""
        header = {"job": "hash", "mode": mode, "declared": declared, "descriptor": descriptor,
                  "formats": self._formats}  # fmt: skip
        return self._submit(
            header, data, lambda answer, _: (parse_fingerprint(answer["fingerprint"]), float(answer["seconds"]))
        )

    def thumbnail(self, data: Payload, side: int) -> Decoding[bytes]:
        """As `thumbnail_of`."""
        return self._submit({"job": "thumbnail", "side": side}, data, lambda _, thumbnail: bytes(thumbnail))

    def verification_image(self, data: Payload, side: int) -> Decoding[VerificationImage]:
        """As `load_for_verification`."""
        return self._submit({"job": "verification_image", "side": side}, data, parse_verification_image)

    # -- the same for those that wait (`Decoder`) ---------------------------------------------------------------------

    def load_for_verification(self, data: Payload, side: int, *, max_pixels: int) -> VerificationImage:  # noqa: ARG002
        """As the function of this name, within this pool's own limits."""
        return self.verification_image(data, side).result.result()

    def thumbnail_of(self, data: Payload, side: int) -> bytes:
        """As the function of this name, within this pool's own limits."""
        return self.thumbnail(data, side).result.result()

    def _submit(self, header: dict[str, Any], data: Payload, parse: _Parse[_T]) -> Decoding[_T]:
        decoding = Decoding({**header, "max_pixels": self._max_pixels}, data, parse)
        self._waiting.add(decoding)
        decoding.result.add_done_callback(lambda _: self._waiting.discard(decoding))
        is_large = len(data) > self.limits.quick_bytes // QUICK_BODY_SHARE or self._is_suspect(_kind_of(data))
        self._enqueue(self._large if is_large else self._quick, decoding)
        return decoding

    def _is_suspect(self, kind: bytes) -> bool:
        """Whether a picture of this kind has just taken too long. JPEG and PNG are too common to make them all wait."""
        return kind not in _COMMON and time.monotonic() < self._suspects.get(kind, 0.0)

    def _note_slow(self, data: Payload) -> None:
        """A picture has taken too long in the quick lane."""
        until = time.monotonic() + LEASH_SECONDS
        self._leash_until = until
        if len(self._suspects) < _MAX_SUSPECTS or _kind_of(data) in self._suspects:
            self._suspects[_kind_of(data)] = until

    def _enqueue(self, lane: _Lane, decoding: Decoding[Any]) -> None:
        decoding.queued_at, decoding.started_at = time.monotonic(), None
        try:
            decoding.queued = lane.executor.submit(self._work, lane, decoding)
        except RuntimeError:  # the pool was closed
            decoding.result.cancel()

    def _work(self, lane: _Lane, decoding: Decoding[Any]) -> None:
        decoding.started_at = time.monotonic()
        if lane is self._quick and self._is_suspect(_kind_of(decoding.payload)) and not decoding.abandoned:
            self._enqueue(self._large, decoding)
            return
        leashed = lane is self._quick and decoding.started_at < self._leash_until
        decoding.header["cpu_seconds"] = LEASH_CPU_SECONDS if leashed else lane.cpu_seconds
        if decoding.abandoned:
            decoding.result.cancel()
            return
        try:
            result = decoding.context.copy().run(lane.run, decoding)
        except (DecodingLimitError, UnopenedPictureError) as error:
            if lane is self._quick and isinstance(error, _TooSlowError):
                self._note_slow(decoding.payload)
            if lane is self._quick and not decoding.abandoned:
                self._enqueue(self._large, decoding)
            else:
                _set(decoding.result, DecodingLimitError(error.reason) if isinstance(error, _TooSlowError) else error)
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            _set(decoding.result, error)
        else:
            with contextlib.suppress(InvalidStateError):
                decoding.result.set_result(result)


def _kind_of(data: Payload) -> bytes:
    """What the first bytes say that a picture is; that of a container (ISO 14496-12) stands after its length."""
    head = bytes(memoryview(data)[:12])
    if head.startswith(_COMMON[0]):
        return _COMMON[0]
    return head[4:12] if head[4:8] == b"ftyp" else head[:4]


def _set(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


class _Lane:
    """Processes with the same limits, and a thread for each that talks to it."""

    def __init__(self, name: str, processes: int, limits: WorkerLimits) -> None:
        self._limits = limits
        self.cpu_seconds = limits.cpu_seconds
        self.slots = [WorkerSlot(limits) for _ in range(processes)]
        self._idle: queue.SimpleQueue[WorkerSlot] = queue.SimpleQueue()
        for slot in self.slots:
            self._idle.put(slot)
        self.executor = ThreadPoolExecutor(processes, thread_name_prefix=f"decode-{name}")
        self._running: dict[int, float] = {}

    @property
    def waiting(self) -> int:
        return self.executor._work_queue.qsize()

    @property
    def pids(self) -> list[int]:
        return [pid for slot in self.slots if (pid := slot.pid) is not None]

    @property
    def oldest_seconds(self) -> float:
        now = time.monotonic()
        return max((now - begun for begun in list(self._running.values())), default=0.0)

    def close(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)
        for slot in self.slots:
            slot.kill()
        self.executor.shutdown()  # no answer comes any more, so nothing is waited for
        for slot in self.slots:
            slot.close()

    def run(self, decoding: Decoding[_T]) -> _T:
        slot = self._idle.get()
        thread = threading.get_ident()
        self._running[thread] = time.monotonic()
        try:
            return self._run(slot, decoding)
        finally:
            del self._running[thread]
            decoding.process = None
            self._idle.put(slot)

    def _run(self, slot: WorkerSlot, decoding: Decoding[_T]) -> _T:
        process = slot.process()
        decoding.process = process
        try:
            answer, data = process.request(decoding.header, decoding.payload)
            error = parse_error(answer["error"]) if "error" in answer else None
            result = decoding.parse(answer, data) if error is None else None
        except WorkerEndedError as ended:
            slot.replace()
            raise self._explain(ended, decoding) from ended
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            slot.replace()  # a decoder that answers nonsense is no better than one that crashed
            raise self._explain(WorkerEndedError(out_of_time=False), decoding) from wrong
        if answer.get("retire"):
            slot.renew()
        if error is not None:
            raise self._too_much_memory(error)
        return result  # type: ignore[return-value]

    def _too_much_memory(self, error: MobiusError) -> MobiusError:
        if error.outcome != "out_of_memory":
            return error
        megabytes = (self._limits.memory_bytes or 0) >> 20
        return DecodingLimitError(f"Decoding the picture needs more than the {megabytes} MB of memory allowed.")

    def _explain(self, ended: WorkerEndedError, decoding: Decoding[Any]) -> MobiusError:
        if decoding.abandoned:
            return MobiusError("interrupted", "Nobody waits for the picture any more.")
        if ended.out_of_time:
            return _TooSlowError(
                f"Decoding the picture takes more than the {self._limits.cpu_seconds:g} seconds allowed."
            )
        logger.warning("A picture of {} bytes ended the process that decoded it", len(decoding.payload))
        return DecoderCrashedError("The picture is damaged: its decoder crashed over it.")
