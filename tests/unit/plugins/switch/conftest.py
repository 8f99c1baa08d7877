"""A host in a folder: real state files, real admin sockets, the real code; only systemd is a fake.

The fake systemd starts an instance as the real unit does: it has `mobius-host role` write the role of the instance.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor, instance, watch
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import utc_now
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.console import main
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor, HostPlan, Observation
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import (
    Activation,
    Pending,
    read_activation,
    read_pending,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import (
    plan_canary,
    plan_instance,
    plan_provisional,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_confirmed

from tests.opened import opened_for

SERVICE = "any-service"
A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


class _Admin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        instance: FakeInstance = self.server.instance
        if instance.behaviour == "silent":
            instance.released.wait(30)
            return
        if instance.behaviour == "dribbling":
            self.wfile.write(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n")
            try:
                while not instance.released.wait(0.1):
                    self.wfile.write(b" ")
            except OSError:
                instance.was_cut_off.set()
            return
        status = 503 if instance.behaviour == "unwell" and self.path == "/health" else 200
        if self.command == "POST":
            if instance.behaviour == "without socket" and self.path == "/admin/serve":
                status = 409
            else:
                instance.state = "serving" if self.path == "/admin/serve" else "standby"
        body = json.dumps({"release": instance.release, "state": instance.state}).encode()
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def do_POST(self) -> None:
        self.do_GET()

    def address_string(self) -> str:
        return "host"

    def log_message(self, *_: object) -> None:
        return


class _AdminServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    instance: FakeInstance


class FakeInstance:
    """An instance with a real admin socket."""

    def __init__(self, path: Path, release: str, state: str, behaviour: str) -> None:
        self.release, self.state, self.behaviour = release, state, behaviour
        self.released = threading.Event()
        self.was_cut_off = threading.Event()
        self.server = _AdminServer(str(path), _Admin)
        self.server.instance = self
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.005,), daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class FakeSystemd(Systemd):
    """Keeps unit states and starts instances that answer for real."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.instances: dict[str, FakeInstance] = {}
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
                release = name.partition("@")[2].removesuffix(".service")
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
        release = unit.partition("@")[2].removesuffix(".service")
        self.active[host.socket_unit] = "active"
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
        state = (folder / "role.env").read_text().strip().removeprefix("MOBIUS_START=")
        self.instances[release] = FakeInstance(host.admin_socket(release), release, state, behaviour)
        self.active.pop(unit, None)
        return True

    def restart(self, unit: str) -> None:
        if unit == self.machine.host.watch_unit:
            self.watches += 1
            self.active[unit] = "active"
            return
        assert unit == self.machine.host.guard_unit
        if self.behaviours.get("guard") == "broken":
            raise MobiusError("environment_failed", "the guard does not start")
        self.guards += 1
        self.active[unit] = "active"

    def stop(self, *units: str) -> None:
        for unit in units:
            self.active.pop(unit, None)
            release = unit.partition("@")[2].removesuffix(".service")
            if release in self.instances:
                self.instances.pop(release).end()

    def kill(self, unit: str, name: str = "KILL") -> None:
        if (unit, name) == (self.machine.host.unavailable_unit, "USR1"):  # it ends
            self.active.pop(unit, None)
            return
        release = unit.partition("@")[2].removesuffix(".service")
        self.instances.pop(release).end()
        self.behaviours.pop(release, None)
        self.start(unit, 1.0)

    def enable(self, *units: str) -> None:
        assert set(units) == {self.machine.host.socket_unit, self.machine.host.boot_unit}
        self.enabled = True

    def log(self, unit: str, lines: int = 20) -> list[str]:
        return [f"{unit} says goodbye"]


