# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The duplicates of an index as groups, and the questions that are left for a person."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import Final

import numpy
from numpy.typing import NDArray

from mobius.dhash._candidates import CandidateIndex, CandidatePairs
from mobius.dhash._database import Database
from mobius.dhash._decisions import Decision, DecisionKind, decisions, pair_id, pair_of
from mobius.dhash._groups import MatchedPair, Pair, group_by_keeper, members_by_keeper, pairs_to_review
from mobius.dhash._picture import Confidence, KeeperRank, Picture, iterate_pictures, pictures_by_id
from mobius.dhash._reranking import CANDIDATE, cosine_similarity
from mobius.dhash._verifier import pair_keys, verified_keys


@dataclass(frozen=True)
class Member:
    """A duplicate of a group's kept picture, which it matches itself or was called the same as.

    Attributes:
        distance: of the two hashes, of 128 bits; 0 when the bytes are the same.
        pair: names the two for `decide`; None when the bytes are the same, as there is nothing to decide then.
    """

    picture: Picture
    distance: int
    confidence: Confidence
    pair: str | None


@dataclass(frozen=True)
class Group:
    """Duplicates, and the copy worth keeping among them (`Picture.worth` says which that is)."""

    keeper: Picture
    others: tuple[Member, ...]


@dataclass(frozen=True)
class ReviewPair:
    """Two pictures that a person should look at; `first` is the one more worth keeping.

    Attributes:
        id: names the two, in every index.
        distance: of their hashes, of 128 bits.
        score: how alike the second look finds them, at most 1; None when one of them has no look yet.
    """

    id: str
    first: Picture
    second: Picture
    distance: int
    score: float | None


@dataclass(frozen=True)
class _Grouping:
    """The answers as of one moment, as picture ids; in groups the one worth keeping comes first."""

    version: int
    groups: list[list[int]]
    questions: list[tuple[int, str, int, int]]
    """Distance and id of the pair, by which they are sorted, then the two pictures."""


class Duplicates:
    """Worked out anew only when the index has changed. Any thread may call."""

    def __init__(self, database: Database, matches: CandidateIndex) -> None:
        self._database = database
        self._candidates = matches
        self._working = threading.Lock()
        self._known: _Grouping | None = None

    def groups(self) -> list[Group]:
        """Every group of at least two, the same on every run."""
        now = self._now()
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, (number for group in now.groups for number in group))
        found = []
        for numbers in now.groups:
            # what another process removed a moment ago is not there
            group = [picture for number in numbers for picture in pictures.get(number, ())]
            if len(group) > 1:
                found.append(Group(group[0], tuple(_member(group[0], other) for other in group[1:])))
        return found

    def questions(self, after: str | None, limit: int) -> list[ReviewPair]:
        """Up to `limit` questions, the nearest pairs first, from behind the pair `after`."""
        asked = self._now().questions
        if after is not None:
            start = self._position_of(after)
            asked = [question for question in asked if question[:2] > start]
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, {number for question in asked[:limit] for number in question[2:]})
        return [
            ReviewPair(
                identity,
                pictures[first][0],
                pictures[second][0],
                distance,
                _score(pictures[first][0], pictures[second][0]),
            )
            for distance, identity, first, second in asked[:limit]
            if first in pictures and second in pictures
        ]

    def counts(self) -> tuple[int, int]:
        """How many groups and how many questions there are."""
        now = self._now()
        return len(now.groups), len(now.questions)

    def _position_of(self, identity: str) -> tuple[int, str]:
        """Where a pair stands among the questions, also when it is decided by now."""
        pair = pair_of(self._database, identity)
        with self._database.reading() as connection:
            found = [
                next((picture for _, picture in iterate_pictures(connection, "sha256=?", (digest,))), None)
                for digest in pair
            ]
        if found[0] is None or found[1] is None:
            return -1, ""  # one is gone: begin again
        return found[0].dhash.distance(found[1].dhash), identity

    def _now(self) -> _Grouping:
        with self._working:
            version = self._database.version()
            if self._known is None or self._known.version != version:
                self._known = self._compute(version)
            return self._known

    def _compute(self, version: int) -> _Grouping:
        candidates = self._candidates.pairs()
        recorded = decisions(self._database)
        with self._database.reading() as connection:
            ids = _ids(connection, {digest for decision in recorded for digest in (decision.first, decision.second)})
            verified = numpy.isin(pair_keys(candidates.first, candidates.second), verified_keys(connection))
            with_copies = {row[0] for row in connection.execute(_WITH_COPIES)}
            paired = {*candidates.first.tolist(), *candidates.second.tolist()}
            ranks = _keeper_ranks(connection, {*with_copies, *ids.values(), *paired})
        ordered = sorted(ranks, key=lambda number: ranks[number])
        position = {number: index for index, number in enumerate(ordered)}
        decided = _decided_pairs(recorded, ids, position)
        confirmed = (candidates.verdict == CANDIDATE) & verified
        matches = _matched_pairs(candidates, confirmed, position, decided["same"] | decided["different"])
        keeper_of = group_by_keeper(len(ordered), matches, decided["same"], decided["different"])
        questions = []
        for match in pairs_to_review(keeper_of, matches, decided["different"]):
            first, second = ordered[match.first], ordered[match.second]
            questions.append((match.distance, pair_id(ranks[first][-1], ranks[second][-1]), first, second))
        groups = ([ordered[index] for index in group] for group in members_by_keeper(keeper_of).values())
        several = [group for group in groups if len(group) > 1 or group[0] in with_copies]
        return _Grouping(version, several, sorted(questions))


def _decided_pairs(
    recorded: list[Decision], ids: dict[str, int], position: dict[int, int]
) -> dict[DecisionKind, set[Pair]]:
    """The pairs decided to be the same and different, by position."""
    decided: dict[DecisionKind, set[Pair]] = {"same": set(), "different": set()}
    for decision in recorded:
        first, second = (position.get(ids.get(digest, 0), -1) for digest in (decision.first, decision.second))
        if first >= 0 and second >= 0:
            decided[decision.decision].add((min(first, second), max(first, second)))
    return decided


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


def _ids(connection: sqlite3.Connection, digests: set[str]) -> dict[str, int]:
    """SHA-256 to picture id, of those that the index has."""
    return dict(
        connection.execute(
            "SELECT sha256, id FROM pictures WHERE sha256 IN (SELECT value FROM json_each(?))",
            (json.dumps([*digests]),),
        ).fetchall()
    )


def _keeper_ranks(connection: sqlite3.Connection, ids: set[int]) -> dict[int, KeeperRank]:
    """Picture id to `Picture.worth` at its best place, without making pictures of all the rows."""
    found: dict[int, KeeperRank] = {}
    for number, digest, warnings, pixels, mtime_ns, path in connection.execute(
        "SELECT id, sha256, warnings, width * height, mtime_ns, path FROM pictures LEFT JOIN files ON picture=id"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([*ids]),),
    ):
        keeper_rank = (path is None, bool(warnings), -pixels, mtime_ns or 0, path or b"", digest)
        found[number] = min(found.get(number, keeper_rank), keeper_rank)
    return found


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
