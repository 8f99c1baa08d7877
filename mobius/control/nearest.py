# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The known name that a person probably meant by an unknown one."""

from __future__ import annotations

from collections.abc import Collection

_MISTAKES_PER_NAME = 1 / 3  # of its letters: more is another word


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like this one, or that it lacks only the beginning of; None when none is alike.

    `host_prot` gives `host_port`, and `front_certificate` gives `host_front_certificate`.
    """
    longer = sorted((each for each in known if each.endswith(f"_{name}")), key=len)
    if longer:
        return longer[0]
    own_part = name.partition("_")[2] or name  # many share the beginning
    count, nearest = min(((_count_mistakes(name, each), each) for each in known), default=(len(name), None))
    return nearest if count <= max(1, len(own_part) * _MISTAKES_PER_NAME) else None


def _count_mistakes(name: str, other: str) -> int:
    """Letters to insert, remove, replace or swap with the next one: the optimal string alignment distance."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(name, start=1):
        older, before, row = before, row, [i]
        for j, expected in enumerate(other, start=1):
            count = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != expected))
            if i > 1 and j > 1 and letter == other[j - 2] and name[i - 2] == expected:
                count = min(count, older[j - 2] + 1)
            row.append(count)
    return row[-1]


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: `; the nearest known one is host_port`, or nothing."""
    nearest = nearest_name(name, known)
    return f"; the nearest known one is {nearest}" if nearest else ""
