"""The access log of a real HAProxy: what is in it and what never is, whatever clients send."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import READY, ServerState

from tests.integration.front.conftest import WAIT_SECONDS, Front, send, wait_until

A = "1.0.0-0123456789ab"


def start(front: Front) -> Front:
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    front.start()
    return front


def entries(front: Front, count: int) -> list[dict[str, Any]]:
    """The lines of the log, once there are so many.

    Two connections end on two threads, so their lines may change places: a test that needs an order waits for each.
    """
    path = front.settings.run_dir / "access.log"
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines are written")
    lines = path.read_bytes().splitlines()
    assert len(lines) == count
    return [json.loads(line) for line in lines]


def exchange(front: Front, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", front.port), WAIT_SECONDS) as channel:
        channel.sendall(request)
        channel.shutdown(socket.SHUT_WR)
        return channel.makefile("rb").read()


def test_a_request_is_one_line_without_its_query_and_headers(make_front: Callable[..., Front]) -> None:
    front = start(make_front(access_log="file"))
    before = time.time()
    front.get("/a/b?token=secret", Authorization="Bearer secret", Cookie="session=secret")
    entries(front, 1)
    front.get("/slow?0.3", method="POST", body=b"secret")
    entries(front, 2)
    front.get("/fail")
    first, slow, failed = entries(front, 3)
    expected = {"client": "127.0.0.1", "method": "GET", "path": "/a/b", "status": 200, "release": A}
    assert expected.items() <= first.items()
    assert before - 1 <= datetime.fromisoformat(first["at"]).timestamp() <= time.time() + 1
    assert first["bytes"] > 200
    assert (slow["method"], slow["path"]) == ("POST", "/slow")
    assert slow["total_ms"] >= 300 > first["total_ms"]
    assert (failed["status"], failed["release"]) == (500, A)
    assert b"secret" not in (front.settings.run_dir / "access.log").read_bytes()


def test_what_no_instance_answered_is_logged_too_and_probes_are_not(make_front: Callable[..., Front]) -> None:
    front = start(make_front(access_log="file", body_limit=10))
    front.probe("/probed", X_Mobius_Slot="1")
    front.get_internal("/slots/1/health")
    assert front.get("/long", method="POST", body=b"x" * 11).status == 413
    entries(front, 1)
    exchange(front, b"\x16\x03\x01 garbage\r\n\r\n")
    refused, garbage = entries(front, 2)
    assert (refused["path"], refused["status"], refused["release"]) == ("/long", 413, None)
    assert (garbage["path"], garbage["method"], garbage["status"]) == (None, None, 400)


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (b'/"},{"source":"public', '/"},{"source":"public'),
        (b"/back\\slash\\u0041", "/back\\slash\\u0041"),
        (b"/'quote%22%5b$HOME%", "/'quote%22%5b$HOME%"),
        (b"/" + b'"' * 600, "/" + '"' * 499),
        (b"/" + b"\\" * 600, "/" + "\\" * 499),
        (b"*", None),
    ],
)
def test_whatever_a_path_holds_the_line_is_one_of_json_and_is_counted(
    make_front: Callable[..., Front], path: bytes, logged: str | None
) -> None:
    front = start(make_front(access_log="file"))
    method = b"OPTIONS" if path == b"*" else b"GET"
    response = exchange(front, method + b" " + path + b" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 ")
    assert [entry["path"] for entry in entries(front, 1)] == [logged]
    wait_until(lambda: front.counted("mobius_front_access_log_lines_total", result="written") == 1, "it is counted")
    assert front.counted("mobius_front_log_lines_total", result="malformed") == 0


def test_bytes_that_are_no_text_are_left_out_and_a_long_method_is_cut(make_front: Callable[..., Front]) -> None:
    front = start(make_front(access_log="file", extra={"frontend": ["option accept-invalid-http-request"]}))
    exchange(front, b"GET /\xff\xfe/\xc3\xbc HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    entries(front, 1)
    exchange(front, b"M" * 100 + b" /long HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    first, second = entries(front, 2)
    assert first["path"].endswith("/ü")
    assert second["method"] == "M" * 32


def test_an_ipv4_client_of_a_socket_for_both_protocols_has_its_ipv4_address(make_front: Callable[..., Front]) -> None:
    front = start(make_front(access_log="file", address="::"))
    front.get()
    entries(front, 1)
    connection = http.client.HTTPConnection("::1", front.port, timeout=WAIT_SECONDS)
    send(connection, "GET", "/")
    connection.close()
    assert [entry["client"] for entry in entries(front, 2)] == ["127.0.0.1", "::1"]


def test_the_page_of_maintenance_is_logged_with_its_path(make_front: Callable[..., Front]) -> None:
    front = make_front(access_log="file")
    front.is_maintenance = lambda: True
    start(front)
    assert front.get("/shop?q").status == 503
    assert [(entry["path"], entry["status"], entry["release"]) for entry in entries(front, 1)] == [("/shop", 503, None)]


def test_without_an_access_log_there_is_none(make_front: Callable[..., Front]) -> None:
    front = start(make_front())
    front.get("/a")
    wait_until(lambda: front.counted("mobius_front_requests_total", source="public") == 1, "it is counted")
    assert not (front.settings.run_dir / "access.log").exists()
    assert "access_log" not in front.page_path.read_text()
