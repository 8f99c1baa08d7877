"""A TCP server of lines, which speaks no HTTP: to each line it answers with its release and the line. Ends with SIGTERM."""

import socketserver
import sys


class Lines(socketserver.StreamRequestHandler):
    """One connection, which its client ends."""

    def handle(self) -> None:
        """Answer each line."""
        for line in self.rfile:
            self.wfile.write(sys.argv[2].encode() + b" " + line)


class Server(socketserver.ThreadingTCPServer):
    """Any number of connections."""

    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Lines) as server:
    server.serve_forever()
