# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the metrics of two releases that serve side by side: whether the new one is worse.

The metrics and the limits are data (`MetricSignal`), so that any service can be compared. Counters count from the first
reading on: what an instance did before the gate began does not matter.

Whether a difference is more than noise, the tests of `significance` say: of a rate directly; of a quantile by the
samples above one of its histogram's bounds.

Source of a quantile: Prometheus's `histogram_quantile` (linear within a bucket).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import MobiusError
from .prometheus_text import Series, UnreadableError, parse_page
from .significance import exceeds_limit, exceeds_rate

# A signal whose p-value is at most this does not pass: it may be worse, and more samples are needed.
SUSPICION = 0.05
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
    "limit_alone": {"type": "float"},
    "samples": {"type": "int", "default": 600},
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
        limit_alone: and over this when there is no old release to compare with; None for `limit` alone.
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
    limit_alone: float | None
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
            value.get("limit_alone"),
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

    def limit_beside(self, *, has_reference: bool) -> float | None:
        """The absolute limit, beside an old release or alone; None for none."""
        limits = [self.limit, None if has_reference else self.limit_alone]
        return min((limit for limit in limits if limit is not None), default=None)

    def is_above(self, new: float | None, old: float | None) -> bool:
        """Whether a figure is over a limit as it stands, be it by noise; `old` is None without an old release."""
        if new is None:
            return False
        limit = self.limit_beside(has_reference=old is not None)
        return (limit is not None and new > limit) or (old is not None and new > max(self.floor, self.times * old))


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


@dataclass(frozen=True)
class Tally:
    """What one release has counted for a signal.

    Attributes:
        figure: the rate or the quantile; None without samples.
        samples: how many there are.
        events: of these the ones of `part`; None for a quantile.
        above: for a quantile, the samples above each finite bound; empty for a rate.
    """

    figure: float | None = None
    samples: int = 0
    events: int | None = None
    above: Mapping[float, int] = field(default_factory=dict)


def tally(signal: MetricSignal, change: Mapping[Any, float]) -> Tally:
    """The figure, the samples and the events in a change of counters."""
    if not signal.may_recover:
        whole = change["whole"]
        return Tally(change["part"] / whole if whole else None, int(whole), int(change["part"]))
    bounds = sorted(change)
    total = change[bounds[-1]] if bounds else 0.0
    if not total:
        return Tally()
    above = {bound: int(total - change[bound]) for bound in bounds if not math.isinf(bound)}
    return Tally(_quantile(signal.quantile * total, bounds, change), int(total), None, above)


