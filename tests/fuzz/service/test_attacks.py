# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Attacks on a real instance, alone and behind HAProxy as MOBIUS configures it: memory stays bounded, a well-behaved
client is served, the watchdog is fed, and all is well afterwards."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.service.attacks import ATTACKS, LONG_ATTACKS, Attack, hostile_heads
from tests.integration.service.conftest import wait_until
from tests.integration.service.samples import GOLDEN

if TYPE_CHECKING:
    from tests.integration.front.conftest import Front
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
GOOD = (GOLDEN / "camera-grey.png").read_bytes()
MEMORY_MAX_BYTES = 512_000_000
"""Limit of the memory of the serving process and of those that decode for it, together: what each alone holds, and its
part of what they share (Pss)."""
RECOVERY_SECONDS = 5.0


def processes_of(instance: RunningInstance) -> list[int]:
    children = Path(f"/proc/{instance.process.pid}/task").glob("*/children")
    found = [instance.process.pid]
    for one in children:
        with contextlib.suppress(OSError):
            found += map(int, one.read_text().split())
    return found


def memory_of(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) * 1024
    return 0


WATCHDOG_SECONDS = 3.0
"""systemd would kill an instance that sends nothing for so long."""


@dataclass(frozen=True)
class Target:
    """An instance, and the port at which clients reach it."""

    instance: RunningInstance
    port: int
    is_behind_front: bool


@pytest.fixture(params=["alone", "behind the front"])
def start(request: pytest.FixtureRequest, host: ServiceHost, make_front: Callable[..., Front]) -> Callable[..., Target]:
    """Start an instance, alone or behind HAProxy."""

    def start_target(**settings: str) -> Target:
        settings |= {"threads": "2", "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        if request.param == "alone":
            instance = host.start(RELEASE, **settings)
            return Target(instance, instance.port, is_behind_front=False)
        front = make_front(health_path="/health")
        instance = host.start(RELEASE, port=front.slots.assign(RELEASE).port, client_address="forwarded", **settings)
        front.start()
        front.serve_alone(RELEASE)
        return Target(instance, front.port, is_behind_front=True)

    return start_target


class Watcher:
    """A well-behaved client, an accountant, and systemd's watchdog, until the block ends."""

    def __init__(self, target: Target) -> None:
        self.instance, self.port = target.instance, target.port
        self.longest_silence = 0.0
        self.served = 0
        self.failed: list[object] = []
        self.slowest = 0.0
        self.peak = 0
        self._ended = threading.Event()

    def _ask(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("POST", "/v1/hash", GOOD)
                status = connection.getresponse().status
                connection.close()
            except OSError as error:
                status = repr(error)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.served += status == 200
            if status != 200:
                self.failed.append(status)
            self._ended.wait(0.05)

    def _account(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, sum(map(memory_of, processes_of(self.instance))))

    def _listen(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                if "WATCHDOG=1" in self.instance.notices.recv(4096).decode():
                    last = time.monotonic()
            self.longest_silence = max(self.longest_silence, time.monotonic() - last)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        threads = [threading.Thread(target=work) for work in (self._ask, self._account, self._listen)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()


def send(port: int, attack: Attack) -> int | str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", attack.path, attack.body, {"Content-Type": attack.content_type})
        response = connection.getresponse()
        response.read()
        return response.status
    except (BrokenPipeError, ConnectionResetError):
        return "reset"  # refused before all of the body was sent
    finally:
        connection.close()


def is_idle(instance: RunningInstance) -> bool:
    checks = instance.health["checks"]
    return checks["hash:oldest"][0]["observedValue"] == 0 and checks["hash:waiting"][0]["observedValue"] == 0


def withstand(target: Target, attack: Attack) -> None:
    instance = target.instance
    watcher, statuses = Watcher(target), []
    with watcher.watching():
        clients = [
            threading.Thread(target=lambda: statuses.append(send(target.port, attack))) for _ in range(attack.clients)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        wait_until(lambda: is_idle(instance), RECOVERY_SECONDS)
        served = watcher.served
        wait_until(lambda: watcher.served > served, RECOVERY_SECONDS)
    print(f"peak {watcher.peak / 1e6:.0f} MB, slowest {watcher.slowest:.2f} s, served {watcher.served}, {statuses}")
    # a head of more than 16 kB is HAProxy's to refuse
    allowed = {*attack.statuses, "reset", *({400, 431} if target.is_behind_front else ())}
    assert set(statuses) <= allowed
    assert watcher.failed == []
    assert watcher.peak < MEMORY_MAX_BYTES
    assert watcher.longest_silence < WATCHDOG_SECONDS
    assert instance.health["status"] == "pass", instance.health
    assert instance.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_costs_nobody_else_anything(
    start: Callable[..., Target], tmp_path: Path, make: Callable[[], Attack]
) -> None:
    withstand(start(index=str(tmp_path / "index.sqlite")), make())


@pytest.mark.soak
@pytest.mark.parametrize("make", LONG_ATTACKS.values(), ids=LONG_ATTACKS.keys())
def test_a_long_attack_costs_nobody_else_anything(
    start: Callable[..., Target], tmp_path: Path, make: Callable[[], Attack]
) -> None:
    withstand(start(index=str(tmp_path / "index.sqlite")), make())


@pytest.mark.slow
def test_clients_that_leave_take_their_pictures_with_them(host: ServiceHost) -> None:
    instance = host.start(RELEASE, threads="2")
    body = ATTACKS["a TIFF of one tile, over and over"]().body
    head = b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    channels = [instance.raw(head + body) for _ in range(20)]
    wait_until(lambda: instance.health["checks"]["hash:oldest"][0]["observedValue"] > 0)
    for channel in channels:
        channel.close()
    wait_until(lambda: is_idle(instance), RECOVERY_SECONDS)
    assert instance.client.post("/v1/hash", content=GOOD).status_code == 200


def answer_to(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as channel:
        channel.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := channel.recv(65_536):
                received += part
    return received


@pytest.mark.slow
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.soak)])
def test_no_head_makes_a_5xx(host: ServiceHost, tmp_path: Path, count: int) -> None:
    instance = host.start(RELEASE, index=str(tmp_path / "index.sqlite"), head_timeout="1", body_timeout="1")
    seed = int(os.environ.get("MOBIUS_FUZZ_SEED", random.randrange(1 << 32)))
    for request in hostile_heads(random.Random(seed), count):
        answer = answer_to(host.port, request)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (seed, request, answer[:300])
        assert not answer[9:].startswith(b"5"), (seed, request, answer[:500])
        if answer[9:].startswith(b"4") and not request.startswith(b"HEAD"):
            assert b"application/problem+json" in answer.lower(), (seed, request, answer[:500])
        assert answer == b"" or b"nosniff" in answer, (seed, request, answer[:500])
    assert instance.client.get("/metrics/dhash").json()["errors"] == 0
    assert instance.client.post("/v1/hash", content=GOOD).status_code == 200
