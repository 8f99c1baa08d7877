# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state that the state file gives an instance, and how an instance ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mobius.dhash import Library
from tests.integration.service.conftest import wait_until
from tests.integration.service.samples import PICTURE, again

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
HEAD = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


def answer_on(connection: socket.socket) -> http.client.HTTPResponse:
    """The answer on a connection, read to its end."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response


@pytest.fixture
def instance(host: ServiceHost, tmp_path: Path) -> RunningInstance:
    (tmp_path / "pictures").mkdir()
    for name, data in (("a.jpg", PICTURE), ("b.jpg", again(PICTURE))):
        (tmp_path / "pictures" / name).write_bytes(data)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(tmp_path / "pictures")
    return host.start(
        RELEASE, state="standby", client_address="forwarded", environment="production", threads="1",
        log_file=str(tmp_path / "service.log"), log_level="DEBUG", index=str(tmp_path / "index.sqlite"),
    )  # fmt: skip


def test_it_answers_in_every_state(instance: RunningInstance) -> None:
    for state in ("standby", "serving", "draining"):
        instance.set_state(state)
        answer = instance.client.post("/v1/hash", content=PICTURE, headers={"Content-Type": "image/jpeg"})
        assert (answer.status_code, answer.headers.get("connection")) == (200, None)
        assert answer.headers["X-Release-Id"] == RELEASE
        assert instance.client.get("/readyz").json() == {"ready": True, "state": state}
        assert instance.metric("mobius_serving") == (state == "serving")
    figures = instance.client.get("/metrics/dhash").json()
    assert (figures["release"], figures["state"], figures["images"]) == (RELEASE, "draining", 2)


def test_only_an_instance_that_serves_verifies_pairs(instance: RunningInstance, tmp_path: Path) -> None:
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


def test_an_instance_that_cannot_read_its_state_stands_by_and_warns_until_it_can(instance: RunningInstance) -> None:
    instance.set_state("serving")
    instance.state_file.unlink()
    wait_until(lambda: instance.health["state"] == "standby")
    health = instance.health
    assert health["status"] == "warn"
    name = instance.state_file.name  # the path is for those with a token
    assert health["warnings"] == [f"The state file {name} cannot be read: No such file or directory."]
    assert health["checks"]["state:file"][0]["status"] == "warn"
    assert instance.client.get("/readyz").status_code == 200, "it answers what the front sends"
    instance.set_state("serving")
    assert instance.health["status"] == "pass"


def test_a_stop_ends_what_was_begun_answers_what_waits_and_refuses_what_comes_later(instance: RunningInstance) -> None:
    idle = instance.raw(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer_on(idle).status == 200
    begun = instance.raw(HEAD % len(PICTURE) + PICTURE[:100])
    wait_until(lambda: instance.metric("mobius_bodies_held_bytes") > 0)
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


def test_a_refusal_while_it_stops_reaches_a_client_that_is_still_sending(instance: RunningInstance) -> None:
    connected = instance.raw(b"")
    wait_until(lambda: instance.metric("mobius_connections") == 2)  # that one, and the one of this request
    instance.process.send_signal(signal.SIGTERM)
    instance.listen_for("STOPPING=1")
    body = b"x" * 8_000_000
    head = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    connected.sendall(head % len(body) + body)
    answer = answer_on(connected)
    assert (answer.status, answer.headers["Connection"]) == (415, "close")
    assert instance.process.wait(15) == 0


def test_the_deadline_bounds_a_stuck_client(host: ServiceHost) -> None:
    instance = host.start(RELEASE, drain_deadline="1")
    instance.raw(HEAD % 1000 + b"abc")
    wait_until(lambda: instance.metric("mobius_bodies_held_bytes") > 0)
    started = time.monotonic()
    assert instance.stop() == 0
    assert 0.9 <= time.monotonic() - started <= 4


def test_a_stopping_instance_does_not_serve_again(instance: RunningInstance) -> None:
    instance.set_state("serving")
    stuck, connected = instance.raw(HEAD % 1000 + b"abc"), instance.raw(b"")
    wait_until(lambda: instance.metric("mobius_connections") == 3)  # and the one of this request
    instance.process.send_signal(signal.SIGTERM)
    instance.listen_for("STATUS=draining")
    instance.process.send_signal(signal.SIGTERM)  # a second signal changes nothing
    time.sleep(1.5)  # longer than it takes to read the state file, which says that it serves
    connected.sendall(b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = http.client.HTTPResponse(connected)
    answer.begin()
    assert (answer.status, json.load(answer)) == (503, {"ready": False, "state": "draining"})
    assert answer.headers["Connection"] == "close"
    stuck.close()
    assert instance.process.wait(10) == 0


def test_the_log_has_the_address_that_the_front_passes_on(instance: RunningInstance, tmp_path: Path) -> None:
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
