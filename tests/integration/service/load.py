# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A second process that keeps sending real pictures and checks every answer.

    python load.py PORT PICTURE DHASH

Prints `ready` when every client has its first answer, runs until its standard input closes, then prints one JSON object.
A request fails unless its answer is a 200 with the right hash; no request is repeated.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path


class PictureLoad:
    def __init__(self, port: int, picture: bytes, dhash: str) -> None:
        self.port, self.picture, self.dhash = port, picture, dhash
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()
        self.failures: list[str] = []

    def check(self, kind: str, answer: http.client.HTTPResponse) -> None:
        body = answer.read()
        good = answer.status == 200 and json.loads(body)["dhash"] == self.dhash
        with self.lock:
            self.sent[kind] += 1
            self.releases[answer.headers["X-Release-Id"]] += 1
            if not good:
                self.failures.append(f"{kind}: {answer.status} {body[:200]!r}")

    def failed(self, kind: str, error: Exception) -> None:
        with self.lock:
            self.sent[kind] += 1
            self.failures.append(f"{kind}: {error!r}")

    def client(self, kind: str, *, keep: bool, pause: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stop.is_set():
            try:
                connection.request("POST", "/v1/hash?mode=exact", self.picture, {"Content-Type": "image/jpeg"})
                self.check(kind, connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                self.failed(kind, error)
                connection.close()
            if not keep:
                connection.close()
            if pause:
                self.stop.wait(pause)
        connection.close()

    def slow_uploader(self) -> None:
        while not self.stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=20) as channel:
                    channel.sendall(
                        b"POST /v1/hash?mode=exact HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\n"
                        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(self.picture)
                    )
                    step = len(self.picture) // 5
                    for start in range(0, len(self.picture), step):
                        channel.sendall(self.picture[start : start + step])
                        time.sleep(0.05)
                    answer = http.client.HTTPResponse(channel)
                    answer.begin()
                    self.check("slow", answer)
            except (OSError, http.client.HTTPException) as error:
                self.failed("slow", error)

    def run(self) -> None:
        def thread(*arguments: object, **options: object) -> threading.Thread:
            return threading.Thread(target=self.client, args=arguments, kwargs=options)

        clients = [thread("keep-alive", keep=True, pause=0) for _ in range(3)]
        clients += [thread("single", keep=False, pause=0) for _ in range(2)]
        clients += [thread("idle", keep=True, pause=0.25), threading.Thread(target=self.slow_uploader)]
        for one in clients:
            one.start()
        while len(self.sent) < 4 and not self.failures:
            time.sleep(0.01)
        print("ready", flush=True)
        sys.stdin.read()
        self.stop.set()
        for one in clients:
            one.join()
        print(json.dumps({"sent": self.sent, "releases": self.releases, "failures": self.failures}), flush=True)


if __name__ == "__main__":
    PictureLoad(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3]).run()
