"""The traffic receiver: what it counts of HAProxy's lines, and that nothing else makes it fail or grow."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import prometheus_text
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import traffic
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.traffic import LoggedRequest, TrafficCounters
from prometheus_client.parser import text_string_to_metric_families

A, B = "1.0.0-0123456789ab", "1.1.0-0123456789ab+01234567"

# as HAProxy 2.6.12 has written them
SERVED = (
    b'{"source":"public","server":"slot1","release":"1.0.0-0123456789ab","status":200,"queue":0,"connect":1,'
    b'"response":12,"data":30,"end":"--","retries":"0"}\n'
)
WAITED = (
    b'{"source":"public","server":"slot1","release":"1.0.0-0123456789ab","status":200,"queue":3005,"connect":0,'
    b'"response":1,"data":0,"end":"--","retries":"+3"}\n'
)
REFUSED = (
    b'{"source":"public","server":"<NOSRV>","release":"-","status":413,"queue":-1,"connect":-1,"response":-1,'
    b'"data":-1,"end":"PR","retries":"0"}\n'
)
UNAVAILABLE = (
    b'{"source":"public","server":"hold","release":"none","status":503,"queue":10014,"connect":-1,"response":-1,'
    b'"data":-1,"end":"SC","retries":"10"}\n'
)


def line(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SERVED), **changes}).encode()


def read(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(name, frozenset(labels.items())): value for name, labels, value in prometheus_text.parse_page(page)}


def series(page: str, name: str, **labels: str) -> float:
    return read(page)[name, frozenset({"service": "", **labels}.items())]


def test_each_bound_is_less_than_half_above_the_one_before_or_the_next_millisecond() -> None:
    bounds = traffic.BOUNDS_MS
    assert (bounds[0], bounds[-1]) == (1, 60_000)
    too_wide = [(low, high) for low, high in itertools.pairwise(bounds) if high >= 1.5 * low and high != low + 1]
    assert too_wide == []


def test_a_page_without_news_is_kept_young(running: Running) -> None:
    running.sender.send(SERVED)
    wait_for_lines(running, 1)
    os.utime(running.path, (1, 1))
    waited = threading.Event()
    for _ in range(500):
        if running.path.stat().st_mtime > 1:
            return
        waited.wait(0.02)
    raise AssertionError("whoever reads the page believes that the receiver has ended")


def test_a_request_is_counted_for_its_release() -> None:
    counters = TrafficCounters(1.5)
    for one in (SERVED, WAITED, line(release=B, status=500, connect=0)):
        counters.add_line(one)
    page = counters.page()
    old = {"release": A, "source": "public"}
    assert series(page, "mobius_front_requests_total", **old, code="2xx") == 2
    assert series(page, "mobius_front_requests_total", **{**old, "release": B}, code="5xx") == 1
    assert series(page, "mobius_front_retries_total", **old) == 3
    assert series(page, "mobius_front_response_seconds_bucket", **old, le="0.012") == 0
    assert series(page, "mobius_front_response_seconds_bucket", **old, le="0.015") == 1
    assert series(page, "mobius_front_response_seconds_bucket", **old, le="+Inf") == 2
    assert series(page, "mobius_front_response_seconds_bucket", **{**old, "release": B}, le="0.012") == 1
    assert series(page, "mobius_front_response_seconds_sum", **old) == pytest.approx(0.013 + 3.006)
    assert series(page, "mobius_front_whole_seconds_sum", **old) == pytest.approx(0.043 + 3.006)
    assert series(page, "mobius_front_start_time_seconds") == 1.5


def test_a_request_that_no_instance_got_is_counted_without_a_release() -> None:
    counters = TrafficCounters(0.0)
    counters.add_line(REFUSED)
    counters.add_line(UNAVAILABLE)
    page = counters.page()
    none = {"release": "none", "source": "public"}
    assert series(page, "mobius_front_requests_total", **none, code="4xx") == 1
    assert series(page, "mobius_front_requests_total", **none, code="5xx") == 1
    assert series(page, "mobius_front_response_seconds_count", **none) == 0
    assert series(page, "mobius_front_aborted_total", **none, by="server") == 1


def test_a_probe_is_not_counted_as_a_clients_request() -> None:
    counters = TrafficCounters(0.0)
    counters.add_line(line(source="probes"))
    page = counters.page()
    assert series(page, "mobius_front_requests_total", release=A, source="probe", code="2xx") == 1
    assert f'release="{A}",source="public"' not in page


def test_a_tunnel_has_no_end_of_its_response() -> None:
    assert LoggedRequest.parse(line(status=101, data=3600000)).whole_ms is None
    assert LoggedRequest.parse(line(status=101, data=3600000)).response_ms == 13


def test_an_aborted_request_names_who_ended_it() -> None:
    assert LoggedRequest.parse(line(end="CD", status=-1)).aborted_by == "client"
    assert LoggedRequest.parse(line(end="CD", status=-1)).code == "none"
    assert LoggedRequest.parse(line(end="SH")).aborted_by == "server"
    assert LoggedRequest.parse(SERVED).aborted_by is None


def test_the_page_is_prometheus_text_for_its_own_parser_too() -> None:
    counters = TrafficCounters(0.0)
    counters.add_line(SERVED)
    families = {family.name: family.type for family in text_string_to_metric_families(counters.page())}
    assert families == {
        "mobius_front_requests": "counter",
        "mobius_front_aborted": "counter",
        "mobius_front_retries": "counter",
        "mobius_front_response_seconds": "histogram",
        "mobius_front_whole_seconds": "histogram",
        "mobius_front_log_lines": "counter",
        "mobius_front_forgotten_releases": "counter",
        "mobius_front_start_time_seconds": "gauge",
    }


MALFORMED = [
    b"",
    b"\n",
    b"\x00\xff\xfe",
    b"null",
    b"[]",
    b'"text"',
    b"<134>Dec  2 08:00:00 haproxy: text",
    b"[" * 2000,
    b'{"a":' * 400,
    SERVED[:-20],
    SERVED + SERVED,
    line(source="evil"),
    line(source=None),
    line(source=["public"]),
    line(server="slot5"),
    line(server="slot1\nx"),
    line(release='1.0.0-0123456789ab",evil="'),
    line(release=""),
    line(release=7),
    line(release="9" * 70 + "-0123456789ab"),
    line(status="200"),
    line(status=True),
    line(status=1000),
    line(status=200.0),
    line(response=-2),
    line(response=10**30),
    line(data=None),
    line(retries=0),
    line(retries="٣"),
    line(retries="-1"),
    line(retries="10000"),
    line(end=None),
    SERVED.replace(b":12", b":" + b"NaN"),
    SERVED.replace(b":12", b":" + b"1e999"),
    SERVED.replace(b":12", b":" + b"9" * 1800),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=range(len(MALFORMED)))
def test_what_haproxy_does_not_write_is_counted_and_ignored(malformed: bytes) -> None:
    counters = TrafficCounters(0.0)
    counters.add_line(malformed)
    counters.add_line(SERVED)
    page = counters.page()
    assert series(page, "mobius_front_log_lines_total", result="malformed") == 1
    assert series(page, "mobius_front_log_lines_total", result="counted") == 1


@pytest.mark.slow
def test_random_changes_to_a_line_never_raise() -> None:
    chance = random.Random(19)
    counters = TrafficCounters(0.0)
    for _ in range(5000):
        changed = bytearray(SERVED)
        for _ in range(chance.randint(1, 4)):
            position = chance.randrange(len(changed))
            changed[position : position + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        counters.add_line(changed)
    assert counters.line_count == 5000
    assert read(counters.page())


def test_a_huge_line_is_counted_as_oversized() -> None:
    counters = TrafficCounters(0.0)
    counters.add_line(b" " * 4096 + SERVED)
    assert series(counters.page(), "mobius_front_log_lines_total", result="oversized") == 1


@pytest.mark.slow
def test_new_releases_without_end_make_the_oldest_way() -> None:
    counters = TrafficCounters(0.0)
    for number in range(1000):
        counters.add_line(line(release=f"{number}-0123456789ab"))
        counters.add_line(SERVED)
    page = counters.page()
    assert page.count('code="2xx"') == traffic.SERIES_MAX
    assert series(page, "mobius_front_requests_total", release=A, source="public", code="2xx") == 1000
    assert series(page, "mobius_front_forgotten_releases_total") == 1001 - traffic.SERIES_MAX
    assert len(page) < 500_000


class Running:
    """The receiver in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: list[str] = []
        self.sender, self.channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.stopped = threading.Event()
        self.thread = threading.Thread(
            target=traffic.receive,
            args=(self.channel, path, self.stopped.is_set),
            kwargs={"interval": 0.02, "clock": lambda: 7.0, "report": self.reports.append},
        )
        self.thread.start()

    def finish(self) -> None:
        self.stopped.set()
        self.thread.join(10)
        self.sender.close()
        self.channel.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    receiver = Running(tmp_path / "traffic.prom")
    yield receiver
    receiver.finish()


