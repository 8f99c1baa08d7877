# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Groups are stars: no chain of small steps joins different pictures, and decisions of people hold."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobius.dhash._groups import MatchedPair, group_by_keeper, members_by_keeper, pairs_to_review

COUNT = 8
PAIRS = list(combinations(range(COUNT), 2))
MATCHES = st.lists(st.sampled_from(PAIRS), unique=True).flatmap(
    lambda pairs: st.tuples(
        *(st.builds(MatchedPair, st.booleans(), st.integers(0, 32), st.just(a), st.just(b)) for a, b in pairs)
    )
)
WORDS = st.lists(st.tuples(st.sampled_from(PAIRS), st.booleans()), max_size=6, unique_by=lambda word: word[0])


def split(words: list[tuple[tuple[int, int], bool]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return [pair for pair, same in words if same], [pair for pair, same in words if not same]


@pytest.mark.slow
@settings(deadline=None)
@given(MATCHES, WORDS, st.randoms(use_true_random=False))
def test_groups_are_the_same_in_whatever_order_the_matches_come(matches, words, shuffler: random.Random) -> None:
    same, different = split(words)
    first = group_by_keeper(COUNT, matches, same, different)
    mixed, mixed_same = list(matches), list(same)
    shuffler.shuffle(mixed)
    shuffler.shuffle(mixed_same)
    assert group_by_keeper(COUNT, mixed, mixed_same, different) == first
    assert pairs_to_review(first, mixed, different) == pairs_to_review(first, matches, different)


@pytest.mark.slow
@settings(deadline=None)
@given(MATCHES, WORDS)
def test_every_member_matches_the_keeper_or_was_decided_to_be_the_same(matches, words) -> None:
    same, different = split(words)
    owner = group_by_keeper(COUNT, matches, same, different)
    certain = {(match.first, match.second) for match in matches if not match.needs_review}
    for kept, group in members_by_keeper(owner).items():
        assert kept == group[0] == min(group), "the worthiest is kept"
        for other in group[1:]:
            called = any((min(other, third), max(other, third)) in same for third in group if third != other)
            assert (kept, other) in certain or called
        for pair in combinations(group, 2):
            assert pair not in different


@pytest.mark.slow
@settings(deadline=None)
@given(MATCHES)
def test_a_confirmed_match_of_a_keeper_is_in_some_group(matches) -> None:
    owner = group_by_keeper(COUNT, matches, [], [])
    for match in matches:
        if not match.needs_review and owner[match.first] == match.first:
            assert owner[match.second] != match.second, "it belongs to this one, or to a worthier one"


@pytest.mark.slow
@settings(deadline=None)
@given(MATCHES, WORDS)
def test_every_match_is_in_a_group_or_listed_for_review(matches, words) -> None:
    """Answer `different` to every question: in the end each match was decided, one by one or with its groups."""
    same, different = split(words)
    for _ in range(len(PAIRS) + 1):
        owner = group_by_keeper(COUNT, matches, same, different)
        asked = pairs_to_review(owner, [match for match in matches if match[2:] not in [*same, *different]], different)
        assert len(asked) <= COUNT
        for match in asked:
            assert owner[match.first] != owner[match.second]
            assert match[2:] not in different
        if not asked:
            break
        different = [*different, *(match[2:] for match in asked)]
    groups = {tuple(sorted((owner[a], owner[b]))) for a, b in different}
    for match in matches:
        pair = tuple(sorted((owner[match.first], owner[match.second])))
        assert pair[0] == pair[1] or pair in groups or match[2:] in same


def test_different_pictures_are_not_chained_together() -> None:
    chain = [MatchedPair(False, 5, number, number + 1) for number in range(4)]
    owner = group_by_keeper(5, chain, [], [])
    assert owner == [0, 0, 2, 2, 4]
    assert pairs_to_review(owner, chain, []) == [MatchedPair(False, 5, 1, 2), MatchedPair(False, 5, 3, 4)], (
        "but a person is asked"
    )
    assert group_by_keeper(5, chain, [(1, 2)], []) == [0, 0, 0, 3, 3], "whose word reaches further"


def test_two_groups_are_listed_for_review_once() -> None:
    matches = [
        MatchedPair(False, 0, 0, 1),
        MatchedPair(False, 0, 2, 3),
        MatchedPair(True, 9, 0, 2),
        MatchedPair(True, 7, 1, 3),
    ]
    owner = group_by_keeper(4, matches, [], [])
    assert pairs_to_review(owner, matches, []) == [MatchedPair(True, 7, 1, 3)]
    assert pairs_to_review(owner, matches, [(1, 3)]) == []
