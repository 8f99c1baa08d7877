# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the metrics of two releases that serve side by side: whether the new one is worse.

The metrics and the limits are data (`MetricSignal`), so that any service can be compared. Counters count from the first
reading on: what an instance did before the gate began does not matter.

Source of a quantile: Prometheus's `histogram_quantile` (linear within a bucket).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import MobiusError
from .prometheus_text import Series, UnreadableError, parse_page

_NAME_SHOWN_CHARS = 80
_EVENTS_MAX = 2**63  # what counters are kept in

SELECTOR_SPEC: dict[str, dict[str, Any]] = {
    "metric": {"type": "str", "required": True},
    "where": {"type": "dict", "default": {}},
}
SIGNAL_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "part": {"type": "list", "elements": "dict", "options": SELECTOR_SPEC},
    "whole": {"type": "list", "elements": "dict", "options": SELECTOR_SPEC},
    "histogram": {"type": "list", "elements": "dict", "options": SELECTOR_SPEC},
    "quantile": {"type": "float", "default": 0.95},
    "times": {"type": "float", "default": 1.0},
    "floor": {"type": "float", "default": 0.0},
    "limit": {"type": "float"},
    "samples": {"type": "int", "default": 200},
}


@dataclass(frozen=True)
class Selector:
    """The series of one metric whose labels match: each value is a regular expression for the whole label."""

    metric: str
    where: Mapping[str, re.Pattern[str]]

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        return name == self.metric and all(
            pattern.fullmatch(labels.get(label, "")) is not None for label, pattern in self.where.items()
        )


@dataclass(frozen=True)
class MetricSignal:
    """One figure of a release: a rate (`part` of `whole`), or a quantile of a `histogram`.

    Attributes:
        times: the new release may have so many times the old one's figure.
        floor: and any figure up to this one, so that three times nothing is still nothing.
        limit: a figure over this is too much whatever the old release has; None for no limit.
        samples: how many samples the figure needs before it counts.
    """

    name: str
    part: tuple[Selector, ...]
    whole: tuple[Selector, ...]
    histogram: tuple[Selector, ...]
    quantile: float
    times: float
    floor: float
    limit: float | None
    samples: int

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> MetricSignal:
        """From a module's argument that `SIGNAL_SPEC` has checked.

        Raises:
            MobiusError: `invalid_input` when it is neither a rate nor a quantile, or a number is out of range.
        """
        name = value["name"]

        def selectors(key: str) -> tuple[Selector, ...]:
            try:
                return tuple(
                    Selector(item["metric"], {label: re.compile(str(text)) for label, text in item["where"].items()})
                    for item in value.get(key) or ()
                )
            except re.error as error:
                raise MobiusError("invalid_input", f"The signal {name!r} has an invalid pattern: {error}.") from None

        signal = cls(
            name,
            selectors("part"),
            selectors("whole"),
            selectors("histogram"),
            value["quantile"],
            value["times"],
            value["floor"],
            value.get("limit"),
            value["samples"],
        )
        rate, quantile = bool(signal.part and signal.whole), bool(signal.histogram)
        if rate == quantile or (quantile and (signal.part or signal.whole)):
            raise MobiusError("invalid_input", f"The signal {name!r} must have part and whole, or histogram alone.")
        if not 0 < signal.quantile < 1 or signal.times < 1 or signal.floor < 0 or signal.samples < 1:
            raise MobiusError(
                "invalid_input",
                f"The signal {name!r} must have a quantile between 0 and 1, times of 1 or more, a floor of 0 or more "
                "and samples of 1 or more.",
            )
        return signal

    @property
    def may_recover(self) -> bool:
        """Whether a figure that is too high may come down by itself: a quantile of times does, once caches are warm."""
        return bool(self.histogram)


# the counters of a signal: the two numbers of a rate, or the cumulated buckets of a histogram by upper bound
Counted = Mapping[Any, float]


def count(signal: MetricSignal, page: Iterable[Series]) -> Counted:
    """The counters of a signal on a page; a series that is missing counts zero.

    Raises:
        UnreadableError: a counter that is no number of events, or a bucket without a bound.
    """
    if signal.may_recover:
        buckets: dict[float, float] = {}
        for name, labels, value in page:
            if any(selector.matches(name, labels) for selector in signal.histogram):
                bound = _upper_bound(name, labels)
                buckets[bound] = buckets.get(bound, 0.0) + _events(name, value)
        return buckets
    total = {"part": 0.0, "whole": 0.0}
    for name, labels, value in page:
        for key, selectors in (("part", signal.part), ("whole", signal.whole)):
            total[key] += sum(_events(name, value) for selector in selectors if selector.matches(name, labels))
    return total


def _events(name: str, value: float) -> float:
    if not 0 <= value <= _EVENTS_MAX:
        raise UnreadableError(f"its counter {name[:_NAME_SHOWN_CHARS]} is {value:g}, which is no number of events")
    return value


