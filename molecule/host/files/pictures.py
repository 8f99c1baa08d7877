"""Stands in for a service: records its environment and what it may write, notifies systemd, and waits to be stopped."""

import json
import os
import signal
import socket
from pathlib import Path

FIRST_DESCRIPTOR = 3


def may_write(folder: Path) -> bool:
    """Whether a file can be created in a folder."""
    probe = folder / "probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def notify(message: str) -> None:
    """Send a message to systemd."""
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.connect("\0" + address[1:] if address.startswith("@") else address)
        to.send(message.encode())


def main() -> None:
    """Write `instance.json` into the index folder, to which the service may write, and wait."""
    index = Path(os.environ["MOBIUS_INDEX"]).parent
    state = index.parent
    public = socket.socket(fileno=FIRST_DESCRIPTOR)
    record = {
        "environment": dict(os.environ),
        "public": list(public.getsockname()),
        "uid": os.getuid(),
        "cwd": str(Path.cwd()),
        "writable": {
            str(folder): may_write(folder)
            for folder in (index, state, state / "library", Path("/srv"), Path("/usr/local/etc"), Path("/home"))
        },
    }
    (index / "instance.json").write_text(json.dumps(record))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    notify("READY=1")
    signal.sigwait([signal.SIGTERM])


main()
