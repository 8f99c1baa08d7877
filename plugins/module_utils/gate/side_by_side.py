# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The signals of the new and of the old release, side by side, with probes where the traffic lacks samples.

They are what a service counts itself (its metrics), and what the front counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from ..comparison import Comparison, Counters, compare_counters
from ..errors import MobiusError
from ..host.front.figures import USERS
from ..prometheus_text import UnreadableError
from .checks import SignalChecks
from .front_traffic import FrontTraffic
from .measurements import GateFailedError, Measurements
from .probes import Probe, send_probe
from .requests import NO_RESPONSE_ERRORS, RESPONSE_TIMEOUT_SECONDS, Request
from .settings import GateSettings


class SideBySide:
    """The counters of the new instance and, while it responds, of the old one.

    Args:
        request, request_old: send requests to an instance itself.
        front: what the front counts of both; None without signals of it.
    """

    def __init__(
        self,
        request: Request,
        request_old: Request | None,
        settings: GateSettings,
        clock: Callable[[], float],
        front: FrontTraffic | None = None,
    ) -> None:
        self.settings, self.clock, self.front = settings, clock, front
        self.request = request if front is None else front.request
        self.request_old = request_old
        self.checks = SignalChecks(
            settings.signals, () if front is None else front.signals, settings.user_samples if front else 0
        )
        self.new = Counters(lambda: self._read_page(request), settings.signals)
        self.old = None if request_old is None else Counters(lambda: self._read_page(request_old), settings.signals)

    def _read_page(self, request: Request) -> str:
        path = self.settings.metrics_path
        status, _, body = request("GET", path, None, None, RESPONSE_TIMEOUT_SECONDS)
        if status != 200:
            raise UnreadableError(f"{path} answered {status}")
        return body.decode("utf-8", "replace")

    def measure(self, release: str, measured: Measurements, probes: Iterator[Probe], until: float) -> None:
        """Read and compare the signals, and send both instances the probes that their traffic lacks by now.

        Args:
            until: when to send no further probe, in seconds of the clock.

        Raises:
            GateFailedError: a probe got a wrong response, or a rate is worse.
        """
        measured.metrics_problem = None
        comparisons: list[Comparison] = []
        if self.settings.signals:
            try:
                self.new.read()
                self._with_old(self._read_old, measured)
                comparisons += compare_counters(self.new, self.old)
            except (*NO_RESPONSE_ERRORS, UnreadableError) as error:
                measured.metrics_problem = f"its metrics could not be read ({error})"
        if self.front is not None:
            self._with_old(self.front.require_answer, measured)
            try:
                comparisons += self._read_front(self.front, measured)
            except (OSError, MobiusError) as error:
                reason = error.reason.rstrip(".") if isinstance(error, MobiusError) else str(error)
                measured.metrics_problem = f"the front's figures could not be read ({reason})"
        if measured.metrics_problem is not None:
            return
        measured.comparisons = self.checks.check(comparisons)
        for one in measured.comparisons:
            if one.is_proven:
                raise GateFailedError(f"{one.sentence(release)}.")
        for _ in range(self._missing_probes(measured)):
            probe = next(probes, None)
            if probe is None or self.clock() >= until:
                return
            try:
                measured.send(self.request, probe)
            except NO_RESPONSE_ERRORS as error:
                measured.add_silence(error)
                return
            self._probe_old(probe, measured)

    def _probe_old(self, probe: Probe, measured: Measurements) -> None:
        if self.front is None:
            self._with_old(partial(send_probe, probe=probe, timeout=RESPONSE_TIMEOUT_SECONDS), measured)
        elif self.front.request_old is not None:
            # a front that is being started again says nothing about the old instance, which is asked itself
            with contextlib.suppress(*NO_RESPONSE_ERRORS):
                send_probe(self.front.request_old, probe, RESPONSE_TIMEOUT_SECONDS)

    def _read_front(self, front: FrontTraffic, measured: Measurements) -> list[Comparison]:
        front.figures.read()
        measured.user_requests = front.user_requests
        measured.latency_problem = front.figures.latency_problem
        measured.latency_losses, measured.last_loss = front.figures.latency_losses, front.figures.last_loss
        return front.compare()

    def _missing_probes(self, measured: Measurements) -> int:
        """How many probes to send now, so that the samples suffice when the healthy window ends.

        While a signal may be worse, as many as there is time for: more samples are needed. To users' requests, probes
        add none.
        """
        settings = self.settings
        share = min(1.0, measured.streak_seconds / settings.healthy_seconds)
        unlogged = 0 if self.front is None else self.front.unlogged_probes
        missing = []
        for one in measured.comparisons:
            if one.is_over and not one.missing_samples:
                missing.append(0 if one.source == USERS else one.signal.samples)
                continue
            is_logged = one.source != "service" and one.signal.may_recover
            expected = one.missing_samples - int(one.signal.samples * (1 - share))
            missing.append(expected - (unlogged if is_logged else 0))
        return max([0, *missing])

    def _read_old(self, _: Request) -> None:
        if self.old is not None:
            self.old.read()

    def _with_old(self, action: Callable[[Request], object], measured: Measurements) -> None:
        """Use the old instance; once it does not respond, it is no longer compared with."""
        if self.request_old is None:
            return
        try:
            action(self.request_old)
        except (*NO_RESPONSE_ERRORS, UnreadableError) as error:
            self.request_old = self.old = None
            if self.front is not None:
                self.front.drop_reference()
            measured.reference_lost = f"{type(error).__name__}: {error}"
