# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Structured logs: one JSON object a line, with the names of OpenTelemetry's log data model.

Only entry points call `configure`; everything else imports `logger` from loguru. In development the lines go to
standard output. In production they go to a file (50 MB, ten files in all, mode 0640) and the console is silent.

Secrets are redacted in every line. A line that cannot be written is lost, not retried: the service continues, `losses`
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
"""Size limit of a file; only a single longer line exceeds it."""
RETENTION: Final = 9
"""Rotated files kept beside the current one: ten in all."""
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
# A text that does not match this holds no secret, so the slower patterns are skipped.
_HINT: Final = re.compile(r"authorization|cookie|passw|passphrase|secret|token|key|bearer|basic|mobius_|://", re.I)
_SECRETS_IN_TEXT: Final = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), REDACTED),
    # a header, as a line, in a mapping or in a list of pairs: its whole value is secret
    (re.compile(r"""((?:authorization|cookie)["']?\s*[:=,]\s*)(b?)(?:(["'])(?:(?!\3).)*\3?|[^\r\n"'})\]]+)""", re.I),
     rf"\1\2\3{REDACTED}\3"),
    (re.compile(r"""((?:passw(?:or)?d|passphrase|secret|token|(?:api|access|private)[_-]?key)\w*["']?\s*[:=]\s*)"""
                r"""(b?)(?:(["'])(?:(?!\3).)*\3?|[^\s,;&"'})\]]+)""", re.I),
     rf"\1\2\3{REDACTED}\3"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1 {REDACTED}"),
    (re.compile(r"(?<![A-Za-z0-9_-])mobius_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"), REDACTED),
    (re.compile(r"([a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,100}):[^\s/@]+@", re.I), rf"\1:{REDACTED}@"),
)  # fmt: skip
_FIELD_MAX_DEPTH: Final = 6
"""Nested structures in a field are written as such down to this depth, and as text below it."""


@dataclass
class Losses:
    """Lines that could not be written since the process started.

    Attributes:
        count: how many.
        last: time of the last loss, by `time.monotonic`; None without one.
    """

    count: int = 0
    last: float | None = None

    def add(self) -> None:
        """Count one more lost line."""
        with _COUNT_LOCK:
            self.count += 1
            self.last = time.monotonic()


_COUNT_LOCK: Final = threading.Lock()
losses: Final = Losses()
"""The losses of this process."""


def configure(
    *,
    resource: Mapping[str, str],
    file: Path | None = None,
    stream: TextIO | None = None,
    level: str = "INFO",
) -> None:
    """Send all logs of this process, those of the standard library and warnings too, to one file or stream.

    Args:
        resource: what emits the logs, in OpenTelemetry names, for example `{"service.name": "mobius-dhash"}`.
        file: the log file of a production process; without it, lines go to `stream` (standard output by default).
        level: the lowest level written, one of `LEVELS`.

    Raises:
        MobiusError: the file cannot be written.
    """
    logger.remove()
    fixed = dict(resource)

    def line(record: Record) -> str:
        # loguru formats the returned text again, so the line itself must come from the record
        record["extra"]["_line"] = as_json(record, fixed)
        return "{extra[_line]}\n"

    try:
        # loguru's own file sink buffers a line that it could not write and mixes it into later ones, without a count
        sink: _LineSink = _StreamSink(stream or sys.stdout) if file is None else _FileSink(file)
    except OSError as error:
        raise MobiusError("environment_failed", f"The log {file} cannot be written: {error.strerror}.") from error
    logger.add(_CountingSink(sink), format=line, level=level, diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def as_json(record: Record, resource: Mapping[str, str]) -> str:
    """One log line, without its newline."""
    attributes = {key: _to_json(value, key) for key, value in record["extra"].items() if key != "_line"}
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
        ensure_ascii=True,  # a file name that is not UTF-8 must not lose the line
    )


def redacted(text: str) -> str:
    """The text with everything redacted that looks like a secret.

    That is: authorization headers, cookies, bearer and basic credentials, our own tokens, private keys, passwords in
    URLs, and the value after `password=`, `token:` and the like.
    """
    if _HINT.search(text) is None:
        return text
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _to_json(value: Any, name: str = "", depth: int = 0) -> Any:
    """The value of a field as JSON can hold it, with secrets redacted."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, int | float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth < _FIELD_MAX_DEPTH:
        if isinstance(value, Mapping):
            return {_text(key): _to_json(entry, _text(key), depth + 1) for key, entry in value.items()}
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
            return [_to_json(value[0]), _to_json(value[1], _text(value[0]), depth + 1)]  # a header, for example
        return [_to_json(entry, depth=depth + 1) for entry in value]
    return redacted(_text(value))


def _text(value: object) -> str:
    """The text of any value: nothing that a caller binds may lose the line."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (anything can come from somebody's __str__)
        return f"<{type(value).__qualname__} that cannot be shown>"


# -- sinks -------------------------------------------------------------------------------------------------------------


class _LineSink(Protocol):
    """Writes whole lines; raises OSError or ValueError on failure."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class _CountingSink:
    """The sink for loguru: counts a line that cannot be written, and never raises."""

    def __init__(self, lines: _LineSink) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        try:
            self._lines.write(line)
        except (OSError, ValueError):
            losses.add()

    def stop(self) -> None:
        """Close the sink (named by loguru)."""
        with contextlib.suppress(OSError):
            self._lines.close()


class _StreamSink:
    """A stream that the caller opened and will close."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _FileSink:
    """A file of whole lines, rotated by size. Only one process writes to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rotated = re.compile(rf"{re.escape(path.stem)}\.\d{{4}}(-\d\d){{2}}_(\d\d-){{2}}\d\d_\d{{6}}"
                                   rf"{re.escape(path.suffix)}")  # fmt: skip
        self._descriptor = self._open()

    def write(self, line: str) -> None:
        data = line.encode()
        status = os.fstat(self._descriptor)
        is_current = self._path.exists() and os.path.samestat(self._path.stat(), status)
        full = status.st_size > 0 and status.st_size + len(data) > ROTATION_BYTES
        if (
            full or not is_current
        ):  # not current: the file was moved or removed, so nobody would read what is written to it
            with contextlib.suppress(OSError):  # a file that is too long is better than a lost line
                self._rotate(rename=is_current)
            status = os.fstat(self._descriptor)
        if os.write(self._descriptor, data) < len(data):
            os.ftruncate(
                self._descriptor, status.st_size
            )  # the disk became full within the line: remove the partial line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
        if hasattr(os, "fchmod"):
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
    """Passes the records of `logging` (uvicorn, asyncio, warnings) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _SEVERITY else "INFO"

        def set_origin(entry: Record) -> None:
            entry["name"], entry["function"], entry["line"] = record.name, record.funcName or "", record.lineno

        logger.patch(set_origin).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _log_uncaught(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.opt(exception=(kind, value, trace)).critical("Uncaught exception: the process ends")


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit or arguments.exc_value is None:
        return
    exception = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.opt(exception=exception).critical("Uncaught exception in a thread: the thread ends")


def _log_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    value = arguments.exc_value
    exception = None if value is None else (type(value), value, arguments.exc_traceback)
    logger.opt(exception=exception).error(
        "{}: {}", arguments.err_msg or "Exception ignored in", _text(arguments.object)
    )
