# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tests of rates give the p-values that scipy gives, and err at most as often as they say, also among many checks."""

from __future__ import annotations

import itertools
import math

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import significance
from ansible_collections.mobius.dhash.plugins.module_utils.significance import AlphaSpending
from scipy import stats


@pytest.mark.parametrize("trials", [1, 2, 13, 600, 4_000, 1_000_000])
@pytest.mark.parametrize("probability", [1e-6, 0.01, 0.5, 2 / 3, 0.999])
def test_the_binomial_tail_is_that_of_scipy(trials: int, probability: float) -> None:
    mean, deviation = trials * probability, math.sqrt(trials * probability * (1 - probability))
    counts = {0, 1, trials, *(round(mean + step * deviation) for step in (-9, -3, -1, 0, 1, 3, 9))}
    for count in sorted(count for count in counts if 0 <= count <= trials):
        expected = float(stats.binom.sf(count - 1, trials, probability))
        assert significance.binomial_upper_tail(count, trials, probability) == pytest.approx(
            expected, rel=1e-6, abs=1e-12
        )


def test_very_many_trials_are_bounded_and_quick() -> None:
    trials = significance.EXACT_MAX_TRIALS * 1000
    for count in (round(trials * share) for share in (0.00999, 0.01, 0.01001, 0.02, 1.0)):
        bound = significance.binomial_upper_tail(count, trials, 0.01)
        assert stats.binom.sf(count - 1, trials, 0.01) <= bound <= 1.0
    assert significance.binomial_upper_tail(round(trials * 0.02), trials, 0.01) < 1e-300


@pytest.mark.parametrize(
    ("count", "trials", "probability", "expected"), [(0, 0, 0.5, 1), (1, 5, 0, 0), (5, 5, 1, 1), (6, 5, 0.5, 0)]
)
def test_the_edges_of_the_tail(count: int, trials: int, probability: float, expected: float) -> None:
    assert significance.binomial_upper_tail(count, trials, probability) == expected


def test_two_rates_are_compared_as_przyborowski_and_wilenski_did() -> None:
    expected = stats.poisson_means_test(30, 600, 12, 500, alternative="greater")  # another test of the same question
    assert significance.exceeds_rate(30, 600, 12, 500) == pytest.approx(expected.pvalue, rel=0.5)
    assert significance.exceeds_rate(13, 600, 0, 600) == pytest.approx(0.5**13)
    assert significance.exceeds_rate(13, 600, 0, 1200) == pytest.approx((1 / 3) ** 13)
    assert significance.exceeds_rate(13, 600, 0, 600, times=3.0) == pytest.approx(0.75**13)
    assert significance.exceeds_rate(13, 600, 0, 0) == significance.exceeds_rate(0, 0, 5, 600) == 1.0


@pytest.mark.parametrize(("new_total", "old_total"), [(60, 60), (40, 90), (90, 40)])
@pytest.mark.parametrize("times", [1.0, 2.0])
def test_rates_of_requests_are_called_worse_at_most_as_often_as_alpha(
    new_total: int, old_total: int, times: float
) -> None:
    """Every possible pair of counts, of builds whose rate is exactly the one that is allowed."""
    alphas = (0.05, 0.001)
    p_values = {
        (new, old): significance.exceeds_rate(new, new_total, old, old_total, times)
        for new, old in itertools.product(range(new_total + 1), range(old_total + 1))
    }
    for share in (0.01, 0.05, 0.2, 0.45):
        new_chances = stats.binom.pmf(range(new_total + 1), new_total, share * times)
        old_chances = stats.binom.pmf(range(old_total + 1), old_total, share)
        for alpha in alphas:
            size = sum(
                new_chances[new] * old_chances[old] for (new, old), p_value in p_values.items() if p_value <= alpha
            )
            assert size <= alpha


def test_a_limit_is_tested_exactly() -> None:
    assert significance.exceeds_limit(30, 600, 0.05) == pytest.approx(stats.binom.sf(29, 600, 0.05))
    assert significance.exceeds_limit(600, 600, 1.0) == 1.0
    assert significance.exceeds_limit(1, 600, 0.0) == 0.0
    assert significance.exceeds_limit(0, 600, 0.0) == 1.0


def test_alpha_is_spent_once_however_often_is_looked() -> None:
    spending = AlphaSpending(0.0003, 600)
    spent = [spending.due(samples) for samples in range(0, 100_000, 10)]
    checks = [(index * 10, alpha) for index, alpha in enumerate(spent) if alpha]
    assert [samples for samples, _ in checks] == [80, 150, 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800]
    assert checks[3][1] == pytest.approx(0.00015)
    assert sum(spent) + spending.left == pytest.approx(0.0003)
    assert spending.left > 0


def test_samples_that_jump_over_looks_may_use_what_these_had() -> None:
    spending = AlphaSpending(0.0003, 600)
    assert spending.due(700) == pytest.approx(0.0003 * 0.75)
    assert spending.due(700) == 0.0
    assert AlphaSpending(0.0003, 600).left == 0.0003
