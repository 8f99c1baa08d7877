# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The traffic receiver: counts requests and their latency per release, from the lines of HAProxy's log.

HAProxy sends one JSON object a request to a datagram socket, as `configuration.render` has it. The release is the one
that held the slot when the request ended. The counters are written to a page in Prometheus's text format; the gate, the
watch and Prometheus read that. A line that does not arrive is lost (HAProxy counts it: `ProxyInfo.dropped_logs`), so
errors are counted from `Runtime.figures`, and these counters say how long requests took.

Who may write to the socket is not trusted: what is not such a line is counted and ignored, and no line makes the
receiver keep more than its limits.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import durable
from ...errors import MobiusError
from ...metric_table import METRICS
from .access_log import AccessLog, make_entry, open_access_log
from .configuration import ACCESS_LINE_MAX_BYTES, HOLD_SERVER, NO_RELEASE, PROBES, PUBLIC
from .settings import SLOT_COUNT, FrontSettings
from .slots import REVISION, server_name

LINE_MAX_BYTES = ACCESS_LINE_MAX_BYTES
SERIES_MAX = 24  # pairs of release and source; the one that got no line for the longest time makes way
MILLISECONDS_MAX = 30 * 24 * 3600 * 1000
WRITE_INTERVAL_SECONDS = 1.0
ACCESS_LOG_END_SECONDS = 2.0  # to write what waits; the unit is given 5 s to end
LISTEN_FDS_START = 3  # systemd's first descriptor
SWITCH_INTERVAL_SECONDS = 0.0005  # how long the writing thread may keep the receiving one waiting

BOUNDS_MS = (
    *(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1000, 1200, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 8000, 10000, 12000, 15000, 20000, 25000, 30000, 40000),
    *(50000, 60000),
)
"""Upper bounds of the buckets in milliseconds, which is HAProxy's resolution. Two builds are alike while both stay in
one bucket (docs/gate.md), so each bound is less than 1.5 times the one before, or the next millisecond."""

CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
ENDS = {"C": "client", "S": "server"}
RESULTS = ("counted", "malformed", "oversized")
_SOURCES = {PUBLIC: "public", PROBES: "probe"}
_SERVERS = frozenset({*(server_name(number) for number in range(1, SLOT_COUNT + 1)), HOLD_SERVER, "<NOSRV>"})
_NO_RELEASES = ("-", NO_RELEASE)
_TIMES = ("queue", "connect", "response", "data")


class _LineError(ValueError):
    """A line that HAProxy does not write."""


@dataclass(frozen=True)
class LoggedRequest:
    """One request as HAProxy logged it.

    Attributes:
        source: "public" or "probe".
        release: "none" when no instance was reached.
        code: one of `CODES`.
        response_ms: until the response began, with the time that the request waited for an instance; None without one.
        whole_ms: until the response ended; None for one that did not begin, and for a tunnel, such as a WebSocket.
        aborted_by: "client" or "server" when one of them ended it early.
        retries: connections that were tried again.
    """

    source: str
    release: str
    code: str
    response_ms: int | None
    whole_ms: int | None
    aborted_by: str | None
    retries: int

    @classmethod
    def parse(cls, line: bytes) -> LoggedRequest:
        """Raises `ValueError` for what is not a line of HAProxy's."""
        return cls.of(_read_line(line))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> LoggedRequest:
        """The request that the object of a line is about; raises `ValueError`, too."""
        source = _SOURCES.get(_text(content, "source"))
        release = _text(content, "release")
        if source is None or _text(content, "server") not in _SERVERS:
            raise _LineError
        if release not in _NO_RELEASES and not REVISION.fullmatch(release):
            raise _LineError
        status = _number(content, "status", -1, 999)
        queue, connect, response, data = (_number(content, name, -1, MILLISECONDS_MAX) for name in _TIMES)
        begun = None if response < 0 else max(queue, 0) + max(connect, 0) + response
        retries = _text(content, "retries").removeprefix("+")
        if not (retries.isascii() and retries.isdigit() and len(retries) <= 4):
            raise _LineError
        return cls(
            source=source,
            release=NO_RELEASE if release in _NO_RELEASES else release,
            code=f"{status // 100}xx" if 100 <= status < 600 else "none",
            response_ms=begun,
            whole_ms=None if begun is None or data < 0 or status == 101 else begun + data,
            aborted_by=ENDS.get(_text(content, "end")[:1]),
            retries=int(retries),
        )


