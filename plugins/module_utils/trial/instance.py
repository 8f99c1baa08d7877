# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One instance of the service: started as its unit would start it, asked for its health, and stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ..host.front.settings import HTTP, WORKER
from ..host.front.slots import HOST, Slot
from ..host.instance import send_request
from . import machine
from .settings import TrialSettings

POLL_SECONDS = 0.05
REQUEST_SECONDS = 2.0
REFUSED_SECONDS = 2.0  # for which a health path may answer with 4xx before it counts as its answer
ELSEWHERE_SECONDS = 3.0  # for which an instance may listen elsewhere alone
WORKER_SECONDS = 2.0  # for which a worker has to run
SHOWN_LINES, SHOWN_MAX_CHARS = 3, 300

HEALTHY, EXITED, BACKGROUND, REFUSED, ELSEWHERE, SILENT = (
    *("healthy", "exited", "background", "refused", "elsewhere", "silent"),
)


@dataclass(frozen=True)
class Start:
    """How a start went: one of the words above, what was seen, and the seconds that it took."""

    result: str
    detail: str
    seconds: float


class Instance:
    """A process in the trial's folder, listening on the address of its slot."""

    def __init__(self, settings: TrialSettings, slot: Slot) -> None:
        self.settings = settings
        self.slot = slot
        self.release = str(slot.release)
        self.log = settings.folder / f"{self.release}.out"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it.

        Raises:
            OSError: it cannot be run, as for a script whose interpreter is missing.
        """
        state = self.settings.state_file(self.release)
        state.write_text("standby\n")
        words = self.settings.command_of(self.settings.exec, self.slot)
        program = self.settings.find_program(words[0]) or Path(words[0])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), *words[1:]],
                cwd=self.settings.tree,
                env=self.settings.environment_of(self.slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o027,
            )

    @property
    def pids(self) -> set[int]:
        """Its processes, those in the background too."""
        if self.process is None or not machine.is_known():
            return set()
        marker = f"MOBIUS_STATE_FILE={self.settings.state_file(self.release)}"
        return machine.find_processes(self.process.pid, marker)

    @property
    def is_running(self) -> bool:
        """Whether the process that was started runs."""
        return self.process is not None and self.process.poll() is None

    def last_lines(self) -> str:
        """The end of what it has printed."""
        text = self.log.read_bytes()[-4096:].decode("utf-8", "replace") if self.log.exists() else ""
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()][-SHOWN_LINES:]
        shown = " | ".join("".join(char for char in line if char.isprintable()) for line in lines)
        return shown if len(shown) <= SHOWN_MAX_CHARS else f"…{shown[-SHOWN_MAX_CHARS:]}"

    def wait_until_healthy(self, limit: float) -> Start:
        """Wait until it is healthy, or it is clear that it will not be."""
        began = time.monotonic()
        refused_since: float | None = None
        elsewhere_since: float | None = None
        detail = "it accepts no connection there"
        while (passed := time.monotonic() - began) < limit:
            if not self.is_running:
                return self._ended(passed)
            if self.settings.kind == WORKER:
                if passed >= min(WORKER_SECONDS, limit / 2):
                    return self._worker_health(time.monotonic() - began)
                time.sleep(POLL_SECONDS)
                continue
            try:
                status = self._request_health()
            except OSError as error:
                detail = f"{error}" if isinstance(error, TimeoutError) else detail
                refused_since = None
                listeners = machine.find_listeners(self.pids) if passed > 1 else []
                if listeners and all(one.port != self.slot.port for one in listeners):
                    elsewhere_since = elsewhere_since or passed
                    if passed - elsewhere_since >= ELSEWHERE_SECONDS:
                        where = ", ".join(map(str, listeners))
                        return Start(ELSEWHERE, f"it listens on {where}, and not on {self.slot.address}", passed)
                time.sleep(POLL_SECONDS)
                continue
            if 200 <= status < 300:
                return Start(HEALTHY, "", time.monotonic() - began)
            detail = f"GET {self.settings.health} answers with {status}"
            refused_since = passed if refused_since is None else refused_since
            if 400 <= status < 500 and passed - refused_since >= REFUSED_SECONDS:
                return Start(REFUSED, detail, passed)
            time.sleep(POLL_SECONDS)
        return Start(REFUSED if detail.startswith("GET") else SILENT, detail, limit)

    def _ended(self, passed: float) -> Start:
        assert self.process is not None
        time.sleep(2 * POLL_SECONDS)  # what it has left may need a moment
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if code == 0 and self.pids:
            return Start(BACKGROUND, f"it {how} after {passed:.1f} s, and went on in the background", passed)
        last = self.last_lines()
        return Start(EXITED, f"it {how} after {passed:.1f} s{f': {last}' if last else ''}", passed)

    def _worker_health(self, passed: float) -> Start:
        if not self.settings.health_command:
            return Start(HEALTHY, "", passed)
        words = self.settings.command_of(shlex.join(self.settings.health_command), self.slot)
        program = self.settings.find_program(words[0])
        if program is None:
            return Start(REFUSED, f"the health command {words[0]} is not there, or is not executable", passed)
        try:
            done = subprocess.run(
                [str(program), *words[1:]],
                cwd=self.settings.tree,
                env=self.settings.environment_of(self.slot),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=REQUEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Start(REFUSED, f"the health command took longer than {REQUEST_SECONDS:g} s", passed)
        if done.returncode == 0:
            return Start(HEALTHY, "", passed)
        return Start(REFUSED, f"the health command ended with {done.returncode}", passed)

    def _request_health(self) -> int:
        if self.settings.kind != HTTP:
            socket.create_connection((HOST, self.slot.port), REQUEST_SECONDS).close()
            return 200
        status, _, _ = send_request(self.slot.port, "GET", self.settings.health, None, {}, REQUEST_SECONDS)
        return status

    def terminate(self, limit: float) -> float | None:
        """Send SIGTERM as systemd does; the seconds that it took to end, None when it runs on after `limit`."""
        assert self.process is not None
        began = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - began

    def kill(self) -> None:
        """End everything of it."""
        if self.process is None:
            return
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
