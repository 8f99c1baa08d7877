"""Clients that send requests to a host's public socket without a break, and the result of each request."""

from __future__ import annotations

import collections
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClientLoad:
    """For each port clients that keep their connection and others that do not.

    `answers` counts by release, and `statuses` by status.
    """

    def __init__(self, *ports: int, pause: float, kept: int, single: int, tls: ssl.SSLContext | None) -> None:
        self.pause = pause
        self.tls = tls
        self.statuses: collections.Counter[int] = collections.Counter()
        self.stop = threading.Event()
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self.send, args=(port, keep))
            for port in ports
            for keep in [True] * kept + [False] * single
        ]

    def send(self, port: int, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        if self.tls is not None:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=self.tls)
        while not self.stop.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                self.answers[str(answer.headers["X-Release-Id"])] += 1
                self.statuses[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if not keep:
                connection.close()
            time.sleep(self.pause)
        connection.close()


@contextmanager
def client_load(
    *ports: int, pause: float = 0.001, kept: int = 2, single: int = 1, tls: ssl.SSLContext | None = None
) -> Iterator[ClientLoad]:
    """Run clients on these ports of 127.0.0.1.

    Args:
        pause: the time in seconds between an answer and the next request.
        kept, single: how many clients keep their connection, and do not, for each port.
        tls: for clients that use TLS.
    """
    load = ClientLoad(*ports, pause=pause, kept=kept, single=single, tls=tls)
    for thread in load.threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in load.threads:
            thread.join()
