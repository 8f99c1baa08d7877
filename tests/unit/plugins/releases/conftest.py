"""A provisioned host in a folder, modules that run for real against it, and instances that answer, well or badly."""

from __future__ import annotations

import contextlib
import importlib
import json
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mobius.dhash.plugins.module_utils.gate import run as gate_run
from ansible_collections.mobius.dhash.plugins.module_utils.gate import verdict as gate_verdict
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import SLOT_COUNT
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import launcher, tool_digest
from ansible_collections.mobius.dhash.plugins.module_utils.host.instance import find_slot, slot_table
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import (
    Activation,
    ActivationEntry,
    Pending,
    boot_id,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from mobius import manifest
from mobius.control.bundle.builder import pack
from tests.fake_front import PORTS
from tests.opened import opened_for

SERVER = Path(__file__).with_name("instance_server.py")
PYTHON = ".".join(platform.python_version_tuple()[:2])
PLATFORM = f"{sys.platform}_{platform.machine()}"


@dataclass
class HostFolder:
    """One host's files under `root`, and the processes that act as its instances."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    first_port: int  # of a block of ports
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config_dir(self) -> Path:
        return self.root / "mobius-host"

    @property
    def host(self) -> Host:
        return Host.load("mobius-dhash", self.config_dir)

    def provision(self) -> None:
        """What the role `host` leaves on a host, as far as these modules look at it."""
        folders = {
            name: str(self.root / name) for name in ("run_dir", "state_dir", "cache_dir", "backup_dir", "log_dir")
        }
        for path in (self.config_dir, self.root / "opt/releases", *map(Path, folders.values())):
            path.mkdir(parents=True)
        content = {
            "schema": 1,
            "service": "mobius-dhash",
            "user": "root",
            "root": str(self.root / "opt"),
            "config_dir": str(self.root / "etc"),
            "health_path": "/health",
            "start_timeout": 5,
            "drain_deadline": 5,
            "command": str(self.root / "command"),
            "kind": "http",
            "front": {
                "port": self.first_port + SLOT_COUNT + 1,
                "first_port": self.first_port + 1,
                "internal_port": self.first_port,
            },
            **folders,
        }
        (self.config_dir / "mobius-dhash.json").write_text(json.dumps(content))
        (self.root / "command").write_text(launcher("/nowhere", tool_digest()))
        opened_for("release", self.root)

    def sign_bundles_by(self, *lines: str) -> None:
        """Give the host a list of signers of its own, as the role `host` does; none takes it away."""
        place = self.config_dir / "mobius-dhash.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), "bundle_signers": list(lines)}))

    def truth(
        self, confirmed: str | None, *earlier: str, pinned: tuple[str, ...] = (), bad: Mapping[str, str] | None = None
    ) -> None:
        """Write `activation.json`: the confirmed release, those confirmed before it, oldest first, and why others are bad."""
        at = "2026-01-01T00:00:00Z"
        entries = [ActivationEntry(r, at, at, False, None, None) for r in (*earlier, confirmed) if r]
        entries += [ActivationEntry(r, at, None, True, why, None) for r, why in (bad or {}).items()]
        activation = Activation("mobius-dhash", len(entries), confirmed, tuple(entries), pinned)
        self.host.activation_path.write_text(json.dumps(activation.as_dict()))

    def pending(self, release: str, previous: str | None, *, deadline: float = 1e12) -> None:
        """Write `pending.json`."""
        value = Pending(release, previous, "canary", deadline, boot_id(), None, 1, "2026-01-01T00:00:00Z")
        self.host.pending_path.write_text(json.dumps(value.as_dict()))

    def start(self, release: str, behaviour: str = "well", *, wait: bool = True) -> subprocess.Popen[bytes]:
        """Start an instance; with `wait`, until it listens."""
        slots = slot_table(self.host)
        slot = next((one for one in slots.read() if one.release == release), None) or slots.assign(release)
        pid_file = self.pid_file(release)
        pid_file.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-S", str(SERVER), str(pid_file), release, behaviour])
        self.processes.append(process)
        deadline = time.monotonic() + 10
        while wait and not (pid_file.exists() and _listens(slot.port)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        return process

    def pid_file(self, release: str) -> Path:
        """Where the instance of a release keeps its process id."""
        slot = find_slot(self.host, release)
        return self.host.run_dir / f"{slot.port if slot else 0}.pid"

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill an instance, and wait until it is gone."""
        process.kill()
        process.wait()

    def run(self, name: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """Run a module and return what it answers."""
        module = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.modules.{name}")
        parameters = {
            "service": "mobius-dhash",
            "config_dir": str(self.config_dir),
            **opened_for(name, self.root),
            **arguments,
            "_ansible_check_mode": check,
        }
        self.capsys.readouterr()
        with patch_module_args(parameters), pytest.raises(SystemExit) as left:
            module.main()
        answer: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert bool(left.value.code) == bool(answer.get("failed"))
        return answer

    def fails(self, name: str, outcome: str, **arguments: Any) -> str:
        """Run a module that must refuse, with this outcome; the one sentence that it gives."""
        answer = self.run(name, **arguments)
        assert answer.get("failed"), answer
        assert answer["mobius_failure"]["outcome"] == outcome, answer
        assert answer["changed"] is False
        reason: str = answer["msg"]
        assert reason.endswith(".") and "\n" not in reason
        return reason


@dataclass
class GateClock:
    """The clock of the gate. It advances only when the gate sleeps or sends; a test can act at a time or in between."""

    now: float = 1000.0
    due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    between: list[Callable[[], object]] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        for call in self.between:
            call()
        end = self.now + seconds
        for time_due, call in sorted(self.due, key=lambda entry: entry[0]):
            if time_due <= end:
                self.due.remove((time_due, call))
                call()
        self.now = end

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Call this once the gate has slept beyond so many seconds from now."""
        self.due.append((self.now + seconds, call))

    def time_requests(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The requests of the gate; each takes the time that the instance reports, or the whole time-out without a response."""

        def make(host: Any, release: str) -> Any:
            send = real(host, release)

            def timed(
                method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
            ) -> tuple[int, Any, bytes]:
                try:
                    status, headers, response = send(method, path, body, content_type, 60.0)
                except TimeoutError:
                    self.now += timeout
                    raise
                self.now += float(headers.get("x-seconds", 0.0))
                return status, headers, response

            return timed

        return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[GateClock]:
    """The gate runs by this clock, so that its verdicts do not depend on how busy the machine is."""
    clock = GateClock()
    for module in (gate_run, gate_verdict):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(gate_run, "instance_requests", clock.time_requests(gate_run.instance_requests))
    monkeypatch.setenv("MOBIUS_TEST_ALARM", "1")
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    yield clock
    signal.signal(signal.SIGALRM, before)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class ProcessFiles(Systemd):
    """systemd, which knows the processes of the instances."""

    def __init__(self, host: HostFolder) -> None:
        self.host = host

    def units(self, *patterns: str) -> dict[str, Unit]:
        units = {}
        for name in patterns:
            pid_file = self.host.pid_file(name.partition("@")[2].removesuffix(".service"))
            pid = int(pid_file.read_text()) if pid_file.exists() else None
            units[name] = Unit(name, "active" if pid else "inactive", "", "", "", main_pid=pid)
        return units


@pytest.fixture
def host(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[HostFolder]:
    """A provisioned host; its folder has a short name, because a Unix socket's path may have 107 bytes only."""
    root = Path(tempfile.mkdtemp(prefix="mobius-"))
    first_port = PORTS.take()
    made = HostFolder(root, capsys, first_port)
    made.provision()
    monkeypatch.setattr(gate_run, "Systemd", lambda: ProcessFiles(made))
    yield made
    for process in made.processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(root)
    PORTS.give_back(first_port)


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., manifest.Bundle]:
    """Bundles of a tree with one small file, by default for this Python and platform."""

    def make(version: str = "1.0.0", *, size: int = 100, **changes: str | None) -> manifest.Bundle:
        tree = tmp_path / f"tree-{version}"
        tree.mkdir(exist_ok=True)
        (tree / "content.bin").write_bytes(b"x" * size)
        fields = {
            "service": "mobius-dhash",
            "commit": "c" * 40,
            "built_at": "2026-01-02T03:04:05Z",
            "python": PYTHON,
            "platform": PLATFORM,
        }
        return pack([tree], tmp_path / "bundles", version=version, **{**fields, **changes})

    return make
