# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decisions of people about pairs of pictures: kept by SHA-256, so that they outlive scans and can be exported."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from mobius.dhash._database import Database
from mobius.errors import MobiusError

DecisionKind = Literal["same", "different"]

_SELECT: Final = "SELECT first, second, decision, decided_by, decided_at FROM decisions"
_PAIR: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})")


@dataclass(frozen=True)
class Decision:
    """A person's decision about two pictures, by SHA-256 (`first` < `second`); `at` is a time in UTC, ISO 8601.

    Attributes:
        replaced: what stood there before; only in the result of `decide`.
    """

    first: str
    second: str
    decision: DecisionKind
    by: str
    at: str
    replaced: Decision | None = None


def pair_id(first: str, second: str) -> str:
    """The id of a pair, from the two SHA-256; the same in every index."""
    return "-".join(sorted((first[:16], second[:16])))


def decide(database: Database, identity: str, decision: DecisionKind, by: str) -> Decision:
    """Record a decision; it replaces an earlier one.

    Raises:
        MobiusError: there is no such pair, or an argument is wrong.
    """
    if decision not in get_args(DecisionKind):
        raise MobiusError("invalid_input", f"A decision is same or different, not {decision[:40]!r}.")
    if not by.strip() or len(by) > 200 or not by.isprintable():
        raise MobiusError(
            "invalid_input", "A decision needs the name of the person who takes it, at most 200 characters."
        )
    first, second = pair_of(database, identity)
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    recorded = Decision(first, second, decision, by.strip(), at)
    with database.writing() as connection:
        row = connection.execute(f"{_SELECT} WHERE first=? AND second=?", (first, second)).fetchone()
        connection.execute(
            "INSERT OR REPLACE INTO decisions (first, second, decision, decided_by, decided_at) VALUES (?, ?, ?, ?, ?)",
            (recorded.first, recorded.second, recorded.decision, recorded.by, recorded.at),
        )
    return recorded if row is None else replace(recorded, replaced=Decision(*row))


def decisions(database: Database) -> list[Decision]:
    """Every decision, by SHA-256."""
    with database.reading() as connection:
        return [Decision(*row) for row in connection.execute(f"{_SELECT} ORDER BY first, second")]


def pair_of(database: Database, identity: str) -> tuple[str, str]:
    """The SHA-256 of the two pictures of a pair, in order; also of pictures that are gone but have a decision.

    Raises:
        MobiusError: there are no such pictures.
    """
    match = _PAIR.fullmatch(identity)
    digests: list[str] = []
    with database.reading() as connection:
        for start in match.groups() if match else ():
            rows = connection.execute(
                "SELECT sha256 FROM pictures WHERE sha256 >= ? AND sha256 < ? UNION"
                " SELECT first FROM decisions WHERE first >= ? AND first < ? UNION"
                " SELECT second FROM decisions WHERE second >= ? AND second < ?",
                (start, start + "g") * 3,
            )
            digests += [row[0] for row in rows]
    if len(digests) != 2 or digests[0] == digests[1]:
        raise MobiusError("invalid_input", f"There is no pair {identity[:80]!r} of pictures in the index.")
    return min(digests), max(digests)


def decided_pairs(
    recorded: list[Decision], ids: dict[str, int], position: dict[int, int]
) -> dict[DecisionKind, set[tuple[int, int]]]:
    """The pairs decided to be the same and different, by position.

    Args:
        ids: SHA-256 to picture id.
        position: picture id to position.
    """
    decided: dict[DecisionKind, set[tuple[int, int]]] = {"same": set(), "different": set()}
    for decision in recorded:
        first, second = (position.get(ids.get(digest, 0), -1) for digest in (decision.first, decision.second))
        if first >= 0 and second >= 0:
            decided[decision.decision].add((min(first, second), max(first, second)))
    return decided
