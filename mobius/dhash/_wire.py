# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages between a process and those that decode for it: JSON and bytes, never pickles.

A decoder that a picture has taken over must not be able to run code in the process that reads its answer.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Final

from PIL import Image

from mobius.dhash._fingerprint import Dhash, Fingerprint
from mobius.dhash._verification_image import VerificationImage
from mobius.dhash.errors import (
    BrokenPictureError,
    DecodingLimitError,
    MislabelledError,
    NotAPictureError,
    PictureError,
    TooManyPixelsError,
    UnopenedPictureError,
)
from mobius.errors import OUTCOMES, MobiusError

Payload = bytes | bytearray | memoryview
_LENGTHS: Final = struct.Struct(">II")
_FIRST_READ_BYTES: Final = 1 << 16
"""What the first call asks for: most messages are one. Only one side speaks at a time, so nothing follows a message."""
_HEADER_MAX_BYTES: Final = 1 << 24
PAYLOAD_MAX_BYTES: Final = (1 << 31) - 1
_ERRORS: Final[dict[str, type[PictureError]]] = {
    kind.__name__: kind
    for kind in (
        BrokenPictureError,
        DecodingLimitError,
        MislabelledError,
        NotAPictureError,
        TooManyPixelsError,
        UnopenedPictureError,
    )
}


def send_message(channel: socket.socket, header: dict[str, Any], payload: Payload = b"") -> None:
    """Send a message. Raises OSError when the other end is closed, or does not read within the socket's timeout."""
    text = json.dumps(header, separators=(",", ":")).encode()
    head = _LENGTHS.pack(len(text), len(payload)) + text
    if len(payload) < 1 << 14 or not hasattr(channel, "sendmsg"):
        channel.sendall(b"".join((head, payload)))
        return
    # one call in most cases: each lets another thread have the interpreter
    sent = channel.sendmsg((head, payload))
    if sent < len(head):
        channel.sendall(head[sent:])
    if sent < len(head) + len(payload):
        channel.sendall(memoryview(payload)[max(0, sent - len(head)) :])


def receive_message(channel: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message.

    Args:
        deadline: of the monotonic clock.

    Raises:
        EOFError: the other end was closed.
        TimeoutError: it has not arrived by the deadline.
        ValueError: it is not one of these messages.
    """
    buffer = bytearray(_FIRST_READ_BYTES)
    count = _fill(channel, memoryview(buffer), _LENGTHS.size, deadline)
    header_length, payload_length = _LENGTHS.unpack_from(buffer)
    if header_length > _HEADER_MAX_BYTES or payload_length > PAYLOAD_MAX_BYTES:
        raise ValueError("The message is too long.")
    if count > _LENGTHS.size + header_length + payload_length:
        raise ValueError("The message is longer than it says.")
    start = _LENGTHS.size + header_length
    text = _complete(channel, buffer[_LENGTHS.size : min(start, count)], header_length, deadline)
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("The message has no header.")  # noqa: TRY004 (wrong data, not a wrong argument)
    return header, _complete(channel, buffer[start : max(start, count)], payload_length, deadline)


def _complete(channel: socket.socket, begun: bytearray, length: int, deadline: float | None) -> bytearray:
    """So many bytes, of which the first have arrived already."""
    if len(begun) == length:
        return begun
    data = bytearray(length)
    data[: len(begun)] = begun
    view = memoryview(data)[len(begun) :]
    _fill(channel, view, len(view), deadline)
    return data


def _fill(channel: socket.socket, view: memoryview, minimum: int, deadline: float | None) -> int:
    """Receive into the view until it has the minimum of bytes; returns how many it has."""
    filled = 0
    while filled < minimum:
        if deadline is not None:
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        count = channel.recv_into(view[filled:])
        if count == 0:
            raise EOFError
        filled += count
    return filled


def fingerprint_document(fingerprint: Fingerprint) -> dict[str, Any]:
    descriptor = fingerprint.descriptor
    return {
        "dhash": fingerprint.dhash.hex,
        "algorithm": fingerprint.dhash.algorithm,
        "width": fingerprint.width,
        "height": fingerprint.height,
        "format": fingerprint.format,
        "sha256": fingerprint.sha256,
        "size": fingerprint.size,
        "grids": [grid.hex() for grid in fingerprint.grids],
        "warnings": fingerprint.warnings,
        "descriptor": None if descriptor is None else descriptor.hex(),
    }


def parse_fingerprint(document: dict[str, Any]) -> Fingerprint:
    wide, tall = document["grids"]
    descriptor = document["descriptor"]
    return Fingerprint(
        Dhash.from_hex(document["dhash"], str(document["algorithm"])),
        int(document["width"]),
        int(document["height"]),
        str(document["format"]),
        str(document["sha256"]),
        int(document["size"]),
        grids=(bytes.fromhex(wide), bytes.fromhex(tall)),
        warnings=tuple(str(warning) for warning in document["warnings"]),
        descriptor=None if descriptor is None else bytes.fromhex(descriptor),
    )


def verification_image_document(image: VerificationImage) -> tuple[dict[str, Any], bytes]:
    """The header and the payload: the pixels of the colours, then those of the alpha."""
    header = {
        "pixels": image.colours.size,
        "alpha": image.alpha is not None,
        "size": image.size,
        "pixel_digest": image.pixel_digest,
        "is_single": image.is_single,
    }
    return header, image.colours.tobytes() + (b"" if image.alpha is None else image.alpha.tobytes())


def parse_verification_image(document: dict[str, Any], payload: Payload) -> VerificationImage:
    width, height = (int(side) for side in document["pixels"])
    area, view = width * height, memoryview(payload)
    alpha = Image.frombytes("L", (width, height), bytes(view[3 * area :])) if document["alpha"] else None
    longer, shorter = document["size"]
    return VerificationImage(
        Image.frombytes("RGB", (width, height), bytes(view[: 3 * area])),
        alpha,
        (int(longer), int(shorter)),
        str(document["pixel_digest"]),
        bool(document["is_single"]),
    )


def error_document(error: MobiusError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "outcome": error.outcome, "reason": error.reason, "do_next": error.do_next}


def parse_error(document: dict[str, Any]) -> MobiusError:
    reason, do_next = str(document["reason"]), str(document["do_next"])
    if (kind := _ERRORS.get(document["kind"])) is not None:
        return kind(reason, do_next=do_next)
    outcome = document["outcome"]
    return MobiusError(outcome if outcome in OUTCOMES else "out_of_memory", reason, do_next=do_next)
