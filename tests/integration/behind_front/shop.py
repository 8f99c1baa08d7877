"""An ordinary HTTP server, as anybody writes one: it knows nothing of MOBIUS, drains nothing and dies of SIGTERM at once.

Usage: shop.py HOST PORT. `behaviour.json` beside it makes a release that is broken in one way.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = Path("version.txt").read_text().strip()
BEHAVIOUR: dict[str, Any] = json.loads(Path("behaviour.json").read_text())
STARTED = time.monotonic()


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        age = time.monotonic() - STARTED
        status = 200
        if self.path == "/healthz" and age > BEHAVIOUR.get("unwell_after", age):
            status = 503
        if self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("?")[2]))
        body = f"{VERSION} on {os.environ['PORT']}\n".encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nX-Release-Id: {VERSION}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, *_: object) -> None:
        return


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if BEHAVIOUR.get("crash"):
    sys.exit("shop: this release is broken")
if "exit_after" in BEHAVIOUR:
    threading.Timer(BEHAVIOUR["exit_after"], os._exit, [9]).start()
time.sleep(BEHAVIOUR.get("slow_start", 0))
Server((sys.argv[1], int(sys.argv[2])), Shop).serve_forever()
