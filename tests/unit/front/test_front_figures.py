"""What is counted of a release behind a front: users' requests by HAProxy, latency by the receiver, nothing that was lost."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.figures import (
    PAGE_MAX_AGE_SECONDS,
    PROBES,
    USERS,
    FrontFigures,
    Outcomes,
    Recorded,
    read_recorded,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.traffic import TrafficCounters

NEW, OLD = "1.1.0-0123456789ab", "1.0.0-0123456789ab"


def figures_of(front: Any) -> FrontFigures:
    return FrontFigures(front.runtime, front.page_path, {NEW: 1, OLD: 2})


def count(figures: FrontFigures, release: str = NEW, source: str = USERS) -> float:
    """The responses whose latency is known."""
    return max(figures.latency(release, source).values(), default=0.0)


@pytest.fixture
def figures(counting_front: Any) -> FrontFigures:
    """Figures that have been read once, after requests of before."""
    for slot in (1, 2):
        counting_front.add(slot, hrsp_2xx=1000, hrsp_5xx=100, econ=10, eresp=10, srv_abrt=10)
    counting_front.log(NEW, 5, 50)
    made = figures_of(counting_front)
    made.read()
    return made


def test_only_what_came_since_the_first_reading_counts(counting_front: Any, figures: FrontFigures) -> None:
    assert figures.outcomes(NEW) == Outcomes()
    counting_front.add(1, hrsp_2xx=90, hrsp_4xx=5)
    counting_front.log(NEW, 5, 95)
    figures.read()
    assert (figures.outcomes(NEW), figures.outcomes(OLD)) == (Outcomes(95, 0), Outcomes())
    assert (count(figures), count(figures, OLD)) == (95, 0)


@pytest.mark.parametrize(
    ("counted", "requests"), [({"hrsp_5xx": 3}, 3), ({"econ": 3}, 3), ({"eresp": 3}, 3), ({"srv_abrt": 3}, 10)]
)
def test_a_request_fails_by_its_status_or_without_a_whole_response(
    counting_front: Any, figures: FrontFigures, counted: dict[str, int], requests: int
) -> None:
    counting_front.add(1, hrsp_2xx=requests - 3 if requests == 3 else requests, **counted)
    figures.read()
    assert figures.outcomes(NEW) == Outcomes(requests, 3)


def test_a_response_that_did_not_begin_is_counted_once_though_haproxy_counts_it_twice(
    counting_front: Any, figures: FrontFigures
) -> None:
    counting_front.add(1, hrsp_2xx=10, eresp=3, srv_abrt=3)
    figures.read()
    assert figures.outcomes(NEW) == Outcomes(13, 3)


def test_probes_are_no_requests_of_users(counting_front: Any, figures: FrontFigures) -> None:
    counting_front.log(NEW, 5, 7, "probes")
    figures.read()
    assert (count(figures), count(figures, source=PROBES)) == (0, 7)


def test_a_proxy_that_was_started_again_loses_no_count(counting_front: Any, figures: FrontFigures) -> None:
    counting_front.add(1, hrsp_2xx=20, hrsp_5xx=2)
    figures.read()
    counting_front.pid, counting_front.slots = 101, {1: {"hrsp_2xx": 5000, "hrsp_5xx": 1}, 2: {}}
    figures.read()
    assert figures.outcomes(NEW) == Outcomes(22 + 5001, 3)
    assert figures.latency_problem is None


def test_a_proxy_that_is_started_again_while_it_is_read_counts_nothing_twice(
    counting_front: Any, figures: FrontFigures
) -> None:
    counting_front.add(1, hrsp_2xx=20)
    figures.read()

    def start_again() -> None:
        counting_front.pid, counting_front.slots = 101, {1: {"hrsp_2xx": 7, "hrsp_5xx": 1}, 2: {}}

    counting_front.after_table = start_again
    with pytest.raises(OSError, match="started again"):
        figures.read()
    counting_front.after_table = lambda: None
    figures.read()
    assert figures.outcomes(NEW) == Outcomes(28, 1)


def test_lost_lines_make_latency_unknown_and_count_it_from_zero(counting_front: Any, figures: FrontFigures) -> None:
    counting_front.log(NEW, 5, 30)
    figures.read()
    counting_front.dropped = 4
    counting_front.log(NEW, 5, 3)
    figures.read()
    assert "HAProxy lost lines of its log (4)" in str(figures.latency_problem)
    assert count(figures) == 0
    counting_front.log(NEW, 5, 20)
    figures.read()
    assert (figures.latency_problem, count(figures)) == (None, 20)
    assert (figures.latency_losses, figures.last_loss) == (1, "HAProxy lost lines of its log (4)")


def test_a_new_proxy_that_lost_lines_makes_latency_unknown_too(counting_front: Any, figures: FrontFigures) -> None:
    counting_front.dropped = 9
    figures.read()
    counting_front.pid, counting_front.dropped = 101, 2
    figures.read()
    assert "HAProxy lost lines of its log (2)" in str(figures.latency_problem)


def test_a_page_that_is_not_written_any_more_makes_latency_unknown(counting_front: Any, figures: FrontFigures) -> None:
    old = time.time() - PAGE_MAX_AGE_SECONDS - 2
    os.utime(counting_front.page_path, (old, old))
    figures.read()
    assert "has not written" in str(figures.latency_problem)


@pytest.mark.parametrize("text", ["mobius_front{", "mobius_front_requests_total 3\n"])
def test_a_damaged_page_makes_latency_unknown(counting_front: Any, figures: FrontFigures, text: str) -> None:
    counting_front.page_path.write_text(text)
    figures.read()
    assert "cannot be read" in str(figures.latency_problem)


def test_a_receiver_that_was_started_again_counts_from_zero(counting_front: Any, figures: FrontFigures) -> None:
    counting_front.counters = TrafficCounters(time.time())
    counting_front.log(NEW, 5, 60)  # more than before
    figures.read()
    assert (figures.last_loss, count(figures)) == ("the traffic receiver was started again", 60)


def test_without_a_page_latency_is_unknown_until_the_receiver_has_started(counting_front: Any) -> None:
    counting_front.page_path.unlink()
    figures = figures_of(counting_front)
    figures.read()
    assert "has written no" in str(figures.latency_problem)
    counting_front.counters = TrafficCounters(time.time())
    counting_front.log(NEW, 5, 12)
    figures.read()
    assert (figures.latency_problem, count(figures), figures.latency_losses) == (None, 12, 0)


def test_lines_that_are_lost_before_the_first_page_are_not_forgotten(counting_front: Any) -> None:
    counting_front.page_path.unlink()
    figures = figures_of(counting_front)
    figures.read()
    counting_front.dropped = 400
    figures.read()
    counting_front.counters = TrafficCounters(time.time())
    counting_front.log(NEW, 5, 12)
    figures.read()
    assert ("lost lines of its log (400)" in str(figures.latency_problem), count(figures)) == (True, 0)
    counting_front.log(NEW, 5, 3)
    figures.read()
    assert (figures.latency_problem, count(figures), figures.latency_losses) == (None, 3, 1)


def test_what_is_recorded_of_a_release_is_all_of_its_users_since_the_receiver_began(counting_front: Any) -> None:
    assert read_recorded(counting_front.page_path, OLD) is None, "nothing is recorded"
    counting_front.log(OLD, 3, 90)
    counting_front.log(OLD, 3, 7, "probe")
    counting_front.log(NEW, 3, 5)
    times = '"queue":0,"connect":0,"data":0,"retries":"0"'
    for status, response, end in ((500, 2000, "--"), (200, 2000, "SD"), (-1, -1, "SH"), (200, 2000, "CD")):
        line = f'{{"source":"public","server":"slot2","release":"{OLD}","status":{status},"response":{response},'
        counting_front.counters.add_line(f'{line}"end":"{end}",{times}}}'.encode())
    counting_front.write_page()
    recorded = read_recorded(counting_front.page_path, OLD)
    assert recorded is not None
    assert recorded.outcomes == Outcomes(94, 3), "a client that left is no failure"
    assert (recorded.latency[1.0], recorded.latency[float("inf")]) == (90, 93)
    counting_front.page_path.unlink()
    assert read_recorded(counting_front.page_path, OLD) is None


def test_a_page_that_cannot_be_read_records_nothing(counting_front: Any) -> None:
    counting_front.page_path.write_bytes(b"\xff")
    assert read_recorded(counting_front.page_path, OLD) is None
    assert isinstance(Recorded(Outcomes(), {}), Recorded)
