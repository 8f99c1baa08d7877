# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Metrics of the new and of the old instance, side by side, with probes where the traffic lacks samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from ..comparison import Counters, compare
from ..prometheus_text import UnreadableError
from .measurements import GateFailedError, Measurements
from .probes import Probe, send_probe
from .requests import NO_RESPONSE_ERRORS, RESPONSE_TIMEOUT_SECONDS, Request
from .settings import GateSettings


class SideBySide:
    """The counters of the new instance and, while it responds, of the old one."""

    def __init__(self, request: Request, request_old: Request | None, settings: GateSettings) -> None:
        self.request, self.request_old = request, request_old
        self.settings = settings
        self.new = Counters(lambda: self._read_page(request), settings.signals)
        self.old = None if request_old is None else Counters(lambda: self._read_page(request_old), settings.signals)

    def _read_page(self, request: Request) -> str:
        path = self.settings.metrics_path
        status, _, body = request("GET", path, None, None, RESPONSE_TIMEOUT_SECONDS)
        if status != 200:
            raise UnreadableError(f"{path} answered {status}")
        return body.decode("utf-8", "replace")

    def measure(self, release: str, measured: Measurements, probes: Iterator[Probe]) -> None:
        """Read and compare the metrics, and send both instances the probes that their traffic lacks by now.

        Raises:
            GateFailedError: a probe got a wrong response, or a rate is over its limit.
        """
        try:
            self.new.read()
            measured.metrics_problem = None
            self._with_old(self._read_old, measured)
            measured.comparisons = compare(self.new, self.old)
        except (*NO_RESPONSE_ERRORS, UnreadableError) as error:
            measured.metrics_problem = f"its metrics could not be read ({error})"
            return
        for one in measured.comparisons:
            if one.over and not one.missing_samples and not one.signal.may_recover:
                raise GateFailedError(f"{one.sentence(release)}.")
        for _ in range(self._missing_probes(measured)):
            probe = next(probes, None)
            if probe is None:
                return
            measured.probes += 1
            try:
                mismatch = send_probe(self.request, probe, RESPONSE_TIMEOUT_SECONDS)
            except NO_RESPONSE_ERRORS as error:
                measured.add_silence(error)
                return
            if mismatch is not None:
                raise GateFailedError(mismatch.sentence())
            self._with_old(partial(send_probe, probe=probe, timeout=RESPONSE_TIMEOUT_SECONDS), measured)

    def _missing_probes(self, measured: Measurements) -> int:
        """How many probes to send now, so that the samples suffice when the healthy window ends."""
        settings = self.settings
        share = min(1.0, measured.streak_seconds / settings.healthy_seconds)
        missing = [one.missing_samples - int(one.signal.samples * (1 - share)) for one in measured.comparisons]
        limit = math.ceil(2 * max(signal.samples for signal in settings.signals) / settings.required_samples)
        return min(limit, max(0, *missing))

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