def wait_for_lines(running: Running, count: int) -> None:
    waited = threading.Event()
    for _ in range(500):
        if running.path.exists():
            page = running.path.read_text(encoding="utf-8")
            if sum(value for (name, _), value in read(page).items() if name == "mobius_front_log_lines_total") >= count:
                return
        waited.wait(0.02)
    raise AssertionError(f"the page never had {count} lines")


def test_the_page_follows_what_arrives(running: Running) -> None:
    running.sender.send(SERVED)
    wait_for_lines(running, 1)
    for garbage in (b"", b"x" * 60_000, b"\xff"):
        running.sender.send(garbage)
    running.sender.send(SERVED)
    wait_for_lines(running, 5)
    page = running.path.read_text(encoding="utf-8")
    assert series(page, "mobius_front_requests_total", release=A, source="public", code="2xx") == 2
    assert series(page, "mobius_front_log_lines_total", result="oversized") == 1


def test_what_arrived_before_the_end_is_on_the_page(tmp_path: Path) -> None:
    receiver = Running(tmp_path / "traffic.prom")
    receiver.sender.send(SERVED)
    wait_for_lines(receiver, 1)
    receiver.finish()
    assert 'mobius_front_start_time_seconds{service=""} 7.000' in receiver.path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_reported_once_and_counting_goes_on(tmp_path: Path) -> None:
    receiver = Running(tmp_path / "missing" / "traffic.prom")
    waited = threading.Event()
    for _ in range(20):
        receiver.sender.send(SERVED)
        waited.wait(0.02)
    receiver.path.parent.mkdir()
    wait_for_lines(receiver, 20)
    receiver.finish()
    assert receiver.reports == [f"The traffic page {receiver.path} cannot be written: No such file or directory."]


@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "1"}])
def test_without_a_socket_of_systemd_the_reason_is_one_sentence(environment: dict[str, str]) -> None:
    with pytest.raises(MobiusError) as raised:
        traffic.inherited_socket(environment)
    assert raised.value.outcome == "invalid_input"
