# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius rollback --list` makes of what a host tells."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mobius.cli.render.status import age_of, kept_lines, kept_releases, release_lines, rollback_lines

A, B, C, D, E = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"))


def release(name: str, state: str, activated: str | None, **more: object) -> dict[str, object]:
    return {
        "release": name,
        "state": state,
        "activated": activated,
        "staged": True,
        "bad": False,
        "reason": None,
        **more,
    }


HOST = {
    "releases": [
        release(A, "kept", "2026-01-01T00:00:00.000000Z"),
        release(B, "draining", "2026-01-02T00:00:00.000000Z", bad=True, reason="wrong hashes"),
        release(C, "serving", "2026-01-03T00:00:00.000000Z", reason="rolled back from 1.3.0"),
        release(D, "removed", "2025-01-01T00:00:00.000000Z", staged=False),
        release(E, "failed", None),
    ]
}


def test_each_kept_release_is_one_row_with_the_newest_activation_first() -> None:
    rows = kept_releases("web1", HOST)
    assert [(row["release"], row["state"]) for row in rows] == [(C, "serving"), (B, "bad"), (A, "kept"), (E, "kept")]
    assert set(rows[0]) == {"host", "release", "state", "activated", "reason"}
    assert rows[1]["reason"] == "wrong hashes" and rows[1]["host"] == "web1"


def test_people_see_age_and_state() -> None:
    lines = kept_lines("web1", HOST)
    assert lines[0] == "web1  4 kept"
    assert "bad" in lines[2] and lines[2].endswith("wrong hashes")
    assert "never" in lines[4]
    assert kept_lines("web2", {}) == ["web2  nothing is kept"]


def test_the_problems_of_a_host_are_shown_with_what_heals_them() -> None:
    problem = {"problem": f"{B} does not serve, and should.", "heal": "Heal it with `mobius-host repair`."}
    lines = release_lines("web1", {**HOST, "confirmed": B, "problems": [problem]})
    assert (
        " ".join(lines[-2:]).split()
        == f"problem {B} does not serve, and should. Heal it with `mobius-host repair`.".split()
    )
    assert release_lines("web2", {"confirmed": None}) == ["web2  serves nothing"], "a host of an earlier version"


def test_a_rollback_shows_what_it_did_on_each_host() -> None:
    note = f"already rolled back to {A}; {B} no longer serves"
    assert rollback_lines("web1", {"note": note}) == [f"web1  {note}"]
    assert rollback_lines("web1", {"failed": True, "msg": "No space."}) == []


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (None, "never"),
        ("2026-01-09T23:59:58.000000Z", "2 s ago"),
        ("2026-01-09T23:58:00.000000Z", "2 min ago"),
        ("2026-01-09T21:00:00.000000Z", "3 h ago"),
        ("2026-01-01T00:00:00.000000Z", "9 d ago"),
        ("2026-01-11T00:00:00.000000Z", "0 s ago"),
    ],
)
def test_an_age_shows_in_its_largest_unit(then: str | None, message: str) -> None:
    assert age_of(then, datetime(2026, 1, 10, tzinfo=UTC)) == message
