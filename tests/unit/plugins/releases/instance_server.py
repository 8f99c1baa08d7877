"""A small instance of a service: a process that answers HTTP on a port of 127.0.0.1, well or badly.

    python instance_server.py FOLDER/PORT.pid RELEASE BEHAVIOUR

Its process id is in that file, as systemd would know it.

The behaviours are functions below: each answers one request, given how many health requests there were, this one included.
None of them takes time: an answer says in `X-Seconds` how long it is to have taken, and a request that is never answered
sends SIGALRM to the parent process when `ALARM` is set, as the timer of the gate does. So no test depends on how busy the
machine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

TYPE_CHECKING = False  # typing takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable

# http.server would be shorter here, and three times as long in starting, in each of a hundred tests

ALARM = "MOBIUS_TEST_ALARM" in os.environ
COUNT = 0
RELEASE = ""
BOUNDS = (0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.25, 0.4, 0.63, 1.0)
HASHES: list[tuple[int, float]] = []  # status and seconds of each answer of /v1/hash


class Request:
    """One request on a connection of its own, and its answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.seconds = 0.001
        stream = connection.makefile("rb")
        words = stream.readline().split()
        self.path = words[1].decode() if words else ""  # a client that only looks whether it listens
        length = 0
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.body = stream.read(length)

    def answer(self, status: int, value: object) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        if self.path.startswith("/v1/hash"):
            HASHES.append((status, self.seconds))
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nX-Seconds: {self.seconds}\r\n\r\n"
        self.connection.sendall(head.encode() + body)

    def hang(self) -> None:
        if ALARM:
            os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(60)


def well(request: Request, count: int, *, status: str = "pass", release: str | None = None) -> None:
    """Healthy; hashes a body by its length; `/big` answers what was sent."""
    if request.path == "/health":
        checks = {"index:writable": [{"status": status, "observedValue": "database is locked"}]}
        health = {"status": status, "releaseId": release or RELEASE, "checks": checks}
        request.answer(503 if status == "fail" else 200, health)
    elif request.path.startswith("/v1/hash"):
        request.answer(
            200, {"dhash": f"{len(request.body):032x}", "width": 4, "exact": True, "more": {"a": [1], "b": 2}}
        )
    elif request.path == "/metrics":
        request.answer(200, metrics().encode())
    else:
        request.answer(404, {"title": "Not found"})


def metrics() -> str:
    """What it has counted, under dhash's names."""
    seen = list(HASHES)
    good = [seconds for status, seconds in seen if status == 200]
    lines = ["# TYPE mobius_http_requests counter"]
    for status in sorted({status for status, _ in seen}):
        count = sum(one == status for one, _ in seen)
        lines.append(f'mobius_http_requests_total{{route="/v1/hash",method="POST",status="{status}"}} {count}')
    lines.append(f'mobius_extraction_failures_total{{reason="Broken"}} {sum(status == 422 for status, _ in seen)}')
    for bound in (*BOUNDS, float("inf")):
        count = sum(seconds <= bound for seconds in good)
        limit = f"{bound:g}".replace("inf", "+Inf")
        lines.append(f'mobius_hash_duration_seconds_bucket{{algorithm="fast-2",le="{limit}"}} {count}')
        count = sum(seconds <= bound for _, seconds in seen)
        lines.append(f'mobius_http_request_duration_seconds_bucket{{route="/v1/hash",le="{limit}"}} {count}')
    lines.append(f'mobius_hash_duration_seconds_count{{algorithm="fast-2"}} {len(good)}')
    return "\n".join(lines) + "\n"


