"""A lab's hosts and the command, as a person uses them: the lab is this package's own, beside the checkout's."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# The checkout's own lab is Molecule's, which runs at the same time.
GOLDEN = CHECKOUT / "playbooks/files/golden"
ROOT = CHECKOUT / ".cache" / "end_to_end"
INVENTORY = ROOT / "inventories" / "local"
_HAVE_NO_INVENTORY = ("apply", "bundle")


@dataclass(frozen=True)
class Host:
    """A host of the lab."""

    name: str
    ssh_port: int
    http_port: int
    container: str

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.http_port)

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host as root."""
        lab = ROOT / ".lab"
        options = [
            "-o",
            "BatchMode=yes",
            "-o",
            f"UserKnownHostsFile={lab / 'known_hosts'}",
            "-i",
            str(lab / "id_ed25519"),
        ]
        done = subprocess.run(
            ["ssh", "-F", "none", *options, "-p", str(self.ssh_port), "root@127.0.0.1", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A host that is there and says nothing."""
        subprocess.run(["podman", "pause", self.container], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["podman", "unpause", self.container], check=True, capture_output=True)

    def reboot(self) -> None:
        """Stop and start the host, as a power button does it."""
        subprocess.run(["podman", "restart", "--time", "20", self.container], check=True, capture_output=True)

    def status(self) -> dict[str, Any]:
        """What `mobius-host status --json` says there."""
        # 2: it names problems, which a kill may have left for a moment
        parsed: dict[str, Any] = json.loads(self.run("mobius-host status --json", check=False).stdout)
        return parsed


@dataclass(frozen=True)
class Answer:
    """How a run of `mobius` ended."""

    code: int
    summary: dict[str, Any]
    stderr: str

    @property
    def outcome(self) -> str:
        return str(self.summary["outcome"])

    @property
    def changes(self) -> dict[str, list[str]]:
        """Names of the changed tasks, in order, by host; hosts that changed nothing are left out."""
        return {host: tasks for host, tasks in self.summary["changes"].items() if tasks}

    def outcomes(self) -> dict[str, str]:
        """Outcome by host."""
        return {item["host"]: item["outcome"] for item in self.summary["failures"]}


def command(*arguments: str) -> list[str]:
    """The command line of `mobius …` against this lab, unless the arguments name another inventory."""
    given = "-i" in arguments or arguments[0] in _HAVE_NO_INVENTORY
    return [str(BIN / "mobius"), *arguments, *(() if given else ("-i", str(INVENTORY)))]


def mobius(*arguments: str, timeout: float = 600) -> Answer:
    """Run `mobius … --format json`."""
    done = subprocess.run(
        [*command(*arguments), "--format", "json"],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr)


def answered(answer: str, *arguments: str) -> tuple[int, str]:
    """Run `mobius …` at a terminal, where a person answers what it asks; its exit code and what it said there."""
    terminal, side = pty.openpty()
    try:
        os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            command(*arguments),
            cwd=CHECKOUT,
            stdin=side,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        os.close(terminal)
        os.close(side)
    return done.returncode, done.stderr


def lab(*arguments: str) -> None:
    """Run `mobius lab …` for this package's own lab."""
    shutil.copytree(CHECKOUT / "inventories/local", INVENTORY, dirs_exist_ok=True)
    done = subprocess.run(
        [str(BIN / "mobius"), "lab", *arguments, "--root", str(ROOT)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Bundle:
    """A built bundle."""

    path: str
    release: str


def build(folder: Path, version: str, source: Path = CHECKOUT) -> Bundle:
    """Build a bundle of the source's commit into `folder`."""
    answer = mobius("bundle", "build", "--version", version, "--out", str(folder), "--source", str(source))
    assert answer.code == 0, answer.stderr
    return Bundle(answer.summary["bundle"], answer.summary["release"])
