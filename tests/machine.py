"""One systemd host of a lab of its own with one service. Everything is real: podman, SSH, Ansible, systemd, `mobius-host`."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mobius.control.bundle.builder import pack
from mobius.manifest import Bundle
from tests.clients import ClientLoad, client_load

PACKAGE = "ansible_collections.mobius.dhash.plugins.module_utils"
HOST_IMPORTS = (
    " import staged_tree",
    ".host.config import Host",
    ".host.executor import Executor",
    ".host.plan import Actor",
    ".host.transitions.confirmation import Promotion",
)
CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


class Machine:
    """The lab's host with one service, driven through Ansible and as a person at its console.

    Args:
        root: folder of the lab; two services of one host have the same.
        variables: of the playbooks.
    """

    def __init__(self, root: Path, service: str, variables: Mapping[str, Any]) -> None:
        self.root = root
        self.service, self.variables = service, {"mobius_service": service, **variables}
        shutil.copytree(CHECKOUT / "inventories/local", root / "inventories/local", dirs_exist_ok=True)
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
        return int(self.record["ports"][str(self.variables.get("host_port", 8080))])

    def shell(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A script at the host's console."""
        return self.call("podman", "exec", self.record["container"], "bash", "-euc", script, check=check)

    @property
    def ansible_playbook(self) -> Path:
        return BIN / "ansible-playbook"

    def playbook(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = json.dumps({**self.variables, "promote_run": "test", "promote_lease": False})
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
        tasks = [{"mobius.dhash.run": {}}, {f"mobius.dhash.{name}": {"service": self.service, **parameters}}]
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
        return self.shell(f"mobius-host --service {self.service} {' '.join(arguments)}", check=check)

    def status(self) -> dict[str, Any]:
        # 2: it names problems, which a kill may have left for a moment
        return dict(json.loads(self.host("status", "--json", check=False).stdout))

    def states(self) -> dict[str, str]:
        """What the instances of each version do, those that run."""
        found = {item["version"]: item["state"] for item in self.status()["releases"]}
        return {version: state for version, state in found.items() if state not in ("kept", "bad", "removed", "failed")}

    def journal(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self.shell(f"cat /var/lib/{self.service}/journal.jsonl").stdout.splitlines()
        ]

    def stage_program(self, program: Path, version: str, **behaviour: Any) -> None:
        """Build a release of a server and stage it."""
        self.stage(version, make_tree(self.root / "trees" / self.service / version, program, version, **behaviour))

    def stage(self, version: str, tree: Path) -> None:
        """Build a release of a tree and stage it."""
        bundle = pack_tree(tree, self.root / "dist" / self.service, self.service, version)
        self.call("podman", "cp", bundle.path, f"{self.record['container']}:/root/")
        self.python(f"staged_tree.stage('/root/{bundle.path.name}', host.releases_dir, service='{self.service}')")
        self.releases[version] = bundle.release_id

    def python(self, script: str) -> None:
        """A few lines of Python on the host, with the code of the installed mobius-host."""
        tool = self.shell("cat /usr/local/bin/mobius-host").stdout.partition("from ")[0]
        imports = "\n".join(f"from {PACKAGE}{module}" for module in HOST_IMPORTS)
        self.shell(f"python3 -IS - <<'END'\n{tool}{imports}\nhost = Host.load('{self.service}')\n{script}\nEND")

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
        names = ("@*", "-guard", "-boot", ".socket", "-front", "-traffic.socket", "-traffic")
        units = " ".join(f"'{self.service}{name}'" for name in names)
        self.shell(f"systemctl disable --now {self.service}-boot {self.service}.socket; systemctl stop {units}")
        self.shell(f"cd /opt/{self.service} && rm -f activation*.json current /run/{self.service}/*.json")
        self.shell(f"rm -f /var/lib/{self.service}/journal.jsonl")

    def serve_from(self, version: str) -> None:
        """Have one version confirmed and running, and nothing else, whatever a test before left."""
        if not self.host("status", "--json", check=False).stdout:
            self.host("repair", "--yes")
        if self.status()["pending"]:
            self.host("rollback")
        status = self.status()
        if status["confirmed"] != self.releases[version]:
            self.promote(version)
        for item in status["releases"]:
            if item["version"] != version and item["state"] not in ("kept", "bad"):
                self.shell(f"systemctl stop {self.service}@{item['release']}")

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

    def load(self, **clients: Any) -> AbstractContextManager[ClientLoad]:
        """Clients that send the whole time, as `client_load` has them."""
        return client_load(self.port, **clients)


@contextmanager
def lab_machine(root: Path, service: str, variables: Mapping[str, Any], *options: str) -> Iterator[Machine]:
    """A fresh Debian host in a lab of its own, which is removed in the end; `options` are those of `mobius lab up`."""
    machine = Machine(root, service, variables)
    try:
        machine.lab("up", "--hosts", "1", *options)
        yield machine
    finally:
        machine.lab("down")


def make_tree(tree: Path, program: Path, version: str, **behaviour: Any) -> Path:
    """The tree of a release of a server: the program, its version, and how it is to behave."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    shutil.copy(program, tree)
    (tree / "version.txt").write_text(version)
    (tree / "behaviour.json").write_text(json.dumps(behaviour))
    return tree


def pack_tree(tree: Path, folder: Path, service: str, version: str) -> Bundle:
    """A bundle of a tree, for the lab's hosts."""
    return pack(
        [tree],
        folder,
        service=service,
        version=version,
        commit="0" * 40,
        built_at="2026-01-01T00:00:00Z",
        python="3.11",
        platform="linux_x86_64",
    )


def task_states(output: str) -> dict[str, str]:
    """Each task of a run on the first host with "ok" or "changed"."""
    states: dict[str, str] = {}
    task = ""
    for line in output.splitlines():
        if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*?)\]", line):
            task = match[1]
        elif match := re.match(r"(ok|changed): \[lab1\]", line):
            states[task] = "changed" if "changed" in (match[1], states.get(task)) else "ok"
    return states
