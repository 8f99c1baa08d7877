# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two releases on one listening socket: switching in either direction loses no request."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

OLD, NEW = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"
PICTURE = Path(__file__).parents[3] / "playbooks/files/golden/coffee-progressive.jpg"


@pytest.mark.parametrize("switches", [50, pytest.param(500, marks=pytest.mark.soak)])
def test_switches_under_load_lose_no_request(host: ServiceHost, switches: int) -> None:
    serving, warm = host.start(OLD, start="serving"), host.start(NEW)
    with host.load() as result:
        for _ in range(switches):
            assert warm.admin.post("/admin/serve").json()["state"] == "serving"
            assert serving.admin.post("/admin/standby").json()["state"] == "draining"
            serving.wait_for("standby")
            assert serving.admin.get("/admin/state").json()["connections"] == 0
            serving, warm = warm, serving
    assert result["failures"] == []
    assert sum(result["sent"].values()) > 300
    assert set(result["sent"]) == {"keep-alive", "single", "idle", "slow"}
    assert set(result["releases"]) == {OLD, NEW}


def test_a_stopped_instance_under_load_loses_no_request(host: ServiceHost) -> None:
    one, other = host.start(OLD, start="serving"), host.start(NEW, start="serving")
    with host.load() as result:
        assert one.stop() == 0
        again = host.start(OLD, start="serving")
        assert other.stop() == 0
        assert not other.admin_socket.exists()
        assert again.state == "serving"
    assert result["failures"] == []
    assert set(result["releases"]) == {OLD, NEW}


def test_the_only_instance_may_restart_under_load(host: ServiceHost) -> None:
    """The queue of the socket holds the clients until an instance serves again."""
    only = host.start(OLD, start="serving")
    with host.load() as result:
        assert only.stop() == 0
        only = host.start(OLD, start="serving")
    assert result["failures"] == []