def _read_line(line: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(line.decode("ascii"))
    except RecursionError:
        raise _LineError from None
    if not isinstance(content, dict):
        raise _LineError
    return content


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise _LineError
    return value


def _number(content: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = content.get(name)
    # not isinstance: to Python, true is a number
    if type(value) is not int or not low <= value <= high:
        raise _LineError
    return value


@dataclass
class LatencyHistogram:
    """Times in milliseconds, by the bounds of `BOUNDS_MS`."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    sum_ms: int = 0

    def add(self, milliseconds: int) -> None:
        self.buckets[bisect.bisect_left(BOUNDS_MS, milliseconds)] += 1
        self.sum_ms += milliseconds

    def copy(self) -> LatencyHistogram:
        return LatencyHistogram(self.buckets.copy(), self.sum_ms)

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Its series in Prometheus's text format."""
        count = 0
        for bound, added in zip((*(f"{bound / 1000:g}" for bound in BOUNDS_MS), "+Inf"), self.buckets, strict=True):
            count += added
            yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
        yield f"{name}_count{{{labels}}} {count}"
        yield f"{name}_sum{{{labels}}} {self.sum_ms / 1000:.3f}"


@dataclass
class _Series:
    """The counters of one release and source."""

    codes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CODES, 0))
    aborted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS.values(), 0))
    retries: int = 0
    response: LatencyHistogram = field(default_factory=LatencyHistogram)
    whole: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add(self, request: LoggedRequest) -> None:
        self.codes[request.code] += 1
        self.retries += request.retries
        if request.aborted_by is not None:
            self.aborted[request.aborted_by] += 1
        if request.response_ms is not None:
            self.response.add(request.response_ms)
        if request.whole_ms is not None:
            self.whole.add(request.whole_ms)

    def copy(self) -> _Series:
        return _Series(self.codes.copy(), self.aborted.copy(), self.retries, self.response.copy(), self.whole.copy())


_BY_RELEASE = (
    "mobius_front_requests_total",
    "mobius_front_aborted_total",
    "mobius_front_retries_total",
    "mobius_front_response_seconds",
    "mobius_front_whole_seconds",
)


class TrafficCounters:
    """The counters of every release.

    Args:
        start_time: seconds since the epoch; another one on the page means that the counters began from zero.
        access_log: gets each request of a client.
        service: the service before which the front stands, a label of every series.
    """

    def __init__(self, start_time: float, access_log: AccessLog | None = None, service: str = "") -> None:
        self._start_time = start_time
        self._service = service
        self._access_log = access_log
        self._lock = threading.Lock()
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()
        self._results = dict.fromkeys(RESULTS, 0)
        self._forgotten = 0

    def add_line(self, line: bytes | bytearray | memoryview) -> None:
        """Count one datagram, whatever it holds."""
        if len(line) > LINE_MAX_BYTES:
            self._add_result("oversized")
            return
        try:
            content = _read_line(bytes(line))
            request = LoggedRequest.of(content)
        except ValueError:
            self._add_result("malformed")
            return
        key = (request.release, request.source)
        with self._lock:
            self._results["counted"] += 1
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series()
                if len(self._series) > SERIES_MAX:
                    self._series.popitem(last=False)
                    self._forgotten += 1
            self._series.move_to_end(key)
            series.add(request)
        if self._access_log is not None and request.source == _SOURCES[PUBLIC]:
            release = None if request.release == NO_RELEASE else request.release
            if (entry := make_entry(content, release, request.whole_ms)) is not None:
                self._access_log.add(entry)

    def _add_result(self, result: str) -> None:
        with self._lock:
            self._results[result] += 1

    @property
    def line_count(self) -> int:
        """The datagrams so far, of every kind."""
        return sum(self._results.values())

    @property
    def change_count(self) -> int:
        """Rises with each change of the page: lines of the access log are written after they are counted."""
        return self.line_count + (0 if self._access_log is None else sum(self._access_log.counts().values()))

    def page(self) -> str:
        """The counters in Prometheus's text format."""
        with self._lock:  # only to copy: the receiving thread waits for it
            copies = {key: series.copy() for key, series in self._series.items()}
            results, forgotten = dict(self._results), self._forgotten
        by_metric: dict[str, list[str]] = {name: [] for name in _BY_RELEASE}
        of_service = f'service="{self._service}"'
        for (release, source), series in sorted(copies.items()):
            labels = f'{of_service},release="{release}",source="{source}"'
            for name, series_lines in _series_lines(labels, series):
                by_metric[name].extend(series_lines)
        lines = []
        for name, of_metric in by_metric.items():
            lines += [*METRICS[name].head(), *of_metric]
        name = "mobius_front_log_lines_total"
        lines += METRICS[name].head()
        lines += [f'{name}{{{of_service},result="{result}"}} {count}' for result, count in results.items()]
        name = "mobius_front_forgotten_releases_total"
        lines += [*METRICS[name].head(), f"{name}{{{of_service}}} {forgotten}"]
        if self._access_log is not None:
            name, counts = "mobius_front_access_log_lines_total", self._access_log.counts()
            lines += METRICS[name].head()
            lines += [f'{name}{{{of_service},result="{result}"}} {count}' for result, count in counts.items()]
        name = "mobius_front_start_time_seconds"
        lines += [*METRICS[name].head(), f"{name}{{{of_service}}} {self._start_time:.3f}"]
        return "\n".join(lines) + "\n"