def _quantile(rank: float, bounds: Sequence[float], cumulated: Mapping[float, float]) -> float:
    below, lower = 0.0, 0.0
    for bound in bounds:
        if cumulated[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = cumulated[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        below, lower = cumulated[bound], bound
    return lower


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

    def tallies(self) -> list[Tally]:
        """What each signal has counted since the first reading.

        Raises:
            UnreadableError: the counters decreased.
        """
        if self._first is None:
            return [Tally() for _ in self.signals]
        changes = (_since(first, last) for first, last in zip(self._first, self._last, strict=True))
        return [tally(signal, change) for signal, change in zip(self.signals, changes, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """One signal of the new release beside that of the old one, or beside its limits alone (`old` is None).

    Attributes:
        p_value: the probability of figures this bad or worse, were the new release within its limits.
        alpha: a p-value up to this proves that it is worse; 0 at a check that may prove nothing.
        bound: of a quantile that is higher: the bound above which both were counted; None otherwise.
        new_events, old_events: the events that were compared: those of the rate, or the samples above `bound`.
        source: whose requests these are: "users", "probes", or "service" for what a service counts itself, of both.
        suspicion: up to this p-value it may be worse.
        joint_samples: the samples of users and probes together, where each are compared by themselves.
    """

    signal: MetricSignal
    new: Tally
    old: Tally | None
    p_value: float
    bound: float | None = None
    new_events: int | None = None
    old_events: int | None = None
    alpha: float = 0.0
    source: str = "service"
    suspicion: float = SUSPICION
    joint_samples: int | None = None

    @property
    def samples(self) -> int:
        """The samples that both have."""
        return self.new.samples if self.old is None else min(self.new.samples, self.old.samples)

    @property
    def missing_samples(self) -> int:
        """How many more samples are needed before the signal may pass."""
        return max(0, self.signal.samples - (self.samples if self.joint_samples is None else self.joint_samples))

    @property
    def is_over(self) -> bool:
        """Whether the new release may be worse: it does not pass like this."""
        return self.p_value <= self.suspicion

    @property
    def is_proven(self) -> bool:
        """Whether it is worse."""
        return self.alpha > 0.0 and self.p_value <= self.alpha

    def sentence(self, release: str) -> str:
        """The figures in a sentence, without a full stop."""
        figure = None if self.old is None else self.old.figure
        before = "" if figure is None else f", and {figure:.4g} of the release before"
        new = f"{self.new.figure or 0:.4g} over {self.new.samples} samples"
        return f"The {self.signal.name} of {release} is {new}{before} (p {self.p_value:.2g})"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as the evidence keeps it."""
        old = self.old or Tally()
        return {
            "name": self.signal.name,
            "source": self.source,
            "new": _rounded(self.new.figure),
            "old": _rounded(old.figure),
            "new_samples": self.new.samples,
            "old_samples": old.samples,
            "new_events": self.new_events,
            "old_events": self.old_events,
            "bound": self.bound,
            "new_above": _shortened(self.new),
            "old_above": _shortened(old),
            "times": self.signal.times,
            "floor": self.signal.floor,
            "limit": self.signal.limit_beside(has_reference=self.old is not None),
            "p_value": float(f"{self.p_value:.3g}"),
            "alpha": float(f"{self.alpha:.3g}"),
            "over": self.is_over,
            "proven": self.is_proven,
        }


def _shortened(tally: Tally) -> dict[str, int] | None:
    """The samples above each bound, from the last that all are above to the first that none is; None for a rate."""
    if not tally.above:
        return None
    bounds = sorted(tally.above)
    below = sum(tally.above[bound] == tally.samples for bound in bounds)
    above = sum(tally.above[bound] > 0 for bound in bounds)
    return {f"{bound:g}": tally.above[bound] for bound in bounds[max(0, below - 1) : above + 1]}


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)


def compare(signal: MetricSignal, new: Tally, old: Tally | None) -> Comparison:
    """Test whether the new release is worse than its limits allow; `old` is None when there is none to compare with.

    Where several tests count (a limit and the old release, two bounds of a histogram), the p-value is the smallest one
    times their number (Bonferroni).
    """
    limit = signal.limit_beside(has_reference=old is not None)
    p_values = [] if limit is None else [_test_limit(signal, new, limit)]
    bound, new_events, old_events = None, new.events, None if old is None else old.events
    if old is not None and old.samples:
        if not signal.may_recover:
            p_values.append(_test_rates(signal, new, old))
        # a difference that is real and small is allowed
        elif signal.is_above(new.figure, old.figure) and (bounds := _shared_bounds(signal, new, old)):
            by_bound = {one: exceeds_rate(new.above[one], new.samples, old.above[one], old.samples) for one in bounds}
            bound = min(by_bound, key=lambda one: by_bound[one])
            new_events, old_events = new.above[bound], old.above[bound]
            p_values.append(min(1.0, len(bounds) * by_bound[bound]))
    p_value = min(1.0, len(p_values) * min(p_values)) if p_values else 1.0
    return Comparison(signal, new, old, p_value, bound, new_events, old_events)


def _test_rates(signal: MetricSignal, new: Tally, old: Tally) -> float:
    """The p-value of the hypothesis that the new rate is at most `times` the old one, or at most `floor`."""
    if new.events is None or old.events is None:
        return 1.0
    return max(
        exceeds_rate(new.events, new.samples, old.events, old.samples, signal.times),
        exceeds_limit(new.events, new.samples, signal.floor),
    )


def _test_limit(signal: MetricSignal, new: Tally, limit: float) -> float:
    """The p-value of the hypothesis that the figure is at most `limit`."""
    if not signal.may_recover:
        return exceeds_limit(new.events or 0, new.samples, limit)
    events = next((new.above[bound] for bound in sorted(new.above) if bound >= limit), 0)
    return exceeds_limit(events, new.samples, 1.0 - signal.quantile)


def _shared_bounds(signal: MetricSignal, new: Tally, old: Tally) -> list[float]:
    """The highest bound that at least as many samples of both are above as above their quantile, and the next one.

    Both releases choose them together: a bound of one of them alone would favour the other. With the next bound, a
    difference shows that begins above the first.
    """
    shared = sorted(bound for bound in new.above if bound in old.above)
    expected = (1.0 - signal.quantile) * (new.samples + old.samples)
    first = sum(new.above[bound] + old.above[bound] >= expected for bound in shared)
    return shared[max(0, first - 1) : first + 1]


def compare_counters(new: Counters, old: Counters | None) -> list[Comparison]:
    """Compare each signal of the new instance with that of the old one; `old` is None without a reference.

    Raises:
        UnreadableError: the counters of the new instance decreased.
    """
    old_tallies: list[Tally | None] = [None for _ in new.signals]
    if old is not None:
        with contextlib.suppress(UnreadableError):
            old_tallies = list(old.tallies())
    return [compare(*one) for one in zip(new.signals, new.tallies(), old_tallies, strict=True)]


def selector(metric: str, where: Mapping[str, str]) -> Selector:
    """The series of a metric whose labels match these regular expressions; raises `ValueError` for an invalid one."""
    try:
        return Selector(str(metric), {label: re.compile(str(text)) for label, text in where.items()})
    except re.error as error:
        raise ValueError(f"{error}") from None


def tally_between(signal: MetricSignal, first: Counted, last: Counted) -> Tally:
    """What a signal has counted from one `count` to a later one.

    Raises:
        UnreadableError: the counters decreased.
    """
    return tally(signal, _since(first, last))
