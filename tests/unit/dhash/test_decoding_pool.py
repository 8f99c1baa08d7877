# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures that clients send are decoded in processes that cannot do much, and that cost nobody else anything."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mobius.dhash import (
    BrokenPictureError,
    DecoderCrashedError,
    DecodingLimitError,
    DecodingPool,
    PoolLimits,
    QueueFullError,
    TooManyPixelsError,
    UnopenedPictureError,
    _decoding_pool,
    _worker_process,
    hash_bytes,
    load_for_verification,
    thumbnail_of,
)
from mobius.errors import MobiusError
from tests.unit.dhash.library_tools import linux_only

pytestmark = [linux_only, pytest.mark.slow]
GOLDEN = Path(__file__).parents[3] / "playbooks/files/golden"
GOOD = (GOLDEN / "camera-grey.png").read_bytes()
LIMITS = PoolLimits(1, 48 << 20, 96 << 20)

TRAPS = """
import os, time
from mobius.dhash import _worker as w
kept, hash_bytes = [], w.hash_bytes
def trap(data, *arguments, **options):
    name = data[:20].decode("latin-1")
    if name.startswith("spin"):
        while True:
            pass
    if name.startswith("sleep"):
        time.sleep(60)
    if name.startswith("crash"):
        os.abort()
    if name.startswith("keep"):
        kept.append(b"x" * (40 << 20))
    while name.startswith("grow"):
        kept.append(b"x" * (1 << 20))
    if name.startswith("write"):
        for work in (lambda: open("/dev/null"), lambda: os.dup(3), lambda: __import__("socket").socket()):
            try:
                work()
            except OSError:
                continue
            os.abort()
        raise w.MobiusError("invalid_input", "Nothing can be opened.")
    return hash_bytes(data, *arguments, **options)
w.hash_bytes = trap
"""


@pytest.fixture
def traps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker_process, "PROGRAM", TRAPS + _worker_process.PROGRAM)


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(LIMITS, max_pixels=50_000_000)
    pool.start()
    yield pool
    pool.close()


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def is_served(pool: DecodingPool) -> None:
    assert pool.hash(GOOD).result.result(20)[0] == hash_bytes(GOOD)


def test_a_pool_gives_what_this_process_would(pool: DecodingPool) -> None:
    for path in GOLDEN.iterdir():
        if path.suffix in (".png", ".jpg"):
            data = path.read_bytes()
            for mode in ("fast", "exact"):
                found, seconds = pool.hash(data, mode, descriptor=True).result.result(20)
                assert found == hash_bytes(data, mode, descriptor=True)
                assert found.grids == hash_bytes(data, mode, descriptor=True).grids
                assert seconds > 0
            assert pool.thumbnail_of(data, 100) == thumbnail_of(data, 100)
            ours, theirs = load_for_verification(data, 300), pool.load_for_verification(data, 300, max_pixels=1)
            assert ours.colours.tobytes() == theirs.colours.tobytes()
            assert (ours.alpha and ours.alpha.tobytes()) == (theirs.alpha and theirs.alpha.tobytes())
            assert (ours.size, ours.pixel_digest, ours.is_single) == (
                theirs.size,
                theirs.pixel_digest,
                theirs.is_single,
            )


def test_every_format_is_read_without_opening_a_file(pool: DecodingPool) -> None:
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "MPO"):
        options = {"save_all": True, "append_images": [image]} if form == "MPO" else {}
        data = encoded(image, form, **options)
        assert pool.hash(data).result.result(20)[0] == hash_bytes(data), form


def test_a_picture_that_says_that_it_is_large_goes_to_the_large_lane(pool: DecodingPool) -> None:
    quick = pool.pids
    large = encoded(Image.new("RGB", (4000, 4000), "teal"), "PNG")
    assert pool.hash(large).result.result(30)[0] == hash_bytes(large)
    assert len(pool.pids) == 2
    assert pool.pids[:1] == quick, "and did not cost the process of the others"
    with pytest.raises(DecodingLimitError, match="more than the 96 MB of memory allowed"):
        pool.hash(encoded(Image.new("RGB", (5000, 5000)), "PNG")).result.result(30)
    with pytest.raises(UnopenedPictureError, match="damaged, or needs more than the 96 MB"):
        pool.hash(encoded(Image.new("RGBA", (7070, 7070)), "WEBP", lossless=True)).result.result(30)
    with pytest.raises(BrokenPictureError):
        pool.hash(GOOD[:4000]).result.result(30)
    is_served(pool)


def test_more_pixels_than_allowed_are_refused_as_such() -> None:
    pool = DecodingPool(LIMITS, max_pixels=10_000)
    with pytest.raises(TooManyPixelsError):
        pool.hash(GOOD).result.result(30)
    pool.close()


