# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests to the other instances on the host, over their admin sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPLY_TIMEOUT_SECONDS: Final = 0.2
"""A neighbour that takes longer counts as down."""
_REPLY_MAX_BYTES: Final = 16_000_000


@dataclass(frozen=True)
class Reply:
    """The answer of a neighbour: HTTP status and body."""

    status: int
    body: bytes


async def request_all(run_dir: Path | None, own: Path | None, target: str) -> dict[str, Reply | None]:
    """Send a request to every other instance that has an admin socket below `run_dir`.

    Returns:
        release id to reply; None for an instance that did not answer in time.
    """
    if run_dir is None:
        return {}
    sockets = sorted(path for path in run_dir.glob("*/admin.sock") if path != own)
    replies = await asyncio.gather(*(request(path, target) for path in sockets))
    return {path.parent.name: reply for path, reply in zip(sockets, replies, strict=True)}


async def request(path: Path, target: str, seconds: float = REPLY_TIMEOUT_SECONDS) -> Reply | None:
    """GET `target` over a Unix socket; None when there is no valid answer within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"GET {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
                answer = await _read_all(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = head.split(b" ", 2)
    return Reply(int(fields[1]), body) if len(fields) == 3 and fields[1].isdigit() else None


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while len(parts) < _REPLY_MAX_BYTES and (part := await reader.read(65_536)):
        parts += part
    return bytes(parts)
