# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The traffic figures of releases behind a front, counted from the first reading on.

- Users' requests and those that failed: from HAProxy's own counters, which lose nothing. They begin again with each
  HAProxy; what was counted before is kept.
- Latency: from the page of the traffic receiver. A line of the log may be lost, of a busy moment rather than of any, so
  latency is counted again from zero after a loss, and is not known while the receiver does not write.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...prometheus_text import UnreadableError, parse_page
from .runtime import Figures, Runtime

USERS, PROBES = "users", "probes"
SOURCES = {USERS: "public", PROBES: "probe"}  # in the page of the receiver
REQUESTS_METRIC = "mobius_front_requests_total"
ABORTED_METRIC = "mobius_front_aborted_total"
LATENCY_METRIC = "mobius_front_response_seconds_bucket"
START_METRIC = "mobius_front_start_time_seconds"
PAGE_LAG_SECONDS = 1.5  # until what HAProxy has logged is on the page, which is written each second
PAGE_MAX_AGE_SECONDS = 5.0  # a page that is older is not written any more

Buckets = dict[float, float]  # cumulated, by upper bound in seconds
_Page = dict[tuple[str, str], Buckets]  # by release and source


@dataclass(frozen=True)
class Outcomes:
    """Requests that an instance got, and those of them that failed there.

    A request failed when it was answered with 500 or more, or with nothing: the instance did not accept the connection,
    did not begin its response, or did not end it. That a client left is no failure.
    """

    requests: int = 0
    failed: int = 0

    @classmethod
    def of(cls, figures: Figures) -> Outcomes:
        """From what HAProxy has counted for a slot."""
        requests = figures.total + figures.connection_errors + figures.response_errors
        # HAProxy 3.0 counts a response that did not begin as both; to count it twice would double the noise
        incomplete = max(figures.response_errors, figures.aborted)
        return cls(requests, min(requests, figures.responses["5xx"] + figures.connection_errors + incomplete))

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.requests + other.requests, self.failed + other.failed)

    def since(self, first: Outcomes) -> Outcomes:
        """What was counted after `first`."""
        return Outcomes(self.requests - first.requests, self.failed - first.failed)


@dataclass(frozen=True)
class Recorded:
    """What the receiver has counted of users' requests to a release since it was started: days of them, if all is well.

    Attributes:
        latency: the seconds until responses began, cumulated, by upper bound.
    """

    outcomes: Outcomes
    latency: Buckets


def read_recorded(page: Path, release: str) -> Recorded | None:
    """What the page of the receiver has of a release that may run no more; None when there is nothing to read."""
    try:
        series = parse_page(page.read_text(encoding="utf-8"))
        of_users = [
            (name, labels, value)
            for name, labels, value in series
            if labels.get("release") == release and labels.get("source") == SOURCES[USERS]
        ]
        latency = {_bound(labels): value for name, labels, value in of_users if name == LATENCY_METRIC}
    except (OSError, UnreadableError, UnicodeDecodeError):
        return None

    def count(metric: str, label: str, *values: str) -> int:
        return int(sum(value for name, labels, value in of_users if name == metric and labels.get(label) in values))

    requests = count(REQUESTS_METRIC, "code", "1xx", "2xx", "3xx", "4xx", "5xx", "none")
    failed = count(REQUESTS_METRIC, "code", "5xx") + count(ABORTED_METRIC, "by", "server")
    return Recorded(Outcomes(requests, min(requests, failed)), latency) if requests else None


@dataclass
class _Counting:
    """The users' requests of one slot, over any number of HAProxy's processes."""

    first: Outcomes
    last: Outcomes
    before: Outcomes = field(default_factory=Outcomes)  # of processes that have ended

    def add(self, outcomes: Outcomes, *, is_new_process: bool) -> None:
        decreased = outcomes.requests < self.last.requests or outcomes.failed < self.last.failed
        if is_new_process or decreased:
            self.before += self.last.since(self.first)
            self.first = Outcomes()
        self.last = outcomes

    @property
    def total(self) -> Outcomes:
        return self.before + self.last.since(self.first)


