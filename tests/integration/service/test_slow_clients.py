# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clients that are slow or idle take nothing that others need."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.integration.service.conftest import wait_until
from tests.integration.service.samples import GOLDEN

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
GOOD = (GOLDEN / "camera-grey.png").read_bytes()
SLOW_BODY = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\nabc"
SLOW_HEAD = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nX-Slow: a"


@contextlib.contextmanager
def trickling(instance: RunningInstance, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Connections that sent this, and go on with a byte now and then."""
    channels = [instance.raw(first) for _ in range(count)]
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.2):
            for channel in channels:
                with contextlib.suppress(OSError):
                    channel.send(b"b")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield channels
    finally:
        ended.set()
        thread.join()


def received_until_closed(channel: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := channel.recv(65_536):
            received += part
    return received


def post_anew(port: int) -> int:
    """The status of a request on a connection of its own."""
    return httpx.post(f"http://127.0.0.1:{port}/v1/hash", content=GOOD, timeout=20, trust_env=False).status_code


def test_bodies_that_arrive_slowly_take_no_place_in_flight(host: ServiceHost) -> None:
    instance = host.start(RELEASE, max_in_flight="16")
    with trickling(instance, 140, SLOW_BODY):
        wait_until(lambda: instance.metric("mobius_bodies_held_bytes") >= 140 * 3)
        assert instance.metric("mobius_requests_in_flight") == 0
        assert [post_anew(host.port) for _ in range(20)] == [200] * 20
        assert instance.health["status"] == "pass"


@pytest.mark.slow
def test_a_body_must_keep_a_minimum_rate(host: ServiceHost) -> None:
    instance = host.start(RELEASE)
    with trickling(instance, 3, SLOW_BODY) as channels:
        for channel in channels:
            answer = received_until_closed(channel)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b"fewer than 10000 bytes" in answer
    assert instance.metric("mobius_bodies_held_bytes") == 0


def test_idle_connections_give_way_to_new_ones(host: ServiceHost) -> None:
    instance = host.start(RELEASE, max_connections="150")
    idle = [instance.raw(b"") for _ in range(400)]
    assert [post_anew(host.port) for _ in range(20)] == [200] * 20
    assert instance.metric("mobius_connections") <= 151
    assert idle[0].recv(1) == b"", "the one that was idle longest is closed"
    idle[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert idle[-1].recv(65_536).startswith(b"HTTP/1.1 200 "), "the last one was not"


@pytest.mark.parametrize("first", [SLOW_HEAD, SLOW_BODY], ids=["head", "body"])
def test_requests_that_arrive_slowly_give_way_when_no_connection_is_idle(host: ServiceHost, first: bytes) -> None:
    instance = host.start(RELEASE, max_connections="50", head_timeout="60")
    with trickling(instance, 80, first):
        wait_until(lambda: post_anew(host.port) == 200)


def test_a_request_that_is_being_answered_gives_way_to_nobody(host: ServiceHost) -> None:
    instance = host.start(RELEASE, max_connections="10")
    body = b"".join(b"--abc\r\nContent-Disposition: form-data; name=a\r\n\r\n" + GOOD + b"\r\n" for _ in range(60))
    body += b"--abc--\r\n"
    head = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=abc\r\nContent-Length: %d\r\n\r\n"
    busy = instance.raw(head % len(body) + body)
    wait_until(lambda: instance.metric("mobius_requests_in_flight") == 1)
    for _ in range(100):
        instance.raw(b"")
    assert busy.recv(65_536).startswith(b"HTTP/1.1 200 ")
