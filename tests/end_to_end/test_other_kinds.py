"""Services that are not HTTP, or that cannot run twice, by plain role variables and packed folders, on one host."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import client_load
from tests.end_to_end.by_hand import CHECKOUT
from tests.fleet import BIN, Fleet

# three services with three releases each take some minutes
pytestmark = [pytest.mark.lab, pytest.mark.soak]
PROGRAMS = CHECKOUT / "tests/integration/front_host"
TCP_PORT, ALONE_PORT = 8091, 8191
OF_DHASH: dict[str, Any] = {"host_watch_signals": [], "host_watch_memory": {}, "backup_drill_probes": []}


class Service(Fleet):
    """One service of the host."""

    def pack(self, version: str, files: dict[str, Path | str]) -> tuple[str, str]:
        """`(path, release id)` of a folder that was packed with `mobius bundle pack`."""
        folder = self.root / "folders" / self.service / version
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content if isinstance(content, str) else content.read_text())
        named = ("--service", self.service, "--version", version, "--output", self.root / "dist", "--format", "json")
        done = json.loads(self._call(BIN / "mobius", "bundle", "pack", folder, *named).stdout)
        return str(done["bundle"]), str(done["release"])

    def checked(self, *arguments: str) -> None:
        """Check a run, and run it: it changes what the check has predicted."""
        check, real = self.mobius(*arguments, "--check"), self.mobius(*arguments)
        assert (check.code, real.code) == (0, 0), check.stderr + real.stderr
        assert check.changes == real.changes
        assert real.changes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a lab with one host."""
    folder = tmp_path_factory.mktemp("kinds")
    fleet = Fleet(folder)
    fleet.lab("up", "--hosts", "1", "--publish", str(TCP_PORT), "--publish", str(ALONE_PORT))
    try:
        yield folder
    finally:
        fleet.lab("down")


def make_service(root: Path, name: str, port: int = 8080, **variables: Any) -> Service:
    service = Service(root, name, port)
    service.variables |= {**OF_DHASH, "host_front_first_port": port + 10_000, "host_watch_seconds": 0, **variables}
    service.checked("provision")
    return service


def say(port: int) -> str:
    """The release that answers a line."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as channel:
        channel.sendall(b"hello\n")
        release, _, line = channel.makefile("rb").readline().partition(b" ")
    assert line == b"hello\n", line
    return release.decode()


def test_a_service_that_speaks_tcp(root: Path) -> None:
    service = make_service(
        root, "lines", TCP_PORT, host_kind="tcp", host_exec="/usr/bin/python3 line_server.py {port} %i"
    )
    first, second, broken = (
        service.pack(version, {"line_server.py": content, "version": version})
        for version, content in (
            ("1.0.0", PROGRAMS / "line_server.py"),
            ("1.1.0", PROGRAMS / "line_server.py"),
            ("1.2.0", "raise SystemExit(3)"),
        )
    )
    port = int(service.hosts()[0]["ports"][str(TCP_PORT)])
    service.checked("release", "--bundle", first[0])
    releases: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            releases.append(say(port))

    client = threading.Thread(target=ask)
    client.start()
    try:
        service.checked("release", "--bundle", second[0])
        assert service.release(broken[0]).code == 2
        service.checked("rollback", "--reason", "a test")
    finally:
        over.set()
        client.join()
    assert set(releases) == {first[1], second[1]}
    assert say(port) == first[1]
    service.checked("decommission", "lines")


def test_a_service_that_cannot_run_twice(root: Path) -> None:
    service = make_service(root, "alone", ALONE_PORT, host_overlap=False, promote_front_signals=[])
    only_one = """
import fcntl, os
lock = open(os.path.dirname(os.environ["MOBIUS_INDEX"]) + "/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    program = only_one + (CHECKOUT / "tests/integration/switch/stand_in.py").read_text().replace(
        "from __future__ import annotations\n", ""
    )
    (first, second, broken) = (
        service.pack(version, {"stand_in.py": content, "behaviour.json": "{}", "version": version})
        for version, content in (("1.0.0", program), ("1.1.0", program), ("1.2.0", "raise SystemExit(3)"))
    )
    service.checked("release", "--bundle", first[0])
    port = int(service.hosts()[0]["ports"][str(ALONE_PORT)])
    with client_load(port, kept=4, single=2, pause=0.05) as load:
        service.checked("release", "--bundle", second[0])
        refused = service.release(broken[0])
        assert (refused.code, refused.outcome) == (2, "instance_failed"), refused.stderr
        assert service.answer("lab1") == second[1]
        service.checked("rollback", "--reason", "a test")
    assert load.failures == []
    assert set(load.statuses) == {200}, load.statuses
    assert service.answer("lab1") == first[1]
    service.shell("lab1", "systemctl restart alone-boot; mobius-host --service alone verify")
    service.reboot("lab1")
    service.until(lambda: service.answer("lab1") == first[1])
    service.checked("decommission", "alone")


def test_a_worker(root: Path) -> None:
    service = make_service(
        root,
        "jobs",
        host_kind="worker",
        host_exec="/usr/bin/python3 worker_program.py",
        host_health_command=["test", "!", "-e", "unwell"],
    )
    program = PROGRAMS / "worker_program.py"
    first, second, unwell, broken = (
        service.pack(version, {"worker_program.py": content, "version": version, **more})
        for version, content, more in (
            ("1.0.0", program, {}),
            ("1.1.0", program, {}),
            ("1.2.0", program, {"unwell": "yes"}),
            ("1.3.0", "raise SystemExit(3)", {}),
        )
    )
    service.checked("release", "--bundle", first[0])
    service.checked("release", "--bundle", second[0])
    for refused, outcome in ((unwell, "instance_not_ready"), (broken, "instance_failed")):
        answer = service.release(refused[0])
        assert answer.outcome == outcome, answer.stderr
        assert service.confirmed() == {"lab1": second[1]}
    states = {item["release"]: item["state"] for item in service.status("lab1")["releases"]}
    assert [release for release, state in states.items() if state == "serving"] == [second[1]]
    service.checked("rollback", "--reason", "a test")
    assert service.confirmed() == {"lab1": first[1]}
    service.reboot("lab1")
    unit = f"jobs@{first[1]}.service"
    service.until(lambda: service.shell("lab1", f"systemctl is-active {unit}", check=False).strip() == "active")
    service.checked("decommission", "jobs")
