"""A server whose builds are good, or bad for users only: `public_server.py PORT RELEASE MODE`.

`good` answers each path at once. `failing` answers one in twenty requests with 500, `slow` answers a second later, but not
on the health path, where probes come.
"""

from __future__ import annotations

import http.server
import itertools
import sys
import time

HEALTH_PATH = "/healthz"
NUMBERS = itertools.count(1)


class PublicHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        mode = sys.argv[3] if self.path != HEALTH_PATH else "good"
        if mode == "slow":
            time.sleep(1)
        self.send_response(500 if mode == "failing" and next(NUMBERS) % 20 == 0 else 200)
        self.send_header("X-Release-Id", sys.argv[2])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


class PublicServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is gone is nothing to report."""


if __name__ == "__main__":
    PublicServer(("127.0.0.1", int(sys.argv[1])), PublicHandler).serve_forever()
