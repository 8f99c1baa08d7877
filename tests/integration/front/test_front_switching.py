"""Switches, canaries, pauses and kills of a real HAProxy before ordinary servers, under load: no request fails."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import (
    DRAIN,
    MAINT,
    READY,
    ServerState,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime

from tests.clients import client_load
from tests.integration.front.conftest import WAIT_SECONDS, Front, kill, wait_until

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
SWITCHES = 10
KEEP_ALIVE_CLIENTS = 6


@pytest.fixture
def serving(front: Front) -> Front:
    """A front with one release that serves."""
    slot = front.add_instance(A)
    front.states = {slot.number: ServerState(READY)}
    front.start()
    return front


def releases(front: Front, count: int) -> Counter[str]:
    return Counter(front.get().content["release"] for _ in range(count))


@pytest.mark.slow
def test_no_request_fails_while_releases_follow_each_other(serving: Front) -> None:
    """Each instance is killed by SIGKILL once it has drained, and its slot goes to another release."""
    old = A
    with client_load(serving.port, serving.port) as load:
        for number in range(SWITCHES):
            new = f"2.{number}.0-0123456789ab"
            serving.add_instance(new)
            serving.serve_alone(new)
            count = load.answers[new]
            wait_until(lambda new=new, count=count: load.answers[new] > count + 50, f"{new} serves")  # type: ignore[misc]
            serving.remove_instance(old)
            old = new
    assert load.failures == []
    assert set(load.answers) == {A, *(f"2.{number}.0-0123456789ab" for number in range(SWITCHES))}
    assert serving.runtime.public_figures().responses["5xx"] == 0


class LongRequests:
    """Uploads, event streams and tunnels, each for about a second and again without a break."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stopped = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self.repeat, args=(send,)) for send in (self.upload, self.listen, self.tunnel) * 2
        ]

    def repeat(self, send: Callable[[socket.socket], bool]) -> None:
        while not self.stopped.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), WAIT_SECONDS) as channel:
                    is_whole = send(channel)
            except OSError as error:
                self.failures.append(f"{send.__name__}: {error!r}")
                continue
            self.counts[send.__name__] += 1
            if not is_whole:
                self.failures.append(f"{send.__name__}: it was cut short")

    def upload(self, channel: socket.socket) -> bool:
        channel.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(10):
            channel.sendall(b"x" * 1000)
            time.sleep(0.1)
        return b'"size": 10000' in channel.makefile("rb").read()

    def listen(self, channel: socket.socket) -> bool:
        channel.sendall(b"GET /events HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        return channel.makefile("rb").read().endswith(b"\r\n0\r\n\r\n")

    def tunnel(self, channel: socket.socket) -> bool:
        channel.sendall(b"GET /echo HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        stream = channel.makefile("rb")
        while stream.readline().strip():
            pass
        for number in range(10):
            channel.sendall(b"%d\n" % number)
            if stream.readline() != b"%d\n" % number:
                return False
            time.sleep(0.1)
        return True


@pytest.mark.soak
def test_no_request_of_any_kind_fails_in_fifty_switches_forth_and_back(serving: Front) -> None:
    long = LongRequests(serving.port)
    for thread in long.threads:
        thread.start()
    current = A
    with client_load(*[serving.port] * 8) as load:
        for number in range(25):
            new = f"2.{number}.0-0123456789ab"
            for release in (new, current):
                serving.add_instance(release)
                serving.share(current, release, 10)
                serving.serve_alone(release)
                count = load.answers[release]
                wait_until(lambda: load.answers[release] > count + 50, f"{release} serves")  # noqa: B023
                serving.remove_instance(current)
                current = release
    long.stopped.set()
    for thread in long.threads:
        thread.join(WAIT_SECONDS)
    assert load.failures == []
    assert long.failures == []
    assert min(long.counts[kind] for kind in ("upload", "listen", "tunnel")) > 10
    assert serving.runtime.public_figures().responses["5xx"] == 0


def test_a_kept_alive_client_moves_with_its_next_request(serving: Front) -> None:
    serving.add_instance(B)
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=WAIT_SECONDS)
    for expected in (A, B):
        serving.serve_alone(expected)
        connection.request("GET", "/")
        assert connection.getresponse().read().count(expected.encode()) == 1
    connection.close()


@pytest.mark.parametrize("share", [10, 50])
def test_a_canary_gets_its_share_of_the_requests(serving: Front, share: int) -> None:
    serving.add_instance(B)
    serving.share(A, B, share)
    counts = releases(serving, 200)
    assert counts[B] == pytest.approx(2 * share, abs=4)
    assert counts[A] == 200 - counts[B]
    assert serving.runtime.server_states()["slot2"] == ServerState(READY, share)


def test_a_request_in_progress_is_finished_while_its_slot_drains(serving: Front) -> None:
    serving.add_instance(B)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(serving.get, "/slow?1")
        wait_until(lambda: serving.runtime.active_requests(1) == 1, "the slow request is in progress")
        serving.serve_alone(B)
        assert releases(serving, 5) == {B: 5}
        assert serving.runtime.server_states()["slot1"].state == DRAIN
        assert serving.runtime.active_requests(1) == 1
        assert slow.result().content["release"] == A
    serving.remove_instance(A)
    assert releases(serving, 5) == {B: 5}


def test_a_tunnel_is_active_until_it_ends_and_survives_the_switch(serving: Front) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), WAIT_SECONDS) as channel:
        channel.sendall(b"GET /echo HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        stream = channel.makefile("rb")
        head = []
        while line := stream.readline().strip():
            head.append(line)
        assert head[0].startswith(b"HTTP/1.1 101")
        serving.add_instance(B)
        serving.serve_alone(B)
        channel.sendall(b"still there\n")
        assert stream.readline() == b"still there\n"
        assert serving.runtime.active_requests(1) == 1
        stream.close()
    serving.remove_instance(A)


def test_clients_wait_while_the_front_is_paused(serving: Front) -> None:
    """As for a service that cannot run twice: the old instance is gone before the new one starts."""
    with client_load(serving.port) as load, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: load.answers[A] > 50, f"{A} serves")
        serving.apply({1: ServerState(DRAIN)}, is_paused=True)
        serving.remove_instance(A)
        waiting = pool.submit(serving.get)
        slot = serving.add_instance(B)
        assert not waiting.done()
        serving.apply({slot.number: ServerState(READY)})
        assert waiting.result().content["release"] == B
        wait_until(lambda: load.answers[B] > 50, f"{B} serves")
    assert load.failures == []
    assert set(load.answers) == {A, B}


