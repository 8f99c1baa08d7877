# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..comparison import MetricSignal
from ..errors import MobiusError
from ..front_signals import parse_front_signal
from .probes import Probe


@dataclass(frozen=True)
class GateSettings:
    """What a release must do to pass; times in seconds.

    Within `healthy_seconds` there must be at least half of the samples that `interval` would give: a window with few
    samples proves nothing. After an `error`, the gate runs again, up to `attempts` times.

    `front_signals` are those of the front, beside the `signals` that it counts itself. The new release
    must have had `user_samples` requests of users, or as many as come until the deadline; 0 waits for none.
    """

    healthy_seconds: float
    deadline: float
    interval: float
    probes: Sequence[Probe] = ()
    metrics_path: str = "/metrics"
    signals: Sequence[MetricSignal] = ()
    attempts: int = 1
    front_signals: Sequence[MetricSignal] = ()
    user_samples: int = 0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise MobiusError("invalid_input", "A gate must run at least once: attempts is below 1.")
        if self.healthy_seconds <= 0 or self.interval <= 0:
            raise MobiusError("invalid_input", "A gate's healthy_seconds and interval must be above zero.")
        if self.user_samples < 0:
            raise MobiusError("invalid_input", "A gate cannot wait for fewer than no requests of users.")
        if self.deadline <= self.healthy_seconds:
            raise MobiusError("invalid_input", "A gate's deadline must be longer than its healthy_seconds.")

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> GateSettings:
        """From the arguments of the module `gate`.

        Raises:
            MobiusError: `invalid_input`.
        """
        return cls(
            healthy_seconds=value["healthy_seconds"],
            deadline=value["deadline"],
            interval=value["interval"],
            probes=[Probe.parse(probe) for probe in value["probes"]],
            metrics_path=value["metrics_path"],
            signals=[MetricSignal.parse(signal) for signal in value["signals"]],
            attempts=value["attempts"],
            front_signals=[parse_front_signal(signal) for signal in value["front_signals"]],
            user_samples=value["user_samples"],
        )

    @property
    def required_samples(self) -> int:
        """The samples that a healthy window must hold."""
        return max(2, int(self.healthy_seconds / self.interval / 2))
