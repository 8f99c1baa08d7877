"""Clients that send requests to a host's public socket without a break, and the result of each request."""

from __future__ import annotations

import collections
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClientLoad:
    """For each port two clients that keep their connection and one that does not; `answers` counts by release."""

    def __init__(self, *ports: int, pause: float) -> None:
        self.pause = pause
        self.stop = threading.Event()
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self.send, args=(port, keep)) for port in ports for keep in (True, True, False)
        ]

    def send(self, port: int, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not self.stop.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                self.answers[str(answer.headers["X-Release-Id"])] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if not keep:
                connection.close()
            time.sleep(self.pause)
        connection.close()


@contextmanager
def client_load(*ports: int, pause: float = 0.001) -> Iterator[ClientLoad]:
    """Run clients on these ports of 127.0.0.1; `pause` is the time in seconds between an answer and the next request."""
    load = ClientLoad(*ports, pause=pause)
    for thread in load.threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in load.threads:
            thread.join()
