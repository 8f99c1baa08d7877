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


class Match(NamedTuple):
    """Two pictures that match, `first` < `second`; the more likely match sorts first."""

    doubtful: bool
    distance: int
    first: int
    second: int


def star(count: int, matches: Sequence[Match], same: Iterable[Pair], different: Iterable[Pair]) -> list[int]:
    """Group pictures 0 to `count` - 1.

    Args:
        matches: only the certain ones count.
        same, different: what persons decided; both hold whatever the matches say.

    Returns:
        For each picture the one kept of its group: itself when it is kept or alone.
    """
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    called_same: defaultdict[int, list[int]] = defaultdict(list)
    apart: defaultdict[int, set[int]] = defaultdict(set)
    for table, pairs in (
        (neighbours, ((match.first, match.second) for match in matches if not match.doubtful)),
        (called_same, same),
    ):
        for first, second in pairs:
            table[first].append(second)
            table[second].append(first)
    for first, second in different:
        apart[first].add(second)
        apart[second].add(first)
    owner = [-1] * count
    for kept in range(count):
        if owner[kept] >= 0:
            continue
        owner[kept] = kept
        group = [kept]
        banned = set(apart[kept]) if kept in apart else set()
        asked = sorted(neighbours.get(kept, ()), reverse=True)
        # a person's word reaches further than the kept copy: it cannot join strangers by small steps
        reached = sorted(called_same.get(kept, ()), reverse=True)
        while reached or asked:
            other = reached.pop() if reached else asked.pop()
            if owner[other] >= 0 or other in banned:
                continue
            owner[other] = kept
            group.append(other)
            banned |= apart.get(other, set())
            reached += sorted(called_same.get(other, ()), reverse=True)
    return owner


def questions(owner: Sequence[int], matches: Iterable[Match], different: Iterable[Pair]) -> list[Match]:
    """What a person should look at, the most likely first.

    One question for each group at a time, about its likeliest match with a worthier group: whatever the answer, most of
    the other matches between the two are answered with it.
    """
    answered = {_ordered(owner[first], owner[second]) for first, second in different}
    best: dict[int, Match] = {}
    for match in sorted(matches):
        pair = _ordered(owner[match.first], owner[match.second])
        if pair[0] != pair[1] and pair not in answered:
            best.setdefault(pair[1], match)
    return sorted(best.values())


def members(owner: Sequence[int]) -> Mapping[int, list[int]]:
    """The kept picture of each group to all of its pictures, itself first. Pictures alone are groups, too."""
    groups: dict[int, list[int]] = {}
    for number, kept in enumerate(owner):
        groups.setdefault(kept, []).append(number)
    return groups


def _ordered(first: int, second: int) -> Pair:
    return (first, second) if first <= second else (second, first)