def _series_lines(labels: str, series: _Series) -> Iterator[tuple[str, list[str]]]:
    requests, aborted, retries, response, whole = _BY_RELEASE
    yield requests, [f'{requests}{{{labels},code="{code}"}} {count}' for code, count in series.codes.items()]
    yield aborted, [f'{aborted}{{{labels},by="{by}"}} {count}' for by, count in series.aborted.items()]
    yield retries, [f"{retries}{{{labels}}} {series.retries}"]
    yield response, list(series.response.lines(response, labels))
    yield whole, list(series.whole.lines(whole, labels))


class _PageWriter(threading.Thread):
    """Writes the page at an interval, beside the thread that receives: a slow disk must not lose lines."""

    def __init__(self, counters: TrafficCounters, path: Path, interval: float, report: Callable[[str], None]) -> None:
        super().__init__(name="page-writer", daemon=True)
        self._counters = counters
        self._path = path
        self._interval = interval
        self._report = report
        self._ended = threading.Event()
        self._written_count = -1
        self._problem: str | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            self._write()
            self._ended.wait(self._interval)
        self._write()

    def finish(self) -> None:
        """Write the page a last time and end."""
        self._ended.set()
        self.join()

    def _write(self) -> None:
        count = self._counters.change_count
        try:
            if count == self._written_count:
                os.utime(self._path)  # so that a receiver without requests and one that has ended are told apart
                return
            durable.write_bytes(self._path, self._counters.page().encode())
        except OSError as error:
            problem = f"The traffic page {self._path} cannot be written: {error.strerror or error}."
            if problem != self._problem:  # once, not each second
                self._report(problem)
            self._problem = problem
            self._written_count = -1
        else:
            self._problem = None
            self._written_count = count


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def receive(
    channel: socket.socket,
    path: Path,
    is_stopped: Callable[[], bool],
    *,
    interval: float = WRITE_INTERVAL_SECONDS,
    clock: Callable[[], float] = time.time,
    report: Callable[[str], None] = _report,
    access_log: AccessLog | None = None,
    service: str = "",
) -> None:
    """Count what arrives on a datagram socket until `is_stopped`, and keep the page at `path` up to date.

    Args:
        interval: seconds between two writes, and the longest time until `is_stopped` is noticed.
        clock: seconds since the epoch.
        report: receives a sentence for people when the page cannot be written; the counters go on.
        access_log: gets each request of a client; it is started and ended here.
        service: a label of every series.
    """
    counters = TrafficCounters(clock(), access_log, service)
    writer = _PageWriter(counters, path, interval, report)
    channel.settimeout(interval)
    buffer = bytearray(LINE_MAX_BYTES + 1)  # a longer datagram is cut there, and so is too long
    view = memoryview(buffer)
    writer.start()
    if access_log is not None:
        access_log.start()
    try:
        while not is_stopped():
            with contextlib.suppress(TimeoutError):
                size = channel.recv_into(buffer)
                counters.add_line(view[:size])
    finally:
        if access_log is not None:
            access_log.finish(ACCESS_LOG_END_SECONDS)
        writer.finish()


def inherited_socket(environment: Mapping[str, str], descriptor: int = LISTEN_FDS_START) -> socket.socket:
    """The datagram socket that systemd handed to this process.

    Raises:
        MobiusError: `invalid_input` when there is none.
    """
    expected = environment.get("LISTEN_PID") == str(os.getpid()) and environment.get("LISTEN_FDS") == "1"
    if expected and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        channel = socket.socket(fileno=descriptor)
        if channel.type == socket.SOCK_DGRAM:
            return channel
        channel.detach()
    raise MobiusError(
        "invalid_input",
        "The traffic receiver was started without its datagram socket.",
        do_next="Let systemd start it: `systemctl start` its socket unit.",
    )


def run(path: Path, settings: FrontSettings, environment: Mapping[str, str] = os.environ) -> None:
    """The traffic receiver as a process: until SIGTERM or SIGINT.

    Raises as `inherited_socket` and `open_access_log` do.
    """
    channel = inherited_socket(environment)
    access_log = open_access_log(settings, environment, _report)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    with channel:
        receive(channel, path, stopped.is_set, access_log=access_log, service=settings.service)
