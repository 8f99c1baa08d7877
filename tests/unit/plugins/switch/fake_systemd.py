# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for systemd: it starts and stops instances and the front as their units do, and runs what these run."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import revision_name
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from tests.fake_front import Acceptor, FakeHAProxy, read_head

if TYPE_CHECKING:
    from tests.unit.plugins.switch.conftest import Machine


class FakeInstance:
    """An instance: an HTTP server on the address of its slot.

    `requests` are the paths that it was asked for.
    """

    def __init__(self, port: int, release: str, behaviour: str) -> None:
        self.port, self.release, self.behaviour = port, release, behaviour
        self.requests: list[str] = []
        self.was_cut_off = threading.Event()
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.acceptor = Acceptor(listener, self._answer)

    def _answer(self, channel: socket.socket) -> None:
        head = read_head(channel)
        if not head:
            return
        path = head.split()[1].decode()
        self.requests.append(path)
        if self.behaviour == "silent":
            while channel.recv(4096):  # until the client is gone
                pass
            return
        if self.behaviour == "dribbling":
            self._dribble(channel)
            return
        status = 503 if self.behaviour == "unwell" and path == "/health" else 200
        body = json.dumps({"release": self.release}).encode()
        channel.sendall(
            b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body
        )

    def _dribble(self, channel: socket.socket) -> None:
        channel.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n")
        channel.settimeout(0.1)
        with contextlib.suppress(OSError):
            while True:
                channel.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    channel.recv(1)
                    break
        self.was_cut_off.set()

    def end(self) -> None:
        self.acceptor.close()


class _TimedOut(BaseException):
    """The time of a unit to start is over."""


