# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which hosts are promoted together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mobius.errors import MobiusError


def batches(hosts: Sequence[str], sizes: Sequence[Any]) -> list[list[str]]:
    """The hosts in their order, in groups of these sizes; the last size holds for all that are left.

    Args:
        sizes: whole numbers above 0, or shares of all hosts as "25%", rounded down and at least one host.

    Raises:
        MobiusError: invalid_input, for a size that is neither, or no size at all.
    """
    if not sizes:
        raise MobiusError("invalid_input", "promote_batches is empty; give sizes like [1, 25%, 100%].")
    counts = [_count(size, len(hosts)) for size in sizes]
    found: list[list[str]] = []
    left = list(hosts)
    while left:
        count = counts[min(len(found), len(counts) - 1)]
        found.append(left[:count])
        left = left[count:]
    return found


def _count(size: Any, hosts: int) -> int:
    text = "" if isinstance(size, bool) else str(size)
    match = re.fullmatch(r"([0-9]{1,6})(%?)", text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[1]) > 100):
        raise MobiusError(
            "invalid_input", f"{size!r} in promote_batches is neither a number of hosts nor a share like 25%."
        )
    return max(1, hosts * int(match[1]) // 100) if match[2] else int(match[1])
