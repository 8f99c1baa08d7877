# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checks of a gate's signals, and how much each may prove.

A rate may fail at the checks of `significance.AlphaSpending` and at the deadline. A quantile of times may fail at the
deadline only, since it can recover.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..comparison import Comparison, MetricSignal
from ..significance import AlphaSpending

# The probability with which a gate calls a build worse that is as good as the one before, over all checks and signals.
FALSE_FAILURES = 0.0009


class SignalChecks:
    """The checks of one gate, with the part of `FALSE_FAILURES` that each signal has spent.

    A signal of the front has two comparisons, of users' requests and of probes, which share its alpha. That of users'
    requests is checked at parts and multiples of `user_samples`.
    """

    def __init__(
        self, signals: Sequence[MetricSignal], front_signals: Sequence[MetricSignal] = (), user_samples: int = 0
    ) -> None:
        alpha = FALSE_FAILURES / max(1, len(signals) + len(front_signals))
        self._spending = [AlphaSpending(alpha, signal.samples) for signal in signals]
        for signal in front_signals:
            self._spending += [AlphaSpending(alpha / 2, user_samples or signal.samples)]
            self._spending += [AlphaSpending(alpha / 2, signal.samples)]

    def check(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        """The comparisons, each with the alpha of this check."""
        return [
            dataclasses.replace(one, alpha=0.0 if one.signal.may_recover else spending.due(one.samples))
            for one, spending in zip(comparisons, self._spending, strict=True)
        ]

    def check_last(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        """The comparisons at the deadline, each with the alpha that is left."""
        return [
            dataclasses.replace(one, alpha=spending.left)
            for one, spending in zip(comparisons, self._spending, strict=False)
        ]
