# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real instances: processes that listen on a port of 127.0.0.1, and a datagram socket in place of systemd."""

from __future__ import annotations

import contextlib
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
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def client_of(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)


@dataclass
class RunningInstance:
    """The process of one instance."""

    release: str
    process: subprocess.Popen[str]
    port: int
    client: httpx.Client
    state_file: Path
    notices: socket.socket
    received: list[str] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

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
    def health(self) -> dict[str, Any]:
        return dict(self.client.get("/health").json())

    def set_state(self, state: str) -> None:
        """Write the state file, and wait until the instance has that state."""
        self.state_file.write_text(f"{state}\n")
        wait_until(lambda: self.health["state"] == state)

    def wait_until(self, condition: Callable[[Any], bool], path: str = "/metrics/dhash") -> None:
        """Wait until the document at `path` meets the condition."""
        wait_until(lambda: condition(self.client.get(path).json()))

    def metric(self, name: str) -> float:
        """The value of a series that has only the release as a label."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        assert [sample.labels for sample in samples] == [{"release": self.release}]
        return float(samples[0].value)

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.connections.append(connection)
        connection.sendall(data)
        return connection

    def stop(self, seconds: float = 15.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def end(self) -> None:
        """Close all that is open, and kill the process if it still runs."""
        for connection in (self.client, self.notices, *self.connections):
            connection.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@dataclass
class ServiceHost:
    """A run folder, and the instances that were started."""

    run_dir: Path
    instances: list[RunningInstance] = field(default_factory=list)

    @property
    def port(self) -> int:
        """That of the last instance."""
        return self.instances[-1].port

    def client(self) -> httpx.Client:
        """A client of the last instance."""
        return client_of(self.port)

    def launch(self, release: str, port: int, **settings: str) -> subprocess.Popen[str]:
        """Start a process without waiting for it; `settings` are MOBIUS_ variables in lower case."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MOBIUS_RELEASE_ID": release,
            "MOBIUS_ADDRESS": f"127.0.0.1:{port}",
            "MOBIUS_DRAIN_DEADLINE": "8",
            "NOTIFY_SOCKET": str(self.run_dir / f"{release}.notify"),
            **{name if name.isupper() else f"MOBIUS_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-W", "error", "-m", "mobius.service"]
        return subprocess.Popen(command, env=environment, text=True, stdout=-1, stderr=-1)

    def start(
        self, release: str, *, state: str | None = None, port: int | None = None, **settings: str
    ) -> RunningInstance:
        """Start an instance and wait until it is ready; with a state, it has a state file."""
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.run_dir / f"{release}.notify"
        address.unlink(missing_ok=True)
        notices.bind(str(address))
        notices.settimeout(0.2)
        state_file = self.run_dir / f"{release}.state"
        if state is not None:
            state_file.write_text(f"{state}\n")
            settings["state_file"] = str(state_file)
        port = free_port() if port is None else port
        process = self.launch(release, port, **{"log_level": "WARNING", **settings})
        running = RunningInstance(release, process, port, client_of(port), state_file, notices)
        self.instances.append(running)
        running.wait_ready()
        return running


@pytest.fixture
def host() -> Iterator[ServiceHost]:
    # not pytest's folder: the path of a Unix socket has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="mobius-") as folder:
        host = ServiceHost(Path(folder))
        yield host
        for instance in host.instances:
            instance.end()
