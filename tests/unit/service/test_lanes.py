# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lanes: what waits, waits for its own kind only, and not for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mobius.service import lanes as module
from mobius.service.lanes import Lanes
from mobius.service.problems import ProblemError


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes()
    yield lanes
    lanes.close()


@pytest.fixture
def blocked(lanes: Lanes) -> Iterator[threading.Event]:
    """An event; the one thread of wide searches waits for it."""
    begun, event = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        event.wait()

    lanes.submit("compare", wait)
    begun.wait()
    yield event
    event.set()


def test_a_full_lane_delays_no_other(lanes: Lanes, blocked: threading.Event) -> None:
    assert asyncio.run(lanes.run("read", lambda: 1)) == 1
    assert asyncio.run(lanes.run("verify", lambda: 2)) == 2


def test_more_work_than_a_lane_holds_is_refused_at_once(lanes: Lanes, blocked: threading.Event) -> None:
    waiting = []
    with pytest.raises(ProblemError) as refused:
        for number in range(100):
            waiting.append(lanes.submit("compare", lambda number=number: number))
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    blocked.set()
    assert [future.result() for future in waiting] == [*range(len(waiting))]
    assert asyncio.run(lanes.run("compare", lambda: "again")) == "again"


def test_work_that_has_waited_too_long_gets_503(
    lanes: Lanes, blocked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    async def wait_in_vain() -> None:
        task = asyncio.ensure_future(lanes.run("compare", lambda: done.append(1)))
        await asyncio.sleep(0)
        lanes.expire_waiting()
        assert not task.done()
        monkeypatch.setattr(module, "QUEUE_SECONDS", -1.0)
        lanes.expire_waiting()
        with pytest.raises(ProblemError) as refused:
            await task
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})

    asyncio.run(wait_in_vain())
    blocked.set()
    assert asyncio.run(lanes.run("compare", lambda: 1)) == 1
    assert done == []


def test_work_whose_client_has_gone_is_dropped(lanes: Lanes, blocked: threading.Event) -> None:
    done = []

    async def leave() -> None:
        task = asyncio.ensure_future(lanes.run("compare", lambda: done.append(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    blocked.set()
    assert asyncio.run(lanes.run("compare", lambda: 1)) == 1
    assert done == []
