# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real instances: processes, an inherited listening socket, admin sockets, and a datagram socket in place of systemd."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "playbooks" / "files" / "golden"
OLD, NEW = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@dataclass
class RunningInstance:
    """The process of one instance."""

    release: str
    process: subprocess.Popen[str]
    admin: httpx.Client
    admin_socket: Path
    notices: socket.socket
    received: list[str] = field(default_factory=list)

    def wait_ready(self) -> None:
        self.listen_for("READY=1")

    def listen_for(self, message: str, seconds: float = 20.0) -> None:
        """Wait until the process has sent this to systemd."""
        deadline = time.monotonic() + seconds
        while not any(message in entry.split("\n") for entry in self.received):
            assert self.process.poll() is None, f"{self.release} ended: {self.process.communicate()}"
            assert time.monotonic() < deadline, f"no {message}"
            with contextlib.suppress(TimeoutError):
                self.received.append(self.notices.recv(4096).decode())

    @property
    def state(self) -> str:
        return str(self.admin.get("/admin/state").json()["state"])

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.state == state)

    def wait_until(self, condition: Callable[[Any], bool], path: str = "/metrics/dhash") -> None:
        """Wait until the document at `path` of the admin socket meets the condition."""
        wait_until(lambda: condition(self.admin.get(path).json()))

    def stop(self, seconds: float = 15.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@dataclass
class ServiceHost:
    """A host: a public socket that outlives its instances, and a run folder."""

    listener: socket.socket
    run_dir: Path
    instances: list[RunningInstance] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)

    def launch(self, release: str, *, descriptor: bool = True, **settings: str) -> subprocess.Popen[str]:
        """Start a process without waiting for it; `settings` are MOBIUS_ variables in lower case."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MOBIUS_RELEASE_ID": release,
            "MOBIUS_RUN_DIR": str(self.run_dir),
            "MOBIUS_START": "standby",
            "MOBIUS_DRAIN_DEADLINE": "8",
            "NOTIFY_SOCKET": str(self.run_dir / f"{release}.notify"),
            **{name if name.isupper() else f"MOBIUS_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-W", "error", "-m", "mobius.service"]
        if not descriptor:
            return subprocess.Popen(command, env=environment, text=True, stdout=-1, stderr=-1)
        number = self.listener.fileno()
        # as systemd does: LISTEN_PID is the pid of the process itself, and the descriptor is 3
        script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", *command], env=environment, text=True, stdout=-1, stderr=-1,
            pass_fds=(3,), preexec_fn=lambda: os.dup2(number, 3),
        )  # fmt: skip

    def start(self, release: str, **settings: str) -> RunningInstance:
        """Start an instance and wait until it is ready."""
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.run_dir / f"{release}.notify"
        address.unlink(missing_ok=True)
        notices.bind(str(address))
        notices.settimeout(0.2)
        process = self.launch(release, **{"log_level": "WARNING", **settings})
        path = self.run_dir / release / "admin.sock"
        admin = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://admin", timeout=10)
        running = RunningInstance(release, process, admin, path, notices)
        self.instances.append(running)
        running.wait_ready()
        return running

    @contextlib.contextmanager
    def load(self) -> Iterator[dict[str, Any]]:
        """Send traffic from a second process during the block; the dictionary gets the result at its end."""
        picture = GOLDEN / "rocket-orientation-6.jpg"
        entries = json.loads((GOLDEN / "golden.json").read_text())
        dhash = next(
            e["json"]["dhash"]
            for e in entries
            if e["body_file"] == picture.name and e["json"]["algorithm"] == "exact-1"
        )
        command = [sys.executable, str(Path(__file__).parent / "load.py"), str(self.port), str(picture), dhash]
        process = subprocess.Popen(command, text=True, stdin=-1, stdout=-1, stderr=-1)
        result: dict[str, Any] = {}
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield result
        finally:
            output, errors = process.communicate(timeout=60)
        assert not errors
        result.update(json.loads(output))


@pytest.fixture
def host() -> Iterator[ServiceHost]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    # not pytest's folder: the path of a Unix socket has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="mobius-") as folder, listener:
        host = ServiceHost(listener, Path(folder))
        yield host
        for instance in host.instances:
            instance.admin.close()
            instance.notices.close()
            if instance.process.poll() is None:
                instance.process.kill()
            instance.process.communicate()