class Machine:
    """One host, and the ways in which it is driven."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.boot_id = "first boot"
        self.sleep: Callable[[float], None] = time.sleep
        self.config_dir = root / "mobius-host"
        folders = {
            name: root / name
            for name in (
                "root",
                "run_dir",
                "state_dir",
                "cache_dir",
                "config_dir",
                "backup_dir",
                "log_dir",
                "units_dir",
            )
        }
        for path in (self.config_dir, root / "root/releases", *folders.values()):
            path.mkdir(parents=True, exist_ok=True)
        self.config = {
            "schema": 1,
            "service": SERVICE,
            "user": "nobody",
            "health_path": "/health",
            "start_timeout": 2,
            "drain_deadline": 1,
            "command": str(root / "bin/mobius-host"),
            **{name: str(path) for name, path in folders.items()},
        }
        self.config_path = self.config_dir / f"{SERVICE}.json"
        durable.write_json(self.config_path, self.config)
        self.host = Host.load(SERVICE, self.config_dir)
        self.systemd = FakeSystemd(self)
        for release in (A, B, C, D):
            self.stage(release)

    def advance(self, seconds: float) -> None:
        """Move the clock, in place of waiting."""
        self.now += seconds

    def stage(self, release: str) -> None:
        (self.host.release_dir(release) / "tree").mkdir(parents=True)

    def watch(self, seconds: float = 600, **changes: Any) -> None:
        """Have confirmed releases watched, as the role does."""
        settings = {"seconds": seconds, "interval": 5, "unhealthy_seconds": 30, "metrics_path": "/metrics"}
        self.config["watch"] = {**settings, "signals": [], "memory": {}, **changes}
        durable.write_json(self.config_path, self.config)
        self.host = Host.load(SERVICE, self.config_dir)

    plan_of_stage: ClassVar = {"canary": plan_canary, "provisional": plan_provisional, "confirmed": plan_confirmed}

    def executor(self, actor: Actor | None = None) -> Executor:
        return Executor(self.host, actor or Actor("test"))

    def run(
        self, make: Callable[..., HostPlan], *arguments: Any, check: bool = False, run: str | None = "r1", **more: Any
    ) -> HostPlan:
        """Run one `plan_...` function for real."""
        actor = Actor("test", run, more.pop("reason", None))
        if make in (plan_canary, plan_provisional):
            more.setdefault("deadline", 60.0)
        acting = () if make is plan_instance else (actor,)
        return self.executor(actor).run(lambda observed: make(observed, *arguments, *acting, **more), check=check)

    def command(self, *arguments: str, requested_at: str | None = None) -> int:
        """`mobius-host ...`, as a process that starts now."""
        code = main(["--config-dir", str(self.config_dir), *arguments], requested_at or utc_now())
        if arguments[0] == "guard" and code == 0:
            self.systemd.active.pop(self.host.guard_unit, None)
        return code

    def promote(self, release: str, until: str = "confirmed", run: str = "r1") -> None:
        self.run(plan_instance, release, "standby")
        for state in ("canary", "provisional", "confirmed"):
            self.run(self.plan_of_stage[state], release, run=run)
            if state == until:
                return

    def observed(self) -> Observation:
        return self.executor().observe()

    @property
    def serving(self) -> list[str]:
        return sorted(name for name, item in self.systemd.instances.items() if item.state == "serving")

    @property
    def running(self) -> list[str]:
        return sorted(self.systemd.instances)

    @property
    def activation(self) -> Activation:
        return read_activation(self.host)

    @property
    def pending(self) -> Pending | None:
        return read_pending(self.host)

    def journal(self) -> list[dict[str, Any]]:
        path = self.host.journal_path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self) -> list[str]:
        return [line["event"] for line in self.journal()]

    def reboot(self) -> None:
        """The machine stops and starts: memory is gone, and systemd starts the boot unit."""
        for running in self.systemd.instances.values():
            running.end()
        self.systemd.instances.clear()
        self.systemd.active.clear()
        for path in self.host.run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.boot_id = "second boot"
        self.now = 10.0
        if self.systemd.enabled:
            self.systemd.active[self.host.socket_unit] = "active"
            assert self.command("boot") == 0

    def close(self) -> None:
        for running in self.systemd.instances.values():
            running.end()
        shutil.rmtree(self.root)


class Machines:
    """Makes hosts. Modules and the command talk to the newest one, or to the one that is in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Machine] = []
        self._monkeypatch = monkeypatch
        self._initialize = Executor.__init__

    def __call__(self, *, beside: bool = False) -> Machine:
        """A new host, in place of the one before or beside it."""
        if self.made and not beside:
            self.made.pop().close()
        # not pytest's own folder: the path of a Unix socket has 107 characters at most; in memory, since all is fsynced
        return self.use(Machine(Path(tempfile.mkdtemp(prefix="mobius-", dir="/dev/shm"))))

    def use(self, machine: Machine) -> Machine:
        """Modules and the command talk to this host from now on."""
        self.made = [*(other for other in self.made if other is not machine), machine]
        parts = {
            "systemd": machine.systemd,
            "clock": lambda: machine.now,
            "boot": lambda: machine.boot_id,
            "sleep": lambda seconds: machine.sleep(seconds),
        }
        # the class itself, so that every module that has imported it gets the parts of the machine
        self._monkeypatch.setattr(Executor, "__init__", functools.partialmethod(self._initialize, **parts))
        return machine


@pytest.fixture
def make_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """Makes hosts, each replacing the one before; modules and the command talk to it."""
    machines = Machines(monkeypatch)

    def request(
        host: Host,
        release: str,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout: float = 5.0,
    ) -> tuple[int, dict[str, str], bytes]:
        """Wait briefly for what hangs on purpose, and long for all else: the machine may be busy."""
        running = machines.made[-1].systemd.instances.get(release)
        hangs = running is not None and running.behaviour in ("silent", "dribbling")
        return request_for_real(host, release, method, path, body, content_type, 0.3 if hangs else 60.0)

    request_for_real = instance.admin_request
    for module in (instance, executor, watch):
        monkeypatch.setattr(module, "admin_request", request)
    for name in ("SERVE_TIMEOUT_SECONDS", "STANDBY_TIMEOUT_SECONDS"):
        monkeypatch.setattr(executor, name, 0.25)  # shorter than one of these requests, so one that hangs is enough
    yield machines
    for machine in machines.made:
        machine.close()


@pytest.fixture
def machine(make_machine: Machines) -> Machine:
    """A prepared host with four staged releases and nothing promoted."""
    return make_machine()


@pytest.fixture
def call_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a module on a host as Ansible does, arguments in, JSON out."""

    def call(machine: Machine, name: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.modules.{name}")
        parameters = {
            "config_dir": str(machine.config_dir),
            **opened_for(name, machine.root),
            **arguments,
            "_ansible_check_mode": check,
            "_ansible_diff": True,
        }
        if name != "host_tool":
            parameters.setdefault("service", SERVICE)
        capsys.readouterr()
        with patch_module_args(parameters), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


@pytest.fixture
def run_bare_module(machine: Machine, call_module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Runs a module on a host without mobius-host."""
    return functools.partial(call_module, machine)


@pytest.fixture
def run_module(machine: Machine, run_bare_module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Runs a module on a host that has mobius-host installed."""
    run_bare_module("host_tool", command=str(machine.host.command), lib_dir=str(machine.root / "lib"))
    return run_bare_module
