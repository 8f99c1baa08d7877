# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tests whether a rate is too high, and shares one error rate among repeated checks of the same counts.

Two rates: the conditional test of Przyborowski & Wilenski (1940), "Homogeneity of results in testing samples from
Poisson series", Biometrika 31: when the new release has at most `times` the old one's rate, then of all events of both
the new one has a binomial share. For counts of requests, which are binomial rather than Poisson, it errs to the safe
side: its true error rate is below the nominal one (`tests/unit/plugins/releases/test_significance.py` enumerates it).

One rate beside a limit: the exact binomial test.

Repeated checks: alpha spending by Bonferroni's inequality. Each check may use only its share of alpha, so all checks
together call a good release worse with at most that probability. The shares are those of `SPENT_AT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Beyond so many trials the tail is bounded and not summed: its sum would take too long.
EXACT_MAX_TRIALS = 10_000_000
_NEGLIGIBLE = 1e-17  # of a sum: what is smaller does not change it
# Share of alpha by multiple of the required samples, for the checks up to these; each doubling after them gets half of
# the check before, so that the shares of any number of checks stay below 1. A last check may spend what is left.
SPENT_AT = ((1 / 8, 1 / 16), (1 / 4, 1 / 16), (1 / 2, 1 / 8), (1.0, 1 / 2), (2.0, 1 / 8))


def exceeds_limit(count: int, total: int, limit: float) -> float:
    """The p-value of the hypothesis that a rate is at most `limit`, when `count` of `total` had the event."""
    if limit >= 1.0:
        return 1.0
    return binomial_upper_tail(count, total, max(0.0, limit))


def exceeds_rate(new_count: int, new_total: int, old_count: int, old_total: int, times: float = 1.0) -> float:
    """The p-value of the hypothesis that the new rate is at most `times` the old one.

    Args:
        new_count, old_count: events, of `new_total` and `old_total` samples.
    """
    if not new_total or not old_total:
        return 1.0
    share = new_total * times / (new_total * times + old_total)
    return binomial_upper_tail(new_count, new_count + old_count, share)


def binomial_upper_tail(count: int, trials: int, probability: float) -> float:
    """The probability of `count` or more successes in `trials`; never less than it, and exact up to `EXACT_MAX_TRIALS`.

    Beyond, Chernoff's bound: exp(-trials * D), D the divergence of the observed share from `probability`.
    """
    if count <= 0:
        return 1.0
    if count > trials or probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    if trials > EXACT_MAX_TRIALS:
        return _chernoff_bound(count, trials, probability)
    if count <= trials * probability:
        return max(0.0, 1.0 - _sum_tail(trials - count + 1, trials, 1.0 - probability))
    return _sum_tail(count, trials, probability)


def _sum_tail(count: int, trials: int, probability: float) -> float:
    """The sum of the terms from `count` on, for a count above the mean: each term is smaller than the one before."""
    odds = probability / (1.0 - probability)
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
    )
    total = 0.0
    while term > total * _NEGLIGIBLE and count <= trials:
        total += term
        term *= (trials - count) / (count + 1) * odds
        count += 1
    return min(1.0, total)


def _chernoff_bound(count: int, trials: int, probability: float) -> float:
    share = count / trials
    if share <= probability:
        return 1.0
    divergence = share * math.log(share / probability)
    if share < 1.0:
        divergence += (1.0 - share) * math.log((1.0 - share) / (1.0 - probability))
    return math.exp(-trials * divergence)


@dataclass
class AlphaSpending:
    """How much of `alpha` each check of growing counts may use.

    Args:
        alpha: the probability with which all checks together may call a good release worse.
        required: the samples that a verdict needs; most of alpha is for the check at these.
    """

    alpha: float
    required: int
    spent: float = 0.0
    _next: tuple[float, float] = field(default=SPENT_AT[0])
    _checks: int = 0

    def due(self, samples: int) -> float:
        """The alpha of the check that so many samples allow; 0 when no further check is due.

        Samples that jump over several checks may use what these had.
        """
        allowed = 0.0
        while samples >= self._next[0] * self.required:
            allowed += self._next[1] * self.alpha
            self._checks += 1
            at, share = self._next
            self._next = SPENT_AT[self._checks] if self._checks < len(SPENT_AT) else (at * 2, share / 2)
        self.spent += allowed
        return allowed

    @property
    def left(self) -> float:
        """What a last check may use."""
        return self.alpha - self.spent
