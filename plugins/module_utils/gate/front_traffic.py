# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Users' requests and probes of the new and of the old release, as the front counts them while a gate runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from ..comparison import Comparison, MetricSignal, Tally, tally
from ..front_signals import Stratum, compare_strata
from ..host.front.figures import PAGE_LAG_SECONDS, PROBES, USERS, FrontFigures, Outcomes, Recorded
from .requests import RESPONSE_TIMEOUT_SECONDS, Request


class FrontTraffic:
    """The front's signals of one gate.

    Args:
        figures: of both releases.
        release, reference: the new release, and the old one to compare with; None without one.
        request, request_old: send probes through the front; None without an old release to compare with.
        signals: each with a quantile of the latency, or else the share of failed requests.
        health_path: where an instance answers for itself.
        recorded: what users' requests are compared with when the old release does not run.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        figures: FrontFigures,
        release: str,
        reference: str | None,
        request: Request,
        request_old: Request | None,
        signals: Sequence[MetricSignal],
        health_path: str,
        recorded: Recorded | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.figures, self.release, self.reference, self.signals = figures, release, reference, signals
        self._health_path, self._clock = health_path, clock or time.monotonic
        self._recorded = recorded
        self._probes: dict[str, Outcomes] = {}
        self._sent: deque[float] = deque()  # when the last probes were sent to both
        self.request = self._count(request, release)
        self.request_old = None
        if request_old is not None and reference is not None:
            self.request_old = self._count(request_old, reference)

    def _count(self, request: Request, release: str) -> Request:
        """The same requests, each counted: that a probe failed, the log might lose."""

        def counting(
            method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
        ) -> tuple[int, Mapping[str, str], bytes]:
            # to the old one go fewer: each sample is a probe of the new one as well
            if release == (self.reference or self.release):
                self._sent.append(self._clock())
            is_failed = True
            try:
                response = request(method, path, body, content_type, timeout)
                is_failed = response[0] >= 500
            finally:
                self._probes[release] = self._probes.get(release, Outcomes()) + Outcomes(1, int(is_failed))
            return response

        return counting

    @property
    def user_requests(self) -> int:
        """The requests of users that the new release has got."""
        return self.figures.outcomes(self.release).requests

    @property
    def unlogged_probes(self) -> int:
        """The probes whose latency may not be on the receiver's page yet."""
        while self._sent and self._sent[0] < self._clock() - PAGE_LAG_SECONDS:
            self._sent.popleft()
        return len(self._sent)

    def require_answer(self, request: Request) -> None:
        """Ask an instance itself: for one that does not answer, the front does, with 503.

        Raises:
            OSError, http.client.HTTPException: it does not answer.
        """
        request("GET", self._health_path, None, None, RESPONSE_TIMEOUT_SECONDS)

    def drop_reference(self) -> None:
        """Compare with the old release no longer."""
        self.reference = self.request_old = None

    def compare(self) -> list[Comparison]:
        """Compare each signal: users' requests, then probes."""
        return [
            one
            for signal in self.signals
            for one in compare_strata(signal, self._stratum(signal, USERS), self._stratum(signal, PROBES))
        ]

    def _stratum(self, signal: MetricSignal, source: str) -> Stratum:
        old = None if self.reference is None else self._tally(signal, self.reference, source)
        if self.reference is None and self._recorded is not None and source == USERS:
            old = tally_recorded(signal, self._recorded)
        return Stratum(self._tally(signal, self.release, source), old)

    def _tally(self, signal: MetricSignal, release: str, source: str) -> Tally:
        if signal.may_recover:
            return tally(signal, self.figures.latency(release, source))
        outcomes = self.figures.outcomes(release) if source == USERS else self._probes.get(release, Outcomes())
        return tally(signal, {"part": outcomes.failed, "whole": outcomes.requests})


def tally_recorded(signal: MetricSignal, recorded: Recorded) -> Tally:
    """What was recorded of one signal."""
    if signal.may_recover:
        return tally(signal, recorded.latency)
    return tally(signal, {"part": recorded.outcomes.failed, "whole": recorded.outcomes.requests})
