"""A host in a folder with a service behind a real HAProxy: real state files, processes and requests; systemd is a fake.

The fake does what the units of the role host say: it runs `mobius-host` before and after it starts or stops something.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible/collections")
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible_collections.mobius.dhash.plugins.module_utils import durable  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.console import main  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import traffic  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Action, Actor, HostPlan  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import Promotion  # noqa: E402

from tests.integration.front.conftest import PLAIN_SERVER, free_ports, wait_until  # noqa: E402

SERVICE = "shop"
RELEASES = A, B, C = tuple(f"1.{minor}.0-0123456789ab" for minor in range(3))


class Killed(BaseException):
    """The command was killed."""


class ProcessSystemd(Systemd):
    """Starts the front and the instances as processes."""

    def __init__(self, machine: FrontedMachine) -> None:
        self.machine = machine
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.enabled = False
        self.is_listening = False
        self.guards = 0
        self.restarts: dict[str, int] = {}
        self.failing: set[str] = set()  # the releases whose instances end while they start
        self.is_unavailable = False  # the unit runs that waits for the end of a command

    def units(self, *patterns: str) -> dict[str, Unit]:
        host = self.machine.host
        states = {name: "active" for name, process in self.processes.items() if process.poll() is None}
        states |= {name: "active" for name in (host.socket_unit,) if self.is_listening}
        states.setdefault(host.boot_unit, "inactive")
        return {
            name: Unit(
                name,
                state,
                "",
                "enabled" if self.enabled else "disabled",
                "",
                main_pid=self.processes[name].pid if name in self.processes else None,
                restarts=self.restarts.get(name, 0),
            )
            for name, state in states.items()
            if any(name == pattern or name.startswith(pattern.partition("*")[0] or "?") for pattern in patterns)
        }

    def start(self, unit: str, timeout: float) -> bool:
        if unit in self.units(unit):
            return True
        self.is_listening = self.machine.host.front.kind != "worker"
        if unit == self.machine.host.front_unit:
            return self._start_front()
        if unit == self.machine.host.unavailable_unit:
            self.is_unavailable = True
            return True
        release = unit.partition("@")[2].removesuffix(".service")
        if not self.machine.host.overlap:
            assert not self.units(self.machine.host.unit("*")), "two instances would run at once"
        if release in self.failing:
            return False
        folder = self.machine.host.run_dir / release
        folder.mkdir(exist_ok=True)
        assert self.machine.command("role", release, "--env-file", str(folder / "role.env")) == 0
        role = dict(line.split("=", 1) for line in (folder / "role.env").read_text().splitlines())
        program, *more = self.machine.programs.get(release, (PLAIN_SERVER,))
        arguments = [role.get("PORT", ""), release, *map(str, more)]  # a worker has no port
        self.processes[unit] = subprocess.Popen([sys.executable, str(program), *arguments])
        return self.machine.command("ready", release) == 0

    def _start_front(self) -> bool:
        machine = self.machine
        assert machine.command("render") == 0
        assert machine.host.front is not None
        machine.host.front.sockets_dir.mkdir(exist_ok=True)
        listener = machine.listener.fileno()
        configuration = str(machine.host.front.configuration_path)
        self.processes[machine.host.front_unit] = subprocess.Popen(
            ["bash", "-c", f'exec haproxy -W -f "$1" 3<&{listener}', "bash", configuration],
            pass_fds=(listener,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: machine.runtime_answers(), "HAProxy answers")
        return True

    def restart(self, unit: str) -> None:
        if unit == self.machine.host.guard_unit:
            self.guards += 1
            return
        self.end(unit)
        self.start(unit, 5.0)

    def stop(self, *units: str) -> None:
        for unit in units:
            release = unit.partition("@")[2].removesuffix(".service")
            if release and unit in self.units(unit):
                os.environ["MAINPID"] = "1"
                assert self.machine.command("drain", release) == 0
                del os.environ["MAINPID"]
                shutil.rmtree(self.machine.host.run_dir / release)
            self.end(unit)
            if unit == self.machine.host.socket_unit:
                self.is_listening = False

    def end_command(self) -> None:
        """What systemd does when a command that had paused the service has ended or was killed."""
        if self.is_unavailable:
            self.is_unavailable = False
            assert self.machine.command("boot") == 0

    def end(self, unit: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(unit, None)
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # as systemd does
            process.wait()

    def kill(self, unit: str, name: str = "KILL") -> None:
        self.end(unit, signal.SIGKILL)
        self.start(unit, 5.0)
        self.restarts[unit] = self.restarts.get(unit, 0) + 1

    def enable(self, *units: str) -> None:
        self.enabled = True

    def log(self, unit: str, lines: int = 20) -> list[str]:
        return []


class FrontedMachine:
    """One host with a service of kind `http`."""

    def __init__(self, root: Path, front: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.root, self.now = root, 1000.0
        self.config_dir = root / "mobius-host"
        names = ("root", "run_dir", "state_dir", "cache_dir", "config_dir", "backup_dir", "log_dir", "units_dir")
        folders = {name: root / name for name in names}
        for path in (self.config_dir, root / "root/releases", *folders.values()):
            path.mkdir(parents=True, exist_ok=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        first = free_ports(5)
        config = {
            "schema": 1,
            "service": SERVICE,
            "user": "nobody",
            "health_path": "/healthz",
            "start_timeout": 10,
            "drain_deadline": 5,
            "kind": "http",
            "front": {"port": self.port, "first_port": first, "internal_port": first + 4, "pause": 20, **(front or {})},
            **{name: str(path) for name, path in folders.items()},
            **settings,
        }
        durable.write_json(self.config_dir / f"{SERVICE}.json", config)
        self.host = Host.load(SERVICE, self.config_dir)
        self.systemd = ProcessSystemd(self)
        self.programs: dict[str, tuple[object, ...]] = {}  # by release: another server than the plain one, and its mode
        self.receiver: threading.Thread | None = None
        self.receiver_stopped = threading.Event()
        for release in RELEASES:
            (self.host.release_dir(release) / "tree").mkdir(parents=True)

    def runtime_answers(self) -> bool:
        executor = self.executor()
        assert executor.front is not None
        with contextlib.suppress(OSError):
            return bool(executor.front.runtime.server_states())
        return False

    def executor(self, kill_at: int | None = None) -> Executor:
        """An executor; one that is killed before its n-th action."""
        parts: dict[str, Any] = {"systemd": self.systemd, "clock": lambda: self.now, "boot": lambda: "this boot"}
        if kill_at is None:
            return Executor(self.host, Actor("test", "r1"), **parts)
        return _KilledExecutor(self.host, Actor("test", "r1"), remaining=kill_at, **parts)

    def promote(self, release: str, until: str = "confirmed", kill_at: int | None = None, **more: Any) -> HostPlan:
        stages = ("canary", "provisional", "confirmed")
        executor = self.executor(kill_at)
        for state in stages[: stages.index(until) + 1]:
            promotion = Promotion(release=release, state=state, actor=executor.actor, retry_bad=True, **more)
            plan = executor.run(promotion.plan)
        return plan

    def command(self, *arguments: str) -> int:
        return main(["--config-dir", str(self.config_dir), *arguments])

    def kill_front(self) -> None:
        """The master and its workers are killed, and systemd starts the unit again."""
        unit = self.host.front_unit
        master = self.systemd.processes[unit].pid
        workers = subprocess.run(["pgrep", "-P", str(master)], capture_output=True, text=True, check=False)
        for worker in workers.stdout.split():
            os.kill(int(worker), signal.SIGKILL)
        self.systemd.end(unit, signal.SIGKILL)
        self.systemd.start(unit, 5.0)

    def answers(self, count: int = 12) -> set[str]:
        """The releases that answer clients, each of which gets an answer."""
        found = set()
        for _ in range(count):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            connection.close()
            assert response.status == 200, response.status
            found.add(str(response.headers["X-Release-Id"]))
        return found

    def start_receiver(self) -> None:
        """Run the traffic receiver, which systemd has started with the front's first line."""
        assert self.host.front is not None
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        channel.bind(str(self.host.front.traffic_socket))
        page = self.host.run_dir / "traffic" / "traffic.prom"
        page.parent.mkdir()

        def work() -> None:
            with channel:
                traffic.receive(channel, page, self.receiver_stopped.is_set)

        self.receiver = threading.Thread(target=work)
        self.receiver.start()

    def close(self) -> None:
        self.receiver_stopped.set()
        if self.receiver is not None:
            self.receiver.join()
        for unit in list(self.systemd.processes):
            self.systemd.end(unit, signal.SIGTERM if "front" in unit else signal.SIGKILL)
        self.listener.close()
        shutil.rmtree(self.root)


