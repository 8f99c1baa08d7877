"""A second service, in the standard library alone: what a service must do so that mobius-host can switch it.

It takes the public socket from systemd, answers on its admin socket, serves or stands by on request, and finishes its
connections before it ends. `behaviour.json` beside it makes a release that is broken in one way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

RELEASE = os.environ["MOBIUS_RELEASE_ID"]
BEHAVIOUR: dict[str, Any] = json.loads(Path(__file__).with_name("behaviour.json").read_text())
DRAIN_DEADLINE = float(os.environ["MOBIUS_DRAIN_DEADLINE"])


def notify(message: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(os.environ["NOTIFY_SOCKET"])
        channel.send(message.encode())


class Instance:
    """The public side: accepts only while it serves."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.serving = False
        self.connections = 0
        self.lock = threading.Lock()
        self.wakeup, self.waker = socket.socketpair()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def state(self) -> str:
        if self.serving:
            return "serving"
        return "draining" if self.connections else "standby"

    def facts(self) -> dict[str, Any]:
        return {"release": RELEASE, "state": self.state, "connections": self.connections, "pid": os.getpid()}

    def turn(self, serving: bool) -> None:
        self.serving = serving
        self.waker.send(b"x")

    def accept(self) -> None:
        while True:
            waiting = [self.wakeup, self.listening] if self.serving else [self.wakeup]
            ready, _, _ = select.select(waiting, [], [])
            if self.wakeup in ready:
                self.wakeup.recv(100)
                continue
            try:
                connection, address = self.listening.accept()
            except BlockingIOError:  # the other release took it
                continue
            connection.setblocking(True)
            with self.lock:
                self.connections += 1
            threading.Thread(target=self.answer, args=(connection, address), daemon=True).start()

    def answer(self, connection: socket.socket, address: Any) -> None:
        try:
            Public(connection, address, self)  # type: ignore[arg-type]
        except ConnectionError:
            pass
        finally:
            connection.close()
            with self.lock:
                self.connections -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def say(self, status: int, value: Any, *, last: bool = False) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        # one write: otherwise the answer waits for the client's delayed acknowledgement
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nX-Release-Id: {RELEASE}\r\n"
        self.wfile.write((head + ("Connection: close\r\n" if last else "") + "\r\n").encode() + body)
        self.close_connection = self.close_connection or last

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        return


COUNTED = {"requests": 0, "errors": 0, "quick": 0}
LEAKED: list[bytes] = []


class Public(Handler):
    def do_GET(self) -> None:
        time.sleep(BEHAVIOUR.get("slow", 0))
        with self.server.lock:
            COUNTED["requests"] += 1
            COUNTED["quick"] += "slow" not in BEHAVIOUR
            failed = COUNTED["requests"] % BEHAVIOUR["fail_every"] == 0 if "fail_every" in BEHAVIOUR else False
            COUNTED["errors"] += failed
        self.say(500 if failed else 200, {"release": RELEASE}, last=not self.server.serving)


def metrics() -> bytes:
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    lines = [
        f"answers_total {COUNTED['requests']}",
        f"failures_total {COUNTED['errors']}",
        f'answer_seconds_bucket{{le="0.1"}} {COUNTED["quick"]}',
        f'answer_seconds_bucket{{le="1"}} {COUNTED["requests"]}',
        f'answer_seconds_bucket{{le="+Inf"}} {COUNTED["requests"]}',
        f"memory_bytes {memory}",
    ]
    return ("\n".join(lines) + "\n").encode()


def leak() -> None:
    while "leak" in BEHAVIOUR:
        LEAKED.append(os.urandom(BEHAVIOUR["leak"] // 4))
        time.sleep(0.25)


class Admin(Handler):
    def do_GET(self) -> None:
        if BEHAVIOUR.get("admin_silent_after") and time.monotonic() - STARTED > BEHAVIOUR["admin_silent_after"]:
            time.sleep(3600)
        if self.path == "/admin/state":
            self.say(200, instance.facts())
        elif self.path == "/well":
            after = BEHAVIOUR.get("unwell_after")
            unwell = BEHAVIOUR.get("unwell") or (after is not None and time.monotonic() - STARTED > after)
            self.say(503 if unwell else 200, {"status": "fail" if unwell else "pass"})
        elif self.path == "/counts":
            self.say(200, metrics())
        else:
            self.say(404, {})

    def do_POST(self) -> None:
        if BEHAVIOUR.get("admin_silent_after") and time.monotonic() - STARTED > BEHAVIOUR["admin_silent_after"]:
            time.sleep(3600)
        instance.turn(self.path == "/admin/serve")
        self.say(200, instance.facts())


class AdminServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def stop(*_: object) -> None:
    """Finish what is open, then end."""
    instance.turn(False)
    until = time.monotonic() + DRAIN_DEADLINE
    while instance.connections and time.monotonic() < until:
        time.sleep(0.02)
    os._exit(0)


if BEHAVIOUR.get("crash"):
    print("stand_in: this release is broken", file=sys.stderr)
    sys.exit(7)
if os.environ.get("LISTEN_FDS") != "1":
    print("stand_in: no public socket was handed down", file=sys.stderr)
    sys.exit(3)
STARTED = time.monotonic()
time.sleep(BEHAVIOUR.get("slow_start", 0))
instance = Instance(socket.socket(fileno=3))
admin = AdminServer(os.environ["MOBIUS_ADMIN_SOCKET"], Admin)
threading.Thread(target=admin.serve_forever, daemon=True).start()
threading.Thread(target=leak, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop).start())
instance.turn(os.environ["MOBIUS_START"] == "serving")
notify("READY=1")
while True:
    time.sleep(5)
    notify("WATCHDOG=1")