def failing_one_in_ten(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 9:
        request.answer(500, {"title": "Internal Server Error"})
    else:
        well(request, count)


def failing_one_in_two_hundred(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 200 == 20:
        request.answer(500, {"title": "Internal Server Error"})
    else:
        well(request, count)


def calling_one_in_ten_broken(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 9:
        request.answer(422, {"title": "Unprocessable"})
    else:
        well(request, count)


def hashing_slowly(request: Request, count: int) -> None:
    request.seconds = 0.06 if request.path.startswith("/v1/hash") else 0.001
    well(request, count)


def failing_one_in_twenty(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 20 == 9:
        request.answer(500, {"title": "Internal Server Error"})
    else:
        well(request, count)


def hashing_a_second_later(request: Request, count: int) -> None:
    request.seconds = 1.001 if request.path.startswith("/v1/hash") else 0.001
    well(request, count)


def hashing_one_in_ten_in_fifteen_milliseconds(request: Request, count: int) -> None:
    request.seconds = 0.015 if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 0 else 0.001
    well(request, count)


def hashing_one_in_ten_in_ten_milliseconds(request: Request, count: int) -> None:
    request.seconds = 0.01 if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 0 else 0.001
    well(request, count)


def telling_no_metrics(request: Request, count: int) -> None:
    if request.path == "/metrics":
        request.answer(404, {"title": "Not found"})
    else:
        well(request, count)


def warning(request: Request, count: int) -> None:
    well(request, count, status="warn")


def failing(request: Request, count: int) -> None:
    well(request, count, status="fail")


def failing_now_and_then(request: Request, count: int) -> None:
    well(request, count, status="fail" if count % 4 == 0 else "pass")


def another_release(request: Request, count: int) -> None:
    well(request, count, release="9.9.9-ffffffffffff")


def hanging(request: Request, count: int) -> None:
    request.hang()


def hanging_later(request: Request, count: int) -> None:
    if count > 6:
        request.hang()
    well(request, count)


def hanging_at_first(request: Request, count: int) -> None:
    if count == 1:
        request.hang()
    well(request, count)


def hanging_now_and_then(request: Request, count: int) -> None:
    if count % 5 == 0 and request.path == "/health":
        request.hang()
    well(request, count)


def slow(request: Request, count: int) -> None:
    request.seconds = 0.4 if request.path == "/health" else 0.001
    well(request, count)


def dripping(request: Request, count: int) -> None:
    request.connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(3 if ALARM else 1000):
        request.connection.sendall(b" ")
        time.sleep(0.1)
    request.hang()


def crashing(request: Request, count: int) -> None:
    if count > 6:
        os._exit(1)
    well(request, count)


def crashing_and_started_again(request: Request, count: int) -> None:
    if count > 6:
        os.execv(sys.executable, [sys.executable, *sys.argv[:3], "well", "forked"])
    well(request, count)


def internal_error(request: Request, count: int) -> None:
    request.answer(500, b"Internal Server Error")


def internal_error_now_and_then(request: Request, count: int) -> None:
    if count % 4 == 0 and request.path == "/health":
        internal_error(request, count)
    else:
        well(request, count)


def no_json(request: Request, count: int) -> None:
    request.answer(200, b"OK")


def no_http(request: Request, count: int) -> None:
    request.connection.sendall(b"220 mail.example.org ESMTP\r\n")


def hashing_wrongly(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.answer(200, {"dhash": "f" * 32, "width": 4})
    else:
        well(request, count)


def hashing_wrongly_later(request: Request, count: int) -> None:
    (hashing_wrongly if count > 6 else well)(request, count)


def hashing_wrongly_once(request: Request, count: int) -> None:
    (hashing_wrongly if len(HASHES) == 20 else well)(request, count)


def refusing_to_hash(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.answer(503, {"title": "Busy"})
    else:
        well(request, count)


def breaking_off_hashes(request: Request, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.connection.shutdown(socket.SHUT_RDWR)
    else:
        well(request, count)


def serve(connection: socket.socket, behaviour: Callable[[Request, int], None]) -> None:
    """Answer one request, and count it."""
    global COUNT
    with connection:
        request = Request(connection)
        if not request.path:
            return
        COUNT += request.path == "/health"
        with contextlib.suppress(OSError):  # the client may be gone
            behaviour(request, COUNT)


def main() -> None:
    """Serve until killed, or until the parent process or the file of the process id is gone."""
    global RELEASE
    path, RELEASE, behaviour = sys.argv[1:4]
    if sys.argv[4:] == ["forked"] and os.fork():
        os._exit(1)  # so that the one that goes on has another process id
    listener = socket.create_server(("127.0.0.1", int(os.path.basename(path)[: -len(".pid")])), backlog=64)
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    os.replace(path + ".new", path)
    parent = os.getppid()
    threading.Thread(target=_exit_with, args=(parent, path), daemon=True).start()
    while True:
        # a thread for each, as a service has many
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, globals()[behaviour]), daemon=True).start()


def _exit_with(parent: int, path: str) -> None:
    while os.getppid() == parent and os.path.exists(path):
        time.sleep(0.2)
    os._exit(0)


if __name__ == "__main__":
    main()
