# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Damage to a backup is detected, and what is recorded of each backup."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups

from tests.backups import (
    CHANGES,
    PICTURE,
    back_up,
    edit,
    flip,
    members,
    rewrite,
    touch_state,
)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_detected(host):
    result = back_up(host)
    whole = result.backup.path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        flip(result.backup.path, at)
        assert verify_backups(host)[result.backup.id] is not None, at
        result.backup.path.write_bytes(whole)
    assert verify_backups(host) == {result.backup.id: None}


@pytest.mark.parametrize("size", [0, 1, 10, 500, -1])
def test_a_backup_that_was_cut_short_is_detected(host, size):
    result = back_up(host)
    result.backup.path.write_bytes(result.backup.path.read_bytes()[:size])
    assert verify_backups(host)[result.backup.id] is not None


def test_bytes_behind_the_end_are_detected(host):
    result = back_up(host)
    with open(result.backup.path, "ab") as stream:
        stream.write(b"\0" * 512)
    assert "SHA-256" in verify_backups(host)[result.backup.id]


@pytest.mark.parametrize("text", [None, "", "x\n", "0" * 64 + "\n", "{digest} name\n", "{digest}  another\n"])
def test_a_backup_whose_digest_is_missing_or_wrong_is_not_whole(host, text):
    result = back_up(host)
    path = Path(f"{result.backup.path}.sha256")
    if text is None:
        path.unlink()
    else:
        path.write_text(text.format(digest=result.backup.sha256))
    assert verify_backups(host)[result.backup.id] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_backup_whose_members_are_not_what_its_manifest_says_is_detected(host, name):
    result = back_up(host)
    rewrite(result, CHANGES[name])
    results = verify_backups(host)[result.backup.id]
    assert results is not None
    assert "SHA-256" not in results


def test_an_unchanged_rewrite_is_whole(host):
    """The negative proof of the test above."""
    result = back_up(host)
    whole = result.backup.path.read_bytes()
    rewrite(result, lambda items: None)
    assert result.backup.path.read_bytes() == whole
    assert verify_backups(host) == {result.backup.id: None}


def test_a_damaged_newest_backup_is_kept_for_inspection_and_another_is_written(host):
    old = back_up(host)
    flip(old.backup.path, 100)
    result = back_up(host, keep=1)
    assert (result.written, result.damaged, result.removed) == (True, old.backup.id, ())
    results = verify_backups(host)
    assert results[result.backup.id] is None
    assert results[old.backup.id] is not None


def test_verification_of_several_names_each_damaged_one(host):
    ids = []
    for number in range(3):
        touch_state(host, number)
        ids.append(back_up(host).backup.id)
    flip(list_backups(host)[1].path, 50)
    results = verify_backups(host)
    assert [name for name in ids if results[name] is not None] == [ids[1]]


# what is known of a backup


def test_a_list_has_host_release_and_when_each_was_last_verified(host):
    result = back_up(host, host_name="lab7")
    (listed,) = list_backups(host)
    assert listed == result.backup
    assert listed.as_dict() == {
        "id": "20260131T230501Z-full",
        "scope": "full",
        "host": "lab7",
        "created": "2026-01-31T23:05:01Z",
        "release": "1.0.0-0123456789ab",
        "bytes": listed.path.stat().st_size,
        "sha256": hashlib.sha256(listed.path.read_bytes()).hexdigest(),
        "verified": listed.verified,
        "damaged": None,
        "source_damage": None,
        "path": str(listed.path),
    }
    assert listed.verified
    flip(listed.path, 3000)
    verify_backups(host)
    (listed,) = list_backups(host)
    assert listed.verified is None
    assert "SHA-256" in listed.damaged


@pytest.mark.slow
def test_all_parts_together_read_every_file_once(host):
    for number in range(9):
        (host.state_dir / "library" / f"{number}.jpg").write_bytes(PICTURE + bytes([number]))
    result = back_up(host)
    (host.backup_dir / ".svc-verified.json").unlink()
    for part in range(1, 8):
        assert list_backups(host)[0].verified is None, part
        assert verify_backups(host, (part, 7)) == {result.backup.id: None}
    assert list_backups(host)[0].verified is not None
    whole = result.backup.path.read_bytes()
    for name, content in members(result.backup.path).items():
        if name == "manifest.jsonl":
            continue
        at = whole.index(content)
        flip(result.backup.path, at)
        finders = [part for part in range(1, 8) if verify_backups(host, (part, 7), record=False)[result.backup.id]]
        assert len(finders) == 1, name
        result.backup.path.write_bytes(whole)


def test_a_part_detects_a_changed_manifest_by_the_digest_recorded_when_it_was_written(host):
    result = back_up(host)
    rewrite(result, lambda items: edit(items, b'"run":null', b'"run":   1'))
    assert "manifest" in verify_backups(host, (1, 7))[result.backup.id]
