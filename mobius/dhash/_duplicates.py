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

from mobius.dhash._candidates import Matches
from mobius.dhash._database import Database
from mobius.dhash._decisions import decisions, pair_id, pair_of
from mobius.dhash._groups import Match, members, questions, star
from mobius.dhash._picture import Confidence, Picture, Worth, one_of_each, places
from mobius.dhash._reranking import NOMINATED, similarity
from mobius.dhash._verifier import keys, proven


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

    kept: Picture
    others: tuple[Member, ...]


@dataclass(frozen=True)
class Doubtful:
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
class _Now:
    """The answers as of one moment, as picture ids; in groups the one worth keeping comes first."""

    version: int
    groups: list[list[int]]
    questions: list[tuple[int, str, int, int]]
    """Distance and id of the pair, by which they are sorted, then the two pictures."""


class Duplicates:
    """Worked out anew only when the index has changed. Any thread may call."""

    def __init__(self, database: Database, matches: Matches) -> None:
        self._database = database
        self._matches = matches
        self._working = threading.Lock()
        self._known: _Now | None = None

    def groups(self) -> list[Group]:
        """Every group of at least two, the same on every run."""
        now = self._now()
        with self._database.reading() as connection:
            pictures = places(connection, (number for group in now.groups for number in group))
        found = []
        for numbers in now.groups:
            # what another process removed a moment ago is not there
            group = [picture for number in numbers for picture in pictures.get(number, ())]
            if len(group) > 1:
                found.append(Group(group[0], tuple(_member(group[0], other) for other in group[1:])))
        return found

    def questions(self, after: str | None, limit: int) -> list[Doubtful]:
        """Up to `limit` questions, the nearest pairs first, from behind the pair `after`."""
        asked = self._now().questions
        if after is not None:
            start = self._place(after)
            asked = [question for question in asked if question[:2] > start]
        with self._database.reading() as connection:
            pictures = places(connection, {number for question in asked[:limit] for number in question[2:]})
        return [
            Doubtful(
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

    def _place(self, identity: str) -> tuple[int, str]:
        """Where a pair stands among the questions, also when it is decided by now."""
        pair = pair_of(self._database, identity)
        with self._database.reading() as connection:
            found = [
                next((picture for _, picture in one_of_each(connection, "sha256=?", (digest,))), None)
                for digest in pair
            ]
        if found[0] is None or found[1] is None:
            return -1, ""  # one is gone: begin again
        return found[0].dhash.distance(found[1].dhash), identity

    def _now(self) -> _Now:
        with self._working:
            version = self._database.version()
            if self._known is None or self._known.version != version:
                self._known = self._work(version)
            return self._known

    def _work(self, version: int) -> _Now:
        edges = self._matches.edges()
        said = decisions(self._database)
        with self._database.reading() as connection:
            decided = _ids(connection, {digest for decision in said for digest in (decision.first, decision.second)})
            certain = (edges.verdict == NOMINATED) & numpy.isin(keys(edges.first, edges.second), proven(connection))
            several = {row[0] for row in connection.execute(_WITH_COPIES)}
            worth = _worth(connection, {*several, *decided.values(), *edges.first.tolist(), *edges.second.tolist()})
        ordered = sorted(worth, key=lambda number: worth[number])
        rank = {number: place for place, number in enumerate(ordered)}
        pairs: dict[str, set[tuple[int, int]]] = {"same": set(), "different": set()}
        for decision in said:
            first, second = (rank.get(decided.get(digest, 0), -1) for digest in (decision.first, decision.second))
            if first >= 0 and second >= 0:
                pairs[decision.decision].add((min(first, second), max(first, second)))
        closed = pairs["same"] | pairs["different"]
        matches = []
        for one, other, distance, sure in zip(
            edges.first.tolist(), edges.second.tolist(), edges.distance.tolist(), certain.tolist(), strict=True
        ):
            if one in rank and other in rank:
                first, second = min(rank[one], rank[other]), max(rank[one], rank[other])
                if (first, second) not in closed:
                    matches.append(Match(not sure, distance, first, second))
        owner = star(len(ordered), matches, pairs["same"], pairs["different"])
        asked = []
        for match in questions(owner, matches, pairs["different"]):
            first, second = ordered[match.first], ordered[match.second]
            asked.append((match.distance, pair_id(worth[first][-1], worth[second][-1]), first, second))
        groups = ([ordered[place] for place in group] for group in members(owner).values())
        return _Now(version, [group for group in groups if len(group) > 1 or group[0] in several], sorted(asked))


_WITH_COPIES: Final = (
    "SELECT picture FROM files JOIN pictures ON id=picture WHERE NOT quarantined GROUP BY picture HAVING count(*) > 1"
)


def _ids(connection: sqlite3.Connection, digests: set[str]) -> dict[str, int]:
    """SHA-256 to picture id, of those that the index has."""
    return dict(
        connection.execute(
            "SELECT sha256, id FROM pictures WHERE sha256 IN (SELECT value FROM json_each(?))",
            (json.dumps([*digests]),),
        ).fetchall()
    )


def _worth(connection: sqlite3.Connection, ids: set[int]) -> dict[int, Worth]:
    """Picture id to `Picture.worth` at its best place, without making pictures of all the rows."""
    found: dict[int, Worth] = {}
    for number, digest, warnings, pixels, mtime_ns, path in connection.execute(
        "SELECT id, sha256, warnings, width * height, mtime_ns, path FROM pictures LEFT JOIN files ON picture=id"
        " WHERE NOT quarantined AND id IN (SELECT value FROM json_each(?))",
        (json.dumps([*ids]),),
    ):
        worth = (path is None, bool(warnings), -pixels, mtime_ns or 0, path or b"", digest)
        found[number] = min(found.get(number, worth), worth)
    return found


def _member(kept: Picture, other: Picture) -> Member:
    same = kept.sha256 == other.sha256
    return Member(
        other, kept.dhash.distance(other.dhash), "confident", None if same else pair_id(kept.sha256, other.sha256)
    )


def _score(first: Picture, second: Picture) -> float | None:
    if first.look is None or second.look is None:
        return None
    one, other = (numpy.frombuffer(picture.look or b"", numpy.uint8)[None, :] for picture in (first, second))
    return round(float(similarity(one, other)[0]), 4)