class FrontFigures:
    """What the front has counted of some releases since the first reading.

    Args:
        slots: the numbers of the releases' slots, which they must hold all the while.
        page: of the traffic receiver.
        now: seconds since the epoch.

    Attributes:
        latency_problem: why the latency is not known at the last reading; None when it is.
        latency_losses: how often the counting of latency began again, and `last_loss` why it last did.
    """

    def __init__(
        self, runtime: Runtime, page: Path, slots: Mapping[str, int], now: Callable[[], float] = time.time
    ) -> None:
        self._runtime, self._path, self._slots, self._now = runtime, page, dict(slots), now
        self._began = now()
        self._pid: int | None = None
        self._dropped = 0
        self._loss: str | None = None  # of log lines, until the latency is counted again from zero for it
        self._counted: dict[str, _Counting] = {}
        self._first_page: _Page | None = None
        self._last_page: _Page = {}
        self._start_time: float | None = None
        self.latency_problem: str | None = None
        self.latency_losses = 0
        self.last_loss: str | None = None

    def read(self) -> None:
        """Read what HAProxy and the receiver have counted by now.

        Raises:
            OSError: HAProxy does not answer, or was started again meanwhile; nothing was counted then.
            MobiusError: `environment_failed` when it answers that it cannot.
        """
        info = self._runtime.info()
        outcomes = {release: Outcomes.of(self._runtime.figures(slot)) for release, slot in self._slots.items()}
        if self._runtime.info().pid != info.pid:
            raise OSError("HAProxy was started again while its counters were read")
        is_new_process = self._pid is not None and info.pid != self._pid
        for release, one in outcomes.items():
            if release in self._counted:
                self._counted[release].add(one, is_new_process=is_new_process)
            else:
                self._counted[release] = _Counting(one, one)
        dropped = info.dropped_logs - (0 if is_new_process else self._dropped)
        is_first = self._pid is None
        self._pid, self._dropped = info.pid, info.dropped_logs
        if not is_first and dropped > 0:
            self._loss = f"HAProxy lost lines of its log ({dropped})"
        self._read_latency()

    def _read_latency(self) -> None:
        try:
            start_time, page = self._read_page()
            age = self._now() - self._path.stat().st_mtime
        except (OSError, UnreadableError, UnicodeDecodeError) as error:
            self.latency_problem = f"the traffic receiver's {self._path} cannot be read ({error})"
            if isinstance(error, FileNotFoundError):
                self.latency_problem = f"the traffic receiver has written no {self._path}"
            return
        if self._first_page is None:
            # a receiver that was started later has counted from zero
            self._first_page = {} if start_time >= self._began else page
        elif start_time != self._start_time:
            self._begin_again({}, "the traffic receiver was started again")
        elif _has_decreased(self._last_page, page):
            self._begin_again(page, "the traffic receiver forgot a release")
        if self._loss is not None:
            self._begin_again(page, self._loss)
        self._start_time, self._last_page = start_time, page
        self.latency_problem, self._loss = self._loss, None
        if abs(age) > PAGE_MAX_AGE_SECONDS:
            self.latency_problem = f"the traffic receiver has not written {self._path} for {age:.0f} s"

    def _begin_again(self, first: _Page, loss: str) -> None:
        self._first_page, self.last_loss = first, loss
        self.latency_losses += 1

    def _read_page(self) -> tuple[float, _Page]:
        """When the receiver was started, in seconds since the epoch, and its latency."""
        series = parse_page(self._path.read_text(encoding="utf-8"))
        start_time = next((value for name, _, value in series if name == START_METRIC), None)
        if start_time is None:
            raise UnreadableError(f"it has no {START_METRIC}")
        page: _Page = {}
        for name, labels, value in series:
            if name == LATENCY_METRIC and labels.get("release") in self._slots:
                buckets = page.setdefault((labels["release"], labels.get("source", "")), {})
                buckets[_bound(labels)] = value
        return start_time, page

    def outcomes(self, release: str) -> Outcomes:
        """The users' requests of a release, from the first reading on."""
        counted = self._counted.get(release)
        return Outcomes() if counted is None else counted.total

    def latency(self, release: str, source: str) -> Buckets:
        """The seconds until responses to users or to probes began, since they were last counted from zero.

        Args:
            source: `USERS` or `PROBES`.
        """
        key = release, SOURCES[source]
        first = (self._first_page or {}).get(key, {})
        return {bound: value - first.get(bound, 0.0) for bound, value in self._last_page.get(key, {}).items()}


def _bound(labels: Mapping[str, str]) -> float:
    try:
        bound = float(labels.get("le", "nan"))
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise UnreadableError("it has a bucket without a bound")
    return bound


def _has_decreased(before: _Page, after: _Page) -> bool:
    """Whether any bucket counts less than before: the receiver forgot the release, or began again."""
    return any(
        value < before_buckets.get(bound, 0.0)
        for key, before_buckets in before.items()
        for bound, value in (after.get(key) or dict.fromkeys(before_buckets, 0.0)).items()
    )