def test_a_standby_answers_on_its_admin_socket_only(host: ServiceHost) -> None:
    warm = host.start(NEW)
    assert warm.admin.get("/admin/state").json() == {
        "release": NEW, "state": "standby", "connections": 0, "pid": warm.process.pid,
    }  # fmt: skip
    body = PICTURE.read_bytes()
    answer = warm.admin.post("/v1/hash", content=body, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    assert answer.headers["X-Release-Id"] == NEW
    assert warm.admin.get("/readyz").status_code == 503
    assert warm.admin.get("/health").json()["state"] == "standby"
    with socket.create_connection(("127.0.0.1", host.port), timeout=0.5) as waiting:
        waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        # the client that waited in the queue is the first to be answered
        assert warm.admin.post("/admin/serve").status_code == 200
        waiting.settimeout(10)
        assert waiting.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_serve_and_standby_are_idempotent(host: ServiceHost) -> None:
    instance = host.start(OLD)
    for _ in range(2):
        assert instance.admin.post("/admin/standby").json()["state"] == "standby"
    for _ in range(2):
        assert instance.admin.post("/admin/serve").json()["state"] == "serving"
    with host.client() as client:
        assert client.get("/livez").status_code == 200
        for _ in range(2):
            answer = instance.admin.post("/admin/standby").json()
            assert (answer["state"], answer["connections"]) == ("draining", 1)
        # a cancelled drain: the same connection still works and stays open
        assert instance.admin.post("/admin/serve").json()["state"] == "serving"
        answer = client.get("/livez")
        assert (answer.status_code, answer.headers.get("connection")) == (200, None)


def test_an_idle_connection_stays_open_and_its_next_answer_closes_it(host: ServiceHost) -> None:
    old, new = host.start(OLD, start="serving", drain_deadline="30"), host.start(NEW, start="serving")
    new.admin.post("/admin/standby")
    new.wait_for("standby")
    with host.client() as client:
        assert client.get("/livez").headers["X-Release-Id"] == OLD
        new.admin.post("/admin/serve")
        old.admin.post("/admin/standby")
        time.sleep(0.5)  # long enough that a server which closes idle connections would have done it
        assert old.admin.get("/admin/state").json()["connections"] == 1
        answer = client.get("/livez")
        assert (answer.headers["X-Release-Id"], answer.headers["connection"]) == (OLD, "close")
        old.wait_for("standby")
        assert client.get("/livez").headers["X-Release-Id"] == NEW


def test_the_deadline_ends_a_drain_to_standby_without_closing_connections(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", drain_deadline="0.5")
    with host.client() as client:
        client.get("/livez")
        instance.admin.post("/admin/standby")
        instance.wait_for("standby")
        assert client.get("/livez").headers["connection"] == "close"


def test_a_refusal_while_draining_reaches_a_client_that_is_still_sending(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", drain_deadline="20")
    with socket.create_connection(("127.0.0.1", host.port), timeout=10) as channel:
        channel.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        first = b""
        while b"}\n" not in first:
            first += channel.recv(4096)
        assert instance.admin.post("/admin/standby").json()["connections"] == 1
        body = b"x" * 8_000_000
        head = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        channel.sendall(head % len(body) + body)
        answer = channel.recv(4096)
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"connection: close" in answer


def half_a_request(port: int) -> socket.socket:
    stuck = socket.create_connection(("127.0.0.1", port), timeout=10)
    stuck.sendall(b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nabc")
    return stuck


def test_the_deadline_bounds_a_stuck_client(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", drain_deadline="1")
    with half_a_request(host.port):
        while instance.admin.get("/admin/state").json()["connections"] != 1:
            time.sleep(0.01)
        started = time.monotonic()
        assert instance.stop() == 0
        assert 0.9 <= time.monotonic() - started <= 4


def test_a_stopping_instance_does_not_serve_again(host: ServiceHost) -> None:
    instance = host.start(OLD, start="serving", drain_deadline="20")
    with half_a_request(host.port) as stuck:
        while instance.admin.get("/admin/state").json()["connections"] != 1:
            time.sleep(0.01)
        instance.process.send_signal(signal.SIGTERM)
        instance.wait_for("draining")
        answer = instance.admin.post("/admin/serve")
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "This instance is stopping, so it cannot serve."
        instance.process.send_signal(signal.SIGTERM)  # a second signal changes nothing
        assert instance.state == "draining"
        stuck.close()
        assert instance.process.wait(10) == 0


def test_an_instance_without_its_descriptor_exits_at_once(host: ServiceHost) -> None:
    process = host.launch(OLD, descriptor=False)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert errors.count("\n") == 1
    assert "systemd passed no listening socket." in errors
    assert "Traceback" not in output + errors


def test_a_descriptor_for_another_process_is_ignored(host: ServiceHost) -> None:
    process = host.launch(OLD, descriptor=False, LISTEN_PID="1", LISTEN_FDS="1")
    assert process.communicate(timeout=20)[1].count("\n") == 1
    assert process.returncode == 3


def test_an_instance_without_a_public_socket_runs_but_cannot_serve(host: ServiceHost) -> None:
    instance = host.start(OLD, listen="none", start="serving")
    assert instance.state == "standby"
    answer = instance.admin.post("/admin/serve")
    assert (answer.status_code, answer.json()["detail"]) == (
        409, "This instance holds no public socket, so it cannot serve.",
    )  # fmt: skip
    assert instance.stop() == 0


def test_in_development_an_instance_binds_its_own_socket(host: ServiceHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host.start(OLD, listen=f"127.0.0.1:{port}", start="serving")
    assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    process = host.launch(NEW, descriptor=False, listen=f"127.0.0.1:{port}")
    assert f"Listening on 127.0.0.1:{port} failed: Address already in use." in process.communicate(timeout=20)[1]
    assert process.returncode == 3


def test_the_admin_socket_of_a_killed_instance_is_replaced_and_of_a_running_one_not(host: ServiceHost) -> None:
    killed = host.start(OLD, start="serving")
    killed.process.kill()
    killed.process.wait(10)
    assert killed.admin_socket.exists()
    running = host.start(OLD, start="serving")
    assert running.state == "serving"
    rival = host.launch(OLD)
    assert "admin.sock cannot be created: Address already in use." in rival.communicate(timeout=20)[1]
    assert rival.returncode == 3
    assert running.state == "serving"
    assert os.stat(running.admin_socket).st_mode & 0o777 == 0o660


def test_answers_are_not_delayed_by_nagle(host: ServiceHost) -> None:
    host.start(OLD, start="serving")
    times = []
    with host.client() as client:
        for _ in range(30):
            started = time.monotonic()
            client.post("/v1/hash", content=b"x" * 10_000)
            times.append(time.monotonic() - started)
    assert sorted(times)[15] < 0.03
