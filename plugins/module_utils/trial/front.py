# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HAProxy on this machine, with the configuration that a host's would have."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ..errors import MobiusError
from ..host.front import configuration
from ..host.front.configuration import DRAIN, LISTENER, MAINT, READY, ServerState
from ..host.front.runtime import Runtime
from ..host.front.settings import SLOT_COUNT, FrontSettings
from ..host.front.slots import Slot
from .settings import TrialSettings

START_SECONDS = 5.0
POLL_SECONDS = 0.02
CONNECTIONS_MAX = 200  # without root, the limit of open files is that of the shell
_PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/opt/local/sbin"


def find_haproxy() -> str | None:
    """The program, also where a user's PATH has it not; None when it is not installed."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_PLACES}")


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing on this machine uses.

    Raises:
        MobiusError: environment_failed, when there are none.
    """
    start = 21_000 + os.getpid() * 7 % 9_000
    for first in range(start, start + 20_000, count):
        with contextlib.ExitStack() as sockets:
            try:
                for number in range(count):
                    sockets.enter_context(socket.create_server(("127.0.0.1", first + number)))
            except OSError:
                continue
            return first
    raise MobiusError("environment_failed", f"There are no {count} free ports in a row on 127.0.0.1.")


class TrialFront:
    """A front with two slots in use. The public address is a free port of 127.0.0.1."""

    def __init__(self, settings: TrialSettings, haproxy: str, first_port: int) -> None:
        self.haproxy = haproxy
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self.listener.getsockname()[1])
        self.settings = FrontSettings.parse(
            {
                "service": settings.service,
                "run_dir": str(settings.folder / "front"),
                "port": self.port,
                "first_port": first_port,
                "internal_port": first_port + SLOT_COUNT,
                "health_path": settings.health,
                "kind": settings.kind,
                "max_connections": CONNECTIONS_MAX,
                **settings.front,
            }
        )
        self.runtime = Runtime(self.settings.runtime_socket)
        self.process: subprocess.Popen[bytes] | None = None
        self.version = ""

    def start(self, slots: tuple[Slot, ...], ready: int) -> None:
        """Start HAProxy with one slot that gets requests.

        Raises:
            MobiusError: environment_failed, with HAProxy's own words.
        """
        self.settings.sockets_dir.mkdir(parents=True)
        configuration.write(self.settings, slots, {ready: ServerState(READY)})
        path = self.settings.configuration_path
        descriptor = self.listener.fileno()  # systemd's is 3
        path.write_text(re.sub(rf"bind {re.escape(LISTENER)}\b", f"bind fd@{descriptor}", path.read_text()))
        log = self.settings.run_dir / "haproxy.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [self.haproxy, "-db", "-f", str(path)],
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MOBIUS_TRIAL": str(self.settings.run_dir)},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.version = self.runtime.info().version
                return
            time.sleep(POLL_SECONDS)
        raise MobiusError("environment_failed", f"HAProxy did not start: {_first_alert(log)}.")

    def switch(self, before: Slot, after: Slot, limit: float) -> bool:
        """Let new requests go to another slot, and wait until the one before has none; whether it has none in time."""
        self.runtime.name_release(self.settings, after)
        self.runtime.set_weight(after.number, 100)
        self.runtime.set_state(after.number, READY)
        self.runtime.set_state(before.number, DRAIN)
        deadline = time.monotonic() + limit
        while self.runtime.active_requests(before.number):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        self.runtime.set_state(before.number, MAINT)
        return True

    def stop(self) -> None:
        """End it."""
        self.listener.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _first_alert(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    alerts = [line for line in lines if "[ALERT]" in line] or lines or ["it did not say why"]
    return alerts[0].rpartition(" : ")[2].strip().rstrip(".")[:300]
