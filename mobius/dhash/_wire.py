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
    lengths = _LENGTHS.pack(len(text), len(payload))
    if len(payload) < 1 << 14:
        channel.sendall(b"".join((lengths, text, payload)))
        return
    channel.sendall(lengths + text)
    channel.sendall(payload)


def receive_message(channel: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """The next message.

    Args:
        deadline: of the monotonic clock.

    Raises:
        EOFError: the other end was closed.
        TimeoutError: it has not arrived by the deadline.
        ValueError: it is not one of these messages.
    """
    header_length, payload_length = _LENGTHS.unpack(_receive(channel, _LENGTHS.size, deadline))
    if header_length > _HEADER_MAX_BYTES or payload_length > PAYLOAD_MAX_BYTES:
        raise ValueError("The message is too long.")
    header = json.loads(_receive(channel, header_length, deadline))
    if not isinstance(header, dict):
        raise ValueError("The message has no header.")  # noqa: TRY004 (wrong data, not a wrong argument)
    return header, _receive(channel, payload_length, deadline)


def _receive(channel: socket.socket, length: int, deadline: float | None) -> bytearray:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        if deadline is not None:
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        count = channel.recv_into(view[filled:])
        if count == 0:
            raise EOFError
        filled += count
    return data


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
