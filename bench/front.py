#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the front costs: requests a second and p99 through it, beside the same requests without it and through nginx.

The front is HAProxy with the configuration that MOBIUS renders and its traffic receiver behind the log; by default it
opens a connection to the instance for each request. nginx passes the requests on with kept-alive connections. A static
response (nginx's own) shows the price of a request, dhash the share that it is of real work. Ways take turns, round
after round, and the best round of each counts; what one request takes is measured over one connection. Where load,
front and instance share the processors, the clock says less than the processor time: for one request, that of the
proxy, of the receiver and of the instance is given. Needs Debian's packages haproxy, nginx-light and wrk.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from dhash_service import run_service
from service import cpu_of, make_index, picture

CHECKOUT: Final = Path(__file__).resolve().parents[1]
COLLECTIONS: Final = CHECKOUT / ".ansible" / "collections"
sys.path.insert(0, str(COLLECTIONS))

from ansible_collections.mobius.dhash.plugins.module_utils.host.front import configuration  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.configuration import (  # noqa: E402
    READY,
    ServerState,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import (  # noqa: E402
    SLOT_COUNT,
    FrontSettings,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.slots import Slot  # noqa: E402

WAIT_SECONDS: Final = 30.0
RELEASE: Final = "1.0.0-0123456789ab"
STATIC_BYTES: Final = 100
RECEIVER: Final = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import traffic
traffic.run(Path(sys.argv[2]))
"""
LUA: Final = """
if os.getenv("BENCH_BODY") then
  wrk.method, wrk.headers["Content-Type"] = "POST", "image/jpeg"
  wrk.body = io.open(os.getenv("BENCH_BODY"), "rb"):read("*a")
end
done = function(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\\nRESULT {"count":%d,"seconds":%f,"p50":%f,"p99":%f,"failed":%d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, failed))
end
"""


@dataclass(frozen=True)
class Way:
    """One way to the service, and the processes that work for it: the instance, the proxy and its receiver."""

    name: str
    port: int
    instance: int
    proxy: int | None = None
    receiver: int | None = None


@dataclass(frozen=True)
class Load:
    """What a load came to; processor seconds for one request, of the proxy, the receiver and the instance."""

    rate: float
    p50: float
    p99: float
    failed: int
    cpu: float
    receiver_cpu: float
    instance_cpu: float


# -- processes ---------------------------------------------------------------------------------------------------------


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in range(30_000, 32_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", first + number))
            return first
    raise click.ClickException("There are no free ports.")


def wait_for(port: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise click.ClickException(f"Nothing listens on port {port}.") from None
            time.sleep(0.05)


@contextlib.contextmanager
def running(command: Sequence[str], inherited: socket.socket | None = None) -> Iterator[int]:
    """Run a program, with a socket at descriptor 3 as systemd hands it over; its process id."""
    script, descriptors = 'exec "$@"', ()
    if inherited is not None:
        descriptors = (inherited.fileno(),)
        script = f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&{inherited.fileno()}'
    process = subprocess.Popen(["bash", "-c", script, "bash", *command], pass_fds=descriptors)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@contextlib.contextmanager
def nginx(folder: Path, server: str, port: int) -> Iterator[int]:
    """One worker of nginx with this `server` block on a port; the worker's process id."""
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr error;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};\n"
        f"proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
        f"{server} }}\n",
        encoding="utf-8",
    )
    with running(["nginx", "-c", str(folder / "nginx.conf"), "-e", "stderr"]) as pid:
        wait_for(port)
        yield pid


def static_server(port: int) -> str:
    return f'server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "{"x" * STATIC_BYTES}"; }} }}'


def proxy_server(port: int, target: int) -> str:
    """nginx as a front: connections to the instance are kept, and the client's address is passed on."""
    return (
        f"upstream instance {{ server 127.0.0.1:{target}; keepalive 64; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; client_max_body_size 0;\n"
        'location / { proxy_pass http://instance; proxy_http_version 1.1; proxy_set_header Connection "";\n'
        "proxy_set_header X-Forwarded-For $remote_addr; } }"
    )


@contextlib.contextmanager
def front(folder: Path, target: int, instance: int, *, reuse: bool) -> Iterator[Way]:
    """The front before a service on a port."""
    folder.mkdir()
    first = free_ports(SLOT_COUNT + 1)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        port = listener.getsockname()[1]
        settings = FrontSettings.parse(
            {
                "service": "bench",
                "run_dir": str(folder),
                "port": port,
                "first_port": first,
                "internal_port": first + SLOT_COUNT,
                "health_path": "/",
                "reuse_connections": reuse,
            }
        )
        settings.sockets_dir.mkdir()
        slots = [Slot(number, one) for number, one in enumerate(settings.slot_ports, start=1)]
        slots[0] = Slot(1, target, RELEASE)
        configuration.write(settings, slots, {1: ServerState(READY)})
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel:
            channel.bind(str(settings.traffic_socket))
            receiver = [sys.executable, "-c", RECEIVER, str(COLLECTIONS), str(folder / "traffic.prom")]
            haproxy = ["haproxy", "-q", "-Ws", "-f", str(settings.configuration_path)]
            with running(receiver, channel) as receiver_pid, running(haproxy, listener):
                wait_for(settings.internal_port)
                info = Runtime(settings.runtime_socket).info
                name = "front, connections reused" if reuse else "front"
                yield Way(name, port, instance, info().pid, receiver_pid)
                if dropped := info().dropped_logs:
                    click.echo(f"{name}: the receiver did not get {dropped:,} lines of the log", err=True)


# -- measuring ---------------------------------------------------------------------------------------------------------


def load(way: Way, path: str, body: Path | None, script: Path, connections: int, seconds: int) -> Load:
    """Load from wrk, as fast as the responses come."""
    pids = (way.proxy, way.receiver, way.instance)
    before = [cpu_of(pid) if pid else 0.0 for pid in pids]
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{way.port}{path}"],
        env={**os.environ, **({"BENCH_BODY": str(body)} if body else {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.rpartition("RESULT ")[2])
    count = max(1, result["count"])
    cpu = [(cpu_of(pid) - earlier) / count if pid else 0.0 for pid, earlier in zip(pids, before, strict=True)]
    return Load(result["count"] / result["seconds"], result["p50"], result["p99"], result["failed"], *cpu)


def measure(
    name: str,
    ways: Sequence[Way],
    path: str,
    body: Path | None,
    script: Path,
    connections: int,
    rounds: int,
    seconds: int,
) -> list[dict[str, Any]]:
    """All ways in turns: over one connection, then over several."""
    single: dict[str, list[Load]] = {way.name: [] for way in ways}
    full: dict[str, list[Load]] = {way.name: [] for way in ways}
    for way in ways:
        load(way, path, body, script, connections, 1)
    for _, way in itertools.product(range(rounds), ways):
        single[way.name].append(load(way, path, body, script, 1, seconds))
        full[way.name].append(load(way, path, body, script, connections, seconds))
    rows = []
    for way in ways:
        alone, best = (max(runs[way.name], key=lambda run: run.rate) for runs in (single, full))
        rows.append(
            {
                "work": name,
                "way": way.name,
                "rate": best.rate,
                "p50": best.p50,
                "p99": best.p99,
                "seconds_of_one": 1 / alone.rate,
                "p99_of_one": alone.p99,
                "cpu": min(run.cpu for run in full[way.name]),
                "receiver_cpu": min(run.receiver_cpu for run in full[way.name]),
                "instance_cpu": min(run.instance_cpu for run in full[way.name]),
                "failed": sum(run.failed for run in (*single[way.name], *full[way.name])),
            }
        )
    for row in rows:
        row["of_direct"] = row["rate"] / rows[0]["rate"]
        row["added_to_one"] = row["seconds_of_one"] - rows[0]["seconds_of_one"]
    return rows


# -- the command -------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=4, show_default=True, help="Of a round.")
@click.option("--work", type=click.Choice(["static", "dhash"]), multiple=True, default=("static", "dhash"))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(connections: int, rounds: int, seconds: int, work: tuple[str, ...], form: str) -> None:
    """Measure the front beside the same requests without it and through nginx.

    \b
    python bench/front.py
    python bench/front.py --work static --connections 64
    """
    if missing := [name for name in ("haproxy", "nginx", "wrk") if shutil.which(name) is None]:
        raise click.ClickException(f"Install Debian's packages haproxy, nginx-light and wrk: {missing[0]} is missing.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mobius-bench-") as name:
        folder = Path(name)
        script = folder / "load.lua"
        script.write_text(LUA, encoding="utf-8")
        if "static" in work:
            port = free_ports(1)
            with nginx(folder / "static", static_server(port), port) as pid, ways(folder, "static", port, pid) as some:
                rows += measure("static", some, "/", None, script, connections, rounds, seconds)
        if "dhash" in work:
            body = folder / "picture.jpg"
            body.write_bytes(picture((800, 600)))
            make_index(folder / "index.sqlite", 1000)
            with run_service(folder / "index.sqlite") as (port, pid), ways(folder, "dhash", port, pid) as some:
                rows += measure("dhash, 800x600", some, "/v1/hash", body, script, connections, rounds, seconds)
    if form == "json":
        click.echo(json.dumps(rows))
    else:
        _table(rows)


@contextlib.contextmanager
def ways(folder: Path, name: str, target: int, instance: int) -> Iterator[list[Way]]:
    """The ways to a service on a port: directly, through the front, and through nginx."""
    port = free_ports(1)
    with (
        front(folder / f"{name}-front", target, instance, reuse=False) as ours,
        front(folder / f"{name}-reuse", target, instance, reuse=True) as with_reuse,
        nginx(folder / f"{name}-nginx", proxy_server(port, target), port) as pid,
    ):
        yield [Way("directly", target, instance), ours, with_reuse, Way("nginx", port, instance, pid)]


def _table(rows: Sequence[dict[str, Any]]) -> None:
    click.echo(
        "                                             full load              one connection, ms      processor time, us"
    )
    click.echo(
        "work            way                           1/s  of direct  p50 ms  p99 ms    one  added    p99  instance"
        "  proxy  receiver  failed"
    )
    for row in rows:
        click.echo(
            f"{row['work']:<16}{row['way']:<25}{row['rate']:8.0f}{row['of_direct']:11.0%}{1e3 * row['p50']:8.2f}"
            f"{1e3 * row['p99']:8.2f}{1e3 * row['seconds_of_one']:7.3f}{1e3 * row['added_to_one']:7.3f}"
            f"{1e3 * row['p99_of_one']:7.2f}{1e6 * row['instance_cpu']:10.0f}{1e6 * row['cpu']:7.0f}"
            f"{1e6 * row['receiver_cpu']:10.0f}{row['failed']:8}"
        )


if __name__ == "__main__":
    main()
