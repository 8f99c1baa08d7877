# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Properties of outcomes, for conditions of tasks."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.mobius.dhash.plugins.module_utils.errors import OUTCOMES


def proves_bad(outcome: str) -> bool:
    """Whether an outcome speaks against the release itself; a name that is not in the table does not."""
    return outcome in OUTCOMES and OUTCOMES[outcome].proves_bad


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """By name."""
        return {"proves_bad": proves_bad}
