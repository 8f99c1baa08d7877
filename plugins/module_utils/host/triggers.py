# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What counts against a release after it was confirmed, while the one before is still warm: the triggers of the watch.

Only the judgement is here, on looks that somebody else takes; `watch` takes them and rolls back. A short burst is
no trigger: a signal must be over in each quarter of the time that it has to last, and memory must grow from each
quarter of its window to the next.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import comparison
from ..errors import MobiusError

HOUR = 3600.0
PARTS = 4


@dataclass(frozen=True)
class MemoryTrigger:
    """A leak: growth over `bytes_per_hour`, seen over `seconds`, after the caches of the first `warm_up` seconds."""

    selector: comparison.Selector
    bytes_per_hour: float
    seconds: float
    warm_up: float


@dataclass(frozen=True)
class WatchSettings:
    """The monitoring window (`seconds`; 0 watches nothing), how often to look, and the triggers. Times in seconds."""

    seconds: float = 0.0
    interval: float = 5.0
    unhealthy_seconds: float = 300.0
    metrics_path: str = "/metrics"
    signals: tuple[comparison.Signal, ...] = ()
    lasting: Mapping[str, float] = field(default_factory=dict)  # by the signal's name
    memory: MemoryTrigger | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> WatchSettings:
        """From the host's description.

        Raises:
            MobiusError: `invalid_input` for what makes no sense.
        """
        signals, lasting = [], {}
        for item in value.get("signals", ()):
            try:
                signal = comparison.Signal.parse(
                    {**_BLANK, **{name: _selectors(entry) for name, entry in item.items()}}
                )
                lasting[signal.name] = float(item["lasting"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise MobiusError("invalid_input", f"A signal of the watch cannot be understood: {item!r}.") from error
            signals.append(signal)
        try:
            memory = value.get("memory") or None
            made = cls(
                seconds=float(value["seconds"]),
                interval=float(value["interval"]),
                unhealthy_seconds=float(value["unhealthy_seconds"]),
                metrics_path=str(value["metrics_path"]),
                signals=tuple(signals),
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
            raise MobiusError("invalid_input", f"The watch cannot be understood: {error!r}.") from error
        spans = [*lasting.values(), *([made.memory.seconds] if made.memory else [])]
        if made.interval <= 0 or any(span < PARTS * made.interval for span in spans):
            raise MobiusError(
                "invalid_input", f"The watch looks every {made.interval:g} s, too seldom for its triggers."
            )
        return made


_BLANK = {"quantile": 0.95, "times": 1.0, "floor": 0.0, "limit": None, "samples": 20}


def _selectors(entry: Any) -> Any:
    """A signal's selectors with what they may leave out."""
    return [{"where": {}, **item} for item in entry] if isinstance(entry, list) else entry


@dataclass(frozen=True)
class _Sample:
    at: float
    counted: tuple[comparison.Counted, ...]
    memory: float | None


@dataclass
class Watcher:
    """Judges a release look by look.

    Args:
        baseline: each signal's figure at the promotion, by name; without one only its `limit` counts.
    """

    settings: WatchSettings
    baseline: Mapping[str, float] = field(default_factory=dict)
    _looks: list[_Sample] = field(default_factory=list)
    _began: float | None = None
    _unwell_since: float | None = None

    def look(self, at: float, problem: str | None, page: str | None) -> str | None:
        """One more look, at `at` seconds of a steady clock.

        Args:
            problem: why it is not healthy; None when it is.
            page: its metrics; None when they could not be had.

        Returns:
            Why the release has to go, as the end of a sentence that begins with its name; None when it may stay.
        """
        self._began = at if self._began is None else self._began
        self._unwell_since = None if problem is None else at if self._unwell_since is None else self._unwell_since
        if self._unwell_since is not None and at - self._unwell_since >= self.settings.unhealthy_seconds:
            return f"was unhealthy for {self.settings.unhealthy_seconds:g} s: {problem}"
        if page is None:
            return None
        try:
            self._count(at, page)
            return self._signal() or self._leak()
        except comparison.UnreadableError:
            self._looks.clear()  # another process counts from zero, or nothing that can be read
            return None

    def _count(self, at: float, page: str) -> None:
        series = comparison.parse_page(page)
        counted = tuple(comparison.count(signal, series) for signal in self.settings.signals)
        memory = self.settings.memory
        found = [value for name, labels, value in series if memory and memory.selector.takes(name, labels)]
        self._looks.append(_Sample(at, counted, found[0] if found else None))
        longest = max([*self.settings.lasting.values(), memory.seconds if memory else 0.0])
        while len(self._looks) > 1 and self._looks[1].at <= at - longest:
            self._looks.pop(0)

    def _parts(self, seconds: float) -> list[list[_Sample]] | None:
        """The looks of the last `seconds` in quarters, each beginning with the last look of the one before; None when
        the looks do not reach back so far, or a quarter has none of its own."""
        now = self._looks[-1].at
        if self._looks[0].at > now - seconds:
            return None
        edges = [now - seconds + seconds * part / PARTS for part in range(PARTS + 1)]
        first = [max(index for index, look in enumerate(self._looks) if look.at <= edge) for edge in edges]
        parts = [self._looks[start : end + 1] for start, end in itertools.pairwise(first)]
        return parts if all(len(part) > 1 for part in parts) else None

    def _signal(self) -> str | None:
        for number, signal in enumerate(self.settings.signals):
            parts = self._parts(self.settings.lasting[signal.name])
            if parts is None:
                continue
            findings = []
            for part in parts:
                figure, samples = comparison.between(signal, part[0].counted[number], part[-1].counted[number])
                old = self.baseline.get(signal.name)
                findings.append(comparison.Finding(signal, figure, samples, old, signal.samples, old is not None))
            if all(finding.over for finding in findings) and sum(f.new_samples for f in findings) >= signal.samples:
                figures = ", ".join(f"{finding.new:.4g}" for finding in findings)
                old = self.baseline.get(signal.name)
                before = "" if old is None else f" (at the promotion {old:.4g})"
                lasting = self.settings.lasting[signal.name]
                return f"had {_article(signal.name)} {signal.name} of {figures} in {lasting:g} s{before}"
        return None

    def _leak(self) -> str | None:
        memory = self.settings.memory
        if memory is None or self._began is None:
            return None
        parts = self._parts(memory.seconds)
        if parts is None or parts[0][0].at < self._began + memory.warm_up:
            return None
        sizes: list[Sequence[float]] = [[look.memory for look in part if look.memory is not None] for part in parts]
        if not all(sizes):
            return None
        middle = [statistics.median(part) for part in sizes]
        growth = (middle[-1] - middle[0]) / (memory.seconds * (PARTS - 1) / PARTS) * HOUR
        if growth <= memory.bytes_per_hour or any(b <= a for a, b in itertools.pairwise(middle)):
            return None
        return f"grew by {growth / 1e6:.0f} MB an hour, to {middle[-1] / 1e6:.0f} MB"


def _article(name: str) -> str:
    return "an" if name[:1] in "aeiou" else "a"


def baseline_of(evidence: Mapping[str, Any]) -> dict[str, float]:
    """What a gate's kept verdict says of each signal: the figure of the release before, or else the new one's own."""
    found = {}
    try:
        for signal in evidence["evidence"]["values"]["signals"]:
            figure = signal["new"] if signal["old"] is None else signal["old"]
            if figure is not None:
                found[str(signal["name"])] = float(figure)
    except (KeyError, TypeError, ValueError):
        return {}
    return found
