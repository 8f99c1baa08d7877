"""Stands in for a service: records its environment and what it may write, and answers its health path."""

import http.server
import json
import os
import signal
import sys
import threading
from pathlib import Path


def may_write(folder: Path) -> bool:
    """Whether a file can be created in a folder."""
    probe = folder / "probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


class Health(http.server.BaseHTTPRequestHandler):
    """Answers 204 on the health path alone."""

    def do_GET(self) -> None:
        """Answer a request."""
        self.send_response(204 if self.path == "/healthy" else 404)
        self.end_headers()


def main() -> None:
    """Write `instance.json` into the index folder, to which the service may write, and wait."""
    index = Path(os.environ["MOBIUS_INDEX"]).parent
    state = index.parent
    host, _, port = sys.argv[1].rpartition(":")
    record = {
        "environment": dict(os.environ),
        "state": Path(os.environ["MOBIUS_STATE_FILE"]).read_text(),
        "uid": os.getuid(),
        "cwd": str(Path.cwd()),
        "writable": {
            str(folder): may_write(folder)
            for folder in (index, state, state / "library", Path("/srv"), Path("/usr/local/etc"), Path("/home"))
        },
    }
    (index / "instance.json").write_text(json.dumps(record))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    server = http.server.HTTPServer((host, int(port)), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait([signal.SIGTERM])


main()
