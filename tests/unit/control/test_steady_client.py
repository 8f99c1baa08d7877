"""The steady client must see every failure: a switch is judged by what it counts."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from tools import demo
from tools.steady_client import RequestPicture, SteadyClient, serving_release

PICTURES = [
    RequestPicture("a picture", b"bytes", "image/jpeg", "aa"),
    RequestPicture("another", b"more", "image/png", None),
]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.behaviour == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.answer(500 if self.server.behaviour == "error" else 200)

    def do_GET(self) -> None:
        self.answer(200)

    def answer(self, status: int) -> None:
        body = json.dumps({"dhash": "bb" if self.server.behaviour == "wrong" else "aa"}).encode()
        self.send_response(status)
        self.send_header("X-Release-Id", "1.0.0-aaaaaaaaaaaa")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.behaviour = "right"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: Any, behaviour: str) -> SteadyClient:
    server.behaviour = behaviour
    with SteadyClient({"host": server.server_address}, PICTURES) as client:
        deadline = time.monotonic() + 20
        while client.sent < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert client.sent >= 8
    return client


def test_right_answers_are_counted_by_release(server: Any) -> None:
    client = ask(server, "right")
    assert (client.failed, client.wrong, client.failures()) == (0, 0, [])
    assert client.counts["host"].by_release == {"1.0.0-aaaaaaaaaaaa": client.sent}


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["reset", "error"])
def test_an_answer_that_fails_or_never_comes_is_counted_and_reported(server: Any, behaviour: str) -> None:
    client = ask(server, behaviour)
    assert client.failed == client.sent
    assert client.failures()


def test_a_wrong_hash_is_no_failure_but_counted(server: Any) -> None:
    client = ask(server, "wrong")
    assert client.failed == 0
    assert 0 < client.wrong < client.sent, "only one of the two pictures has a known answer"


def test_nobody_at_the_address_is_no_release(server: Any) -> None:
    assert serving_release(server.server_address) == "1.0.0-aaaaaaaaaaaa"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert serving_release(free.getsockname()) is None


GOOD = {
    "hosts": 3,
    "images_indexed": 54,
    "requests_sent": 1000,
    "requests_failed": 0,
    "answers_wrong_before_the_bad_release_was_forced": 0,
    "answers_wrong_while_the_bad_release_served": 12,
    "bad_release_refused": True,
    "rollback_seconds": 0.9,
    "backups_verified": 6,
    "versions_after": {"lab1": "2", "lab2": "2", "lab3": "2"},
    "expected_release": "2",
}


def test_the_lines_that_the_demo_breaks_are_there() -> None:
    for name, right, _ in demo.FAULTS:
        assert (demo.CHECKOUT / name).read_text(encoding="utf-8").count(right) == 1


def test_the_demo_scans_into_the_index_that_the_service_reads() -> None:
    variables = yaml.safe_load((demo.CHECKOUT / "roles/host/vars/main.yml").read_text(encoding="utf-8"))
    state_dir = f"/var/lib/{demo.SERVICE}"
    assert variables["__host_environment"]["MOBIUS_INDEX"].replace("{{ host_state_dir }}", state_dir) == demo.INDEX


def test_a_demo_in_which_all_held_is_broken_nowhere() -> None:
    assert demo.held(GOOD) == []


@pytest.mark.parametrize(
    "change",
    [
        {"hosts": 2},
        {"images_indexed": 0},
        {"requests_sent": 10},
        {"requests_failed": 1},
        {"answers_wrong_before_the_bad_release_was_forced": 1},
        {"answers_wrong_while_the_bad_release_served": 0},
        {"bad_release_refused": False},
        {"rollback_seconds": 5.0},
        {"backups_verified": 2},
        {"versions_after": {"lab1": "2", "lab2": "3", "lab3": "2"}},
    ],
    ids=str,
)
def test_anything_that_did_not_hold_fails_the_demo(change: dict[str, Any]) -> None:
    assert len(demo.held({**GOOD, **change})) == 1
