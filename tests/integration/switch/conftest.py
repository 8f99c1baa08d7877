"""One systemd host of a lab of its own, with a second service on it: `stand_in.py`, which knows nothing of MOBIUS.

Everything is real: podman, SSH, Ansible, systemd, the role, the modules and the installed `mobius-host`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mobius.control.bundle.builder import pack
from tests.clients import ClientLoad, client_load

PACKAGE = "ansible_collections.mobius.dhash.plugins.module_utils"
HOST_IMPORTS = (
    " import staged_tree",
    ".host.config import Host",
    ".host.executor import Executor",
    ".host.plan import Actor",
    ".host.transitions.confirmation import Promotion",
)


COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible/collections")
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)


CHECKOUT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
SERVICE = "stand-in"
VARIABLES = {
    "mobius_service": SERVICE,
    "host_exec": "/usr/bin/python3 -m stand_in",
    "host_health_path": "/well",
    "host_start_timeout": 10,
    "host_drain_deadline": 3,
    # what is watched says so: test_watching.py
    "host_watch_seconds": 0,
}


class Machine:
    """The lab's host, driven through Ansible and as a person at its console."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(CHECKOUT / "inventories/local", root / "inventories/local")
        self.inventory = root / "inventories/local"
        self.releases: dict[str, str] = {}

    def call(self, *command: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **more,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def lab(self, *arguments: str) -> None:
        self.call(BIN / "mobius", "lab", *arguments, "--root", self.root)

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.root / ".lab/lab.json").read_bytes())["hosts"][0])

    @property
    def port(self) -> int:
        """Where the public socket of the host is on this machine."""
        return int(self.record["ports"]["8080"])

    def shell(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A script at the host's console."""
        return self.call("podman", "exec", self.record["container"], "bash", "-euc", script, check=check)

    @property
    def ansible_playbook(self) -> Path:
        return BIN / "ansible-playbook"

    def playbook(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = json.dumps({**VARIABLES, "promote_run": "test", "promote_lease": False})
        return self.call(
            self.ansible_playbook,
            "-i",
            self.inventory,
            f"playbooks/{name}.yml",
            "-e",
            variables,
            *arguments,
            check=False,
        )

    def call_module(self, name: str, *arguments: str, **parameters: Any) -> str:
        """What Ansible says of one module on the host, in a run that was opened for it."""
        tasks = [{"mobius.dhash.run": {}}, {f"mobius.dhash.{name}": {"service": SERVICE, **parameters}}]
        play = self.root / f"{name}.yml"
        play.write_text(json.dumps([{"hosts": "mobius", "gather_facts": False, "tasks": tasks}]))
        return self.call(self.ansible_playbook, "-v", "-i", self.inventory, play, *arguments, check=False).stdout

    def module(self, name: str, *arguments: str, **parameters: Any) -> dict[str, Any]:
        """The result of one module on the host."""
        said = self.call_module(name, *arguments, **parameters)
        begin = said.find("=> {", said.rindex("\nTASK "))
        assert begin > 0, said
        return dict(json.JSONDecoder().raw_decode(said, begin + 3)[0])

    def host(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`mobius-host ...` at the console."""
        return self.shell("mobius-host " + " ".join(arguments), check=check)

    def status(self) -> dict[str, Any]:
        # 2: it names problems, which a kill may have left for a moment
        return dict(json.loads(self.host("status", "--json", check=False).stdout))

    def states(self) -> dict[str, str]:
        """What the instances of each version do, those that run."""
        found = {item["version"]: item["state"] for item in self.status()["releases"]}
        return {version: state for version, state in found.items() if state not in ("kept", "bad", "removed", "failed")}

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.shell(f"cat /var/lib/{SERVICE}/journal.jsonl").stdout.splitlines()]

    def stage(self, version: str, **behaviour: Any) -> None:
        """Build a release of the stand-in and stage it."""
        tree = self.root / "trees" / version
        tree.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("stand_in.py"), tree)
        (tree / "behaviour.json").write_text(json.dumps(behaviour))
        bundle = pack(
            [tree],
            self.root / "dist",
            service=SERVICE,
            version=version,
            commit="0" * 40,
            built_at="2026-01-01T00:00:00Z",
            python="3.11",
            platform="linux_x86_64",
        )
        self.call("podman", "cp", bundle.path, f"{self.record['container']}:/root/")
        self.python(f"staged_tree.stage('/root/{bundle.path.name}', host.releases_dir, service='{SERVICE}')")
        self.releases[version] = bundle.release_id

    def python(self, script: str) -> None:
        """A few lines of Python on the host, with the code of the installed mobius-host."""
        tool = self.shell("cat /usr/local/bin/mobius-host").stdout.partition("from ")[0]
        imports = "\n".join(f"from {PACKAGE}{module}" for module in HOST_IMPORTS)
        self.shell(f"python3 -IS - <<'END'\n{tool}{imports}\nhost = Host.load('{SERVICE}')\n{script}\nEND")

    def promote(self, version: str, until: str = "confirmed", deadline: float = 60) -> None:
        """As the module does it, without Ansible's own time."""
        stages = ("canary", "provisional", "confirmed")
        arguments = f"release='{self.releases[version]}', actor=actor, deadline={deadline}, retry_bad=True"
        self.python(
            "actor = Actor('test', 'test')\n"
            f"for state in {stages[: stages.index(until) + 1]}:\n"
            f"    Executor(host, actor).run(Promotion(state=state, {arguments}).plan)"
        )

    def forget(self) -> None:
        """Make it a host that has never served anything."""
        units = f"'{SERVICE}@*' {SERVICE}-guard {SERVICE}-boot {SERVICE}.socket"
        self.shell(f"systemctl disable --now {SERVICE}-boot {SERVICE}.socket; systemctl stop {units}")
        self.shell(f"cd /opt/{SERVICE} && rm -f activation*.json current /run/{SERVICE}/*.json")
        self.shell(f"rm -f /var/lib/{SERVICE}/journal.jsonl")

    def serve_from(self, version: str) -> None:
        """Have one version confirmed and running, and nothing else, whatever a test before left."""
        if self.status()["pending"]:
            self.host("rollback")
        status = self.status()
        if status["confirmed"] != self.releases[version]:
            self.promote(version)
        for item in status["releases"]:
            if item["version"] != version and item["state"] not in ("kept", "bad"):
                self.shell(f"systemctl stop {SERVICE}@{item['release']}")

    def answer(self) -> str:
        """The release that answers on the public socket."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            return str(answer.headers["X-Release-Id"])
        finally:
            connection.close()

    def until(self, condition: Any, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.host("status").stdout
            time.sleep(0.1)

    def load(self) -> AbstractContextManager[ClientLoad]:
        """Clients that send the whole time, two that keep their connection and one that does not."""
        return client_load(self.port)


@pytest.fixture(scope="package")
def bare_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A fresh Debian host; nothing is provisioned yet."""
    machine = Machine(tmp_path_factory.mktemp("switch"))
    try:
        machine.lab("up", "--hosts", "1")
        yield machine
    finally:
        machine.lab("down")


@pytest.fixture(scope="package")
def machine(bare_machine: Machine) -> Machine:
    """The host, provisioned for the stand-in, with releases staged and the first one serving."""
    done = bare_machine.playbook("provision")
    assert done.returncode == 0, done.stdout
    bare_machine.stage("1.0.0")
    bare_machine.stage("1.1.0")
    bare_machine.stage("1.2.0")
    bare_machine.stage("2.0.0", crash=True)
    bare_machine.stage("2.1.0", admin_silent_after=4)
    bare_machine.stage("3.0.0", unwell_after=4)
    bare_machine.stage("3.1.0", fail_every=20)
    bare_machine.stage("3.2.0", slow=0.2)
    bare_machine.stage("3.3.0", leak=4 << 20)
    return bare_machine
