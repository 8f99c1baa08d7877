# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clients that keep their connections and send requests one after the other, and what they get."""

from __future__ import annotations

import http.client
import threading
from collections import Counter

CLIENTS = 8
TIMEOUT_SECONDS = 10.0


class Clients:
    """Requests under way until `stop`."""

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.path = path
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(CLIENTS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, each client after the answer that it waits for."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        while not self._stopped.wait(0.005):
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                response.read()
                failure = f"status {response.status}" if response.status >= 500 else ""
            except (OSError, http.client.HTTPException) as error:
                failure = type(error).__name__
                connection.close()
            with self._lock:
                self.answered += 1
                if failure:
                    self.failures[failure] += 1
        connection.close()

    @property
    def summary(self) -> str:
        """What failed, in words; empty for nothing."""
        return ", ".join(f"{count} with {what}" for what, count in self.failures.most_common())