class FakeSystemd(Systemd):
    """Keeps the states of units, and runs what they run before, after and for an instance or the front."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.instances: dict[str, FakeInstance] = {}
        self.front: FakeHAProxy | None = None
        self.active: dict[str, str] = {}
        self.enabled = False
        self.guards = 0
        self.watches = 0
        self.behaviours: dict[str, str] = {}
        self.start_timeouts: dict[str, float] = {}
        self.restarts: dict[str, int] = {}

    def units(self, *patterns: str) -> dict[str, Unit]:
        host = self.machine.host
        names = {host.socket_unit, host.boot_unit, host.watch_unit, *self.active, *map(host.unit, self.instances)}
        found = {}
        for name in names:
            if any(
                name == pattern or ("*" in pattern and name.startswith(pattern.split("*")[0])) for pattern in patterns
            ):
                release = revision_name(name.partition("@")[2].removesuffix(".service"))
                active = "active" if release in self.instances else self.active.get(name, "inactive")
                result = "timeout" if self.behaviours.get(release) == "cut off" else ""
                state = "enabled" if self.enabled else "disabled"
                found[name] = Unit(
                    name,
                    active,
                    "",
                    state,
                    result,
                    self.start_timeouts.get(release),
                    restarts=self.restarts.get(release, 0),
                )
        return found

    def start(self, unit: str, timeout: float) -> bool:
        host = self.machine.host
        if unit == host.unavailable_unit:
            self.active[unit] = "active"
            return True
        if unit == host.front_unit:
            return self._start_front()
        release = revision_name(unit.partition("@")[2].removesuffix(".service"))
        if release in self.instances:
            return True
        behaviour = self.behaviours.get(release, "")
        if behaviour == "slow":
            self.active[unit] = "activating"
            raise MobiusError("timeout", "too slow")
        if behaviour == "cut off and started again":
            time.sleep(self.start_timeouts[release])
        if behaviour in ("crashing", "cut off", "cut off and started again"):
            self.active[unit] = "activating"  # systemd is about to start it again
            return False
        folder = host.run_dir / release
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        assert self.machine.command("role", release, "--env-file", str(folder / "role.env")) == 0
        environment = dict(line.split("=", 1) for line in (folder / "role.env").read_text().splitlines())
        self.instances[release] = FakeInstance(int(environment["PORT"]), release, behaviour)
        self.active.pop(unit, None)
        try:
            return self._wait_until_ready(release)
        except _TimedOut:
            self.instances.pop(release).end()
            self.active[unit] = "activating"
            raise MobiusError("timeout", "it does not answer") from None

    def _wait_until_ready(self, release: str) -> bool:
        """What the unit runs when the process is there. Its time is over as soon as that would wait for an answer."""

        def give_up(_: float) -> None:
            raise _TimedOut

        sleep, self.machine.sleep = self.machine.sleep, give_up
        try:
            return self.machine.command("ready", release) == 0
        finally:
            self.machine.sleep = sleep

    def _start_front(self) -> bool:
        """What the front's unit does: its `Sockets=` starts the public socket, too."""
        host = self.machine.host
        if self.front is not None:
            return True
        if self.machine.command("render") != 0:
            return False
        self.front = self._run_front()
        self.active[host.socket_unit] = self.active[host.front_unit] = "active"
        return True

    def _run_front(self) -> FakeHAProxy:
        settings = self.machine.host.front
        assert settings is not None
        settings.sockets_dir.mkdir(exist_ok=True)
        return FakeHAProxy(settings.configuration_path, settings.runtime_socket)

    def kill_front(self) -> None:
        """HAProxy is killed, and is not started again yet."""
        if self.front is not None:
            self.front.close()
            self.front = None
            self.active[self.machine.host.front_unit] = "activating"

    def restart(self, unit: str) -> None:
        if unit == self.machine.host.watch_unit:
            self.watches += 1
            self.active[unit] = "active"
            return
        if unit == self.machine.host.front_unit:
            self.kill_front()
            if not self._start_front():
                raise MobiusError("environment_failed", "the front does not start")
            return
        assert unit == self.machine.host.guard_unit
        if self.behaviours.get("guard") == "broken":
            raise MobiusError("environment_failed", "the guard does not start")
        self.guards += 1
        self.active[unit] = "active"

    def stop(self, *units: str) -> None:
        for unit in units:
            release = revision_name(unit.partition("@")[2].removesuffix(".service"))
            if release in self.instances:
                self._drain(release)
                self.instances.pop(release).end()
                shutil.rmtree(self.machine.host.run_dir / release)
            if unit == self.machine.host.front_unit:
                self.kill_front()
            self.active.pop(unit, None)

    def _drain(self, release: str) -> None:
        """What the unit runs before its process, which still runs, is stopped."""
        os.environ["MAINPID"] = str(os.getpid())
        try:
            assert self.machine.command("drain", release) == 0
        finally:
            del os.environ["MAINPID"]

    def kill(self, unit: str, name: str = "KILL") -> None:
        if (unit, name) == (self.machine.host.unavailable_unit, "USR1"):  # it ends
            self.active.pop(unit, None)
            return
        release = revision_name(unit.partition("@")[2].removesuffix(".service"))
        self.instances.pop(release).end()
        self.behaviours.pop(release, None)
        self.restarts[release] = self.restarts.get(release, 0) + 1
        self.start(unit, 1.0)

    def enable(self, *units: str) -> None:
        assert set(units) == {self.machine.host.socket_unit, self.machine.host.boot_unit}
        self.enabled = True

    def log(self, unit: str, lines: int = 20) -> list[str]:
        return [f"{unit} says goodbye"]

    def keep(self) -> Callable[[], None]:
        """Keep the units and processes as they are now; returns what makes them so again."""
        names = ("active", "enabled", "guards", "watches", "behaviours", "start_timeouts", "restarts")
        facts = copy.deepcopy({name: getattr(self, name) for name in names})
        running = {release: (item.port, item.behaviour) for release, item in self.instances.items()}
        front = None if self.front is None else copy.deepcopy((self.front.servers, self.front.maps))

        def restore() -> None:
            for name, value in copy.deepcopy(facts).items():
                setattr(self, name, value)
            for release, item in list(self.instances.items()):
                if running.get(release) != (item.port, item.behaviour):
                    self.instances.pop(release).end()
            for release, (port, behaviour) in running.items():
                if release not in self.instances:
                    self.instances[release] = FakeInstance(port, release, behaviour)
            if front is None:
                self.kill_front()
                return
            self.front = self.front or self._run_front()
            self.front.servers, self.front.maps = copy.deepcopy(front)

        return restore
