"""An ordinary HTTP server that knows nothing of MOBIUS: `plain_server.py PORT RELEASE [KEEP_ALIVE_SECONDS]`.

Every response names the release and has what the server received. `/slow?SECONDS` responds so late; `/echo` upgrades to
a tunnel that returns each line; `/events` sends ten of them, for a second; `/fail` responds with 500; `/die` ends the process without a response.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import time


class PlainHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = float(sys.argv[3]) if len(sys.argv) > 3 else None

    def do_GET(self) -> None:
        path, _, seconds = self.path.partition("?")
        if path == "/echo":
            self.tunnel()
            return
        if path == "/events":
            self.send_events()
            return
        if path == "/die":
            os._exit(1)
        if path == "/slow":
            time.sleep(float(seconds))
        size = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(length + 2)) - 2
            self.rfile.readline()
        size += len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"release": sys.argv[2], "path": self.path, "headers": headers, "size": size}).encode()
        self.send_response(500 if path == "/fail" else 200)
        self.send_header("X-Release-Id", sys.argv[2])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def send_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(10):
            event = f"data: {number} {sys.argv[2]}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def tunnel(self) -> None:
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.close_connection = True
        while line := self.rfile.readline():
            self.wfile.write(line)

    def log_message(self, *_: object) -> None:
        pass


class PlainServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is gone is nothing to report."""


if __name__ == "__main__":
    server = PlainServer(("127.0.0.1", int(sys.argv[1])), PlainHandler)
    print("listening", flush=True)
    server.serve_forever()
