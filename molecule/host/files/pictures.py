"""Stands in for a service: notes what it was given and may do, says that it is ready, and waits to be stopped."""

import json
import os
import signal
import socket
from pathlib import Path

FIRST_DESCRIPTOR = 3


def may_write(folder: Path) -> bool:
    """Whether a file can be made in a folder."""
    probe = folder / "probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def notify(message: str) -> None:
    """Tell systemd."""
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.connect("\0" + address[1:] if address.startswith("@") else address)
        to.send(message.encode())


def main() -> None:
    """Write `seen.json` into the index folder, which is the service's own, and wait."""
    index = Path(os.environ["MOBIUS_INDEX"]).parent
    state = index.parent
    public = socket.socket(fileno=FIRST_DESCRIPTOR)
    seen = {
        "environment": dict(os.environ),
        "public": list(public.getsockname()),
        "uid": os.getuid(),
        "cwd": str(Path.cwd()),
        "writable": {
            str(folder): may_write(folder)
            for folder in (index, state, state / "library", Path("/srv"), Path("/usr/local/etc"), Path("/home"))
        },
    }
    (index / "seen.json").write_text(json.dumps(seen))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    notify("READY=1")
    signal.sigwait([signal.SIGTERM])


main()
