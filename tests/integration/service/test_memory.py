# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Memory over a hundred thousand requests of every kind."""

from __future__ import annotations

import hashlib
import http.client
import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.integration.service.samples import GOLDEN, encoded, noisy

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
REQUESTS = 100_000
THREADS = 4
GROWTH_MAX_BYTES = 8_000_000
"""Limit of growth in bytes from the first fifth to the end: less than a hundred per request."""


def small(seed: int) -> bytes:
    with Image.open(io.BytesIO(noisy(seed))) as image:
        return encoded(image.resize((64, 64)))


class MixedClient:
    """One thread of requests on one connection, and its wrong answers."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        picture = small(seed)
        digest = hashlib.sha256(picture).hexdigest()
        damaged = (GOLDEN / "camera-grey.png").read_bytes()[:5000]
        self.requests = [
            ("POST", "/v1/hash", picture, {200}),
            ("POST", "/v1/hash?mode=exact", picture, {200}),
            ("POST", "/v1/images", picture, {200, 201}),
            ("POST", "/v1/search?transforms=true", picture, {200}),
            ("GET", "/v1/duplicates", b"", {200}),
            ("GET", f"/v1/images/{digest}/thumbnail", b"", {200}),
            ("DELETE", f"/v1/images/{digest}", b"", {204}),
            ("POST", "/v1/hash", damaged, {422}),
            ("GET", f"/nothing/{seed}", b"", {404}),
            ("GET", "/metrics", b"", {200}),
        ]
        self.wrong: list[tuple[str, str, int]] = []

    def run(self, times: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for _ in range(times):
            for method, path, body, expected in self.requests:
                connection.request(method, path, body)
                answer = connection.getresponse()
                answer.read()
                if answer.status not in expected:
                    self.wrong.append((method, path, answer.status))
        connection.close()


@pytest.mark.soak
def test_memory_stays_flat_over_a_hundred_thousand_requests(host: ServiceHost, tmp_path: Path) -> None:
    instance = host.start(RELEASE, index=str(tmp_path / "index.sqlite"), writes="open")
    clients = [MixedClient(host.port, seed) for seed in range(THREADS)]
    memory = []
    for _ in range(5):
        threads = [
            threading.Thread(target=client.run, args=(REQUESTS // 5 // THREADS // len(client.requests),))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory.append(instance.client.get("/metrics/dhash").json()["memory_bytes"])
    assert [client.wrong for client in clients] == [[]] * THREADS
    assert memory[-1] - memory[0] < GROWTH_MAX_BYTES, memory
    print("memory after each fifth:", memory)
