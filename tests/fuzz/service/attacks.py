# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests made to take a service down, as generators: small to send, and much work for who believes them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Attack:
    """A request that is sent by some clients at the same time, and the statuses that are right for it."""

    path: str
    content_type: str
    body: bytes
    statuses: frozenset[int]
    clients: int = 4


def picture_attack(data: bytes, *statuses: int, clients: int = 4) -> Attack:
    # 503: the queue has a bound
    return Attack("/v1/hash", "application/octet-stream", data, frozenset({*statuses, 503}), clients)


def lying_avif(side: int = 4000) -> bytes:
    """An AVIF whose container says 64 x 64, and whose stream has `side` x `side` pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(stream, "AVIF", speed=10, quality=10)
    data = bytearray(stream.getvalue())
    position = data.index(b"ispe") + 8
    data[position : position + 8] = struct.pack(">II", 64, 64)
    return bytes(data)


def flat_webp(side: int = 7070) -> bytes:
    """A lossless WebP of some dozens of bytes and `side` x `side` pixels."""
    stream = io.BytesIO()
    Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def shared_tiles_tiff(tiles: int = 3000, rows: int = 1_500_000) -> bytes:
    """A TIFF of one row, whose tiles of 16 x `rows` pixels all are one block of zeros."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(16 * rows // 100)) for _ in range(100)) + packer.flush()
    packed += bytes(len(packed) % 2)
    block = 8
    offsets = block + len(packed)
    lengths = offsets + 4 * tiles
    body = packed + struct.pack("<I", block) * tiles + struct.pack("<I", len(packed)) * tiles
    tags = {
        256: (1, 16 * tiles), 257: (1, 1), 258: (1, 8), 259: (1, 8), 262: (1, 1), 277: (1, 1), 322: (1, 16),
        323: (1, rows), 324: (tiles, offsets), 325: (tiles, lengths),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, (count, value) in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def many_scans_jpeg(scans: int, *, side: int = 1500, progressive: bool = False) -> bytes:
    """A JPEG with one scan written so many times."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(stream, "JPEG", progressive=progressive)
    data = stream.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scans * scan + data[-2:]


def png_of_chunks(count: int = 200_000) -> bytes:
    """A PNG whose chunks are many and empty."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(101 * 100)))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"prIv", b"") * count + pixels + chunk(b"IEND", b"")


def form_of_semicolons(parts: int = 64) -> bytes:
    """A form whose parts have some thousand empty parameters."""
    head = b'Content-Disposition: form-data; name="image"' + b";" * 8000 + b"\r\n\r\n"
    return b"".join(b"--abc\r\n" + head + b"x\r\n" for _ in range(parts)) + b"--abc--\r\n"


def form_of(picture: bytes, parts: int) -> bytes:
    head = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return b"".join(b"--abc\r\n" + head + picture + b"\r\n" for _ in range(parts)) + b"--abc--\r\n"


def nested_json(size: int = 31_000_000) -> bytes:
    return b"[" * (size // 2) + b"]" * (size // 2)


ATTACKS: dict[str, Callable[[], Attack]] = {
    "an AVIF that lies": lambda: picture_attack(lying_avif(), 200, 413, 422),
    "a flat WebP": lambda: picture_attack(flat_webp(), 413, 422, clients=12),
    "twelve flat WebPs in a form": lambda: Attack(
        "/v1/hash", "multipart/form-data; boundary=abc", form_of(flat_webp(), 12), frozenset({200})
    ),
    "a TIFF of one tile, over and over": lambda: picture_attack(shared_tiles_tiff(), 413, 422),
    "300 scans": lambda: picture_attack(many_scans_jpeg(300), 422),
    "3,000 progressive scans": lambda: picture_attack(many_scans_jpeg(3000, side=3000, progressive=True), 422),
    "a PNG of nothing but chunks": lambda: picture_attack(png_of_chunks(), 200, 413, 422),
    "a form of semicolons": lambda: Attack(
        "/v1/hash", "multipart/form-data; boundary=abc", form_of_semicolons(), frozenset({200}), 6
    ),
    "a boundary of semicolons": lambda: Attack(
        "/v1/hash", "multipart/form-data" + ";" * 30_000, b"x", frozenset({400}), 6
    ),
    "nested JSON": lambda: Attack("/v1/search", "application/json", nested_json(), frozenset({413}), 2),
}
"""Each takes seconds to make at most."""

LONG_ATTACKS: dict[str, Callable[[], Attack]] = {
    "a larger AVIF that lies": lambda: picture_attack(lying_avif(9000), 413, 422),
    "30,000 scans": lambda: picture_attack(many_scans_jpeg(30_000, side=64), 413, 422),
    "a TIFF of one tile, from many": lambda: picture_attack(shared_tiles_tiff(20_000), 413, 422, clients=24),
    "64 TIFFs in a form": lambda: Attack(
        "/v1/hash", "multipart/form-data; boundary=abc", form_of(shared_tiles_tiff(), 64), frozenset({200})
    ),
}


def hostile_heads(chance: random.Random, count: int) -> list[bytes]:
    """Heads of requests that are wrong in one of many ways."""
    lines = [
        b"Origin: http://[", b"Origin: \xff", b"Host: [", b"Host: a b", b"Host: h\r\nHost: h", b"Host: \xff\xfe",
        b"Host: [::1", b"Host: h:99999999", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
        b"Content-Encoding: gzip", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Type: multipart/form-data; boundary*=idna''%ff", b"Content-Type: \xff/\xfe",
        b"Content-Type: multipart/form-data; boundary=\"", b"Content-Type: application/json; charset=idna",
        b"Authorization: Bearer \xff", b"Authorization: Bearer", b"X-Forwarded-For: [", b"X-Request-Id: \xff",
        b"Expect: 100-continue", b"Upgrade: websocket\r\nConnection: Upgrade", b"Range: bytes=-1", b"Cookie: " + b";" * 900,
        b"X: " + bytes(chance.randrange(1, 256) for _ in range(30)),
    ]  # fmt: skip
    targets = [
        b"/v1/hash", b"/v1/search", b"/v1/images", b"/v1/duplicates", b"/v1/review/a-b", b"/v1/images/%ff%00", b"/%",
        b"//[", b"/v1/hash?mode=%ff", b"/v1/hash?" + b"&" * 2000, b"*", b"http://[/", b"/v1/review?after=%00",
        b"/v1/images/" + b"a" * 64 + b"/thumbnail?side=\xff", b"/openapi.json?%", b"/health", b"/metrics",
    ]  # fmt: skip
    methods = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE", b"CONNECT"]
    bodies = [
        b"", b"{}", b"[" * 3000, b'{"dhash": "\\ud800"}', b"\xff" * 50,
        b"--abc\r\nContent-Disposition: form-data; name=a; filename*=undefined''x\r\n\r\nx\r\n--abc--",
        b"--abc\r\nContent-Disposition: form-data; name*=idna''%ff\r\n\r\nx\r\n--abc--",
        b"--abc\r\nContent-Disposition: form-data; name=a\r\nContent-Type: \xff\r\n\r\nx\r\n--abc--",
    ]  # fmt: skip
    requests = []
    for number in range(count):
        method, target, body = (chance.choice(some) for some in (methods, targets, bodies))
        chosen = [lines[number % len(lines)], *chance.sample(lines, chance.randrange(3))]
        if not any(line.startswith(b"Host") for line in chosen) and chance.random() < 0.9:
            chosen.append(b"Host: h")
        if not any(line.startswith(b"Content-Type") for line in chosen):
            chosen.append(
                chance.choice((b"Content-Type: multipart/form-data; boundary=abc", b"Content-Type: application/json"))
            )
        if not any(line.startswith((b"Content-Length", b"Transfer-Encoding")) for line in chosen):
            chosen.append(b"Content-Length: %d" % len(body))
        requests.append(b"\r\n".join((method + b" " + target + b" HTTP/1.1", *chosen, b"Connection: close", b"", body)))
    return requests
