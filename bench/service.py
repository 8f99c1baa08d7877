#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests a second of the service on loopback, beside the same work done in-process, and the latency at half load.

Service, load and the in-process work are processes of their own; the service and the in-process work have as many
threads. They take turns, round after round, and the best round of each counts. Where load and service share the
processors, the clock says less than the processor time: the server's own time for a request, all in all, is given
beside the work's.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy
import skimage.data
from dhash_service import run_service
from PIL import Image

from mobius.dhash import ALGORITHMS, Dhash, Library, hash_bytes

SIZES: Final = {"hash 800x600": (800, 600), "hash 1920x1080": (1920, 1080)}
QUERIES: Final = 500
"""Different hashes that are searched for."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Work:
    """One kind of request, and the same done in-process."""

    name: str
    path: str
    content_type: str
    bodies: tuple[bytes, ...]
    alone: Callable[[bytes], object]


@dataclass(frozen=True)
class Load:
    """What a load came to. Rates by the clock; seconds of latency from when a request was due."""

    rate: float
    cpu: float
    failed: int
    p50: float
    p95: float
    p99: float


# -- the work ----------------------------------------------------------------------------------------------------------


def picture(size: tuple[int, int]) -> bytes:
    """A photograph in this size, JPEG."""
    stream = io.BytesIO()
    image = Image.fromarray(skimage.data.coffee())
    image.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def make_index(path: Path, count: int, release: str = "bench") -> None:
    """An index of so many random hashes, written as rows: no pictures are needed to search for them."""
    Library(path, release=release).close()
    words = numpy.random.default_rng(1).integers(-(1 << 63), 1 << 63, (count, 2), dtype=numpy.int64)
    descriptor = hash_bytes(picture((320, 240)), descriptor=True).descriptor
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        # nobody follows the changes yet, and noting them takes ten times as long as the rows
        trigger = database.execute("SELECT sql FROM sqlite_master WHERE name = 'picture_added'").fetchone()[0]
        database.execute("DROP TRIGGER picture_added")
        database.executemany(
            "INSERT INTO pictures (sha256, size, algorithm, rows, columns, look, width, height, format, posted,"
            " release, written_at) VALUES (?, 1, ?, ?, ?, ?, 1, 1, 'JPEG', 1, ?, '2026-01-01T00:00:00+00:00')",
            (
                (
                    hashlib.sha256(number.to_bytes(8, "big")).hexdigest(),
                    ALGORITHMS["fast"],
                    int(row),
                    int(column),
                    descriptor,
                    release,
                )
                for number, (row, column) in enumerate(words)
            ),
        )
        database.execute(trigger)


def works(library: Library) -> list[Work]:
    """All that is measured."""
    found = []
    for name, size in SIZES.items():
        data = picture(size)
        found.append(Work(name, "/v1/hash", "image/jpeg", (data,), lambda body: hash_bytes(body, "fast").as_dict()))
    random = numpy.random.default_rng(2)
    hashes = [Dhash.from_hex(random.bytes(16).hex()) for _ in range(QUERIES)]
    bodies = [json.dumps({"dhash": one.hex[:16], "dhash_vertical": one.hex[16:]}).encode() for one in hashes]

    def search(body: bytes) -> object:
        said = json.loads(body)
        return [one.picture.as_dict() for one in library.search(Dhash.from_hex(said["dhash"] + said["dhash_vertical"]))]

    found.append(Work(f"search in {len(library):,}", "/v1/search", "application/json", tuple(bodies), search))
    return found


def alone(work: Work, threads: int, seconds: float) -> tuple[float, float]:
    """Times a second in-process, and processor seconds for each."""
    deadline = time.perf_counter() + seconds

    def some(start: int) -> int:
        number = start
        while time.perf_counter() < deadline:
            work.alone(work.bodies[number % len(work.bodies)])
            number += 1
        return number - start

    begun, before = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(some, range(threads)))
    return done / (time.perf_counter() - begun), (time.process_time() - before) / done


# -- the service and the load ------------------------------------------------------------------------------------------


def settle(port: int) -> None:
    """Wait until the service has counted its library: to pair a million pictures for the first time takes it a thread
    for minutes, which no request that is measured should share the processors with."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            if json.load(answer)["checks"]["index:pictures"][0]["observedValue"] is not None:
                return
        time.sleep(0.5)


def load(work: Work, port: int, pid: int, connections: int, seconds: float, rate: float = 0.0) -> Load:
    """Load from a second process: as fast as the answers come, or so many requests a second, evenly spread."""
    asked = {"path": work.path, "type": work.content_type, "port": port, "connections": connections,
             "seconds": seconds, "rate": rate, "sizes": [len(body) for body in work.bodies]}  # fmt: skip
    before = cpu_of(pid)
    done = subprocess.run(
        [sys.executable, __file__, "--client", json.dumps(asked)], input=b"".join(work.bodies), capture_output=True,
        check=True,
    )  # fmt: skip
    said = json.loads(done.stdout)
    return Load(said["rate"], (cpu_of(pid) - before) / said["count"], said["failed"], *said["percentiles"])


def with_children(pid: int) -> list[int]:
    """A process and those that it started, which decode pictures for it."""
    of_threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for children in of_threads for child in children.read_text(encoding="ascii").split())]


