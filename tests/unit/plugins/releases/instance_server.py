"""A small instance of a service: a process that answers HTTP on a Unix socket, well or badly.

    python instance_server.py SOCKET RELEASE BEHAVIOUR

The behaviours are functions below: each answers one request, given how many health requests there were, this one included.
None of them takes time: an answer says in `X-Seconds` how long it is to have taken, and a request that is never answered
sends SIGALRM to the parent process when `ALARM` is set, as the timer of the gate does. So no test depends on how busy the
machine is.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ALARM = "MOBIUS_TEST_ALARM" in os.environ
COUNT = 0
RELEASE = ""
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
HASHES: list[tuple[int, float]] = []  # status and seconds of each request to /v1/hash


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the behaviour."""

    protocol_version = "HTTP/1.1"
    behaviour = staticmethod(lambda request, count: None)

    def do_GET(self) -> None:
        global COUNT
        COUNT += self.path == "/health"
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        self.status, self.seconds = 0, 0.001
        self.behaviour(self, COUNT)
        if self.path.startswith("/v1/hash"):
            HASHES.append((self.status, self.seconds))

    do_POST = do_GET  # noqa: N815 - the name that http.server calls

    def answer(self, status: int, value: object) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.status = status
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Seconds", str(self.seconds))
        self.end_headers()
        self.wfile.write(body)

    def hang(self) -> None:
        if ALARM:
            os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(60)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        return


def well(request: Handler, count: int, *, status: str = "pass", release: str | None = None) -> None:
    """Healthy; hashes a body by its length; `/big` answers what was sent."""
    if request.path == "/health":
        checks = {"index:writable": [{"status": status, "observedValue": "database is locked"}]}
        health = {"status": status, "releaseId": release or RELEASE, "checks": checks}
        request.answer(503 if status == "fail" else 200, health)
    elif request.path == "/admin/state":
        request.answer(200, {"release": RELEASE, "state": "serving", "connections": 0, "pid": os.getpid()})
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
        lines.append(
            f'mobius_hash_duration_seconds_bucket{{algorithm="fast-2",le="{bound:g}"}} {count}'.replace("inf", "+Inf")
        )
    lines.append(f'mobius_hash_duration_seconds_count{{algorithm="fast-2"}} {len(good)}')
    return "\n".join(lines) + "\n"


def failing_one_in_ten(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 9:
        request.answer(500, {"title": "Internal Server Error"})
    else:
        well(request, count)


def failing_one_in_two_hundred(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 200 == 20:
        request.answer(500, {"title": "Internal Server Error"})
    else:
        well(request, count)


def calling_one_in_ten_broken(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash") and len(HASHES) % 10 == 9:
        request.answer(422, {"title": "Unprocessable"})
    else:
        well(request, count)


def hashing_slowly(request: Handler, count: int) -> None:
    request.seconds = 0.06 if request.path.startswith("/v1/hash") else 0.001
    well(request, count)


def telling_no_metrics(request: Handler, count: int) -> None:
    if request.path == "/metrics":
        request.answer(404, {"title": "Not found"})
    else:
        well(request, count)


def warning(request: Handler, count: int) -> None:
    well(request, count, status="warn")


def failing(request: Handler, count: int) -> None:
    well(request, count, status="fail")


def failing_now_and_then(request: Handler, count: int) -> None:
    well(request, count, status="fail" if count % 4 == 0 else "pass")


def another_release(request: Handler, count: int) -> None:
    well(request, count, release="9.9.9-ffffffffffff")


def hanging(request: Handler, count: int) -> None:
    request.hang()


def hanging_later(request: Handler, count: int) -> None:
    if count > 6:
        request.hang()
    well(request, count)


def hanging_at_first(request: Handler, count: int) -> None:
    if count == 1:
        request.hang()
    well(request, count)


def hanging_now_and_then(request: Handler, count: int) -> None:
    if count % 5 == 0 and request.path == "/health":
        request.hang()
    well(request, count)


def slow(request: Handler, count: int) -> None:
    request.seconds = 0.4 if request.path == "/health" else 0.001
    well(request, count)


def dripping(request: Handler, count: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    for _ in range(3 if ALARM else 1000):
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(0.1)
    request.hang()


def crashing(request: Handler, count: int) -> None:
    if count > 6:
        os._exit(1)
    well(request, count)


def crashing_and_started_again(request: Handler, count: int) -> None:
    if count > 6:
        request.close_connection = True
        os.execv(sys.executable, [sys.executable, *sys.argv[:3], "well", "forked"])
    well(request, count)


def internal_error(request: Handler, count: int) -> None:
    request.answer(500, b"Internal Server Error")


def internal_error_now_and_then(request: Handler, count: int) -> None:
    if count % 4 == 0 and request.path == "/health":
        internal_error(request, count)
    else:
        well(request, count)


def no_json(request: Handler, count: int) -> None:
    request.answer(200, b"OK")


def no_http(request: Handler, count: int) -> None:
    request.wfile.write(b"220 mail.example.org ESMTP\r\n")
    request.close_connection = True


def hashing_wrongly(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.answer(200, {"dhash": "f" * 32, "width": 4})
    else:
        well(request, count)


def hashing_wrongly_later(request: Handler, count: int) -> None:
    (hashing_wrongly if count > 6 else well)(request, count)


def refusing_to_hash(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.answer(503, {"title": "Busy"})
    else:
        well(request, count)


def breaking_off_hashes(request: Handler, count: int) -> None:
    if request.path.startswith("/v1/hash"):
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
    else:
        well(request, count)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread a connection, as a service has many threads."""

    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    """Serve until killed, or until the parent process or the socket is gone."""
    global RELEASE
    path, RELEASE, behaviour = sys.argv[1:4]
    if sys.argv[4:] == ["forked"] and os.fork():
        os._exit(1)  # so that the one that goes on has another process id
    Handler.behaviour = staticmethod(globals()[behaviour])
    Path(path).unlink(missing_ok=True)
    server = Server(path, Handler)
    parent = os.getppid()
    threading.Thread(target=_exit_with, args=(parent, Path(path)), daemon=True).start()
    server.serve_forever(poll_interval=0.05)


def _exit_with(parent: int, path: Path) -> None:
    while os.getppid() == parent and path.exists():
        time.sleep(0.2)
    os._exit(0)


if __name__ == "__main__":
    main()
