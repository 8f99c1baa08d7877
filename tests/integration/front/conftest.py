"""A front as systemd runs it: the public socket is held for it, and it is started again when it ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible" / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible_collections.mobius.dhash.plugins.module_utils import prometheus_text  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import access_log, configuration, traffic  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import (  # noqa: E402
    MAINT,
    READY,
    ServerState,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import (  # noqa: E402
    SLOT_COUNT,
    FrontSettings,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.slots import Slot, Slots  # noqa: E402

WAIT_SECONDS = 30.0
PLAIN_SERVER = Path(__file__).with_name("plain_server.py")


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:g} s: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row; another process of the tests tries others first."""
    start = 20_000 + os.getpid() * 20 % 8_000
    for first in range(start, start + 4_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + number))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("there are no free ports")


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        """What a plain server has received."""
        return json.loads(self.body)  # type: ignore[no-any-return]


class UnixHttp(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WAIT_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_SECONDS)
        self.sock.connect(str(self.path))


def send(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Response:
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


class Front:
    """One service's front, its instances and its traffic receiver."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        first = free_ports(SLOT_COUNT + 1)
        if ":" in changes.get("address", ""):
            self.listener = socket.create_server(("::", 0), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
        else:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.redirect_listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.settings = FrontSettings.parse(
            {
                "service": "shop",
                "run_dir": str(folder),
                "port": self.port,
                "first_port": first,
                "internal_port": first + SLOT_COUNT,
                "health_path": "/healthz",
                **changes,
            }
        )
        self.settings.sockets_dir.mkdir()
        self.page_path = folder / "traffic.prom"
        self.slots = Slots(self.settings.slots_path, self.settings.slot_ports)
        self.runtime = Runtime(self.settings.runtime_socket)
        self.states: dict[int, ServerState] = {}
        self.is_paused = False
        self.is_maintenance: Callable[[], bool] = lambda: False
        self.start_count = 0
        self.listener_count = 2
        self.instances: dict[str, subprocess.Popen[str]] = {}
        self.master: subprocess.Popen[bytes] | None = None
        self.stopped = threading.Event()
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(str(self.settings.traffic_socket))
        self.threads = [
            threading.Thread(
                target=traffic.receive,
                args=(self.channel, self.page_path, self.stopped.is_set),
                kwargs={"interval": 0.05, "access_log": self.open_access_log()},
            )
        ]
        self.threads[0].start()

    def open_access_log(self) -> access_log.AccessLog | None:
        return access_log.open_access_log(self.settings, {"LOGS_DIRECTORY": str(self.settings.run_dir)}, print)

    # -- what systemd does --

    def start(self) -> None:
        """Run HAProxy until `stop`, whatever ends it, and wait until it has said that it is ready."""
        self.threads.append(threading.Thread(target=self._supervise))
        self.threads[-1].start()
        self.wait_until_started(1)

    def wait_until_started(self, count: int) -> None:
        wait_until(lambda: self.start_count >= count, f"HAProxy was started {count} times")

    def _supervise(self) -> None:
        notify_path = self.settings.run_dir / "notify.sock"
        while not self.stopped.is_set():
            notify_path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(str(notify_path))
                notify.settimeout(WAIT_SECONDS)
                self.write()
                self.master = self._run_haproxy(notify_path)
                while b"READY=1" not in notify.recv(4096):
                    pass
                self.start_count += 1
                self.master.wait()

    def _run_haproxy(self, notify_path: Path) -> subprocess.Popen[bytes]:
        listeners = (self.listener.fileno(), self.redirect_listener.fileno())
        # to the descriptors at which systemd hands them over, whatever numbers they have here
        moves = f"exec 103<&{listeners[0]} 104<&{listeners[1]} 3<&103 4<&104 103<&- 104<&-"
        moves += " 4<&-" if self.listener_count == 1 else ""
        with (self.settings.run_dir / "haproxy.log").open("ab") as log:
            return subprocess.Popen(
                [
                    "bash",
                    "-c",
                    f'{moves}; exec haproxy -Ws -f "$1"',
                    "bash",
                    str(self.settings.configuration_path),
                ],
                pass_fds=listeners,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path), "LISTEN_FDS": str(self.listener_count)},
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self.stopped.set()
        if self.master is not None:
            self.master.terminate()
        for process in self.instances.values():
            process.kill()
            process.communicate()
        for thread in self.threads:
            thread.join(WAIT_SECONDS)
        self.channel.close()
        self.listener.close()
        self.redirect_listener.close()

    # -- what mobius-host does --

    def write(self) -> None:
        configuration.write(
            self.settings,
            self.slots.read(),
            self.states,
            is_paused=self.is_paused,
            is_maintenance=self.is_maintenance(),
        )

    def apply(self, states: Mapping[int, ServerState], *, is_paused: bool = False) -> None:
        """Bring every slot to its state: first those that get requests, then those that get none."""
        self.states, self.is_paused = dict(states), is_paused
        self.write()
        ready = {number: state for number, state in states.items() if state.state == READY}
        for slot in self.slots.read():
            self.runtime.name_release(self.settings, slot)
        for number, state in ready.items():
            self.runtime.set_weight(number, state.weight)
            self.runtime.set_state(number, READY)
        if is_paused:
            self.runtime.pause([])
        for slot in self.slots.read():
            if slot.number not in ready:
                self.runtime.set_state(slot.number, states.get(slot.number, ServerState(MAINT)).state)
        if not is_paused:
            self.runtime.resume()

    def share(self, serving: str, canary: str, percent: int) -> None:
        """Send a canary so many of a hundred requests."""
        old, new = self.slots.find(serving), self.slots.find(canary)
        assert old is not None
        assert new is not None
        self.apply({old.number: ServerState(READY, 100 - percent), new.number: ServerState(READY, percent)})

    def add_instance(self, release: str, *arguments: str) -> Slot:
        """Start a release in a free slot, and wait until it accepts connections; `arguments` are the server's."""
        slot = self.slots.assign(release)
        if self.start_count:
            self.apply(self.states, is_paused=self.is_paused)
        command = [sys.executable, str(PLAIN_SERVER), str(slot.port), release, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.instances[release] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        return slot

    def serve_alone(self, release: str) -> None:
        """Send every new request to one release; the others drain."""
        chosen = self.slots.find(release)
        assert chosen is not None
        self.apply(
            {slot.number: ServerState("drain") for slot in self.slots.read()} | {chosen.number: ServerState(READY)}
        )

    def remove_instance(self, release: str) -> None:
        """Wait until a drained slot has no request, kill its instance, and free it."""
        slot = self.slots.find(release)
        assert slot is not None
        wait_until(lambda: self.runtime.active_requests(slot.number) == 0, f"{release} has no request")
        self.states[slot.number] = ServerState(MAINT)
        self.apply(self.states, is_paused=self.is_paused)
        process = self.instances.pop(release)
        process.kill()
        process.communicate()
        self.slots.free(release)

    def worker(self) -> int:
        return self.runtime.info().pid

    # -- what clients do --

    def get(self, path: str = "/", method: str = "GET", body: Any = None, **headers: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            return send(connection, method, path, body, **headers)
        finally:
            connection.close()

    def probe(self, path: str = "/", **headers: str) -> Response:
        connection = UnixHttp(self.settings.probes_socket)
        try:
            return send(connection, "GET", path, **headers)
        finally:
            connection.close()

    def get_internal(self, path: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.internal_port, timeout=WAIT_SECONDS)
        try:
            return send(connection, "GET", path)
        finally:
            connection.close()

    def counted(self, name: str, **labels: str) -> float:
        """The sum of the series of the traffic page that have these labels."""
        if not self.page_path.exists():
            return 0.0
        page = prometheus_text.parse_page(self.page_path.read_text(encoding="utf-8"))
        return sum(
            value
            for series, found, value in page
            if series == name and all(found.get(label) == expected for label, expected in labels.items())
        )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def make_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Front]]:
    """Make a front; keywords are its settings."""
    assert shutil.which("haproxy"), "these tests need Debian's package haproxy"
    fronts: list[Front] = []

    def make(**changes: Any) -> Front:
        fronts.append(Front(tmp_path_factory.mktemp("front"), **changes))
        return fronts[-1]

    yield make
    for front in fronts:
        front.stop()


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    """A front with the default settings, not started yet."""
    return make_front()