def cpu_of(pid: int) -> float:
    """Processor seconds that a process and its children have taken."""
    ticks = 0
    for one in with_children(pid):
        fields = Path(f"/proc/{one}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15] if one == pid else fields[11:13]))
    return ticks / _TICKS


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children; what they share counts for each."""
    pages = [int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1]) for one in with_children(pid)]
    return sum(pages) * resource.getpagesize()


def client(asked: dict[str, Any]) -> None:
    """The second process."""
    data = sys.stdin.buffer.read()
    bodies, at = [], 0
    for size in asked["sizes"]:
        bodies.append(data[at : at + size])
        at += size
    latencies: list[float] = []
    failed = 0
    due = iter(range(1 << 60))
    lock = threading.Lock()
    begun = time.perf_counter()

    def some(_: int) -> None:
        nonlocal failed
        connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=60)
        headers = {"Content-Type": asked["type"]}
        while True:
            with lock:
                number = next(due)
            start = begun + number / asked["rate"] if asked["rate"] else time.perf_counter()
            if start - begun > asked["seconds"]:
                return
            time.sleep(max(0.0, start - time.perf_counter()))
            connection.request("POST", asked["path"], bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            with lock:
                latencies.append(time.perf_counter() - start)
                failed += answer.status != 200

    with ThreadPoolExecutor(asked["connections"]) as pool:
        list(pool.map(some, range(asked["connections"])))
    rate = len(latencies) / (time.perf_counter() - begun)
    percentiles = [float(value) for value in numpy.percentile(latencies, (50, 95, 99))]
    print(json.dumps({"count": len(latencies), "rate": rate, "failed": failed, "percentiles": percentiles}))


def measure(work: Work, port: int, pid: int, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Both ways in turns, then the latency at half of what the service can."""
    load(work, port, pid, threads, 1.0)
    there, here = [], []
    for _ in range(rounds):
        here.append(alone(work, threads, seconds))
        there.append(load(work, port, pid, 2 * threads, seconds))
    best = max(there, key=lambda one: one.rate)
    half = load(work, port, pid, 4 * threads, 2 * seconds, best.rate / 2)
    rate, cpu = max(one[0] for one in here), min(one[1] for one in here)
    return {
        "work": work.name, "in_process_rate": rate, "in_process_cpu": cpu, "rate": best.rate,
        "of_in_process": best.rate / rate, "cpu": min(one.cpu for one in there),
        "own_cpu": min(one.cpu for one in there) - cpu, "full_load": asdict(best), "half_load": asdict(half),
        "p99_by_p50": half.p99 / half.p50, "failed": sum(one.failed for one in (*there, half)),
    }  # fmt: skip


# -- the command -------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--threads", type=click.IntRange(1), default=len(os.sched_getaffinity(0)), show_default="processors")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=4.0, show_default=True, help="Of a round.")
@click.option("--hashes", type=click.IntRange(1), default=1_000_000, show_default=True, help="In the index.")
@click.option("--memory", type=click.IntRange(0), default=0, help="Watch the memory over so many requests instead.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--client", "asked", hidden=True)
def main(threads: int, rounds: int, seconds: float, hashes: int, memory: int, form: str, asked: str | None) -> None:
    """Measure the service on loopback beside the same work done in-process.

    \b
    python bench/service.py
    python bench/service.py --memory 100000 --hashes 1000
    """
    if asked is not None:
        client(json.loads(asked))
        return
    with tempfile.TemporaryDirectory(prefix="mobius-bench-") as folder:
        index = Path(folder) / "index.sqlite"
        click.echo(f"making an index of {hashes:,} hashes", err=True)
        make_index(index, hashes)
        with (
            run_service(index, MOBIUS_THREADS=str(threads), MOBIUS_LOG_LEVEL="INFO") as (port, pid),
            Library(index) as library,
        ):
            click.echo("waiting until the service has paired them", err=True)
            settle(port)
            found: Any
            if memory:
                found = watch(works(library), port, pid, threads, memory)
            else:
                library.search(Dhash(0, 0), limit=1)
                found = [measure(work, port, pid, threads, rounds, seconds) for work in works(library)]
    if form == "json":
        click.echo(json.dumps(found))
    elif memory:
        for requests, size in found:
            click.echo(f"after {requests:>9,} requests  {size / 1e6:7.1f} MB")
    else:
        _table(found)


def watch(some: Sequence[Work], port: int, pid: int, threads: int, requests: int) -> list[tuple[int, int]]:
    """Resident bytes after each tenth of so many requests, of all kinds in turns."""
    seen, done = [], 0
    while done < requests:
        for work in some:
            done += round(load(work, port, pid, 2 * threads, 3.0).rate * 3.0)
        if done >= requests * (len(seen) + 1) / 10:
            seen.append((done, memory_of(pid)))
            click.echo(f"{done:,} requests, {seen[-1][1] / 1e6:.1f} MB", err=True)
    return seen


def _table(found: Sequence[dict[str, Any]]) -> None:
    click.echo("                       in-process          service                    at half load, ms        ")
    click.echo(
        "work                    1/s  cpu ms     1/s  cpu ms  of in-process    p50    p95    p99  p99/p50  failed"
    )
    for one in found:
        half = one["half_load"]
        click.echo(
            f"{one['work']:<20}{one['in_process_rate']:7.0f}{1e3 * one['in_process_cpu']:8.2f}{one['rate']:8.0f}"
            f"{1e3 * one['cpu']:8.2f}{one['of_in_process']:14.0%}{1e3 * half['p50']:8.1f}{1e3 * half['p95']:7.1f}"
            f"{1e3 * half['p99']:7.1f}{one['p99_by_p50']:9.1f}{one['failed']:8}"
        )


if __name__ == "__main__":
    main()
