# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From matching pairs to groups of duplicates and to the questions for a person.

A group is a star: every member matches the copy worth keeping itself, so that a chain of small steps never brings
strangers together. What that leaves over (a match between members of different groups) is a question as well.

Pictures are numbers here, 0 the one most worth keeping, so that the result depends on the pictures alone and not on the
order in which they came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Pair = tuple[int, int]


class MatchedPair(NamedTuple):
    """Two pictures that match, `first` < `second`; the more likely match sorts first."""

    needs_review: bool
    distance: int
    first: int
    second: int


def group_by_keeper(
    count: int, matches: Sequence[MatchedPair], same: Iterable[Pair], different: Iterable[Pair]
) -> list[int]:
    """Group pictures 0 to `count` - 1.

    Args:
        matches: only the certain ones count.
        same, different: what persons decided; both hold whatever the matches say.

    Returns:
        For each picture the one kept of its group: itself when it is kept or alone.
    """
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    called_same: defaultdict[int, list[int]] = defaultdict(list)
    forbidden: defaultdict[int, set[int]] = defaultdict(set)
    for table, pairs in (
        (neighbours, ((match.first, match.second) for match in matches if not match.needs_review)),
        (called_same, same),
    ):
        for first, second in pairs:
            table[first].append(second)
            table[second].append(first)
    for first, second in different:
        forbidden[first].add(second)
        forbidden[second].add(first)
    keeper_of = [-1] * count
    for keeper in range(count):
        if keeper_of[keeper] >= 0:
            continue
        keeper_of[keeper] = keeper
        group = [keeper]
        banned = set(forbidden[keeper]) if keeper in forbidden else set()
        matching = sorted(neighbours.get(keeper, ()), reverse=True)
        # a person's word reaches further than the kept copy: it cannot join strangers by small steps
        called = sorted(called_same.get(keeper, ()), reverse=True)
        while called or matching:
            other = called.pop() if called else matching.pop()
            if keeper_of[other] >= 0 or other in banned:
                continue
            keeper_of[other] = keeper
            group.append(other)
            banned |= forbidden.get(other, set())
            called += sorted(called_same.get(other, ()), reverse=True)
    return keeper_of


def pairs_to_review(
    keeper_of: Sequence[int], matches: Iterable[MatchedPair], different: Iterable[Pair]
) -> list[MatchedPair]:
    """What a person should look at, the most likely first.

    One question for each group at a time, about its likeliest match with a worthier group: whatever the answer, most of
    the other matches between the two are answered with it.
    """
    answered = {_ordered(keeper_of[first], keeper_of[second]) for first, second in different}
    best: dict[int, MatchedPair] = {}
    for match in sorted(matches):
        pair = _ordered(keeper_of[match.first], keeper_of[match.second])
        if pair[0] != pair[1] and pair not in answered:
            best.setdefault(pair[1], match)
    return sorted(best.values())


def members_by_keeper(keeper_of: Sequence[int]) -> Mapping[int, list[int]]:
    """The kept picture of each group to all of its pictures, itself first. Pictures alone are groups, too."""
    groups: dict[int, list[int]] = {}
    for number, keeper in enumerate(keeper_of):
        groups.setdefault(keeper, []).append(number)
    return groups


def _ordered(first: int, second: int) -> Pair:
    return (first, second) if first <= second else (second, first)
