"""Lets tests import the collection the way Ansible does, through the link in `.ansible`."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[3] / ".ansible" / "collections")

if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible_collections.mobius.dhash.plugins.module_utils.host.front.runtime import Runtime  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.traffic import TrafficCounters  # noqa: E402


@pytest.fixture
def description(tmp_path: Path) -> dict[str, Any]:
    """The settings that a front cannot do without, as the host's description has them."""
    return {
        "service": "shop",
        "run_dir": str(tmp_path),
        "port": 8000,
        "first_port": 9101,
        "internal_port": 9100,
        "health_path": "/healthz",
    }


FIELDS = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")
MORE_FIELDS = ("econ", "eresp", "srv_abrt", "wretr", "wredis", "scur", "qcur")


class CountingFront:
    """What answers as HAProxy does when it is asked for its counters, with the page of a traffic receiver."""

    def __init__(self, folder: Path, started: float) -> None:
        self.pid, self.dropped = 100, 0
        self.after_table: Callable[[], None] = lambda: None
        self.slots: dict[int, dict[str, int]] = {1: {}, 2: {}}
        self.page_path = folder / "traffic.prom"
        self.counters = TrafficCounters(started)
        self.runtime = Runtime(folder / "runtime.sock", timeout=5)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.runtime.path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                channel, _ = self.listener.accept()
                with channel:
                    command = channel.recv(1000).decode()
                    is_info = command.startswith("show info")
                    channel.sendall((self._info() if is_info else self._table()).encode())
                if not is_info:
                    self.after_table()

    def _info(self) -> str:
        return f"Version: 2.6\nPid: {self.pid}\nUptime_sec: 1\nCurrConns: 1\nDroppedLogs: {self.dropped}\n"

    def _table(self) -> str:
        rows = [
            ",".join(["service", f"slot{number}", *(str(counted.get(name, 0)) for name in (*FIELDS, *MORE_FIELDS))])
            for number, counted in self.slots.items()
        ]
        return "\n".join([f"# pxname,svname,{','.join((*FIELDS, *MORE_FIELDS))}", *rows]) + "\n"

    def add(self, slot: int, **counted: int) -> None:
        for name, count in counted.items():
            self.slots[slot][name] = self.slots[slot].get(name, 0) + count

    def log(self, release: str, milliseconds: int, count: int = 1, source: str = "public") -> None:
        """The receiver gets lines of requests, and writes its page."""
        times = f'"queue":0,"connect":0,"response":{milliseconds},"data":0,"end":"--","retries":"0"'
        line = f'{{"source":"{source}","server":"slot1","release":"{release}","status":200,{times}}}'
        for _ in range(count):
            self.counters.add_line(line.encode())
        self.write_page()

    def write_page(self) -> None:
        self.page_path.write_text(self.counters.page(), encoding="utf-8")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


@pytest.fixture
def counting_front(tmp_path: Path) -> Iterator[CountingFront]:
    """A front whose receiver was started long ago and has written an empty page."""
    front = CountingFront(tmp_path, 1.0)
    front.write_page()
    yield front
    front.close()