def test_a_picture_that_takes_too_long_is_refused_and_others_are_served(
    traps: None, pool: DecodingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_decoding_pool, "LARGE_CPU_SECONDS", 1.0)
    patient = DecodingPool(LIMITS, max_pixels=50_000_000)
    spinning = patient.hash(b"spin")
    is_served(patient)
    with pytest.raises(DecodingLimitError, match="takes more than the 1 seconds allowed") as refused:
        spinning.result.result(60)
    assert refused.type is DecodingLimitError
    is_served(patient)
    patient.close()


def test_after_a_slow_picture_its_format_leaves_the_quick_lane_and_others_have_less_time_there(traps: None) -> None:
    pool = DecodingPool(PoolLimits(1, 48 << 20, 96 << 20), max_pixels=50_000_000)
    spinning = [pool.hash(b"spin" + bytes([number])) for number in range(5)]
    deadline = time.monotonic() + 60
    while spinning[0].header.get("cpu_seconds") != _decoding_pool.LARGE_CPU_SECONDS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    good = pool.hash(GOOD)
    assert good.result.result(10)[0] == hash_bytes(GOOD)
    assert good.header["cpu_seconds"] == _decoding_pool.LEASH_CPU_SECONDS
    assert not any("cpu_seconds" in one.header for one in spinning[1:]), "none of them was begun before it"
    pool.close()


def test_a_picture_that_only_waits_is_refused_by_the_clock(traps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoding_pool, "QUICK_WALL_SECONDS", 0.5)
    monkeypatch.setattr(_decoding_pool, "LARGE_WALL_SECONDS", 0.5)
    pool = DecodingPool(LIMITS, max_pixels=50_000_000)
    with pytest.raises(DecodingLimitError):
        pool.hash(b"sleep").result.result(60)
    is_served(pool)
    pool.close()


def test_a_picture_that_crashes_its_decoder_is_refused(traps: None, pool: DecodingPool) -> None:
    first = pool.pids
    with pytest.raises(DecoderCrashedError, match="its decoder crashed over it"):
        pool.hash(b"crash").result.result(60)
    is_served(pool)
    assert pool.pids != first


def test_a_picture_that_needs_more_memory_than_it_says_is_refused(traps: None, pool: DecodingPool) -> None:
    with pytest.raises(DecodingLimitError, match="more than the 96 MB of memory allowed"):
        pool.hash(b"grow").result.result(60)
    is_served(pool)


def test_a_process_that_keeps_memory_is_replaced(traps: None) -> None:
    pool = DecodingPool(PoolLimits(1, 200 << 20, 200 << 20), max_pixels=50_000_000)
    pool.start()
    first = pool.pids
    for _ in range(2):
        with pytest.raises(MobiusError, match="not a picture"):
            pool.hash(b"keep").result.result(60)
    deadline = time.monotonic() + 60
    while pool.pids == first:
        is_served(pool)
        assert time.monotonic() < deadline
    pool.close()


def test_a_decoder_can_open_nothing_and_gain_no_privilege(traps: None, pool: DecodingPool) -> None:
    with pytest.raises(MobiusError, match="Nothing can be opened"):
        pool.hash(b"write").result.result(60)
    (pid,) = pool.pids
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{pid}/limits").read_text()
    for name in ("Max file size", "Max open files", "Max core file size"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line[len(name) :].split()[:2] == ["0", "0"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3", "4"]


def test_the_environment_of_the_service_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBIUS_SECRET", "hidden")
    pool = DecodingPool(LIMITS, max_pixels=50_000_000)
    pool.start()
    assert b"hidden" not in Path(f"/proc/{pool.pids[0]}/environ").read_bytes()
    pool.close()


def test_a_killed_process_is_replaced(pool: DecodingPool) -> None:
    is_served(pool)
    os.kill(pool.pids[0], signal.SIGKILL)
    try:
        is_served(pool)
    except DecoderCrashedError:  # killed so late that it had the picture already
        is_served(pool)


def test_what_nobody_waits_for_leaves_the_queue_or_ends_its_process(traps: None, pool: DecodingPool) -> None:
    sleeping, queued = pool.hash(b"sleep"), pool.hash(GOOD)
    deadline = time.monotonic() + 30
    while sleeping.started_at is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    queued.abandon()
    assert queued.result.cancelled()
    sleeping.abandon()
    with pytest.raises(MobiusError, match="Nobody waits"):
        sleeping.result.result(3)
    is_served(pool)


def test_waiting_has_a_bound(traps: None, pool: DecodingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoding_pool, "QUEUE_SECONDS", 0.2)
    sleeping, queued = pool.hash(b"sleep"), pool.hash(GOOD)
    deadline = time.monotonic() + 30
    while not queued.result.done():
        pool.expire_waiting()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(QueueFullError):
        queued.result.result()
    sleeping.abandon()


@pytest.mark.parametrize("executable", ["/nowhere/python", ""])
def test_where_no_process_can_be_started_it_is_said(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    pool = DecodingPool(LIMITS, max_pixels=50_000_000)
    with pytest.raises(MobiusError, match="No process could be started to decode pictures"):
        pool.start()
    pool.close()
