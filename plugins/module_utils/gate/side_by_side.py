# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Metrics of the new and of the old instance, side by side, with probes where the traffic lacks samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..comparison import Counters, compare_counters
from ..prometheus_text import UnreadableError
from .checks import SignalChecks
from .measurements import GateFailedError, Measurements
from .probes import Probe, send_probe
from .requests import NO_RESPONSE_ERRORS, RESPONSE_TIMEOUT_SECONDS, Request
from .settings import GateSettings


class SideBySide:
    """The counters of the new instance and, while it responds, of the old one."""

    def __init__(
        self, request: Request, request_old: Request | None, settings: GateSettings, clock: Callable[[], float]
    ) -> None:
        self.request, self.request_old = request, request_old
        self.settings, self.clock = settings, clock
        self.checks = SignalChecks(settings.signals)
        self.new = Counters(lambda: self._read_page(request), settings.signals)
        self.old = None if request_old is None else Counters(lambda: self._read_page(request_old), settings.signals)

    def _read_page(self, request: Request) -> str:
        path = self.settings.metrics_path
        status, _, body = request("GET", path, None, None, RESPONSE_TIMEOUT_SECONDS)
        if status != 200:
            raise UnreadableError(f"{path} answered {status}")
        return body.decode("utf-8", "replace")

    def measure(self, release: str, measured: Measurements, probes: Iterator[Probe], until: float) -> None:
        """Read and compare the metrics, and send both instances the probes that their traffic lacks by now.

        Args:
            until: when to send no further probe, in seconds of the clock.

        Raises:
            GateFailedError: a probe got a wrong response, or a rate is worse.
        """
        try:
            self.new.read()
            measured.metrics_problem = None
            self._with_old(self._read_old, measured)
            measured.comparisons = self.checks.check(compare_counters(self.new, self.old))
        except (*NO_RESPONSE_ERRORS, UnreadableError) as error:
            measured.metrics_problem = f"its metrics could not be read ({error})"
            return
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
            self._with_old(partial(send_probe, probe=probe, timeout=RESPONSE_TIMEOUT_SECONDS), measured)

    def _missing_probes(self, measured: Measurements) -> int:
        """How many probes to send now, so that the samples suffice when the healthy window ends.

        While a signal may be worse, as many as there is time for: more samples are needed.
        """
        settings = self.settings
        share = min(1.0, measured.streak_seconds / settings.healthy_seconds)
        missing = [
            one.signal.samples
            if one.is_over and not one.missing_samples
            else one.missing_samples - int(one.signal.samples * (1 - share))
            for one in measured.comparisons
        ]
        return max(0, *missing)

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
            measured.reference_lost = f"{type(error).__name__}: {error}"
