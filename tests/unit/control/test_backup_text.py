# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius backup` prints of the modules' results: what is known of each backup, and what a restore loses."""

from __future__ import annotations

import pytest

from mobius.cli.render.backup import backup_lines, restored_lines

BACKUP = {
    "id": "20260131T230501Z-full",
    "bytes": 512,
    "release": None,
    "verified": "2026-01-31T23:06:00Z",
    "damaged": None,
}
UNKNOWN = "the live data is damaged (state/index.sqlite3: it is empty)"


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, "verified 2026-01-31T23:06:00Z"),
        ({"verified": None}, "not verified"),
        ({"damaged": "its end is missing"}, "damaged: its end is missing"),
        ({"source_damage": "x: it is empty"}, "verified 2026-01-31T23:06:00Z, made of damaged data: x: it is empty"),
    ],
)
def test_a_line_of_the_list_has_what_is_known_of_a_backup(known, text):
    assert backup_lines("lab1", {"backups": [{**BACKUP, **known}], "folder": "/b"})[1].endswith(f"  {text}")


@pytest.mark.parametrize(("read", "text"), [("all", ", read in full"), ("3/7", ", read in part (3/7)"), (None, "")])
def test_a_verification_names_what_was_read(read, text):
    result = {"backups": [BACKUP], "folder": "/b", **({"read": read} if read else {})}
    assert backup_lines("lab1", result)[0] == f"lab1  1 backups in /b{text}"


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"lost": 3}, "; 3 later writes would be lost"),
        ({"lost": 3, "saved": "S"}, "; 3 later writes are lost; the state from before is S"),
        ({"lost": None}, ""),
        ({"lost": None, "lost_unknown": UNKNOWN}, "; unknown later writes would be lost"),
        (
            {"lost": None, "lost_unknown": UNKNOWN, "kept_aside": ["/var/lib/x.damaged-1", "/etc/x.damaged-1"]},
            "; unknown later writes are lost; the state from before is kept aside in /var/lib/x.damaged-1 and "
            "/etc/x.damaged-1",
        ),
    ],
)
def test_a_restore_names_what_is_lost_and_where_the_state_from_before_is(result, line):
    lines = restored_lines("lab1", {"id": "B", "differences": ["state/x"], **result})
    assert lines[0] == f"lab1  B{line}"
    assert (f"  the later writes cannot be counted: {UNKNOWN}" in lines) is bool(result.get("lost_unknown"))
