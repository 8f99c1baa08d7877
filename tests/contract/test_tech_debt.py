# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every entry of TECH_DEBT.md says how urgent it is, whose it is, what it takes and since when it is known."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from mobius.control.tech_debt import parse_entries
from mobius.errors import MobiusError

PAGE = (Path(__file__).resolve().parents[2] / "TECH_DEBT.md").read_text()
ENTRY = "# Debt\n\n## It is slow\n\n- priority: P2\n- owner: SRE\n- effort: M\n- since: 2026-11-27\n\nTen hosts take long.\n"


def test_every_entry_can_be_read_and_none_is_from_tomorrow() -> None:
    entries = parse_entries(PAGE)
    assert len(entries) == PAGE.count("\n## ")
    assert [entry.priority for entry in entries] == sorted(entry.priority for entry in entries)
    assert all(entry.since >= date(2026, 11, 1) for entry in entries)


def test_an_entry_is_read_whole() -> None:
    (entry,) = parse_entries(ENTRY)
    assert (entry.title, entry.priority, entry.owner, entry.effort) == ("It is slow", "P2", "SRE", "M")
    assert (entry.since, entry.text) == (date(2026, 11, 27), "Ten hosts take long.")


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("- priority: P2\n", "", "no line `- priority"),
        ("- owner: SRE\n", "", "no line `- owner"),
        ("- effort: M\n", "", "no line `- effort"),
        ("- since: 2026-11-27\n", "", "no line `- since"),
        ("P2", "P9", "priority 'P9'"),
        ("SRE", "somebody", "owner 'somebody'"),
        ("effort: M", "effort: soon", "effort 'soon'"),
        ("2026-11-27", "lately", "no day"),
        ("Ten hosts take long.\n", "", "says nothing"),
    ],
)
def test_an_entry_without_one_of_its_lines_is_refused_by_name(before: str, after: str, problem: str) -> None:
    with pytest.raises(MobiusError, match=problem) as refused:
        parse_entries(ENTRY.replace(before, after))
    assert "'It is slow'" in refused.value.reason
