"""A host in a folder: real state files, instances that answer HTTP, the real code; systemd and HAProxy are stand-ins."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.host import executor, fronted, instance, lock
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import utc_now
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.console import main
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import find_slot, read_slots
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor, HostPlan, Observation
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import (
    Activation,
    Pending,
    read_activation,
    read_pending,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import (
    plan_canary,
    plan_instance,
    plan_provisional,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import plan_confirmed

from tests.fake_front import HOLD, PORTS, read_servers
from tests.opened import opened_for
from tests.unit.plugins.switch.fake_systemd import FakeSystemd

SERVICE = "any-service"
A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))


class Machine:
    """One host, and the ways in which it is driven."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.boot_id = "first boot"
        self.sleep: Callable[[float], None] = time.sleep
        self.first_port = PORTS.take()
        self.kept: list[Path] = []
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
            "kind": "http",
            "front": {"internal_port": self.first_port, "first_port": self.first_port + 1, "port": self.first_port + 5},
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
    def shares(self) -> dict[str, int]:
        """The releases that clients reach, with the weights by which the front shares their requests out.

        Clients reach none while the public socket or the front is down, and none whose process is gone.
        """
        front = self.systemd.front
        if front is None or self.systemd.active.get(self.host.socket_unit) != "active":
            return {}
        by_port = {item.port: item.release for item in self.systemd.instances.values()}
        return {by_port[server.port]: server.weight for server in front.receiving if server.port in by_port}

    @property
    def serving(self) -> list[str]:
        return sorted(self.shares)

    @property
    def is_paused(self) -> bool:
        """Whether the front lets requests wait."""
        front = self.systemd.front
        return front is not None and front.servers[HOLD].receives

    def named(self) -> dict[str, str]:
        """The slots that are held, with the release that the front's log names for each."""
        assert self.systemd.front is not None
        held = [slot.server for slot in read_slots(self.host) if slot.release is not None]
        return {server: self.systemd.front.releases[server] for server in held}

    def configured_shares(self) -> dict[str, int]:
        """What the configuration on disk would let clients reach, were HAProxy started from it as it is."""
        servers = read_servers(self.host.front.configuration_path.read_text())
        by_port = {item.port: item.release for item in self.systemd.instances.values()}
        return {by_port[server.port]: server.weight for server in servers if server.receives and server.port in by_port}

    def set_slot(self, release: str, state: str) -> None:
        """Somebody sets the slot of a release by hand, in HAProxy."""
        slot = find_slot(self.host, release)
        assert slot is not None and self.systemd.front is not None
        assert self.systemd.front.execute(f"set server service/{slot.server} state {state}") == ""

    def state_word(self, release: str) -> str:
        """What an instance reads in its state file."""
        return self.host.state_file(release).read_text().strip()

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
        self.end_processes()
        self.systemd.active.clear()
        for path in self.host.run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.boot_id = "second boot"
        self.now = 10.0
        if self.systemd.enabled:
            self.systemd.active[self.host.socket_unit] = "active"
            assert self.command("boot") == 0

    def keep(self) -> Callable[[], None]:
        """Keep the host as it is now.

        Returns:
            What makes it so again, as often as it is called: much quicker than to prepare another host.
        """
        kept = Path(tempfile.mkdtemp(prefix="mobius-", dir="/dev/shm"))
        self.kept.append(kept)
        shutil.copytree(self.root, kept, symlinks=True, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)
        restore_systemd = self.systemd.keep()
        facts = {name: getattr(self, name) for name in ("now", "boot_id", "sleep", "host")}

        def restore() -> None:
            for folder, folders, files in os.walk(self.root, topdown=False):
                for name in (*files, *folders):
                    path = os.path.join(folder, name)
                    if os.path.islink(path) or not os.path.isdir(path):
                        if not name.endswith(".sock"):
                            os.unlink(path)
                    elif not os.listdir(path):
                        os.rmdir(path)
            shutil.copytree(kept, self.root, symlinks=True, dirs_exist_ok=True)
            for name, value in facts.items():
                setattr(self, name, value)
            restore_systemd()

        return restore

    def end_processes(self) -> None:
        for running in self.systemd.instances.values():
            running.end()
        self.systemd.instances.clear()
        self.systemd.kill_front()

    def close(self) -> None:
        self.end_processes()
        PORTS.give_back(self.first_port)
        for folder in (self.root, *self.kept):
            shutil.rmtree(folder)


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

    def send(address: Path | int, *arguments: Any) -> tuple[int, dict[str, str], bytes]:
        """Wait briefly for what hangs on purpose, and long for all else: the machine may be busy."""
        running = machines.made[-1].systemd.instances.values()
        hangs = any(item.port == address and item.behaviour in ("silent", "dribbling") for item in running)
        *most, _ = arguments
        return send_for_real(address, *most, 0.3 if hangs else 60.0)

    send_for_real = instance.send_request
    monkeypatch.setattr(instance, "send_request", send)
    monkeypatch.setattr(fronted, "RUNTIME_TIMEOUT_SECONDS", 60.0)
    # shorter than one of these requests, so one that hangs is enough
    monkeypatch.setattr(executor, "SERVE_TIMEOUT_SECONDS", 0.25)
    yield machines
    for machine in machines.made:
        machine.close()


@pytest.fixture
def machine(make_machine: Machines) -> Machine:
    """A prepared host with four staged releases and nothing promoted."""
    return make_machine()


@pytest.fixture
def set_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Limits, in seconds, how long a command waits for the lock of the host."""

    def set_timeout(seconds: float) -> None:
        monkeypatch.setattr(lock, "LOCK_TIMEOUT_SECONDS", seconds)
        monkeypatch.setattr(executor, "LOCK_TIMEOUT_SECONDS", seconds, raising=False)

    return set_timeout


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
        # None leaves out an argument that a module does not have
        given = {key: value for key, value in parameters.items() if value is not None}
        with patch_module_args(given), pytest.raises(SystemExit):
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
