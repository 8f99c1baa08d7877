# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The duplicates of an index as groups, and the pairs that need review."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass
from typing import Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._candidates import CandidateIndex, CandidatePairs
from mobius.dhash._database import Database
from mobius.dhash._decisions import decided_pairs, decisions, pair_id, pair_of
from mobius.dhash._groups import MatchedPair, Pair, group_by_keeper, members_by_keeper, pairs_to_review
from mobius.dhash._picture import (
    Confidence,
    Picture,
    iterate_pictures,
    picture_ids,
    pictures_by_id,
    read_keeper_ranks,
)
from mobius.dhash._reranking import CANDIDATE, cosine_similarity
from mobius.dhash._verifier import pair_keys, verified_keys


@dataclass(frozen=True)
class Member:
    """A duplicate of a group's keeper, which it matches itself or was decided to be the same as.

    Attributes:
        distance: of the two hashes, of 128 bits; 0 when the bytes are the same.
        pair: the id of the two for `decide`; None when the bytes are the same, as there is nothing to decide.
    """

    picture: Picture
    distance: int
    confidence: Confidence
    pair: str | None


@dataclass(frozen=True)
class Group:
    """Duplicates, and the one to keep (by `Picture.keeper_rank`)."""

    keeper: Picture
    others: tuple[Member, ...]


@dataclass(frozen=True)
class ReviewPair:
    """Two pictures that a person should compare; `first` ranks higher as keeper.

    Attributes:
        id: of the pair, the same in every index.
        distance: of their hashes, of 128 bits.
        score: cosine of their descriptors, at most 1; None when one of them has no descriptor yet.
    """

    id: str
    first: Picture
    second: Picture
    distance: int
    score: float | None


@dataclass(frozen=True)
class _Grouping:
    """Groups and pairs to review as of one version of the index, as picture ids; the keeper of a group comes first."""

    version: int
    groups: list[list[int]]
    questions: list[tuple[int, str, int, int]]
    """Distance and id of the pair, by which they are sorted, then the two pictures."""
    by_digest: list[tuple[str, int]]
    """The SHA-256 of each group's keeper, by which they are sorted, and the index of its group."""


