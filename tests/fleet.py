# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Systemd hosts with the stand-in service on them, released with `mobius` as a person does it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mobius.manifest import release_of
from tests.end_to_end.by_hand import Answer
from tests.machine import make_tree, pack_tree

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STAND_IN = CHECKOUT / "tests/integration/switch/stand_in.py"
SERVICE = "stand-in"


class Fleet:
    """The hosts, driven through `mobius` and read from their consoles."""

    def __init__(self, root: Path, service: str = SERVICE, port: int = 8080) -> None:
        self.root = root
        self.service = service
        self.port = port
        self.inventory = root / "inventories/local"
        if not self.inventory.exists():
            shutil.copytree(CHECKOUT / "inventories/local", self.inventory)
        self.state = root / "state"
        self.variables: dict[str, Any] = {
            "mobius_service": service,
            "host_exec": "/usr/bin/python3 stand_in.py",
            "host_health_path": "/well",
            "host_start_timeout": 30,
            "host_drain_deadline": 3,
            "host_port": port,
            "deploy_golden": [],
            "promote_probes": [],
            "promote_signals": [],
            "promote_front_signals": [],
            "promote_healthy_seconds": 0.5,
            "promote_gate_deadline": 8,
            "promote_confirm_deadline": 40,
        }

    # --- the lab

    def lab(self, *arguments: str) -> None:
        self._call(BIN / "mobius", "lab", *arguments, "--root", self.root)

    def hosts(self) -> list[dict[str, Any]]:
        return list(json.loads((self.root / ".lab/lab.json").read_bytes())["hosts"])

    @property
    def names(self) -> list[str]:
        return [str(item["name"]) for item in self.hosts()]

    def container(self, host: str) -> str:
        return str(next(item["container"] for item in self.hosts() if item["name"] == host))

    def shell(self, host: str, script: str, *, check: bool = True) -> str:
        """A script at the console of a host."""
        return self._call("podman", "exec", self.container(host), "bash", "-euc", script, check=check).stdout

    def pause(self, host: str) -> None:
        self._call("podman", "pause", self.container(host))

    def unpause(self, host: str) -> None:
        self._call("podman", "unpause", self.container(host), check=False)

    def power_off(self, host: str) -> None:
        """Kill every process of a host at once."""
        self._call("podman", "kill", self.container(host))

    def power_on(self, host: str) -> None:
        self._call("podman", "start", self.container(host))

    @contextlib.contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """Drop every packet of SSH at a host, in both directions, as a firewall does; its service stays within reach."""
        pid = self._call("podman", "inspect", "--format", "{{.State.Pid}}", self.container(host)).stdout.strip()
        firewall = ("nsenter", "--net", "--target", pid, "iptables")
        rules = [
            (chain, "-p", "tcp", port, "22", "-j", "DROP")
            for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport"))
        ]
        for rule in rules:
            self._call(*firewall, "-I", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self._call(*firewall, "-D", *rule)

    def reboot(self, host: str) -> None:
        self._call("podman", "restart", "--time", "20", self.container(host))

    # --- runs

    def bundle(self, version: str, **behaviour: Any) -> tuple[str, str]:
        """`(path, release id)` of a release of the stand-in."""
        tree = make_tree(self.root / "trees" / self.service / version, STAND_IN, version, **behaviour)
        packed = pack_tree(tree, self.root / "dist", self.service, version)
        return str(packed.path), packed.release_id

    def command(self, *arguments: str, **variables: Any) -> list[str]:
        extra = json.dumps({**self.variables, **variables})
        return [str(BIN / "mobius"), *arguments, "-i", str(self.inventory), "-e", extra, "--format", "json"]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state), "ANSIBLE_HOME": str(self.root / ".ansible")}

    def mobius(self, *arguments: str, **variables: Any) -> Answer:
        """Run `mobius … --format json` with more variables."""
        done = subprocess.run(
            self.command(*arguments, **variables),
            cwd=CHECKOUT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr)

    def release(self, path: str, *arguments: str, **variables: Any) -> Answer:
        return self.mobius("release", "--bundle", path, *arguments, **variables)

    def history(self, run: str) -> dict[str, Any]:
        """All that is recorded of a run."""
        command = (BIN / "mobius", "history", "show", run, "-i", self.inventory, "--format", "json")
        return dict(json.loads(self._call(*command).stdout))

    def verify_history(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """`mobius history verify` of this folder, with the hosts as witnesses; whatever it ends with."""
        return self._call(BIN / "mobius", "history", "verify", "-i", self.inventory, "--dir", folder, check=False)

    def begin(self, *arguments: str, stdout: int = subprocess.DEVNULL, **variables: Any) -> subprocess.Popen[str]:
        """Start `mobius` in its own session; `kill` ends it."""
        return subprocess.Popen(
            self.command(*arguments, **variables),
            cwd=CHECKOUT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill `mobius` and all that it has started; Ansible has to be among it."""
        assert kill_family(process.pid) > 1, "Ansible runs"
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    # --- what the hosts are

    def status(self, host: str) -> dict[str, Any]:
        # 2: it names problems, which a kill may have left for a moment
        return dict(json.loads(self.shell(host, f"mobius-host --service {self.service} status --json", check=False)))

    def statuses(self) -> dict[str, dict[str, Any]]:
        with ThreadPoolExecutor() as pool:
            return dict(zip(self.names, pool.map(self.status, self.names), strict=True))

    def confirmed(self) -> dict[str, str | None]:
        """The release of the revision that each host has confirmed."""
        confirmed = {host: status["confirmed"] for host, status in self.statuses().items()}
        return {host: revision and release_of(revision) for host, revision in confirmed.items()}

    def answer(self, host: str) -> str | None:
        """The release that answers on the public socket of a host; None when none does."""
        port = next(item["ports"][str(self.port)] for item in self.hosts() if item["name"] == host)
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            return answer.headers["X-Release-Id"]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def answers(self) -> dict[str, str | None]:
        return {host: self.answer(host) for host in self.names}

    def everywhere(self, release: str | None) -> dict[str, str | None]:
        return dict.fromkeys(self.names, release)

    def until(self, condition: Any, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, {host: status["pending"] for host, status in self.statuses().items()}
            time.sleep(0.2)

    def fresh(self) -> None:
        """Make them hosts that have never served anything."""
        name = self.service
        script = (
            f"systemctl disable --now {name}-boot {name}.socket; "
            f"systemctl stop '{name}@*' {name}-guard {name}-boot {name}.socket {name}-front {name}-traffic.socket "
            f"{name}-traffic; "
            f"cd /opt/{name} && rm -rf activation*.json current releases/* /run/{name}/*.json; "
            f"rm -rf /var/lib/{name}/journal.jsonl /var/backups/{name}/* /var/backups/{name}/.[a-z]*"
        )
        for host in self.names:
            self.shell(host, script, check=False)

    def _call(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(part) for part in command], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def kill_family(pid: int) -> int:
    """Kill a process and all that it has started: Ansible and each of its workers have their own sessions.

    Returns:
        how many processes were killed.
    """
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    family = {pid}
    while more := {child for child, parent in parents if parent in family} - family:
        family |= more
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return len(family)
