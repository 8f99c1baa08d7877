# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the history's results say of each host of a run."""

from __future__ import annotations

from typing import Any

from mobius.control.history.query import sum_up

A, B = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"


def summed(*results: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """`(module, status, fields)` each, all of one host."""
    hosts: dict[str, dict[str, Any]] = {}
    for module, status, fields in results:
        sum_up(hosts, {"host": "lab1", "module": f"mobius.dhash.{module}", "status": status, "fields": fields})
    return hosts["lab1"]


def test_a_rollback_records_both_releases_although_the_run_asked_no_host() -> None:
    opened = ("run", "ok", {})
    assert summed(opened, ("rollback", "changed", {"left": B, "confirmed": A})) == {"from_release": B, "to_release": A}
    assert summed(opened, ("rollback", "failed", {"left": B})) == {"from_release": B, "to_release": B}
    assert summed(opened, ("rollback", "changed", {"left": A, "confirmed": None})) == {
        "from_release": A,
        "to_release": None,
    }


def test_what_a_host_had_when_the_run_was_opened_stays_where_it_came_from() -> None:
    opened = ("run", "ok", {"release": A})
    assert summed(opened) == {"from_release": A, "to_release": A}
    went = summed(
        opened, ("promotion", "changed", {"confirmed": B}), ("rollback", "changed", {"left": B, "confirmed": A})
    )
    assert went == {"from_release": A, "to_release": A}
