# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Structured logs: one JSON object a line, with the names of OpenTelemetry's log data model.

Only entry points call `configure`; everything else says `from loguru import logger` and logs. In development the lines
go to standard output. In production they go to a file (50 MB, ten files in all, mode 0640) and the console is silent.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

from loguru import logger

from mobius.errors import MobiusError

if TYPE_CHECKING:
    from loguru import Record

ROTATION_BYTES: Final = 50_000_000
RETENTION: Final = 9
"""Rotated files kept beside the one written to: ten in all."""
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_SEVERITY: Final = {
    "TRACE": 1, "DEBUG": 5, "INFO": 9, "SUCCESS": 10, "WARNING": 13, "ERROR": 17, "CRITICAL": 21,
}  # fmt: skip


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
        if file is None:
            logger.add(stream or sys.stdout, format=line, level=level, diagnose=False, backtrace=False)
        else:
            logger.add(
                file, format=line, level=level, diagnose=False, backtrace=False, encoding="utf-8",
                rotation=ROTATION_BYTES, retention=RETENTION, opener=_open_0640,
            )  # fmt: skip
    except OSError as error:
        raise MobiusError("environment_failed", f"The log {file} cannot be written: {error.strerror}.") from error
    logging.basicConfig(handlers=[_FromStandardLibrary()], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def as_json(record: Record, resource: Mapping[str, str]) -> str:
    """One log line, without its end."""
    attributes: dict[str, Any] = {key: value for key, value in record["extra"].items() if key != "_line"}
    attributes["code.function.name"] = f"{record['name']}.{record['function']}"
    attributes["code.line.number"] = record["line"]
    attributes["thread.name"] = record["thread"].name
    if (exception := record["exception"]) is not None:
        if exception.type is not None:
            attributes["exception.type"] = f"{exception.type.__module__}.{exception.type.__qualname__}"
        attributes["exception.message"] = str(exception.value)
        attributes["exception.stacktrace"] = "".join(
            traceback.format_exception(exception.type, exception.value, exception.traceback)
        )
    level = record["level"].name
    return json.dumps(
        {
            "timestamp": record["time"].astimezone().isoformat(timespec="microseconds"),
            "severity_text": level,
            "severity_number": _SEVERITY.get(level, 9),
            "body": record["message"],
            "resource": resource,
            "attributes": attributes,
        },
        default=str,
        ensure_ascii=True,  # a name that is no UTF-8 must not cost the line
    )


class _FromStandardLibrary(logging.Handler):
    """Hands the records of `logging` (uvicorn, asyncio, warnings) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _SEVERITY else "INFO"

        def from_there(entry: Record) -> None:
            entry["name"], entry["function"], entry["line"] = record.name, record.funcName or "", record.lineno

        logger.patch(from_there).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _open_0640(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o640)
    os.fchmod(descriptor, 0o640)  # whatever the umask says
    return descriptor


def _log_uncaught(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.opt(exception=(kind, value, trace)).critical("Uncaught exception: the process ends")


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit or arguments.exc_value is None:
        return
    trouble = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.opt(exception=trouble).critical("Uncaught exception in a thread: the thread ends")
