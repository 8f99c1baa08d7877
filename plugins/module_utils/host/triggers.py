# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The triggers of the watch: what causes a rollback after a release was confirmed, while the previous one is warm.

This module decides on samples; `watch` takes them and rolls back. A short burst is no trigger: a signal must be over
its limit in each quarter of the time that it has to last, and memory must grow from each quarter of its window to the
next.

Nor is noise: over that time the signal must be proven worse, by the tests of `significance`. It is tested over
`lasting` seconds, twice, four times as many and so on, each once a quarter of them, so that a service with little
traffic has its samples too. All tests of a monitoring window together may err with the probability `FALSE_ROLLBACKS`.

The signals of a front are of users' requests only; what a service counts itself, is of everybody's.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import comparison
from ..errors import MobiusError
from ..front_signals import of_source, parse_front_signal
from ..prometheus_text import UnreadableError, parse_page

HOUR_SECONDS = 3600.0
PARTS = 4  # of the time that a trigger has to last; each must confirm it
# A limit is no reason to go back to a release that exceeds it as well: it is at least so many times the
# baseline's share of failures, where that has so many failures that it is no chance.
BASELINE_TIMES, BASELINE_EVENTS = 2.0, 3
FALSE_ROLLBACKS = 0.001  # the probability with which the signals roll a good build back, in a whole window


@dataclass(frozen=True)
class MemoryTrigger:
    """A leak: growth over `bytes_per_hour` during `seconds`, after `warm_up` seconds in which caches fill."""

    selector: comparison.Selector
    bytes_per_hour: float
    seconds: float
    warm_up: float


