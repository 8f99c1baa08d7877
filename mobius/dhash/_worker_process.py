# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A process of its own that decodes pictures, as the process that started it sees it.

It runs `_worker` of the same installation in a new interpreter, so it inherits neither memory nor descriptors but the
socket of its requests. Its standard error is discarded: decoders write to it what clients make them write, and a
process in the background that writes to a terminal could be stopped for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Final

from PIL import Image

from mobius.dhash._wire import Payload, receive_message, send_message
from mobius.dhash._worker_limits import WorkerLimits

_START_SECONDS: Final = 60.0
_SEND_BUFFER_BYTES: Final = 1 << 20
_CPU_SIGNALS: Final = tuple(
    -number for number in (getattr(signal, "SIGPROF", None), getattr(signal, "SIGXCPU", None)) if number is not None
)

_VARIABLES: Final = ("PATH", "HOME", "LANG", "TMPDIR", "TZ")
_PREFIXES: Final = ("PYTHON", "LC_", "LD_", "DYLD_")

PROGRAM: Final = "from mobius.dhash._worker import serve; from mobius.dhash._worker_limits import WorkerLimits"


class WorkerEndedError(Exception):
    """The process ended over a request.

    Args:
        out_of_time: whether it took too long; else its decoder crashed, or somebody killed it.
    """

    def __init__(self, *, out_of_time: bool) -> None:
        super().__init__("The process that decoded a picture ended.")
        self.out_of_time = out_of_time


class WorkerProcess:
    """One process. For one thread at a time; only `kill` may be called by another.

    Raises:
        OSError, EOFError: it cannot be started.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        if not sys.executable:
            raise OSError("The path of this Python is not known.")
        if os.name != "posix":
            raise OSError("A process inherits no socket on this platform.")
        self._limits = limits
        self._channel, remote = socket.socketpair()
        with remote, contextlib.ExitStack() as on_failure:
            on_failure.callback(self._channel.close)
            with contextlib.suppress(OSError):
                self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{_bootstrap_code()}\n{PROGRAM}\nserve({limits!r})"],
                stdin=remote.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # Ctrl-C goes to the process that started it, which ends this one
            )
            on_failure.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        receive_message(self._channel, time.monotonic() + _START_SECONDS)

    def request(
        self, header: dict[str, Any], payload: Payload = b"", *, pictures: int = 1
    ) -> tuple[dict[str, Any], bytearray]:
        """Send a request; returns the answer. Afterwards a process that ended must be replaced.

        Args:
            pictures: how many the request is about: it has as many times the time.

        Raises:
            WorkerEndedError: there is no answer.
        """
        deadline = time.monotonic() + self._limits.wall_seconds * pictures
        try:
            self._channel.settimeout(self._limits.wall_seconds * pictures)
            send_message(self._channel, header, payload)
            return receive_message(self._channel, deadline)
        except TimeoutError as error:
            self.end()
            raise WorkerEndedError(out_of_time=True) from error
        except (EOFError, OSError, ValueError) as error:
            code = self.end(wait=not isinstance(error, ValueError))
            raise WorkerEndedError(out_of_time=code in _CPU_SIGNALS) from error
        except BaseException:
            self.end()  # or the next request would get the answer to this one
            raise

    def kill(self) -> None:
        self._process.kill()

    def end(self, *, wait: bool = False) -> int:
        """End the process; returns its return code.

        Args:
            wait: the process has closed its end, so that its own code comes within moments.
        """
        if wait:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        self._channel.close()
        self._process.kill()
        return self._process.wait()


def _environment() -> dict[str, str]:
    """What an interpreter needs to start; the other variables may be secrets of the process that starts it."""
    kept = {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_PREFIXES)}
    return {**kept, **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")}


def _bootstrap_code() -> str:
    """Code that gives a new interpreter the module path and the pixel limit of this one."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from PIL import Image; Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS!r}"
    )
