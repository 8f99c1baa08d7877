# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hash files in processes of their own, for a scan of many.

Threads share one interpreter, and small pictures take much of its time: a second thread adds little to a scan of them,
a second process nearly doubles its speed (`bench/dhash.py`). And a picture that crashes its decoder, or takes more
memory or time than any picture should, ends one process, not the scan.

The processes are those of `_worker_process`, and open the files themselves.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from mobius.dhash._fingerprint import Fingerprint, Mode
from mobius.dhash._hashing import hash_file
from mobius.dhash._wire import parse_error, parse_fingerprint
from mobius.dhash._worker_limits import WorkerLimits
from mobius.dhash._worker_process import WorkerEndedError, WorkerProcess
from mobius.errors import MobiusError

MIN_FILES_FOR_PROCESSES: Final = 1000
"""Scans of fewer files use threads: starting a process takes a quarter of a second."""

_FILES_PER_REQUEST: Final = 8
"""Files of one request, so that a process need not wait for the scan after each."""

BYTES_PER_PIXEL: Final = 20
"""Memory that decoding may take for each pixel of the largest picture allowed: the most that a decoder needs."""
_MIN_MEMORY_BYTES: Final = 128 << 20
_CPU_SECONDS: Final = 120.0
_WALL_SECONDS: Final = 600.0
"""A scan reads files of its user, from disks that may be slow: these limits are for what never ends."""

_RESTART_PAUSES_SECONDS: Final = (0.0, 0.2, 2.0)
"""Pauses before each attempt to replace a process that ended."""


class Unhashed(NamedTuple):
    """Why a file could not be hashed."""

    reason: str
    retry: bool
    """Whether to try again although the file has not changed, as the cause may be temporary."""


HashResult = Fingerprint | Unhashed | OSError
"""A file's fingerprint with its descriptor, or why there is none."""


class HashingPool:
    """Hashes the files of a scan.

    Args:
        threads: the number of threads that call `hash` at the same time.
        files: the number of files; few are hashed by the threads themselves, many by one process for each thread.

    Attributes:
        batch_size: the number of files that `hash` is best called with.
    """

    def __init__(self, mode: Mode, max_pixels: int, *, threads: int, files: int) -> None:
        self._mode: Mode = mode
        self._max_pixels = max_pixels
        self._stopped = False
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        limits = WorkerLimits(
            max_pixels * BYTES_PER_PIXEL + _MIN_MEMORY_BYTES, _CPU_SECONDS, _WALL_SECONDS, open_files=True
        )
        self._all = _start_processes(threads, limits) if threads > 1 and files >= MIN_FILES_FOR_PROCESSES else []
        for process in self._all:
            self._idle.put(process)
        self.batch_size = _FILES_PER_REQUEST if self._all else 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes."""
        for process in self._all:
            process.end()

    def stop(self) -> None:
        """Abort. Every later call of `hash`, and those that wait, raise MobiusError."""
        self._stopped = True
        for process in self._all:
            process.kill()

    def hash(self, paths: Sequence[str]) -> list[HashResult]:
        """The result for each file.

        Raises:
            MobiusError: a process that ended could not be replaced, or `stop` was called.
        """
        if not self._all:
            return [_hash_or_reason(path, self._mode, self._max_pixels) for path in paths]
        if not paths:
            return []
        process = self._idle.get()
        try:
            results = self._request(process, paths)
        except BaseException:
            process.end()  # or the next request would get the response to this one
            raise
        finally:
            self._idle.put(process)
        if isinstance(results, list):
            return results
        if len(paths) == 1:
            return [results]
        return [one for path in paths for one in self.hash([path])]

    def _request(self, process: _Process, paths: Sequence[str]) -> list[HashResult] | Unhashed:
        """The process's response; why there is none when it ended over it, and was replaced."""
        # a single file is tried once more: something else may have ended the process
        for _ in range(2 if len(paths) == 1 else 1):
            if self._stopped:
                raise MobiusError("interrupted", "The scan was stopped.")
            try:
                return process.hash(paths, self._mode, self._max_pixels)
            except WorkerEndedError as ended:
                if not self._stopped:
                    process.restart()
                if ended.out_of_time:
                    return Unhashed(f"Decoding it takes more than {_CPU_SECONDS:g} seconds.", retry=True)
        return Unhashed("It brought down the process that read it.", retry=True)


def _start_processes(count: int, limits: WorkerLimits) -> list[_Process]:
    """Start processes; none where that is not possible."""
    processes: list[_Process] = []
    try:
        for _ in range(count):
            processes.append(_Process(limits))
        for process in processes:
            process.wait_until_ready()
    except (EOFError, OSError):
        for process in processes:
            process.end()
        return []
    return processes


class _Process:
    """A process, and those that replace it."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._worker = WorkerProcess(limits)

    def wait_until_ready(self) -> None:
        self._worker.wait_until_ready()

    def hash(self, paths: Sequence[str], mode: Mode, max_pixels: int) -> list[HashResult]:
        request = {"job": "hash_files", "paths": list(paths), "mode": mode, "max_pixels": max_pixels}
        answer, _ = self._worker.request(request, pictures=len(paths))
        results = [_parse_result(result) for result in answer["results"]]
        if answer["retire"]:
            self.restart()
        return results

    def kill(self) -> None:
        self._worker.kill()

    def end(self) -> None:
        self._worker.end()

    def restart(self) -> None:
        reason = ""
        for pause in _RESTART_PAUSES_SECONDS:
            time.sleep(pause)
            self.end()
            try:
                self._worker = WorkerProcess(self._limits)
                self.wait_until_ready()
                return
            except (EOFError, OSError) as error:
                reason = str(error) or "it ended at once"
        raise MobiusError(
            "out_of_memory",
            f"No other process could be started to hash pictures: {reason}.",
            do_next="Run again, with --threads 1 if need be: what is done is kept.",
        )


def _parse_result(document: dict[str, Any]) -> HashResult:
    if "fingerprint" in document:
        return parse_fingerprint(document["fingerprint"])
    if "errno" in document:
        return OSError(document["errno"], document["strerror"])
    return _unhashed(parse_error(document["error"]))


def _unhashed(error: MobiusError) -> Unhashed:
    return Unhashed(error.reason, retry=error.outcome != "invalid_input")


def _hash_or_reason(path: str, mode: Mode, max_pixels: int) -> HashResult:
    try:
        return hash_file(path, mode, max_pixels=max_pixels, descriptor=True)
    except MobiusError as error:
        return _unhashed(error)
    except OSError as error:
        return error
    except MemoryError:
        return Unhashed("There was not enough memory to read it.", retry=True)
