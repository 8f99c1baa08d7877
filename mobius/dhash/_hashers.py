# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hash files in processes of their own, for a scan of many.

Threads share one interpreter, and of a small picture's time half is the interpreter's: a second thread adds a fifth to
a scan of such, a second process nearly doubles it. And a picture that brings its reader down takes a process along,
not the scan.

A process is this module, run. It reads its orders from a socket that it is started with and ends when nobody is at the
other end of it any more, however that came about.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, NamedTuple, Self

from mobius.dhash._hash import Fingerprint, Mode, hash_file
from mobius.errors import MobiusError

WORTH_PROCESSES: Final = 1000
"""Files from which the start of processes, a quarter of a second each, is repaid."""


_AT_ONCE: Final = 8
"""Files that a process is given at a time, so that it need not wait for the scan after each."""

_STARTS: Final = 3
"""Times that a process is started in place of one that came to its end."""


class Unread(NamedTuple):
    """Why a file could not be hashed."""

    reason: str
    again: bool
    """Whether to try again although the file has not changed: what hindered may be gone."""


Hashed = Fingerprint | Unread | OSError
"""A file's fingerprint with its look, or why there is none."""


class Hashers:
    """What hashes the files of a scan.

    Args:
        threads: that will call `hash` at the same time.
        files: that will be hashed; a few are hashed by the threads themselves, many by as many processes.

    Attributes:
        at_once: files that `hash` is best called with.
    """

    def __init__(self, mode: Mode, max_pixels: int, *, threads: int, files: int) -> None:
        self._mode: Mode = mode
        self._max_pixels = max_pixels
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = _started(threads) if threads > 1 and files >= WORTH_PROCESSES else []
        for process in self._all:
            self._idle.put(process)
        self.at_once = _AT_ONCE if self._all else 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes."""
        for process in self._all:
            process.end()

    def hash(self, paths: Sequence[str]) -> list[Hashed]:
        """What each of the files is."""
        if not self._all:
            return _hashed(paths, self._mode, self._max_pixels)
        process = self._idle.get()
        try:
            # a file alone is tried once more: what ended the process need not have been the file
            for _ in range(2 if len(paths) == 1 else 1):
                try:
                    return process.hash(paths, self._mode, self._max_pixels)
                except (EOFError, OSError):
                    process.restart()
        finally:
            self._idle.put(process)
        if len(paths) == 1:
            return [Unread("It brought down the process that read it.", again=True)]
        return [found for path in paths for found in self.hash([path])]


def _started(count: int) -> list[_Process]:
    """So many processes; none where they cannot be had, as in an interpreter that has this module from elsewhere."""
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
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the scan, which ends it
            )

    def wait_until_ready(self) -> None:
        self._connection.recv()

    def hash(self, paths: Sequence[str], mode: Mode, max_pixels: int) -> list[Hashed]:
        self._connection.send((paths, mode, max_pixels))
        found: list[Hashed] = self._connection.recv()
        return found

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        for _ in range(_STARTS):
            self.end()
            with contextlib.suppress(EOFError, OSError):
                self._start()
                self.wait_until_ready()
                return
        raise MobiusError("out_of_memory", "No other process could be started to hash pictures.")


_PROGRAM: Final = f"import sys; from {__name__} import serve; serve(int(sys.argv[1]))"


def serve(descriptor: int) -> None:
    """Hash what is asked for through a socket, until nobody is at its other end."""
    with contextlib.suppress(EOFError, ConnectionError), Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            connection.send(_hashed(*connection.recv()))


def _hashed(paths: Sequence[str], mode: Mode, max_pixels: int) -> list[Hashed]:
    found: list[Hashed] = []
    for path in paths:
        try:
            found.append(hash_file(path, mode, max_pixels=max_pixels, look=True))
        except MobiusError as error:
            found.append(Unread(error.reason, again=error.outcome != "invalid_input"))
        except OSError as error:
            found.append(error)
    return found
