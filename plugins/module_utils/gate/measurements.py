# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gate has measured so far, and the forms in which it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..comparison import Comparison
from .probes import Probe, send_probe
from .requests import RESPONSE_TIMEOUT_SECONDS, Request
from .settings import GateSettings

# How often in a row a probe must be answered with an error of the server (5xx) to prove the release bad. One such
# answer in hundreds may be the noise of a busy service, and its error rate counts it.
SERVER_ERRORS_IN_A_ROW = 3


class GateFailedError(Exception):
    """The instance proved itself bad; the message is the reason."""


@dataclass
class Measurements:
    """All samples of one gate. A streak is a row of good samples without an interruption."""

    has_signals: bool = False  # whether an error rate counts what is wrong by chance
    samples: int = 0
    errors: int = 0
    unhealthy: int = 0
    probes: int = 0
    probe_errors: int = 0  # probes that were answered with an error of the server
    statuses: dict[str, int] = field(default_factory=dict)
    response_ms: list[float] = field(default_factory=list)
    streak_since: float | None = None
    streak_samples: int = 0
    streak_seconds: float = 0.0
    longest_seconds: float = 0.0
    pid: int | None = None
    state: str | None = None
    last_problem: str | None = None
    is_silent: bool = False  # whether the last sample got no response
    comparisons: list[Comparison] = field(default_factory=list)
    metrics_problem: str | None = None  # why the last reading of the new instance's or the front's metrics failed
    latency_problem: str | None = None  # why the front's latency is not known at the last reading
    latency_losses: int = 0  # how often the front's latency was counted again from zero
    last_loss: str | None = None  # and why it last was
    user_requests: int | None = None  # that the new release has got from the front; None without signals of it
    reference_lost: str | None = None  # why the old release is no longer compared with
    series: list[dict[str, Any]] = field(default_factory=list)

    def send(self, request: Request, probe: Probe) -> None:
        """Send a probe to the new instance.

        Raises:
            GateFailedError: its response is wrong; an error of the server, when it is one again and again.
            OSError, http.client.HTTPException: no whole response came.
        """
        self.probes += 1
        for remaining in reversed(range(SERVER_ERRORS_IN_A_ROW if self.has_signals else 1)):
            mismatch = send_probe(request, probe, RESPONSE_TIMEOUT_SECONDS)
            if mismatch is None:
                return
            self.probe_errors += mismatch.is_server_error
            if not remaining or not mismatch.is_server_error:
                raise GateFailedError(mismatch.sentence())

    def add_healthy(self, started: float, ended: float) -> None:
        """Extend the streak by a good sample."""
        if self.streak_since is None:
            self.streak_since, self.streak_samples = started, 0
        self.streak_samples += 1
        self.streak_seconds = ended - self.streak_since
        self.longest_seconds = max(self.longest_seconds, self.streak_seconds)
        self.is_silent = False

    def end_streak(self, problem: str) -> None:
        """End the streak: the instance responded, but was not healthy."""
        self._end_streak(problem, is_silent=False)
        self.unhealthy += 1

    def add_silence(self, error: Exception) -> None:
        """End the streak: no whole response came."""
        self._end_streak(f"it gave no response ({type(error).__name__}: {error})", is_silent=True)
        self.errors += 1

    def _end_streak(self, problem: str, *, is_silent: bool) -> None:
        self.streak_since, self.streak_samples, self.streak_seconds = None, 0, 0.0
        self.last_problem, self.is_silent = problem, is_silent

    def add_to_series(self, elapsed: float) -> None:
        """Keep the figures of the last sample, for charts; `elapsed` seconds since the gate began."""
        self.series.append(
            {
                "at": round(elapsed, 2),
                "health_ms": round(self.response_ms[-1], 1) if self.response_ms else None,
                "well": self.streak_since is not None,
                "signals": {
                    one.signal.name: [
                        None if tally is None or tally.figure is None else round(tally.figure, 6)
                        for tally in (one.new, one.old)
                    ]
                    for one in self.comparisons
                },
            }
        )

    def progress(self, elapsed: float, settings: GateSettings) -> dict[str, Any]:
        """The figures that are shown while the gate runs; times in seconds, signals as in the evidence."""
        return {
            "elapsed": round(elapsed, 2),
            "deadline": settings.deadline,
            "wanted": settings.healthy_seconds,
            "healthy": round(self.streak_seconds, 2),
            "samples": self.samples,
            "signals": [one.as_dict() for one in self.comparisons],
        }

    def evidence(self, reference: Mapping[str, Any] | None) -> dict[str, Any]:
        """The evidence for the verdict, for people and for the record of the run."""
        times = sorted(self.response_ms)
        values = {
            "statuses": self.statuses,
            "unhealthy": self.unhealthy,
            "errors": self.errors,
            "probes": self.probes,
            "probe_errors": self.probe_errors,
            "pid": self.pid,
            "state": self.state,
            "health_ms_p50": round(times[len(times) // 2], 1) if times else None,
            "health_ms_max": round(times[-1], 1) if times else None,
            "reference": reference,
            "reference_lost": self.reference_lost,
            "user_requests": self.user_requests,
            "latency_losses": self.latency_losses,
            "latency_problem": self.latency_problem or self.last_loss,
            "signals": [one.as_dict() for one in self.comparisons],
        }
        return {
            "samples": self.samples,
            "healthy_seconds": round(self.longest_seconds, 2),
            "values": values,
            "series": self.series,
        }
