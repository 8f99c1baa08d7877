# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hash files in processes of their own, for a scan of many.

Threads share one interpreter, and small pictures take much of its time: a second thread adds little to a scan of them,
a second process nearly doubles its speed (`bench/dhash.py`). And a picture that crashes its decoder ends one process,
not the scan.

A process runs this module of the same installation. It reads requests from a socket that it inherits, and ends after
the current file when the other end is closed for whatever reason. The decoders' standard error is discarded: a process
in the background that writes to a terminal could be stopped for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, NamedTuple, Self

from PIL import Image

from mobius.dhash._fingerprint import Fingerprint, Mode
from mobius.dhash._hashing import hash_file
from mobius.errors import MobiusError

MIN_FILES_FOR_PROCESSES: Final = 1000
"""Scans of fewer files use threads: starting a process takes a quarter of a second."""

_FILES_PER_REQUEST: Final = 8
"""Files of one request, so that a process need not wait for the scan after each."""

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
        self._all = _start_processes(threads) if threads > 1 and files >= MIN_FILES_FOR_PROCESSES else []
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
        if results is not None:
            return results
        if len(paths) == 1:
            return [Unhashed("It brought down the process that read it.", retry=True)]
        return [one for path in paths for one in self.hash([path])]

    def _request(self, process: _Process, paths: Sequence[str]) -> list[HashResult] | None:
        """The process's response; None when it ended over it, and was replaced."""
        # a single file is tried once more: something else may have ended the process
        for _ in range(2 if len(paths) == 1 else 1):
            if self._stopped:
                raise MobiusError("interrupted", "The scan was stopped.")
            try:
                return process.hash(paths, self._mode, self._max_pixels)
            except (EOFError, OSError):
                if not self._stopped:
                    process.restart()
        return None


def _start_processes(count: int) -> list[_Process]:
    """Start processes; none where that is not possible."""
    processes: list[_Process] = []
    try:
        for _ in range(count):
            processes.append(_Process())
        for process in processes:
            process.wait_until_ready()
    except (EOFError, OSError):
        for process in processes:
            process.end()
        return []
    return processes


class _Process:
    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        if not sys.executable:
            raise OSError("The path of this Python is not known.")
        if os.name != "posix":
            raise OSError("A process inherits no socket on this platform.")
        self._connection, remote = Pipe()
        with remote:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{_bootstrap_code()}\n{_PROGRAM}", str(remote.fileno())],
                pass_fds=[remote.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # or it starts a thread for each processor
                process_group=0,  # Ctrl-C goes to the scan, which ends this process
            )

    def wait_until_ready(self) -> None:
        self._connection.recv()

    def hash(self, paths: Sequence[str], mode: Mode, max_pixels: int) -> list[HashResult]:
        self._connection.send(([os.fsencode(path) for path in paths], mode, max_pixels))
        results: list[HashResult] = self._connection.recv()
        return results

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        reason = ""
        for pause in _RESTART_PAUSES_SECONDS:
            time.sleep(pause)
            self.end()
            try:
                self._start()
                self.wait_until_ready()
                return
            except (EOFError, OSError) as error:
                reason = str(error) or "it ended at once"
        raise MobiusError(
            "out_of_memory",
            f"No other process could be started to hash pictures: {reason}.",
            do_next="Run again, with --threads 1 if need be: what is done is kept.",
        )


def _bootstrap_code() -> str:
    """Code that gives a new interpreter the module path and the pixel limit of this one."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from PIL import Image; Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS!r}"
    )


_PROGRAM: Final = f"import sys; from {__name__} import serve; serve(int(sys.argv[1]))"


def serve(descriptor: int) -> None:
    """Answer requests from a socket until its other end is closed."""
    with contextlib.suppress(EOFError, ConnectionError), Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            paths, mode, max_pixels = connection.recv()
            results = []
            for path in paths:
                results.append(_hash_or_reason(os.fsdecode(path), mode, max_pixels))
                if connection.poll():
                    return  # no request comes before the response, so the other end is closed
            connection.send(results)


def _hash_or_reason(path: str, mode: Mode, max_pixels: int) -> HashResult:
    try:
        return hash_file(path, mode, max_pixels=max_pixels, descriptor=True)
    except MobiusError as error:
        return Unhashed(error.reason, retry=error.outcome != "invalid_input")
    except OSError as error:
        return error
    except MemoryError:
        return Unhashed("There was not enough memory to read it.", retry=True)