@dataclass(frozen=True)
class WatchSettings:
    """The monitoring window (`seconds`; 0: no watch), the sampling interval, and the triggers. Times in seconds.

    `restarts`: so many restarts of the instance's process by systemd are too many; 0 for any number.
    `front_signals` are of users' requests, as the front of the service counts them.
    """

    seconds: float = 0.0
    interval: float = 5.0
    unhealthy_seconds: float = 300.0
    restarts: int = 0
    metrics_path: str = "/metrics"
    signals: tuple[comparison.MetricSignal, ...] = ()
    lasting: Mapping[str, float] = field(default_factory=dict)  # by the signal's name
    memory: MemoryTrigger | None = None
    front_signals: tuple[comparison.MetricSignal, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> WatchSettings:
        """From the host's description.

        Raises:
            MobiusError: `invalid_input` for a missing or invalid setting.
        """
        lasting: dict[str, float] = {}
        signals = [_parse_signal(item, lasting) for item in value.get("signals", ())]
        described = value.get("front_signals", [])  # a description that an earlier version wrote has none
        if not isinstance(described, list):
            raise MobiusError("invalid_input", f"The watch is invalid: its front_signals are {described!r}.")
        front_signals = [_parse_front_signal(item, lasting) for item in described]
        try:
            memory = value.get("memory") or None
            settings = cls(
                seconds=float(value["seconds"]),
                interval=float(value["interval"]),
                unhealthy_seconds=float(value["unhealthy_seconds"]),
                restarts=int(value.get("restarts", 0)),  # a description that an earlier version wrote has none
                metrics_path=str(value["metrics_path"]),
                signals=tuple(signals),
                front_signals=tuple(front_signals),
                lasting=lasting,
                memory=memory
                and MemoryTrigger(
                    comparison.selector(memory["metric"], memory.get("where", {})),
                    float(memory["bytes_per_hour"]),
                    float(memory["seconds"]),
                    float(memory["warm_up"]),
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MobiusError("invalid_input", f"The watch is invalid: {error!r}.") from error
        spans = [*lasting.values(), *([settings.memory.seconds] if settings.memory else [])]
        if settings.interval <= 0 or any(span < PARTS * settings.interval for span in spans):
            raise MobiusError(
                "invalid_input", f"The watch samples every {settings.interval:g} s, too seldom for its triggers."
            )
        return settings


_SIGNAL_DEFAULTS = {"quantile": 0.95, "times": 1.0, "floor": 0.0, "limit": None, "limit_alone": None, "samples": 20}
_FRONT_SIGNAL_DEFAULTS = {**_SIGNAL_DEFAULTS, "quantile": None}


def _parse_signal(item: Any, lasting: dict[str, float]) -> comparison.MetricSignal:
    """A signal of the description; its `lasting` seconds go to `lasting`, by its name."""
    try:
        signal = comparison.MetricSignal.parse(
            {**_SIGNAL_DEFAULTS, **{name: _selectors(entry) for name, entry in item.items()}}
        )
        lasting[signal.name] = float(item["lasting"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MobiusError("invalid_input", f"A signal of the watch is invalid: {item!r}.") from error
    return signal


def _parse_front_signal(item: Any, lasting: dict[str, float]) -> comparison.MetricSignal:
    """As `_parse_signal`, of users' requests at the front."""
    try:
        described = {name: value for name, value in item.items() if name != "lasting"}
        signal = of_source(parse_front_signal({**_FRONT_SIGNAL_DEFAULTS, **described}), "users")
        lasting[signal.name] = float(item["lasting"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MobiusError("invalid_input", f"A signal of the watch is invalid: {item!r}.") from error
    return signal


def _selectors(entry: Any) -> Any:
    """The selectors of a signal, with the defaults of what is optional."""
    return [{"where": {}, **item} for item in entry] if isinstance(entry, list) else entry


Counts = Mapping[str, comparison.Counted | None]
"""What the front has counted of users' requests, by the name of a signal; None while that is not known."""


@dataclass(frozen=True)
class _Sample:
    at: float
    counted: tuple[comparison.Counted, ...]
    memory: float | None = None


@dataclass
class _Track:
    """The samples of signals that are read together, and when each of them was tested.

    Attributes:
        longest: for how many seconds samples are kept.
    """

    signals: tuple[comparison.MetricSignal, ...]
    longest: float
    samples: list[_Sample] = field(default_factory=list)
    tested: dict[tuple[str, float], float] = field(default_factory=dict)  # when, by signal and seconds

    def add(self, sample: _Sample) -> None:
        self.samples.append(sample)
        while len(self.samples) > 1 and self.samples[1].at <= sample.at - self.longest:
            self.samples.pop(0)

    def parts(self, seconds: float) -> list[list[_Sample]] | None:
        """The samples of the last `seconds` in quarters, each beginning with the last sample of the quarter before.

        None when the samples do not reach back so far, or a quarter has no further sample.
        """
        now = self.samples[-1].at
        if self.samples[0].at > now - seconds:
            return None
        edges = [now - seconds + seconds * part / PARTS for part in range(PARTS + 1)]
        first = [bisect.bisect_right(self.samples, edge, key=lambda sample: sample.at) - 1 for edge in edges]
        parts = [self.samples[start : end + 1] for start, end in itertools.pairwise(first)]
        return parts if all(len(part) > 1 for part in parts) else None


class Watcher:
    """Decides, sample by sample, whether a release must be rolled back.

    Args:
        baseline: what the gate counted of each signal at the promotion, by name; without one only its limits count.
    """

    def __init__(self, settings: WatchSettings, baseline: Mapping[str, comparison.Tally] | None = None) -> None:
        self.settings, self.baseline = settings, baseline or {}
        memory = settings.memory
        self._service = self._track(settings.signals, memory.seconds if memory else 0.0)
        # each by itself: of one the figures may be known while those of another are not
        self._front = [self._track((signal,)) for signal in settings.front_signals]
        self._began: float | None = None
        self._unhealthy_since: float | None = None
        self._restarts_before: int | None = None

    def _track(self, signals: tuple[comparison.MetricSignal, ...], at_least: float = 0.0) -> _Track:
        return _Track(signals, max([at_least, *(max(self._spans(signal.name)) for signal in signals)]))

    def add_sample(
        self,
        at: float,
        problem: str | None,
        page: str | None,
        restarts: int | None = None,
        front: Counts | None = None,
    ) -> str | None:
        """Add a sample, taken at `at` seconds of a monotonic clock.

        Args:
            problem: why it is not healthy; None when it is.
            page: its metrics; None when they are not available.
            restarts: how often systemd has restarted its process so far; None when that is not known.
            front: what the front has counted; None when it was not read.

        Returns:
            The reason for a rollback, as the end of a sentence that begins with the release id; None without one.
        """
        self._began = at if self._began is None else self._began
        self._unhealthy_since = (
            None if problem is None else at if self._unhealthy_since is None else self._unhealthy_since
        )
        if self._unhealthy_since is not None and at - self._unhealthy_since >= self.settings.unhealthy_seconds:
            return f"was unhealthy for {self.settings.unhealthy_seconds:g} s: {problem}"
        if restarts is not None:
            # a person who restarts the unit makes systemd count from zero
            before = restarts if self._restarts_before is None else min(restarts, self._restarts_before)
            self._restarts_before = before
            if 0 < self.settings.restarts <= restarts - before:
                return f"was restarted {restarts - before} times, since its process ended"
        if front is not None and (reason := self._add_front(at, front)):
            return reason
        if page is None:
            return None
        try:
            self._service.add(self._count(at, page))
            return self._find_signal_over(self._service) or self._find_leak()
        except UnreadableError:
            self._service.samples.clear()  # the process was restarted and counts from zero, or the page is damaged
            return None

    def _add_front(self, at: float, front: Counts) -> str | None:
        for track in self._front:
            counted = front.get(track.signals[0].name)
            if counted is None:
                track.samples.clear()
                continue
            track.add(_Sample(at, (counted,)))
            try:
                if reason := self._find_signal_over(track):
                    return reason
            except UnreadableError:
                track.samples.clear()  # counted from zero again
        return None

    def _count(self, at: float, page: str) -> _Sample:
        series = parse_page(page)
        counted = tuple(comparison.count(signal, series) for signal in self.settings.signals)
        memory = self.settings.memory
        sizes = [value for name, labels, value in series if memory and memory.selector.matches(name, labels)]
        return _Sample(at, counted, sizes[0] if sizes else None)

    def _spans(self, name: str) -> list[float]:
        """The seconds over which a signal is tested: `lasting`, and its doubles within the monitoring window."""
        spans = [self.settings.lasting[name]]
        while spans[-1] * 2 <= self.settings.seconds:
            spans.append(spans[-1] * 2)
        return spans

    def _alpha(self, name: str) -> float:
        """What one test of a signal may use."""
        tests = sum(PARTS * max(1.0, self.settings.seconds / span) for span in self._spans(name))
        return FALSE_ROLLBACKS / (len(self.settings.signals) + len(self.settings.front_signals)) / tests

    def _find_signal_over(self, track: _Track) -> str | None:
        now = track.samples[-1].at
        for number, signal in enumerate(track.signals):
            for span in self._spans(signal.name):
                if now < track.tested.get((signal.name, span), -math.inf) + span / PARTS:
                    continue
                parts = track.parts(span)
                if parts is None:
                    continue
                track.tested[signal.name, span] = now
                if reason := self._test_signal(number, signal, span, parts):
                    return reason
        return None

    def _test_signal(
        self, number: int, signal: comparison.MetricSignal, span: float, parts: list[list[_Sample]]
    ) -> str | None:
        def tally(first: _Sample, last: _Sample) -> comparison.Tally:
            return comparison.tally_between(signal, first.counted[number], last.counted[number])

        old = self.baseline.get(signal.name)
        signal = _with_baseline(signal, old)
        figures = [tally(part[0], part[-1]).figure for part in parts]
        if not all(signal.is_above(figure, None if old is None else old.figure) for figure in figures):
            return None
        whole = comparison.compare(signal, tally(parts[0][0], parts[-1][-1]), old)
        if whole.new.samples < signal.samples or whole.p_value > self._alpha(signal.name):
            return None
        shown = ", ".join(f"{figure:.4g}" for figure in figures)
        before = "" if old is None or old.figure is None else f" (at the promotion {old.figure:.4g})"
        return (
            f"had {_article(signal.name)} {signal.name} of {shown} in {span:g} s{before}, "
            f"over {whole.new.samples} samples (p {whole.p_value:.2g})"
        )

    def _find_leak(self) -> str | None:
        memory = self.settings.memory
        if memory is None or self._began is None:
            return None
        parts = self._service.parts(memory.seconds)
        if parts is None or parts[0][0].at < self._began + memory.warm_up:
            return None
        sizes: list[Sequence[float]] = [
            [sample.memory for sample in part if sample.memory is not None] for part in parts
        ]
        if not all(sizes):
            return None
        middle = [statistics.median(part) for part in sizes]
        growth = (middle[-1] - middle[0]) / (memory.seconds * (PARTS - 1) / PARTS) * HOUR_SECONDS
        if growth <= memory.bytes_per_hour or any(b <= a for a, b in itertools.pairwise(middle)):
            return None
        return f"grew by {growth / 1e6:.0f} MB an hour, to {middle[-1] / 1e6:.0f} MB"


def _with_baseline(signal: comparison.MetricSignal, old: comparison.Tally | None) -> comparison.MetricSignal:
    """The signal, with a limit that the release before keeps: a service may always fail a part of its requests."""
    if signal.limit is None or old is None or old.figure is None or (old.events or 0) < BASELINE_EVENTS:
        return signal
    return dataclasses.replace(signal, limit=max(signal.limit, BASELINE_TIMES * old.figure))


def _article(name: str) -> str:
    return "an" if name[:1] in "aeiou" and not name.startswith("users") else "a"


def baseline_of(evidence: Mapping[str, Any]) -> dict[str, comparison.Tally]:
    """What the gate counted of each signal, by its evidence: of the previous release, or else of the new one."""
    baseline = {}
    try:
        for signal in evidence["evidence"]["values"]["signals"]:
            side = "new" if signal["old"] is None else "old"
            if (figure := signal[side]) is not None:
                samples, above = int(signal[f"{side}_samples"]), signal.get(f"{side}_above") or {}
                events = None if above else round(float(figure) * samples)
                counted = {float(bound): int(count) for bound, count in above.items()}
                baseline[str(signal["name"])] = comparison.Tally(float(figure), samples, events, counted)
    except (KeyError, TypeError, ValueError):
        return {}
    return baseline