def _upper_bound(name: str, labels: Mapping[str, str]) -> float:
    try:
        bound = float(labels.get("le", "nan"))
    except ValueError:
        bound = math.nan
    if math.isnan(bound):
        raise UnreadableError(f"its histogram {name[:_NAME_SHOWN_CHARS]} has a bucket whose bound, le, is no number")
    return bound


def _since(first: Counted, last: Counted) -> dict[Any, float]:
    change = {key: value - first.get(key, 0.0) for key, value in last.items()}
    if any(value < 0 for value in change.values()):
        raise UnreadableError("its counters decreased, so it was restarted")
    return change


def _figure(signal: MetricSignal, change: Mapping[Any, float]) -> tuple[float | None, int]:
    """The figure of the signal and its number of samples; None without samples."""
    if not signal.may_recover:
        whole = change["whole"]
        return (change["part"] / whole if whole else None), int(whole)
    bounds = sorted(change)
    total = change[bounds[-1]] if bounds else 0.0
    if not total:
        return None, 0
    rank, below, lower = signal.quantile * total, 0.0, 0.0
    for bound in bounds:
        if change[bound] >= rank:
            if math.isinf(bound):
                return lower, int(total)
            inside = change[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0), int(total)
        below, lower = change[bound], bound
    return lower, int(total)


@dataclass
class Counters:
    """The counters of one instance since the first reading.

    Args:
        page: reads its page of metrics; raises `OSError`, `http.client.HTTPException` or `UnreadableError`.
    """

    page: Callable[[], str]
    signals: Sequence[MetricSignal]
    _first: list[Counted] | None = None
    _last: list[Counted] = field(default_factory=list)

    def read(self) -> None:
        """Read the page again.

        Raises:
            UnreadableError: it is not in Prometheus's text format.
        """
        series = parse_page(self.page())
        self._last = [count(signal, series) for signal in self.signals]
        if self._first is None:
            self._first = self._last

    def figures(self) -> list[tuple[float | None, int]]:
        """The figure and the number of samples of each signal.

        Raises:
            UnreadableError: the counters decreased.
        """
        if self._first is None:
            return [(None, 0) for _ in self.signals]
        changes = (_since(first, last) for first, last in zip(self._first, self._last, strict=True))
        return [_figure(signal, change) for signal, change in zip(self.signals, changes, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """One signal of the new release beside that of the old one."""

    signal: MetricSignal
    new: float | None
    new_samples: int
    old: float | None
    old_samples: int
    has_reference: bool  # whether there is an old release to compare with

    @property
    def missing_samples(self) -> int:
        """How many more samples are needed before the figure counts."""
        missing = self.signal.samples - self.new_samples
        return max(0, missing, self.signal.samples - self.old_samples if self.has_reference else 0)

    @property
    def over(self) -> bool:
        """Whether the new release is over its limit."""
        if self.new is None:
            return False
        if self.signal.limit is not None and self.new > self.signal.limit:
            return True
        return (
            self.has_reference
            and self.old is not None
            and self.new > self.signal.floor
            and self.new > self.signal.times * self.old
        )

    def sentence(self, release: str) -> str:
        """The figures in a sentence, without a full stop."""
        old = "" if self.old is None else f", and {self.old:.4g} of the release before"
        return f"The {self.signal.name} of {release} is {self.new or 0:.4g} over {self.new_samples} samples{old}"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as the evidence keeps it."""
        rounded = {
            key: None if value is None else round(value, 6) for key, value in (("new", self.new), ("old", self.old))
        }
        return {
            "name": self.signal.name,
            **rounded,
            "new_samples": self.new_samples,
            "old_samples": self.old_samples,
            "times": self.signal.times,
            "floor": self.signal.floor,
            "limit": self.signal.limit,
            "over": self.over,
        }


def compare(new: Counters, old: Counters | None) -> list[Comparison]:
    """Compare each signal of the new instance with that of the old one; `old` is None without a reference.

    Raises:
        UnreadableError: the counters of the new instance decreased.
    """
    try:
        old_figures = [(None, 0) for _ in new.signals] if old is None else old.figures()
    except UnreadableError:
        old, old_figures = None, [(None, 0) for _ in new.signals]
    return [
        Comparison(signal, *new_figure, *old_figure, old is not None)
        for signal, new_figure, old_figure in zip(new.signals, new.figures(), old_figures, strict=True)
    ]


def selector(metric: str, where: Mapping[str, str]) -> Selector:
    """The series of a metric whose labels match these regular expressions; raises `ValueError` for an invalid one."""
    try:
        return Selector(str(metric), {label: re.compile(str(text)) for label, text in where.items()})
    except re.error as error:
        raise ValueError(f"{error}") from None


def figure_between(signal: MetricSignal, first: Counted, last: Counted) -> tuple[float | None, int]:
    """The figure of a signal from one `count` to a later one, and its number of samples.

    Raises:
        UnreadableError: the counters decreased.
    """
    return _figure(signal, _since(first, last))
