"""A client that sends requests all the time and counts what came back: it shows whether a switch of release was seen.

Used by the demo and by the end-to-end tests. Two threads an address: one keeps its connection, one opens a new one for
each request, because a switch can lose either kind.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

PAUSE_SECONDS = 0.1
TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True)
class RequestPicture:
    """One request body, and the answer that a right release gives (None: not known, so not compared)."""

    name: str
    body: bytes
    content_type: str
    dhash: str | None = None


@dataclass
class AnswerCount:
    """What came back, for one address."""

    sent: int = 0
    failed: int = 0
    wrong: int = 0
    by_release: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)


class SteadyClient:
    """Sends pictures to every address until it is stopped; use it as a context manager.

    Args:
        addresses: name -> (host, port).
        pictures: sent in turn to `path`.
    """

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], pictures: Sequence[RequestPicture], path: str = "/v1/hash"
    ) -> None:
        self._addresses = dict(addresses)
        self._pictures = list(pictures)
        self._path = path
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.counts: dict[str, AnswerCount] = {name: AnswerCount() for name in self._addresses}

    def __enter__(self) -> SteadyClient:
        for name in self._addresses:
            for keep_alive in (True, False):
                thread = threading.Thread(target=self._run, args=(name, keep_alive), daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS + 1)

    @property
    def sent(self) -> int:
        """Requests sent so far, over all addresses."""
        with self._lock:
            return sum(count.sent for count in self.counts.values())

    @property
    def failed(self) -> int:
        """Requests that got no answer, or another status than 200."""
        with self._lock:
            return sum(count.failed for count in self.counts.values())

    @property
    def wrong(self) -> int:
        """Answers with status 200 and another hash than the right one."""
        with self._lock:
            return sum(count.wrong for count in self.counts.values())

    def failures(self) -> list[str]:
        """One line for each of the first failures of each address."""
        with self._lock:
            return [f"{name}: {line}" for name, count in self.counts.items() for line in count.failures]

    def _run(self, name: str, keep_alive: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        turn = 0
        while not self._stop.is_set():
            picture = self._pictures[turn % len(self._pictures)]
            turn += 1
            if connection is None:
                connection = http.client.HTTPConnection(*self._addresses[name], timeout=TIMEOUT_SECONDS)
            kind = "keep-alive" if keep_alive else "single"
            try:
                answer = _post(connection, self._path, picture, keep_alive=keep_alive)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._note(name, picture, None, f"{time.strftime('%H:%M:%S')} {kind}: {type(error).__name__}: {error}")
                answer = None
            else:
                self._note(name, picture, answer, None)
            if answer is None or not keep_alive:
                connection.close()
                connection = None
            self._stop.wait(PAUSE_SECONDS)
        if connection is not None:
            connection.close()

    def _note(self, name: str, picture: RequestPicture, answer: _Answer | None, failure: str | None) -> None:
        with self._lock:
            count = self.counts[name]
            count.sent += 1
            if answer is not None and answer.status != 200:
                failure = f"{time.strftime('%H:%M:%S')} {picture.name}: status {answer.status}"
            if failure is not None:
                count.failed += 1
                if len(count.failures) < 5:
                    count.failures.append(failure)
            elif answer is not None:
                count.by_release[answer.release] += 1
                if picture.dhash is not None and answer.body.get("dhash") != picture.dhash:
                    count.wrong += 1


@dataclass(frozen=True)
class _Answer:
    status: int
    release: str
    body: dict[str, Any]


def _post(connection: http.client.HTTPConnection, path: str, picture: RequestPicture, *, keep_alive: bool) -> _Answer:
    headers = {"Content-Type": picture.content_type}
    if not keep_alive:
        headers["Connection"] = "close"
    connection.request("POST", path, body=picture.body, headers=headers)
    response = connection.getresponse()
    data = response.read()
    body: dict[str, Any] = {}
    with contextlib.suppress(json.JSONDecodeError):
        parsed = json.loads(data)
        body = parsed if isinstance(parsed, dict) else {}
    return _Answer(response.status, response.headers.get("X-Release-Id", ""), body)


def serving_release(address: tuple[str, int], path: str = "/livez", timeout: float = 5.0) -> str | None:
    """The release that answers at `address` now, on a new connection; None when nobody does."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.headers.get("X-Release-Id")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
