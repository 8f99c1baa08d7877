# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Structured logs: one JSON object a line, with the names of OpenTelemetry's log data model.

Only entry points call `configure`; everything else says `from loguru import logger` and logs. In development the lines
go to standard output. In production they go to a file (50 MB, ten files in all, mode 0640) and the console is silent.

Secrets are taken out of every line. A line that cannot be written is lost, not retried: the service goes on, `losses`
counts it, and the lines after it carry the count.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from loguru import logger

from mobius.errors import MobiusError

if TYPE_CHECKING:
    from loguru import Record

ROTATION_BYTES: Final = 50_000_000
"""A file is never longer, unless one line is."""
RETENTION: Final = 9
"""Rotated files kept beside the one written to: ten in all."""
FILE_MODE: Final = 0o640
REDACTED: Final = "[redacted]"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITY: Final = {
    "TRACE": 1, "DEBUG": 5, "INFO": 9, "SUCCESS": 10, "WARNING": 13, "ERROR": 17, "CRITICAL": 21,
}  # fmt: skip

_SECRET_NAME: Final = re.compile(
    r"authorization|cookie|passw(?:or)?d|passphrase|secret|token|credential|(?:api|access|private)[._ -]?key", re.I
)
# What no text without a secret needs to be searched for.
_HINT: Final = re.compile(r"authorization|cookie|passw|passphrase|secret|token|key|bearer|basic|mobius_|://", re.I)
_IN_TEXT: Final = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), REDACTED),
    # a header, as a line, in a mapping or in a list of pairs: its value is secret to its end
    (re.compile(r"""((?:authorization|cookie)["']?\s*[:=,]\s*)(b?)(?:(["'])(?:(?!\3).)*\3?|[^\r\n"'})\]]+)""", re.I),
     rf"\1\2\3{REDACTED}\3"),
    (re.compile(r"""((?:passw(?:or)?d|passphrase|secret|token|(?:api|access|private)[_-]?key)\w*["']?\s*[:=]\s*)"""
                r"""(b?)(?:(["'])(?:(?!\3).)*\3?|[^\s,;&"'})\]]+)""", re.I),
     rf"\1\2\3{REDACTED}\3"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1 {REDACTED}"),
    (re.compile(r"(?<![A-Za-z0-9_-])mobius_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"), REDACTED),
    (re.compile(r"([a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,100}):[^\s/@]+@", re.I), rf"\1:{REDACTED}@"),
)  # fmt: skip
_DEPTH: Final = 6
"""Structures in a field are written down to this depth."""


@dataclass
class Losses:
    """Lines that could not be written since the process started.

    Attributes:
        count: how many.
        last: when the last one was lost, of `time.monotonic`; None when none was.
    """

    count: int = 0
    last: float | None = None

    def note(self) -> None:
        """One more."""
        with _COUNTING:
            self.count += 1
            self.last = time.monotonic()


_COUNTING: Final = threading.Lock()
losses: Final = Losses()
"""Those of this process."""


