# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An instance with an address of its own, as behind a front: no shared socket, no admin socket, no neighbours."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mobius.dhash import Library
from tests.integration.service.conftest import ROOT, wait_until
from tests.integration.service.samples import PICTURE, again

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
HEAD = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


@dataclass
class OwnAddress:
    """An instance that listens by itself, with a file for its state."""

    process: subprocess.Popen[str]
    client: httpx.Client
    state_file: Path
    port: int
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def health(self) -> dict[str, Any]:
        return dict(self.client.get("/health").json())

    def set_state(self, state: str) -> None:
        self.state_file.write_text(f"{state}\n")
        wait_until(lambda: self.health["state"] == state)

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.connections.append(connection)
        connection.sendall(data)
        return connection


def answer_on(connection: socket.socket) -> http.client.HTTPResponse:
    """The answer on a connection, read to its end."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response


@pytest.fixture
def instance(host: ServiceHost, tmp_path: Path) -> Iterator[OwnAddress]:
    (tmp_path / "pictures").mkdir()
    for name, data in (("a.jpg", PICTURE), ("b.jpg", again(PICTURE))):
        (tmp_path / "pictures" / name).write_bytes(data)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(tmp_path / "pictures")
    state_file = tmp_path / "state"
    state_file.write_text("standby\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = host.launch(
        RELEASE, descriptor=False, HOST="127.0.0.1", PORT=str(port), state_file=str(state_file),
        MOBIUS_ADDRESS=f"127.0.0.1:{port}", client_address="forwarded", environment="production", threads="1",
        log_file=str(tmp_path / "service.log"), log_level="DEBUG", index=str(tmp_path / "index.sqlite"),
    )  # fmt: skip
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)

    def is_up() -> bool:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(httpx.TransportError):
            return client.get("/health").status_code == 200
        return False

    wait_until(is_up)
    running = OwnAddress(process, client, state_file, port)
    yield running
    for connection in running.connections:
        connection.close()
    client.close()
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_it_answers_in_every_state_and_has_nothing_of_the_admin_socket(instance: OwnAddress, host: ServiceHost) -> None:
    for state in ("standby", "serving", "draining"):
        instance.set_state(state)
        answer = instance.client.post("/v1/hash", content=PICTURE, headers={"Content-Type": "image/jpeg"})
        assert (answer.status_code, answer.headers.get("connection")) == (200, None)
        assert instance.client.get("/readyz").json() == {"ready": True, "state": state}
        assert (
            f'mobius_serving{{release="{RELEASE}"}} {float(state == "serving")}' in instance.client.get("/metrics").text
        )
    for path in ("/admin/standby", "/admin/serve"):
        assert instance.client.post(path).status_code == 404
    assert list(host.run_dir.rglob("admin.sock")) == []
    figures = instance.client.get("/metrics/dhash").json()
    assert figures["instances"] == [{name: value for name, value in figures.items() if name != "instances"}]
    assert (figures["release"], figures["images"]) == (RELEASE, 2)


def test_only_an_instance_that_serves_verifies_pairs(instance: OwnAddress, tmp_path: Path) -> None:
    def verified() -> int:
        instance.client.get("/metrics/dhash")  # it counts, and verifies while it does
        with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
            return int(database.execute("SELECT count(*) FROM proofs").fetchone()[0])

    for state in ("standby", "draining"):
        instance.set_state(state)
        wait_until(lambda: instance.client.get("/metrics/dhash").json()["doubtful_queue"] == 1)
        assert verified() == 0, state
    instance.set_state("serving")
    wait_until(lambda: verified() == 1)


def test_an_instance_that_cannot_read_its_state_stands_by_and_warns_until_it_can(instance: OwnAddress) -> None:
    instance.set_state("serving")
    instance.state_file.unlink()
    wait_until(lambda: instance.health["state"] == "standby")
    health = instance.health
    assert health["status"] == "warn"
    assert health["warnings"] == [f"The state file {instance.state_file} cannot be read: No such file or directory."]
    assert health["checks"]["state:file"][0]["status"] == "warn"
    assert instance.client.get("/readyz").status_code == 200, "it answers what the front sends"
    instance.set_state("serving")
    assert instance.health["status"] == "pass"


def test_a_stop_ends_what_was_begun_answers_what_waits_and_refuses_what_comes_later(instance: OwnAddress) -> None:
    idle = instance.raw(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer_on(idle).status == 200
    begun = instance.raw(HEAD % len(PICTURE) + PICTURE[:100])
    wait_until(lambda: f'mobius_requests_in_flight{{release="{RELEASE}"}} 1.0' in instance.client.get("/metrics").text)
    instance.process.send_signal(signal.SIGSTOP)  # what connects now waits in the queue
    queued = [instance.raw(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(50)]
    instance.process.send_signal(signal.SIGTERM)
    instance.process.send_signal(signal.SIGCONT)
    assert {answer_on(connection).status for connection in queued} == {200}
    assert idle.recv(4096) == b"", "an idle connection is closed, so that it delays no stop"

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", instance.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_refused)
    begun.sendall(PICTURE[100:])
    answer = answer_on(begun)
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert instance.process.wait(15) == 0


def test_the_log_has_the_address_that_the_front_passes_on(instance: OwnAddress, tmp_path: Path) -> None:
    for name, headers in (
        ("front", [("X-Forwarded-For", "192.0.2.7")]),
        ("forged", [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.2, 2001:db8::1")]),
        ("nonsense", [("X-Forwarded-For", "somebody\twith a name")]),
        ("none", []),
    ):
        instance.client.get("/livez", headers=[("X-Request-Id", name), *headers])
    assert instance.process.poll() is None
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(15) == 0
    entries = [json.loads(line)["attributes"] for line in (tmp_path / "service.log").read_text().splitlines()]
    addresses = {entry["mobius.request_id"]: entry["client.address"] for entry in entries if "client.address" in entry}
    assert {name: addresses[name] for name in ("front", "forged", "nonsense", "none")} == {
        "front": "192.0.2.7", "forged": "2001:db8::1", "nonsense": "127.0.0.1", "none": "127.0.0.1",
    }  # fmt: skip


def test_the_smoke_test_finds_the_instance_by_its_process(instance: OwnAddress) -> None:
    instance.set_state("serving")
    command = [sys.executable, "-m", "mobius.service.smoke", "--pid", str(instance.process.pid)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--public", f"127.0.0.1:{instance.port}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert (done.returncode, report["release"]) == (0, RELEASE)
    nobody = subprocess.run([*command[:-1], "1"], env=environment, capture_output=True, text=True, check=False)
    assert (nobody.returncode, json.loads(nobody.stdout)["failed"]) == (3, 1)
