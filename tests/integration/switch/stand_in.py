"""An ordinary HTTP server, as anybody writes one: it knows nothing of MOBIUS.

It listens on HOST and PORT of its environment, answers its health path `/well`, counts on `/counts`, and finishes its
requests when it gets SIGTERM. `behaviour.json` beside it makes a release that behaves otherwise in one way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RELEASE = FOLDER.parent.name
BEHAVIOUR: dict[str, Any] = json.loads((FOLDER / "behaviour.json").read_text())
STARTED = time.monotonic()
COUNTED = {"requests": 0, "errors": 0, "quick": 0, "once": 0}
COUNTING = threading.Lock()
LEAKED: list[bytes] = []


def is_past(moment: str) -> bool:
    """Whether it has run for as many seconds as the behaviour says."""
    return moment in BEHAVIOUR and time.monotonic() - STARTED > BEHAVIOUR[moment]


def hang() -> None:
    if is_past("hang_after"):
        time.sleep(3600)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hang()
        path, _, query = self.path.partition("?")
        if path == "/well":
            is_unwell = BEHAVIOUR.get("unwell") or is_past("unwell_after")
            self.answer(503 if is_unwell else 200, {"status": "fail" if is_unwell else "pass"})
        elif path == "/counts":
            self.answer(200, metrics())
        elif path == "/hash":
            self.answer(200, {"dhash": BEHAVIOUR.get("dhash", "00183c7e7e3c1800")})
        elif path == "/once":
            with COUNTING:
                COUNTED["once"] += 1
                is_first = COUNTED["once"] == 1
            self.answer(200, {"is_first": is_first})
        else:
            time.sleep(float(query) if path == "/slow" else BEHAVIOUR.get("slow", 0))
            self.answer(500 if count_request() else 200, {"release": RELEASE})

    def answer(self, status: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        # one write: otherwise the answer waits for the client's delayed acknowledgement
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nX-Release-Id: {RELEASE}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, *_: object) -> None:
        return


def count_request() -> bool:
    """Count a request of a client; whether it has to fail."""
    with COUNTING:
        COUNTED["requests"] += 1
        COUNTED["quick"] += "slow" not in BEHAVIOUR
        fails = "fail_every" in BEHAVIOUR and COUNTED["requests"] % BEHAVIOUR["fail_every"] == 0
        COUNTED["errors"] += fails
    return fails


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


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False  # closing the server waits for them

    def service_actions(self) -> None:
        hang()


if BEHAVIOUR.get("crash"):
    print("stand_in: this release is broken", file=sys.stderr)
    sys.exit(7)
time.sleep(BEHAVIOUR.get("slow_start", 0))
with Server((os.environ["HOST"], int(os.environ["PORT"])), Handler) as server:
    if not BEHAVIOUR.get("abrupt"):
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=leak, daemon=True).start()
    server.serve_forever()
