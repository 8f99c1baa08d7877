# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hostile and broken clients, and a full disk: the right refusal, bounded memory, and good requests still work."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from mobius.service.tokens import line_for, new_token
from tests.integration.service.conftest import wait_until

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

RELEASE = "1.0.0-aaaaaaaaaaaa"
GOLDEN = Path(__file__).parents[3] / "playbooks/files/golden"
GOOD = (GOLDEN / "camera-grey.png").read_bytes()
PIXEL_BYTES = 12
"""Memory of one decoded pixel (a transparent picture on a white background)."""
CONNECTION_BYTES = 96_000
"""Memory of one connection: a head, and what was read of a body before its limits apply."""
BASE_BYTES = 160_000_000
"""Memory of the interpreter, its libraries and an index of a hundred thousand pictures."""


def peak_memory(instance: RunningInstance) -> int:
    """The peak resident memory of the process, in bytes."""
    status = Path(f"/proc/{instance.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def open_connections(port: int, count: int, first: bytes) -> list[socket.socket]:
    channels = []
    for _ in range(count):
        channel = socket.create_connection(("127.0.0.1", port), timeout=10)
        channel.sendall(first)
        channels.append(channel)
    return channels


def answers_of(channels: list[socket.socket], seconds: float) -> list[bytes]:
    """What the server sent on each connection until it closed it."""
    received = dict.fromkeys(channels, b"")
    with selectors.DefaultSelector() as selector:
        for channel in channels:
            selector.register(channel, selectors.EVENT_READ)
        deadline = time.monotonic() + seconds
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} connections are still open"
            for key, _ in selector.select(0.5):
                part = b""
                with contextlib.suppress(ConnectionResetError):
                    part = key.fileobj.recv(65_536)
                received[key.fileobj] += part
                if not part:
                    selector.unregister(key.fileobj)
    for channel in channels:
        channel.close()
    return list(received.values())


