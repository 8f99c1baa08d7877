# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which candidate pairs have to be verified, and in which order, to give the groups that all verdicts would give.

A group is a star (see `_groups.py`), so a picture that has joined a keeper needs no verdict with any other one: of n
copies of one picture, n - 1 pairs are verified in place of n (n - 1) / 2. The keepers of one connected component are
taken in the order of their rank, each with all pictures that have no keeper yet; components do not wait for each other.

Pictures are numbers here, in the order in which they are worth keeping.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._groups import KeeperGroups, Pair

PENDING: Final = 0
SAME: Final = 1
DIFFERENT: Final = 2
UNAVAILABLE: Final = 3
"""The pair could not be loaded."""
_SUPERFLUOUS: Final = 4
"""One of the two has joined another keeper, or a person has decided."""

_Positions = NDArray[numpy.int64]


@dataclass
class _Component:
    """Connected pictures: those whose star is not known yet, and the star whose verdicts are awaited."""

    positions: deque[int]
    keeper: int = -1
    awaited: int = 0


class VerificationPlan:
    """The pairs to verify, one by one. Not thread-safe.

    Args:
        count: number of pictures.
        first, second: the candidate pairs, shapes (n,), `first` < `second`.
        states: PENDING, SAME, DIFFERENT or UNAVAILABLE for each, shape (n,).
        same, different: the pairs that people have decided.
    """

    def __init__(
        self,
        count: int,
        first: _Positions,
        second: _Positions,
        states: NDArray[numpy.uint8],
        same: Collection[Pair] = (),
        different: Collection[Pair] = (),
    ) -> None:
        order = numpy.lexsort((second, first))
        self._first, self._second = first[order], second[order]
        self._order, self._rank_of = order, numpy.argsort(order)
        self._states = states[order].copy()
        if decided := [one << 32 | other for one, other in (*same, *different)]:
            self._states[numpy.isin(self._first << 32 | self._second, decided)] = _SUPERFLUOUS
        bounds = numpy.arange(count + 1)
        self._starts = numpy.searchsorted(self._first, bounds)
        self._by_second = numpy.argsort(self._second, kind="stable")
        self._second_starts = numpy.searchsorted(self._second[self._by_second], bounds)
        self._groups = KeeperGroups(count, same, different)
        self._ready: deque[int] = deque()
        self._component_of: dict[int, _Component] = {}
        self.left = int(numpy.isin(self._states, (PENDING, UNAVAILABLE)).sum())
        """Pairs without a verdict that may still need one."""
        self._unavailable = int((self._states == UNAVAILABLE).sum())
        for component in self._components(count, same):
            self._advance(component)

    @property
    def pending(self) -> int:
        """Pairs that may still have to be verified, and were not tried."""
        return self.left - self._unavailable

    @property
    def keeper_of(self) -> list[int]:
        """For each picture the keeper of its group, as of the verdicts so far; -1 where that is not known yet."""
        return self._groups.keeper_of

    def next_pair(self) -> int | None:
        """The index, in the arguments, of a pair to verify; None when there is none before others are resolved."""
        return int(self._order[self._ready.popleft()]) if self._ready else None

    def resolve(self, index: int, same: bool | None) -> None:
        """Note the verdict on a pair that `next_pair` returned; None when it could not be loaded."""
        pair = int(self._rank_of[index])
        self._states[pair] = UNAVAILABLE if same is None else SAME if same else DIFFERENT
        self.left -= same is not None
        self._unavailable += same is None
        component = self._component_of[int(self._first[pair])]
        component.awaited -= 1
        if not component.awaited:
            self._join(component.keeper)
            self._advance(component)

    def _components(self, count: int, same: Collection[Pair]) -> list[_Component]:
        """The pictures that candidate pairs and decisions connect, each component by rank."""
        decided = numpy.array([*same], numpy.int64).reshape(-1, 2)
        connected = self._states != _SUPERFLUOUS
        one = numpy.concatenate([self._first[connected], decided[:, 0]])
        other = numpy.concatenate([self._second[connected], decided[:, 1]])
        labels = numpy.arange(count)
        while (labels[one] != labels[other]).any():
            least = numpy.minimum(labels[one], labels[other])
            for ends in (one, other):
                numpy.minimum.at(labels, labels[ends], least)
                numpy.minimum.at(labels, ends, least)
            labels = labels[labels]
        components: dict[int, _Component] = {}
        for position in numpy.unique(numpy.concatenate([one, other])).tolist():
            component = components.setdefault(int(labels[position]), _Component(deque()))
            component.positions.append(position)
            self._component_of[position] = component
        return [*components.values()]

    def _advance(self, component: _Component) -> None:
        """Take stars whose verdicts are all known, until one is to be verified."""
        while component.positions:
            keeper = component.positions.popleft()
            if self._groups.keeper_of[keeper] >= 0:
                continue
            start, end = self._starts[keeper], self._starts[keeper + 1]
            pending = start + numpy.flatnonzero(self._states[start:end] == PENDING)
            if len(pending):
                component.keeper, component.awaited = keeper, len(pending)
                self._ready.extend(pending.tolist())
                return
            self._join(keeper)

    def _join(self, keeper: int) -> None:
        star = slice(self._starts[keeper], self._starts[keeper + 1])
        confirmed = self._second[star][self._states[star] == SAME]
        for member in self._groups.join(keeper, confirmed.tolist()):
            self._drop(numpy.arange(self._starts[member], self._starts[member + 1]))
            self._drop(self._by_second[self._second_starts[member] : self._second_starts[member + 1]])

    def _drop(self, pairs: NDArray[Any]) -> None:
        """Leave out the pairs of a picture that has a keeper."""
        without = pairs[numpy.isin(self._states[pairs], (PENDING, UNAVAILABLE))]
        self._unavailable -= int((self._states[without] == UNAVAILABLE).sum())
        self._states[without] = _SUPERFLUOUS
        self.left -= len(without)
