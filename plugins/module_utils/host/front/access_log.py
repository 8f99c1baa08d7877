# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The access log of a front: a line of JSON for each request of a client, to systemd's journal or to a rotated file.

It has neither query strings nor headers, which may hold secrets. It is written by a thread of its own from a queue with
a limit: a disk that is slow or full loses lines of this log, which are counted, and never the counters of traffic.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import MobiusError
from .settings import FrontSettings

QUEUE_MAX_LINES = 10_000
BATCH_MAX_LINES = 500
FILE_NAME = "access.log"
FILE_MODE = 0o640
AT_MAX_SECONDS = 200e9  # since the epoch: the year 8307
_TEXT_MAX_CHARS = {"client": 64, "method": 64, "path": 4096}
_UNKNOWN = "-"  # HAProxy's word for what a request did not have
_MAPPED_IPV4 = "::ffff:"

Entry = Mapping[str, Any]


def make_entry(content: Mapping[str, Any], release: str | None, total_ms: int | None) -> Entry | None:
    """The entry of a line that HAProxy wrote; None for a line without what an access log needs.

    Args:
        release: the one that answered; None when no instance was reached.
        total_ms: until the response ended; None when it did not begin, or for a tunnel.
    """
    texts = {name: content.get(name) for name in _TEXT_MAX_CHARS}
    at, size = content.get("at"), content.get("bytes")
    if not isinstance(at, int | float) or not 0 <= at <= AT_MAX_SECONDS or type(size) is not int:
        return None
    if any(not isinstance(text, str) or len(text) > _TEXT_MAX_CHARS[name] for name, text in texts.items()):
        return None
    status = content["status"]
    return {
        "at": at,
        "client": str(texts["client"]).removeprefix(_MAPPED_IPV4),
        "method": None if texts["method"] == _UNKNOWN else texts["method"],
        "path": None if texts["path"] == _UNKNOWN else texts["path"],
        "status": status if status > 0 else None,
        "total_ms": total_ms,
        "bytes": size,
        "release": release,
    }


def format_entry(entry: Entry) -> bytes:
    """One line of the log, with its end. The time is that of the request, in RFC 3339."""
    at = datetime.fromtimestamp(entry["at"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({**entry, "at": at}, separators=(",", ":")).encode() + b"\n"


class RotatedFile:
    """A file that is renamed to `<name>.1` before it grows beyond a size, and that to `<name>.2`, up to a number.

    Each write looks whether the file is still there: somebody may have removed or rotated it.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path, self._max_bytes, self._kept = path, max_bytes, kept

    def write(self, data: bytes) -> None:
        """Append whole lines. Raises OSError, after which a later write may succeed."""
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(data) > self._max_bytes:
                os.close(descriptor)
                descriptor = -1
                self._rotate()
                descriptor = self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, FILE_MODE)

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                os.replace(newer, older)


def write_to_journal(data: bytes) -> None:
    """Standard output, which systemd reads line by line."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class AccessLog(threading.Thread):
    """Writes entries beside the thread that receives them.

    Args:
        write: appends whole lines; raises OSError.
        report: receives a sentence for people when that fails, once until it works again.
    """

    def __init__(self, write: Callable[[bytes], None], report: Callable[[str], None]) -> None:
        super().__init__(name="access-log", daemon=True)
        self._write = write
        self._report = report
        self._queue: queue.Queue[Entry | None] = queue.Queue(QUEUE_MAX_LINES)
        self._full = 0  # of the receiving thread
        self._written = self._failed = 0  # of this thread
        self._problem: str | None = None

    def add(self, entry: Entry) -> None:
        """Let an entry be written; never waits."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self._full += 1

    def counts(self) -> dict[str, int]:
        """The lines so far, by what became of them."""
        return {"written": self._written, "dropped": self._full + self._failed}

    def finish(self, timeout: float) -> None:
        """Write what waits and end, within so many seconds; what cannot be written by then is lost."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self.join(timeout)

    def run(self) -> None:
        is_ended = False
        while not is_ended:
            batch = [self._queue.get()]
            while len(batch) < BATCH_MAX_LINES and not self._queue.empty():
                batch.append(self._queue.get())
            is_ended = None in batch
            self._write_batch([entry for entry in batch if entry is not None])

    def _write_batch(self, batch: list[Entry]) -> None:
        if not batch:
            return
        try:
            self._write(b"".join(format_entry(entry) for entry in batch))
        except OSError as error:
            self._failed += len(batch)
            problem = f"The access log cannot be written: {error.strerror or error}."
            if problem != self._problem:
                self._report(problem)
            self._problem = problem
        else:
            self._written += len(batch)
            self._problem = None


def open_access_log(
    settings: FrontSettings, environment: Mapping[str, str], report: Callable[[str], None]
) -> AccessLog | None:
    """The access log of a front by its settings; None when it has none.

    Raises:
        MobiusError: `invalid_input` when systemd has made no folder for the file.
    """
    if settings.access_log == "none":
        return None
    if settings.access_log == "journal":
        return AccessLog(write_to_journal, report)
    folder = environment.get("LOGS_DIRECTORY", "")
    if not folder:
        raise MobiusError(
            "invalid_input",
            "The traffic receiver was started without a folder for its access log.",
            do_next="Run playbooks/provision.yml (or `mobius provision`) for the host, which writes its unit again.",
        )
    path = Path(folder) / FILE_NAME
    return AccessLog(RotatedFile(path, settings.access_log_bytes, settings.access_log_files).write, report)
