# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Search an index for pictures like one: near hashes, re-ranked by descriptors, the best verified on pixels."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy
from numpy.typing import NDArray

from mobius.dhash._candidates import CandidateIndex, classify_candidates, read_descriptors
from mobius.dhash._database import Database
from mobius.dhash._descriptor import DESCRIPTOR_BYTES, transform_descriptor
from mobius.dhash._fingerprint import Dhash, Fingerprint, Transform
from mobius.dhash._picture import Confidence, Picture, pictures_by_id
from mobius.dhash._reranking import CANDIDATE, DEFAULT_THRESHOLDS, NEEDS_REVIEW, NO_MATCH
from mobius.dhash._search import Neighbours
from mobius.dhash._verification import DETAIL_MAX_SIDE_PX, MemoryBudget, verify
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX, VerificationImage
from mobius.dhash._verifier import CandidateVerifier, verdicts_for, verify_or_none
from mobius.errors import MobiusError

_MIN_NEIGHBOURS: Final = 1000
"""Near hashes of each transform of the query that a search re-ranks, at least, if there are so many."""

_MAX_NEIGHBOURS: Final = 10_000
"""Near hashes that a search re-ranks at most, the nearest of all transforms."""

VERIFIED_PER_SEARCH: Final = 8
"""Of the candidates of a search, the nearest so many are verified while it waits."""


@dataclass(frozen=True)
class SearchMatch:
    """A picture of the index like the query: `distance` in bits of 128, once the query is turned by `transform`."""

    picture: Picture
    distance: int
    transform: Transform
    confidence: Confidence


class _Hits(NamedTuple):
    """Near hashes, shapes (n,): which transform of the query, picture id, differing bits, verdict of re-ranking."""

    transform: NDArray[numpy.int64]
    picture: NDArray[numpy.int64]
    distance: NDArray[numpy.uint8]
    verdict: NDArray[numpy.uint8]


class _BestHit(NamedTuple):
    confirmed: bool
    distance: int
    transform: Transform


