# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From matching pairs to groups of duplicates, and to the pairs that need review.

A group is a star: every member matches the keeper itself, so that a chain of small steps never joins different
pictures. The matches that this leaves out, between members of different groups, need review as well.

Pictures are numbers here, in the order in which they are worth keeping, so that the result depends on the pictures
alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Pair = tuple[int, int]


class MatchedPair(NamedTuple):
    """Two pictures that match, `first` < `second`; confirmed pairs sort first, then the nearest."""

    needs_review: bool
    distance: int
    first: int
    second: int


class KeeperGroups:
    """Groups of pictures 0 to `count` - 1, which grow keeper by keeper in the order of their rank.

    Args:
        same, different: decisions of people, which hold whatever the matches say.

    Attributes:
        keeper_of: for each picture the keeper of its group; -1 where that is not known yet.
    """

    def __init__(self, count: int, same: Iterable[Pair], different: Iterable[Pair]) -> None:
        self.keeper_of = [-1] * count
        self._same = _both_ways(same)
        self._different = _both_ways(different)

    def join(self, keeper: int, matching: Iterable[int]) -> list[int]:
        """Make a picture the keeper of those that match it, are decided to be the same, and have no keeper yet.

        Returns:
            The pictures that joined it.
        """
        self.keeper_of[keeper] = keeper
        members: list[int] = []
        excluded = set(self._different.get(keeper, ()))
        remaining = sorted(matching, reverse=True)
        # decisions also join pictures that do not match the keeper: a person does not join different pictures
        decided = sorted(self._same.get(keeper, ()), reverse=True)
        while decided or remaining:
            other = decided.pop() if decided else remaining.pop()
            if self.keeper_of[other] >= 0 or other in excluded:
                continue
            self.keeper_of[other] = keeper
            members.append(other)
            excluded.update(self._different.get(other, ()))
            decided += sorted(self._same.get(other, ()), reverse=True)
        return members


def group_by_keeper(
    count: int, matches: Sequence[MatchedPair], same: Iterable[Pair], different: Iterable[Pair]
) -> list[int]:
    """Group pictures 0 to `count` - 1.

    Args:
        matches: only confirmed ones are used.
        same, different: decisions of people, which hold whatever the matches say.

    Returns:
        For each picture the keeper of its group: itself when it is the keeper or alone.
    """
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for match in matches:
        if not match.needs_review:
            neighbours[match.first].append(match.second)
    groups = KeeperGroups(count, same, different)
    for keeper in range(count):
        if groups.keeper_of[keeper] < 0:
            groups.join(keeper, neighbours.get(keeper, ()))
    return groups.keeper_of


def pairs_to_review(
    keeper_of: Sequence[int], matches: Iterable[MatchedPair], different: Iterable[Pair]
) -> list[MatchedPair]:
    """The pairs that need review, the most likely first.

    There is one pair for each group at a time, its likeliest match with a group that ranks higher: whatever the
    decision, it decides most of the other matches between the two.
    """
    decided = {_ordered(keeper_of[first], keeper_of[second]) for first, second in different}
    best: dict[int, MatchedPair] = {}
    for match in sorted(matches):
        pair = _ordered(keeper_of[match.first], keeper_of[match.second])
        if pair[0] != pair[1] and pair not in decided:
            best.setdefault(pair[1], match)
    return sorted(best.values())


def members_by_keeper(keeper_of: Sequence[int]) -> Mapping[int, list[int]]:
    """The keeper of each group to all of its pictures, itself first. A picture alone is a group, too."""
    groups: dict[int, list[int]] = {}
    for number, keeper in enumerate(keeper_of):
        groups.setdefault(keeper, []).append(number)
    return groups


def _ordered(first: int, second: int) -> Pair:
    return (first, second) if first <= second else (second, first)


def _both_ways(pairs: Iterable[Pair]) -> Mapping[int, list[int]]:
    others: defaultdict[int, list[int]] = defaultdict(list)
    for first, second in pairs:
        others[first].append(second)
        others[second].append(first)
    return others
