# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program of a process that decodes pictures: it answers requests from a socket until the other end is closed.

It imports all that a decoder may need, then gives up the right to open anything, then reads the first request. After
some thousand pictures, or when memory stays with it, it says so in its answer, and is replaced.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from PIL import Image, features

from mobius.dhash._decoding import out_of_memory
from mobius.dhash._formats import load_decoders
from mobius.dhash._hashing import hash_bytes, hash_file
from mobius.dhash._thumbnail import thumbnail_of
from mobius.dhash._verification_image import load_for_verification
from mobius.dhash._wire import (
    error_document,
    fingerprint_document,
    receive_message,
    send_message,
    verification_image_document,
)
from mobius.dhash._worker_limits import ProcessMeter, WorkerLimits, allow_cpu, limit_process, stop_cpu_timer
from mobius.errors import MobiusError

PICTURES_PER_PROCESS: Final = 10_000
"""A process is replaced after so many pictures, whatever it looks like."""

RETAINED_MAX_BYTES: Final = 48 << 20
"""A process is replaced when it keeps more memory than this above its baseline."""

_LAZY_IMPORTS: Final = ("PIL.MpoImagePlugin", "PIL.ImageChops", "PIL.ImageMath", "PIL.ImageCms", "PIL.GimpGradientFile")
_Answer = tuple[dict[str, Any], bytes]


def serve(limits: WorkerLimits) -> None:
    """Answer requests from the socket that is standard input."""
    channel = socket.socket(fileno=os.dup(0))
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    os.close(silent)
    warnings.simplefilter("ignore")
    _import_everything()
    gc.collect()
    gc.freeze()
    meter = ProcessMeter()
    limit_process(limits, meter)
    with contextlib.suppress(EOFError, ConnectionError), channel:
        send_message(channel, {"ready": True})
        pictures = 0
        while True:
            request, payload = receive_message(channel)
            started = time.monotonic()
            header, data = _answer(request, payload, limits, channel)
            pictures += len(request.get("paths", "1"))
            retained = meter.resident_bytes() - meter.baseline_bytes
            header["seconds"] = time.monotonic() - started
            header["retire"] = pictures >= PICTURES_PER_PROCESS or retained > RETAINED_MAX_BYTES
            send_message(channel, header, data)


def _import_everything() -> None:
    """Load what decoders load when they first need it, and keep each to one thread."""
    load_decoders()
    for name in _LAZY_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    features.get_supported()
    if (avif := sys.modules.get("PIL.AvifImagePlugin")) is not None:
        avif.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]
    if (heif := sys.modules.get("pillow_heif")) is not None:
        heif.options.DECODE_THREADS = 1
    sample = Image.effect_noise((160, 160), 80).convert("RGB")
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"):
        with contextlib.suppress(Exception):
            _decode_once(sample, form)


def _decode_once(sample: Image.Image, form: str) -> None:
    stream = io.BytesIO()
    sample.save(stream, form)
    hash_bytes(stream.getvalue(), descriptor=True)
    thumbnail_of(stream.getvalue())
    load_for_verification(stream.getvalue())


def _answer(request: dict[str, Any], payload: bytearray, limits: WorkerLimits, channel: socket.socket) -> _Answer:
    if request["job"] == "hash_files":
        return _hash_files(request, limits, channel)
    try:
        allow_cpu(min(limits.cpu_seconds, request["cpu_seconds"]))
        try:
            return _JOBS[request["job"]](request, bytes(payload), limits)
        finally:
            stop_cpu_timer()
    except MemoryError:
        return {"error": error_document(out_of_memory())}, b""
    except MobiusError as error:
        return {"error": error_document(error)}, b""


def _hash(request: dict[str, Any], data: bytes, limits: WorkerLimits) -> _Answer:
    fingerprint = hash_bytes(
        data,
        request["mode"],
        max_pixels=request["max_pixels"],
        declared=request["declared"],
        descriptor=request["descriptor"],
        formats=tuple(request["formats"]),
        memory_bytes=limits.memory_bytes,
    )
    return {"fingerprint": fingerprint_document(fingerprint)}, b""


def _thumbnail(request: dict[str, Any], data: bytes, limits: WorkerLimits) -> _Answer:
    thumbnail = thumbnail_of(data, request["side"], max_pixels=request["max_pixels"], memory_bytes=limits.memory_bytes)
    return {}, thumbnail


def _verification_image(request: dict[str, Any], data: bytes, limits: WorkerLimits) -> _Answer:
    image = load_for_verification(
        data, request["side"], max_pixels=request["max_pixels"], memory_bytes=limits.memory_bytes
    )
    return verification_image_document(image)


_JOBS: Final[dict[str, Callable[[dict[str, Any], bytes, WorkerLimits], _Answer]]] = {
    "hash": _hash,
    "thumbnail": _thumbnail,
    "verification_image": _verification_image,
}


def _hash_files(request: dict[str, Any], limits: WorkerLimits, channel: socket.socket) -> _Answer:
    results = []
    for path in request["paths"]:
        results.append(_hash_file(Path(path), request, limits))
        if _is_closed(channel):
            raise EOFError  # nobody waits for the answer
    return {"results": results}, b""


def _hash_file(path: Path, request: dict[str, Any], limits: WorkerLimits) -> dict[str, Any]:
    try:
        allow_cpu(limits.cpu_seconds)
        try:
            fingerprint = hash_file(path, request["mode"], max_pixels=request["max_pixels"], descriptor=True)
        finally:
            stop_cpu_timer()
    except MobiusError as error:
        return {"error": error_document(error)}
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror}
    except MemoryError:
        return {"error": error_document(out_of_memory())}
    return {"fingerprint": fingerprint_document(fingerprint)}


def _is_closed(channel: socket.socket) -> bool:
    """Whether the other end is closed: it sends nothing before the answer."""
    try:
        return channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
