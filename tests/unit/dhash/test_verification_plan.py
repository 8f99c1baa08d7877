# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pairs that are verified give the groups that all pairs would give, and are as few as members and keepers."""

from __future__ import annotations

from itertools import combinations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobius.dhash._groups import MatchedPair, Pair, group_by_keeper
from mobius.dhash._verification_plan import DIFFERENT, PENDING, SAME, UNAVAILABLE, VerificationPlan

COUNT = 8
PAIRS = list(combinations(range(COUNT), 2))
VERDICTS = st.dictionaries(st.sampled_from(PAIRS), st.sampled_from([True, True, False, None]))
DECISIONS = st.dictionaries(st.sampled_from(PAIRS), st.booleans(), max_size=5)


def plan_of(
    verdicts: dict[Pair, bool | None],
    states: dict[Pair, int] | None = None,
    decided: dict[Pair, bool] | None = None,
    count: int = COUNT,
) -> tuple[VerificationPlan, list[Pair]]:
    pairs = [*verdicts]
    ends = numpy.array(pairs, numpy.int64).reshape(-1, 2)
    known = numpy.array([(states or {}).get(pair, PENDING) for pair in pairs], numpy.uint8)
    words = decided or {}
    same, different = ([pair for pair, word in words.items() if word is kind] for kind in (True, False))
    return VerificationPlan(count, ends[:, 0], ends[:, 1], known, same, different), pairs


def perform(plan: VerificationPlan, pairs: list[Pair], verdicts: dict[Pair, bool | None], width: int) -> list[Pair]:
    """Verify what the plan wants, `width` pairs at a time; the last one begun ends first."""
    tried: list[Pair] = []
    running: list[int] = []
    while True:
        while len(running) < width and (index := plan.next_pair()) is not None:
            running.append(index)
        if not running:
            return tried
        index = running.pop()
        tried.append(pairs[index])
        plan.resolve(index, verdicts[pairs[index]])


def groups_of_all(verdicts: dict[Pair, bool | None], decided: dict[Pair, bool]) -> list[int]:
    matches = [MatchedPair(not same, 0, *pair) for pair, same in verdicts.items() if pair not in decided]
    same, different = ([pair for pair, word in decided.items() if word is kind] for kind in (True, False))
    return group_by_keeper(COUNT, matches, same, different)


@pytest.mark.slow
@settings(deadline=None)
@given(VERDICTS, DECISIONS, st.integers(1, 4))
def test_the_groups_are_those_of_all_verdicts(verdicts, decided, width) -> None:
    plan, pairs = plan_of(verdicts, decided=decided)
    tried = perform(plan, pairs, verdicts, width)
    expected = groups_of_all(verdicts, decided)
    assert len(tried) == len(set(tried))
    assert not set(tried) & set(decided), "what a person has decided needs no verdict"
    assert groups_of_all({pair: pair in tried and verdicts[pair] for pair in verdicts}, decided) == expected
    for one, other in tried:
        assert expected[one] == one, "only with a keeper"
        assert expected[other] >= one, "only while it has no keeper"
    assert all(keeper in (-1, expected[number]) for number, keeper in enumerate(plan.keeper_of))
    assert plan.left == sum(
        verdicts[one, other] is None and expected[one] == one and expected[other] == other for one, other in tried
    )
    assert plan.pending == 0


@pytest.mark.slow
@settings(deadline=None)
@given(VERDICTS, DECISIONS, st.integers(0, 20))
def test_interrupted_and_begun_again_it_verifies_what_is_left(verdicts, decided, stop) -> None:
    plan, pairs = plan_of(verdicts, decided=decided)
    whole = perform(plan, pairs, verdicts, 1)
    begun, _ = plan_of(verdicts, decided=decided)
    first: list[Pair] = []
    while len(first) < stop and (index := begun.next_pair()) is not None:
        first.append(pairs[index])
        begun.resolve(index, verdicts[pairs[index]])
    words = {True: SAME, False: DIFFERENT, None: UNAVAILABLE}
    again, _ = plan_of(verdicts, {pair: words[verdicts[pair]] for pair in first}, decided)
    assert again.left == begun.left
    assert sorted(first + perform(again, pairs, verdicts, 2)) == sorted(whole)


def test_copies_of_one_picture_are_verified_with_their_keeper_only() -> None:
    count = 48
    verdicts: dict[Pair, bool | None] = dict.fromkeys(combinations(range(count), 2), True)
    plan, pairs = plan_of(verdicts, count=count)
    assert plan.left == len(verdicts)
    assert sorted(perform(plan, pairs, verdicts, 2)) == [(0, other) for other in range(1, count)]
    assert plan.left == 0


def test_a_star_does_not_wait_for_another_component() -> None:
    plan, pairs = plan_of({(0, 1): True, (2, 3): True, (2, 4): True})
    assert {pairs[plan.next_pair()] for _ in range(3)} == {(0, 1), (2, 3), (2, 4)}  # type: ignore[index]
    assert plan.next_pair() is None