class _KilledExecutor(Executor):
    """Killed before its n-th action."""

    def __init__(self, *arguments: Any, remaining: int, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.remaining = remaining

    def _perform(self, action: Action) -> None:
        if self.remaining == 0:
            raise Killed
        self.remaining -= 1
        super()._perform(action)


@pytest.fixture
def make_fronted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FrontedMachine]]:
    """Makes hosts; the command talks to the newest one."""
    machines: list[FrontedMachine] = []
    initialize = Executor.__init__

    def make(**settings: Any) -> FrontedMachine:
        machine = FrontedMachine(Path(tempfile.mkdtemp(prefix="mobius-", dir="/dev/shm")), **settings)
        machines.append(machine)

        def prepared(self: Executor, *arguments: Any, **more: Any) -> None:
            parts = {"systemd": machine.systemd, "clock": lambda: machine.now, "boot": lambda: "this boot"}
            initialize(self, *arguments, **{**parts, **more})

        monkeypatch.setattr(Executor, "__init__", prepared)
        return machine

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def fronted(make_fronted: Callable[[], FrontedMachine]) -> FrontedMachine:
    """A host with three staged releases, the first of which is confirmed and serves."""
    machine = make_fronted()
    machine.promote(A)
    assert machine.answers() == {A}
    return machine