def configure(
    *,
    resource: Mapping[str, str],
    file: Path | None = None,
    stream: TextIO | None = None,
    level: str = "INFO",
) -> None:
    """Send all logs of this process, the standard library's and warnings too, to one place.

    Args:
        resource: what speaks, in OpenTelemetry names, for example `{"service.name": "mobius-dhash"}`.
        file: the file of a production process; without it `stream` (standard output) is written to.
        level: the lowest level written, one of `LEVELS`.

    Raises:
        MobiusError: the file cannot be written.
    """
    logger.remove()
    fixed = dict(resource)

    def line(record: Record) -> str:
        # loguru formats what a callable returns once more: the text itself must come in through the record
        record["extra"]["_line"] = as_json(record, fixed)
        return "{extra[_line]}\n"

    try:
        # loguru's own file sink keeps what it could not write and mixes it into later lines, uncounted
        sink: _Lines = _Stream(stream or sys.stdout) if file is None else _File(file)
    except OSError as error:
        raise MobiusError("environment_failed", f"The log {file} cannot be written: {error.strerror}.") from error
    logger.add(_Counted(sink), format=line, level=level, diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def as_json(record: Record, resource: Mapping[str, str]) -> str:
    """One log line, without its end."""
    attributes = {key: _plain(value, key) for key, value in record["extra"].items() if key != "_line"}
    attributes["code.function.name"] = f"{record['name']}.{record['function']}"
    attributes["code.line.number"] = record["line"]
    attributes["thread.name"] = record["thread"].name
    if losses.count:
        attributes["mobius.log.lines_lost"] = losses.count
    if (exception := record["exception"]) is not None:
        if exception.type is not None:
            attributes["exception.type"] = f"{exception.type.__module__}.{exception.type.__qualname__}"
        attributes["exception.message"] = redacted(_text(exception.value))
        attributes["exception.stacktrace"] = redacted(
            "".join(traceback.format_exception(exception.type, exception.value, exception.traceback))
        )
    level = record["level"].name
    return json.dumps(
        {
            "timestamp": record["time"].astimezone().isoformat(timespec="microseconds"),
            "severity_text": level,
            "severity_number": _SEVERITY.get(level, 9),
            "body": redacted(record["message"]),
            "resource": resource,
            "attributes": attributes,
        },
        ensure_ascii=True,  # a name that is no UTF-8 must not cost the line
    )


def redacted(text: str) -> str:
    """The text without what looks like a secret: authorization headers, cookies, bearer and basic credentials, our own
    tokens, private keys, passwords in addresses, and the value after `password=`, `token:` and the like."""
    if _HINT.search(text) is None:
        return text
    for pattern, instead in _IN_TEXT:
        text = pattern.sub(instead, text)
    return text


def _plain(value: Any, name: str = "", depth: int = 0) -> Any:
    """A field's value as JSON can hold it, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, int | float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _DEPTH:
        if isinstance(value, Mapping):
            return {_text(key): _plain(entry, _text(key), depth + 1) for key, entry in value.items()}
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
            return [_plain(value[0]), _plain(value[1], _text(value[0]), depth + 1)]  # a header, for example
        return [_plain(entry, depth=depth + 1) for entry in value]
    return redacted(_text(value))


def _text(value: object) -> str:
    """Its text, whatever it is: nothing that a caller binds may cost the line."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (anything can come from somebody's __str__)
        return f"<{type(value).__qualname__} that cannot be shown>"


# -- where lines go ----------------------------------------------------------------------------------------------------


class _Lines(Protocol):
    """What takes whole lines, or raises OSError or ValueError."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class _Counted:
    """The sink that loguru gets: whatever cannot be written is counted, and the caller goes on."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        try:
            self._lines.write(line)
        except (OSError, ValueError):
            losses.note()

    def stop(self) -> None:
        """Loguru's word for the end."""
        with contextlib.suppress(OSError):
            self._lines.close()


class _Stream:
    """A stream that somebody else opened, and closes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _File:
    """A file of whole lines, rotated by size. One process writes to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rotated = re.compile(rf"{re.escape(path.stem)}\.\d{{4}}(-\d\d){{2}}_(\d\d-){{2}}\d\d_\d{{6}}"
                                   rf"{re.escape(path.suffix)}")  # fmt: skip
        self._descriptor = self._open()

    def write(self, line: str) -> None:
        data = line.encode()
        status = os.fstat(self._descriptor)
        ours = self._path.exists() and os.path.samestat(self._path.stat(), status)
        full = status.st_size > 0 and status.st_size + len(data) > ROTATION_BYTES
        if full or not ours:  # not ours: somebody moved or removed it, and nobody would read what is written there
            with contextlib.suppress(OSError):  # too long a file is better than a lost line
                self._rotate(rename=ours)
            status = os.fstat(self._descriptor)
        if os.write(self._descriptor, data) < len(data):
            os.ftruncate(self._descriptor, status.st_size)  # the disk became full within the line: no halves
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        os.fchmod(descriptor, FILE_MODE)  # whatever the umask says
        return descriptor

    def _rotate(self, *, rename: bool) -> None:
        if rename:
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d_%H-%M-%S_%f")
            self._path.rename(self._path.with_name(f"{self._path.stem}.{now}{self._path.suffix}"))
        old, self._descriptor = self._descriptor, self._open()
        os.close(old)
        rotated = sorted(entry for entry in self._path.parent.iterdir() if self._rotated.fullmatch(entry.name))
        for entry in rotated[: max(0, len(rotated) - RETENTION)]:
            entry.unlink(missing_ok=True)


class _FromStandardLibrary(logging.Handler):
    """Hands the records of `logging` (uvicorn, asyncio, warnings) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _SEVERITY else "INFO"

        def from_there(entry: Record) -> None:
            entry["name"], entry["function"], entry["line"] = record.name, record.funcName or "", record.lineno

        logger.patch(from_there).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _log_uncaught(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.opt(exception=(kind, value, trace)).critical("Uncaught exception: the process ends")


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit or arguments.exc_value is None:
        return
    trouble = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.opt(exception=trouble).critical("Uncaught exception in a thread: the thread ends")


def _log_unraisable(trouble: sys.UnraisableHookArgs) -> None:
    value = trouble.exc_value
    seen = None if value is None else (type(value), value, trouble.exc_traceback)
    logger.opt(exception=seen).error("{}: {}", trouble.err_msg or "Exception ignored in", _text(trouble.object))