def test_clients_that_never_finish_a_head_or_a_body_are_disconnected_and_delay_nobody(host: ServiceHost) -> None:
    host.start(RELEASE, head_timeout="1", body_timeout="1.5")
    heads = open_connections(host.port, 60, b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nX-Slow: a")
    bodies = open_connections(host.port, 60, b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\nabc")
    drips = time.monotonic() + 3
    with host.client() as client:
        while time.monotonic() < drips:  # single bytes must not extend the deadline
            for channel in (*heads, *bodies):
                with contextlib.suppress(OSError):
                    channel.send(b"b")
            assert client.post("/v1/hash", content=GOOD).status_code == 200
    for answer in answers_of([*heads, *bodies], 20):
        assert answer.startswith(b"HTTP/1.1 408 "), answer[:200]


def test_a_thousand_idle_connections_cost_little_and_delay_nobody(host: ServiceHost) -> None:
    instance = host.start(RELEASE, max_connections="1100")
    before = peak_memory(instance)
    idle = open_connections(host.port, 1000, b"")
    with host.client() as client:
        wait_until(lambda: instance.metric("mobius_connections") == 1001)  # the one of this request, too
        for _ in range(20):
            assert client.post("/v1/hash", content=GOOD).status_code == 200
        # idle connections give way to those over the limit
        surplus = open_connections(host.port, 200, b"POST /v1/hash HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert all(channel.recv(65_536).startswith(b"HTTP/1.1 415 ") for channel in surplus)
        assert client.post("/v1/hash", content=GOOD).status_code == 200
    assert (peak_memory(instance) - before) / 1200 < CONNECTION_BYTES
    for channel in (*idle, *surplus):
        channel.close()


def png_bomb(side: int) -> bytes:
    """A small file of `side` by `side` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (side + 1)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tile_bomb(side: int) -> bytes:
    """A TIFF of 100 by 100 pixels, cut from a tile of `side` by `side`, which its reader decodes whole."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(side)) for _ in range(side)) + packer.flush()
    packed += bytes(len(packed) % 2)
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def scan_bomb(scans: int) -> bytes:
    """A small progressive JPEG with this many scans."""
    stream = io.BytesIO()
    Image.new("RGB", (3000, 3000), "teal").save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + scans * data[data.rindex(b"\xff\xda") : -2] + data[-2:]


def test_bad_pictures_get_a_4xx_and_memory_stays_within_the_limits(host: ServiceHost) -> None:
    limits = {"max_body_bytes": 2_000_000, "bodies_bytes": 16_000_000, "max_connections": 100}
    limits |= {"max_pixels": 10_000_000, "decode_pixels": 10_000_000}
    instance = host.start(RELEASE, **{name: str(value) for name, value in limits.items()})
    jpeg = (GOLDEN / "astronaut-baseline.jpg").read_bytes()
    lossless = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(lossless, "TIFF")
    cases = {
        "a bomb": (413, png_bomb(20_000), ""),
        "a bomb in a tile": (413, tile_bomb(20_000), ""),
        "a bomb of scans": (422, scan_bomb(5000), ""),
        "cut off in its head": (422, jpeg[:300], ""),
        "cut off in the middle": (422, GOOD[: len(GOOD) // 2], ""),
        "a JPEG that is called a PNG": (415, jpeg, "image/png"),
        "a text that is called a JPEG": (415, b"hello" * 100, "image/jpeg"),
        "too long, and says so": (413, b"x" * 2_000_001, ""),
        "nothing": (415, b"", ""),
        "damaged pointers": (422, lossless.getvalue()[:8] + b"\xff" * 400, ""),
    }
    with host.client() as client:
        for _ in range(3):
            for name, (status, body, media_type) in cases.items():
                answer = client.post("/v1/hash", content=body, headers={"Content-Type": media_type})
                assert answer.status_code in (status, 415 if name == "damaged pointers" else status), (
                    name,
                    answer.text,
                )
                assert answer.headers["content-type"] == "application/problem+json", name
                assert answer.json()["detail"].endswith("."), name
            # without Content-Length, only the data shows that it is too much
            answer = client.post("/v1/hash", content=(b"x" * 500_000 for _ in range(5)))
            assert answer.status_code == 413
            assert client.post("/v1/hash", content=GOOD).status_code == 200
        assert client.get("/metrics/dhash").json()["errors"] == 0
    limit = BASE_BYTES + limits["max_connections"] * CONNECTION_BYTES + limits["bodies_bytes"]
    assert peak_memory(instance) < limit + limits["decode_pixels"] * PIXEL_BYTES


def test_a_picture_with_thousands_of_faults_in_its_metadata_does_not_fill_the_log(
    host: ServiceHost, tmp_path: Path
) -> None:
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    tags |= dict.fromkeys(range(1000, 6000), 1 << 30)  # each lies a gigabyte away, 100 bytes long
    entries = b"".join(struct.pack("<HHII", tag, 4, 1 if tag < 1000 else 25, value) for tag, value in tags.items())
    picture = b"II*\0" + struct.pack("<I", 8 + 64) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4)
    log = tmp_path / "service.log"
    host.start(RELEASE, environment="production", log_file=str(log), log_level="INFO")
    with host.client() as client:
        assert client.post("/v1/hash", content=picture).status_code == 200
        assert client.post("/v1/hash", content=GOOD).status_code == 200
    assert len(log.read_text().splitlines()) < 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
    return filler


def test_on_a_full_disk_reading_works_writing_gets_507_and_lost_lines_are_counted(
    host: ServiceHost, small_disk: Path
) -> None:
    token = new_token()
    (small_disk / "tokens").write_text(f"{line_for('ada', token)}\n")
    may_write = {"Authorization": f"Bearer {token}"}
    instance = host.start(
        RELEASE,
        environment="production",
        log_file=str(small_disk / "service.log"),
        log_level="INFO",
        index=str(small_disk / "index.sqlite"),
        tokens=str(small_disk / "tokens"),
        disk_free_bytes="100000",
    )
    with host.client() as client:
        first = client.post("/v1/images", content=GOOD, headers=may_write)
        assert first.status_code == 201, first.text
        filler = fill(small_disk)
        refused = client.post("/v1/images", content=(GOLDEN / "astronaut-baseline.jpg").read_bytes(), headers=may_write)
        assert refused.status_code == 507, refused.text
        assert "space" in refused.json()["detail"]
        for _ in range(100):
            assert client.post("/v1/search", content=GOOD).json()["matches"][0]["distance"] == 0
        assert client.post("/v1/hash", content=GOOD).status_code == 200
        health = instance.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "warn"), health.text
        assert health.json()["checks"]["disk:free"][0]["status"] == "warn"
        assert health.json()["checks"]["logs:lost"][0]["observedValue"] > 0
        page = client.get("/metrics").text
        lost = next(line for line in page.splitlines() if line.startswith("mobius_log_lines_lost_total{"))
        assert float(lost.rsplit(" ", 1)[1]) > 0
        filler.unlink()
        again = client.post("/v1/images", content=(GOLDEN / "astronaut-baseline.jpg").read_bytes(), headers=may_write)
        assert again.status_code == 201, again.text
