# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The change window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mobius.control.plan.window import ChangeWindow, refusal
from mobius.errors import MobiusError


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-31T{text}").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("23:00-00:00", "22:59:59", False),
        ("23:00-00:00", "23:00:00", True),
        ("23:00-00:00", "23:59:59", True),
        ("23:00-00:00", "00:00:00", False),
        ("22:00-02:00", "01:59:00", True),
        ("22:00-02:00", "02:00:00", False),
        ("09:00-17:30", "17:29:59", True),
        ("09:00-17:30", "08:59:59", False),
    ],
)
def test_a_moment_is_inside_or_outside(window: str, moment: str, inside: bool) -> None:
    assert ChangeWindow.parse(window).has(at(moment)) is inside
    assert (refusal(window, "", at(moment)) is None) is inside


def test_the_window_is_in_utc_wherever_the_control_node_is() -> None:
    there = datetime(2026, 2, 1, 4, 30, tzinfo=timezone(timedelta(hours=5)))
    assert ChangeWindow.parse("23:00-00:00").has(there)


def test_a_refusal_says_when_the_window_opens_and_how_to_break_the_glass() -> None:
    refused = refusal("23:00-00:00", "", at("00:10:00"))
    assert refused is not None and refused.outcome == "outside_window"
    assert "2026-01-31 23:00 UTC" in refused.do_next and "mobius_break_glass" in refused.do_next
    late = refusal("09:00-10:00", "", at("10:00:00"))
    assert late is not None and "2026-02-01 09:00 UTC" in late.do_next


def test_a_reason_breaks_the_glass_and_no_window_is_always_open() -> None:
    assert refusal("23:00-00:00", "the disk is failing", at("12:00:00")) is None
    assert refusal("23:00-00:00", "  ", at("12:00:00")) is not None
    assert refusal("", "", at("12:00:00")) is None


@pytest.mark.parametrize("text", ["23-24", "24:00-01:00", "23:00", "23:00-23:00", "always", "23:60-00:00"])
def test_a_window_that_is_none_is_refused_even_with_a_reason(text: str) -> None:
    with pytest.raises(MobiusError) as refused:
        refusal(text, "because", at("12:00:00"))
    assert refused.value.outcome == "invalid_input"