def test_a_pause_that_is_too_long_is_a_503_with_retry_after(make_front: Callable[..., Front]) -> None:
    front = make_front(pause=1)
    front.is_paused = True
    front.start()
    response = front.get()
    assert response.status == 503
    assert response.headers["retry-after"] == "5"
    assert front.runtime.server_states()["hold"] == ServerState(READY, 1)


def test_without_any_ready_slot_the_response_is_a_503_with_retry_after(front: Front) -> None:
    front.start()
    response = front.get()
    assert (response.status, response.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("victim", ["worker", "master", "both"])
def test_a_killed_front_refuses_no_connection_and_comes_back_in_the_middle_of_a_canary(
    serving: Front, victim: str
) -> None:
    serving.add_instance(B)
    serving.share(A, B, 40)
    assert serving.master is not None
    pids = {"worker": [serving.worker()], "master": [serving.master.pid]}
    pids["both"] = pids["master"] + pids["worker"]
    errors: list[OSError] = []
    stopped = threading.Event()

    def connect() -> None:
        while not stopped.is_set():
            try:
                with socket.create_connection(("127.0.0.1", serving.port), WAIT_SECONDS):
                    pass
            except OSError as error:
                errors.append(error)
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect)
        for pid in pids[victim]:
            kill(pid)
        serving.wait_until_started(2)
        stopped.set()
        connecting.result()
    assert errors == []
    counts = releases(serving, 100)
    assert counts == {A: 60, B: 40}
    assert serving.runtime.server_states()["slot3"].state == MAINT


@pytest.mark.slow
def test_a_front_that_is_killed_again_and_again_loses_at_most_the_requests_in_flight(serving: Front) -> None:
    with client_load(serving.port) as load:
        for number in range(5):
            wait_until(lambda number=number: load.answers[A] > 50 * (number + 1), f"{A} serves")  # type: ignore[misc]
            kill(serving.worker())
            serving.wait_until_started(number + 2)
        count = load.answers[A]
        wait_until(lambda: load.answers[A] > count + 50, f"{A} serves")
    # three clients, each with one request in flight
    assert len(load.failures) <= 5 * 3, load.failures
    assert not [failure for failure in load.failures if "Refused" in failure]


def test_a_front_that_is_killed_in_a_pause_is_still_paused(serving: Front) -> None:
    serving.apply({1: ServerState(DRAIN)}, is_paused=True)
    kill(serving.worker())
    serving.wait_until_started(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(serving.get)
        wait_until(lambda: serving.runtime.public_figures().active == 1, "a client waits")
        assert not waiting.done()
        assert serving.runtime.server_states()["slot1"].state == DRAIN
        serving.apply({1: ServerState(READY)})
        assert waiting.result().content["release"] == A


def test_a_front_that_hangs_is_an_os_error_in_time(serving: Front) -> None:
    worker = serving.worker()
    os.kill(worker, signal.SIGSTOP)
    threads = Path(f"/proc/{worker}/task")
    wait_until(lambda: all("State:\tT" in path.read_text() for path in threads.glob("*/status")), "each thread stops")
    try:
        with pytest.raises(TimeoutError):
            Runtime(serving.settings.runtime_socket, timeout=0.5).server_states()
    finally:
        os.kill(worker, signal.SIGCONT)
    assert serving.runtime.server_states()["slot1"].state == READY


def test_to_apply_the_same_states_again_changes_nothing(serving: Front) -> None:
    serving.add_instance(B)
    serving.share(A, B, 30)
    before = serving.runtime.server_states()
    serving.apply(serving.states)
    assert serving.runtime.server_states() == before


def test_a_crashed_instance_is_retried_on_the_other(serving: Front) -> None:
    """A refused connection is no request yet, so it costs no client anything."""
    serving.add_instance(B)
    serving.share(A, B, 50)
    serving.instances[B].kill()
    serving.instances[B].wait()
    assert releases(serving, 6) == {A: 6}
    assert serving.runtime.figures(2).redispatches > 0
    assert serving.runtime.public_figures().responses["5xx"] == 0


@pytest.mark.slow
def test_no_request_fails_while_an_instance_closes_its_idle_connections(front: Front) -> None:
    """Requests arrive at the moments at which the instance gives up waiting for them on a kept connection."""
    slot = front.add_instance(A, "0.05")
    front.states = {slot.number: ServerState(READY)}
    front.start()
    with contextlib.ExitStack() as stack:
        pauses = (0.047, 0.0485, 0.0495, 0.051)
        loads = [stack.enter_context(client_load(front.port, pause=pause)) for pause in pauses]
        wait_until(lambda: sum(load.answers[A] for load in loads) > 800, f"{A} serves")
    assert [failure for load in loads for failure in load.failures] == []