class PictureSearch:
    """One search, in two steps: `nominate`, then `finish`. The arguments are those of `Library.search`.

    Raises:
        MobiusError: mirrored copies of a mere hash were requested.
    """

    def __init__(
        self,
        database: Database,
        candidates: CandidateIndex,
        verifier: CandidateVerifier,
        query: Fingerprint | Dhash,
        *,
        transforms: bool,
        load_query: Callable[[int], VerificationImage | None] | None,
        max_pixels: int,
        memory_budget: MemoryBudget | None,
        verify_seconds: float | None = None,
    ) -> None:
        if transforms and isinstance(query, Dhash):
            raise MobiusError("invalid_input", "Mirrored and rotated copies are found by a picture, not by a hash.")
        self._database = database
        self._candidates = candidates
        self._verifier = verifier
        self._load_query = load_query and functools.cache(load_query)
        self._max_pixels = max_pixels
        self._memory_budget = memory_budget
        self._verify_seconds = verify_seconds
        self._sha256 = None if isinstance(query, Dhash) else query.sha256
        self._descriptor = None if isinstance(query, Dhash) else query.descriptor
        self._hashes: dict[Transform, Dhash] = {"none": query if isinstance(query, Dhash) else query.dhash}
        if transforms and isinstance(query, Fingerprint):
            self._hashes = query.transforms()
        self._transforms: list[Transform] = [*self._hashes]

    def nominate(self, max_distance: int | None, limit: int) -> None:
        """Compare hashes and descriptors: the first step, which opens no picture."""
        radius = DEFAULT_THRESHOLDS.radius if max_distance is None else max_distance
        # re-ranking drops none of those that were asked for by their distance
        wanted = 20 * limit if max_distance is None else limit
        hits, self._known = self._rerank(self._near_hashes(radius, max(_MIN_NEIGHBOURS, wanted)))
        if max_distance is not None or self._descriptor is None:
            hits = hits._replace(verdict=numpy.maximum(hits.verdict, NEEDS_REVIEW))
        self._hits, self._limit = hits, limit

    @property
    def needs_pixels(self) -> bool:
        """Whether `finish` opens pictures: there are candidates without a verdict."""
        return self._load_query is not None and any(
            not self._has_verdict(index) for index in numpy.flatnonzero(self._hits.verdict == CANDIDATE).tolist()
        )

    def finish(self) -> list[SearchMatch]:
        """Verify the nearest candidates, and return the matches: confident ones first, then the nearest."""
        return self._matches(self._best(self._hits, self._confirm(self._hits), self._limit))

    def _near_hashes(self, radius: int, limit: int) -> Neighbours:
        words = numpy.array([(dhash.rows, dhash.columns) for dhash in self._hashes.values()], numpy.uint64)
        near = self._candidates.hashes().search(words, radius, limit=min(limit, _MAX_NEIGHBOURS))
        nearest = numpy.argsort(near.distance, kind="stable")[:_MAX_NEIGHBOURS]
        return Neighbours(near.query[nearest], near.key[nearest], near.distance[nearest])

    def _rerank(self, near: Neighbours) -> tuple[_Hits, dict[int, bool]]:
        """Near hashes with their verdicts, and what the index knows of the query's pixels by picture id."""
        with self._database.reading() as connection:
            stored = read_descriptors(connection, set(near.key.tolist()))
            known = {} if self._sha256 is None else verdicts_for(connection, self._sha256)
        # another process may have removed a picture a moment ago
        present = numpy.isin(near.key, stored.ids)
        transform, picture, distance = near.query[present], near.key[present], near.distance[present]
        index = numpy.searchsorted(stored.ids, picture)
        has_both = stored.there[index] & (self._descriptor is not None)
        queries = self._query_descriptors()
        verdict = classify_candidates(distance, queries[transform], stored.descriptors[index], has_both)
        return _Hits(transform, picture, distance, verdict), known

    def _query_descriptors(self) -> NDArray[numpy.uint8]:
        """The query's descriptor under each transform, shape (transforms, DESCRIPTOR_BYTES); zeros when it has none."""
        if self._descriptor is None:
            return numpy.zeros((len(self._transforms), DESCRIPTOR_BYTES), numpy.uint8)
        turned = [transform_descriptor(self._descriptor, name) for name in self._transforms]
        return numpy.frombuffer(b"".join(turned), numpy.uint8).reshape(-1, DESCRIPTOR_BYTES)

    def _has_verdict(self, index: int) -> bool:
        is_upright = self._transforms[self._hits.transform[index]] == "none"
        return is_upright and int(self._hits.picture[index]) in self._known

    def _confirm(self, hits: _Hits) -> NDArray[numpy.bool_]:
        """Which hits are verified to be the query: by stored verdicts, else by comparing the nearest, shape (n,)."""
        confirmed = numpy.zeros(len(hits.picture), numpy.bool_)
        left = 0 if self._load_query is None else VERIFIED_PER_SEARCH
        deadline = math.inf if self._verify_seconds is None else time.monotonic() + self._verify_seconds
        nearest = numpy.lexsort((hits.transform, hits.distance))
        for index in nearest[hits.verdict[nearest] == CANDIDATE].tolist():
            picture, transform = int(hits.picture[index]), self._transforms[hits.transform[index]]
            if self._has_verdict(index):
                confirmed[index] = self._known[picture]
            elif left and time.monotonic() < deadline:
                left -= 1
                confirmed[index] = bool(verify_or_none(functools.partial(self._verify, picture, transform), picture))
        return confirmed

    def _verify(self, picture: int, transform: Transform) -> bool | None:
        def load(side: int) -> tuple[VerificationImage | None, VerificationImage | None]:
            query = None if self._load_query is None else self._load_query(side)
            if query is None:
                return None, None
            stored = self._verifier.load_image(
                picture, side, max_pixels=self._max_pixels, memory_budget=self._memory_budget
            )
            return query.transformed(transform), stored

        return verify(*load(OVERVIEW_SIDE_PX), functools.partial(load, DETAIL_MAX_SIDE_PX), self._memory_budget)

    def _best(self, hits: _Hits, confirmed: NDArray[numpy.bool_], limit: int) -> dict[int, _BestHit]:
        """Picture id to its best hit: a confirmed one, else the nearest; of at most `limit` pictures."""
        best: dict[int, _BestHit] = {}
        for index in numpy.lexsort((hits.transform, hits.distance, ~confirmed)):
            if len(best) == limit:
                break
            if hits.verdict[index] != NO_MATCH:
                transform = self._transforms[hits.transform[index]]
                hit = _BestHit(bool(confirmed[index]), int(hits.distance[index]), transform)
                best.setdefault(int(hits.picture[index]), hit)
        return best

    def _matches(self, best: dict[int, _BestHit]) -> list[SearchMatch]:
        with self._database.reading() as connection:
            pictures = pictures_by_id(connection, best)
        matches = []
        for number, hit in best.items():
            # another process may have removed the picture meanwhile
            for picture in pictures.get(number, ())[:1]:
                if picture.sha256 == self._sha256:
                    hit = _BestHit(True, 0, self._transforms[0])
                confidence: Confidence = "confident" if hit.confirmed else "doubtful"
                matches.append(SearchMatch(picture, hit.distance, hit.transform, confidence))
        return sorted(matches, key=lambda match: (match.confidence, match.distance, match.picture.keeper_rank))