class Duplicates:
    """Groups and pairs to review, computed again only when the index has changed. Thread-safe."""

    def __init__(self, database: Database, candidates: CandidateIndex) -> None:
        self._database = database
        self._candidates = candidates
        self._lock = threading.Lock()
        self._computed: _Grouping | None = None

    def groups(self) -> list[Group]:
        """Every group of at least two, the same on every run."""
        return self._load(self._grouping().groups)

    def page(self, after: str, limit: int) -> list[Group]:
        """Up to `limit` groups by the SHA-256 of their keepers, those above `after`."""
        grouping = self._grouping()
        start = bisect.bisect_right(grouping.by_digest, (after, len(grouping.groups)))
        return self._load([grouping.groups[index] for _, index in grouping.by_digest[start : start + limit]])

    def _load(self, chosen: list[list[int]]) -> list[Group]:
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, (number for group in chosen for number in group))
        groups = []
        for numbers in chosen:
            # another process may have removed a picture a moment ago
            group = [picture for number in numbers for picture in pictures.get(number, ())]
            if len(group) > 1:
                groups.append(Group(group[0], tuple(_member(group[0], other) for other in group[1:])))
        return groups

    def questions(self, after: str | None, limit: int) -> list[ReviewPair]:
        """Up to `limit` pairs to review, the nearest first, after the pair `after`."""
        questions = self._grouping().questions
        if after is not None:
            start = self._position_of(after)
            questions = [question for question in questions if question[:2] > start]
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, {number for question in questions[:limit] for number in question[2:]})
        return [
            ReviewPair(
                identity,
                pictures[first][0],
                pictures[second][0],
                distance,
                _score(pictures[first][0], pictures[second][0]),
            )
            for distance, identity, first, second in questions[:limit]
            if first in pictures and second in pictures
        ]

    def counts(self) -> tuple[int, int]:
        """The number of groups and of pairs to review."""
        grouping = self._grouping()
        return len(grouping.groups), len(grouping.questions)

    def _position_of(self, identity: str) -> tuple[int, str]:
        """The position of a pair among those to review, also if it is decided by now."""
        pair = pair_of(self._database, identity)
        with self._database.reading() as connection:
            pictures = [
                next((picture for _, picture in iterate_pictures(connection, "sha256=?", (digest,))), None)
                for digest in pair
            ]
        if pictures[0] is None or pictures[1] is None:
            return -1, ""  # one is gone: start again
        return pictures[0].dhash.distance(pictures[1].dhash), identity

    def _grouping(self) -> _Grouping:
        with self._lock:
            version = self._database.version()
            if self._computed is None or self._computed.version != version:
                self._computed = self._compute(version)
            return self._computed

    def _compute(self, version: int) -> _Grouping:
        candidates = self._candidates.pairs()
        recorded = decisions(self._database)
        with self._database.reading() as connection:
            ids = picture_ids(
                connection, {digest for decision in recorded for digest in (decision.first, decision.second)}
            )
            verified = numpy.isin(pair_keys(candidates.first, candidates.second), verified_keys(connection))
            with_copies = {row[0] for row in connection.execute(_WITH_COPIES)}
            paired = {*candidates.first.tolist(), *candidates.second.tolist()}
            ranks = read_keeper_ranks(connection, {*with_copies, *ids.values(), *paired})
        ordered = sorted(ranks, key=lambda number: ranks[number])
        position = {number: index for index, number in enumerate(ordered)}
        decided = decided_pairs(recorded, ids, position)
        confirmed = (candidates.verdict == CANDIDATE) & verified
        matches = _matched_pairs(candidates, confirmed, position, decided["same"] | decided["different"])
        keeper_of = group_by_keeper(len(ordered), matches, decided["same"], decided["different"])
        questions = []
        for match in pairs_to_review(keeper_of, matches, decided["different"]):
            first, second = ordered[match.first], ordered[match.second]
            questions.append((match.distance, pair_id(ranks[first][-1], ranks[second][-1]), first, second))
        groups = ([ordered[index] for index in group] for group in members_by_keeper(keeper_of).values())
        several = [group for group in groups if len(group) > 1 or group[0] in with_copies]
        by_digest = sorted((ranks[group[0]][-1], index) for index, group in enumerate(several))
        return _Grouping(version, several, sorted(questions), by_digest)


def _matched_pairs(
    candidates: CandidatePairs, confirmed: NDArray[numpy.bool_], position: dict[int, int], decided: set[Pair]
) -> list[MatchedPair]:
    """The pairs that nobody has decided, by position."""
    matches = []
    for one, other, distance, sure in zip(
        candidates.first.tolist(), candidates.second.tolist(), candidates.distance.tolist(), confirmed.tolist(),
        strict=True,
    ):  # fmt: skip
        if one in position and other in position:
            first, second = sorted((position[one], position[other]))
            if (first, second) not in decided:
                matches.append(MatchedPair(not sure, distance, first, second))
    return matches


_WITH_COPIES: Final = "SELECT picture FROM files JOIN pictures ON id=picture GROUP BY picture HAVING count(*) > 1"


def _member(keeper: Picture, other: Picture) -> Member:
    same = keeper.sha256 == other.sha256
    return Member(
        other, keeper.dhash.distance(other.dhash), "confident", None if same else pair_id(keeper.sha256, other.sha256)
    )


def _score(first: Picture, second: Picture) -> float | None:
    if first.descriptor is None or second.descriptor is None:
        return None
    one, other = (numpy.frombuffer(picture.descriptor or b"", numpy.uint8)[None, :] for picture in (first, second))
    return round(float(cosine_similarity(one, other)[0]), 4)
