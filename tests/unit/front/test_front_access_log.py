"""The access log's file and its queue: rotated by size, and never in the way of the counters."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front import access_log
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.access_log import (
    AccessLog,
    RotatedFile,
    format_entry,
    make_entry,
    open_access_log,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import FrontSettings
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.traffic import TrafficCounters

A = "1.0.0-0123456789ab"
LINE = {
    "source": "public",
    "server": "slot1",
    "release": A,
    "status": 200,
    "queue": 0,
    "connect": 1,
    "response": 12,
    "data": 30,
    "end": "--",
    "retries": "0",
    "at": 1767225600.25,
    "client": "::ffff:192.0.2.7",
    "method": "GET",
    "path": "/a",
    "bytes": 345,
}  # as HAProxy 2.6.12 has written it


def entry(**changes: Any) -> Any:
    return make_entry({**LINE, **changes}, A, 43)


def test_a_line_is_one_entry() -> None:
    made = entry()
    assert json.loads(format_entry(made)) == {
        "at": "2026-01-01T00:00:00.250Z",
        "client": "192.0.2.7",
        "method": "GET",
        "path": "/a",
        "status": 200,
        "total_ms": 43,
        "bytes": 345,
        "release": A,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "now"},
        {"at": math.nan},
        {"at": math.inf},
        {"at": -1},
        {"at": 1e300},
        {"path": None},
        {"path": "/" * 5000},
        {"method": 7},
        {"client": "1" * 100},
        {"bytes": 1.5},
        {"bytes": None},
    ],
)
def test_what_haproxy_does_not_write_is_no_entry(changes: dict[str, Any]) -> None:
    assert entry(**changes) is None


def test_a_line_of_an_earlier_front_is_counted_and_not_logged() -> None:
    """The receiver may be started again before HAProxy is."""
    written: list[bytes] = []
    log = AccessLog(written.append, print)
    counters = TrafficCounters(0.0, log)
    older = {name: value for name, value in LINE.items() if name not in ("at", "client", "method", "path", "bytes")}
    counters.add_line(json.dumps(older).encode())
    counters.add_line(json.dumps({**LINE, "source": "probes"}).encode())
    counters.add_line(json.dumps(LINE).encode())
    log.start()
    log.finish(10)
    assert [json.loads(line)["path"] for line in written] == ["/a"]
    assert 'mobius_front_log_lines_total{service="",result="counted"} 3' in counters.page()
    assert 'mobius_front_access_log_lines_total{service="",result="written"} 1' in counters.page()


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_rotated_before_it_is_too_long_and_the_oldest_goes(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "access.log", 10, 2)
    for letter in b"abcde":
        file.write(bytes([letter] * 4))
        file.write(bytes([letter] * 4))
    assert names(tmp_path) == {"access.log": b"e" * 8, "access.log.1": b"d" * 8, "access.log.2": b"c" * 8}
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o640


def test_a_batch_that_is_longer_than_a_file_is_written_whole(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "access.log", 10, 1)
    file.write(b"x" * 30)
    file.write(b"y")
    assert names(tmp_path) == {"access.log": b"y", "access.log.1": b"x" * 30}


def test_a_file_that_somebody_has_moved_is_made_again(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "access.log", 1000, 1)
    file.write(b"one\n")
    (tmp_path / "access.log").rename(tmp_path / "elsewhere")
    file.write(b"two\n")
    assert names(tmp_path) == {"elsewhere": b"one\n", "access.log": b"two\n"}


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "access.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        RotatedFile(tmp_path / "access.log", 1000, 1).write(b"one\n")


class Blocked:
    """A disk that takes no byte until it is released."""

    def __init__(self) -> None:
        self.released, self.reached = threading.Event(), threading.Event()
        self.lines: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.reached.set()
        self.released.wait(30)
        self.lines += data.splitlines()


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    disk = Blocked()
    yield disk
    disk.released.set()


def test_a_disk_that_hangs_never_keeps_the_counters_waiting(blocked: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "QUEUE_MAX_LINES", 100)
    log = AccessLog(blocked.write, print)
    counters = TrafficCounters(0.0, log)
    log.start()
    counters.add_line(json.dumps(LINE).encode())
    assert blocked.reached.wait(10)
    for _ in range(500):
        counters.add_line(json.dumps(LINE).encode())
    assert counters.line_count == 501
    assert log.counts() == {"written": 0, "dropped": 400}
    assert 'mobius_front_access_log_lines_total{service="",result="dropped"} 400' in counters.page()
    blocked.released.set()
    log.finish(10)
    assert log.counts() == {"written": 101, "dropped": 400}
    assert len(blocked.lines) == 101


def test_a_disk_that_hangs_does_not_keep_the_receiver_from_ending(blocked: Blocked) -> None:
    log = AccessLog(blocked.write, print)
    log.start()
    log.add(entry())
    assert blocked.reached.wait(10)
    log.finish(0.01)
    assert log.is_alive()


def test_a_full_disk_is_reported_once_until_it_works_again() -> None:
    reports: list[str] = []
    is_full = iter((True, True, False, True))

    def write(data: bytes) -> None:
        if next(is_full):
            raise OSError(28, "No space left on device")

    log = AccessLog(write, reports.append)
    for _ in range(4):
        log._write_batch([entry()])
    assert reports == ["The access log cannot be written: No space left on device."] * 2
    assert log.counts() == {"written": 1, "dropped": 3}


def test_the_settings_choose_where_it_is_written(description: dict[str, Any], tmp_path: Path) -> None:
    def opened(kind: str, **environment: str) -> AccessLog | None:
        settings = FrontSettings.parse({**description, "access_log": kind, "access_log_bytes": 1_000_000})
        return open_access_log(settings, environment, print)

    assert opened("none", LOGS_DIRECTORY=str(tmp_path)) is None
    assert opened("journal") is not None
    log = opened("file", LOGS_DIRECTORY=str(tmp_path))
    assert log is not None
    log.start()
    log.add(entry())
    log.finish(10)
    assert (tmp_path / "access.log").read_bytes() == format_entry(entry())
    with pytest.raises(MobiusError, match="without a folder for its access log"):
        opened("file")
