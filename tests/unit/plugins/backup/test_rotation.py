# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rotation keeps what its rules name, over random histories."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules, surplus_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    prune_backups,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import Backup, list_backups
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backups import (
    START,
    back_up,
    flip,
    touch_state,
)

# rotation, over random histories


RELEASES = ("1.0.0-0123456789ab", "1.1.0-0123456789ab")


@st.composite
def histories(draw) -> tuple[list[Backup], KeepRules, datetime]:
    gaps = draw(st.lists(st.integers(1, 40 * 86400), min_size=1, max_size=30))
    moments = [START + timedelta(seconds=sum(gaps[: number + 1])) for number in range(len(gaps))]
    backups = [
        Backup(
            f"{moment:%Y%m%dT%H%M%SZ}-full",
            Path(),
            0,
            None,
            release=draw(st.sampled_from((None, *RELEASES))),
            damaged=draw(st.sampled_from((None, None, None, "a bit"))) if moment is not moments[-1] else None,
            source_damage=draw(st.sampled_from((None, None, "an index"))) if moment is not moments[-1] else None,
        )
        for moment in moments
    ]
    numbers = st.integers(0, 6)
    keep = KeepRules(draw(st.integers(1, 6)), draw(st.integers(0, 100)), draw(numbers), draw(numbers), draw(numbers))
    return backups, keep, moments[-1] + timedelta(days=draw(st.integers(-400, 400)))


@pytest.mark.slow
@settings(deadline=None)
@given(histories(), st.data())
def test_rotation_keeps_what_each_rule_names_and_removes_all_else(history, data):
    backups, keep, now = history
    required = data.draw(st.sets(st.sampled_from([item.id for item in backups])))
    removed = surplus_backups(backups, keep, now, required)
    left = [item for item in backups if item not in removed]
    whole = [item for item in backups if item.is_good]
    marked = [item for item in backups if item.damaged is None and item.source_damage]
    assert marked[-keep.count :] == [item for item in left if item in marked[-keep.count :]]
    assert len([item for item in left if item in marked and item.id not in required]) <= keep.count
    assert backups[-1] in left
    assert required <= {item.id for item in left}
    assert not [item for item in removed if item.damaged]
    assert whole[-keep.count :] == [item for item in left if item in whole[-keep.count :]]
    for number, period in ((keep.days, "%Y%j"), (keep.weeks, "%G%V"), (keep.months, "%Y%m")):
        periods = sorted({item.begun.strftime(period) for item in whole})
        for one in periods[len(periods) - min(number, len(periods)) :]:
            last = [item for item in whole if item.begun.strftime(period) == one][-1]
            assert last in left
    # nothing stays without a reason
    bound = len(required) + keep.count + keep.days + keep.weeks + keep.months
    young = [item for item in whole if keep.age_days and now - item.begun <= timedelta(days=keep.age_days)]
    assert {item.id for item in young} <= {item.id for item in left}
    assert len([item for item in left if item.is_good]) <= bound + len(young)
    # a rotation that was cut short anywhere, and is done again, ends where the whole one does
    cut = data.draw(st.integers(0, len(removed)))
    remaining = [item for item in backups if item not in removed[:cut]]
    assert surplus_backups(remaining, keep, now, required) == removed[cut:]


@pytest.mark.slow
def test_a_backup_that_a_kept_release_or_an_unfinished_run_needs_stays(host):
    old = back_up(host, run="20260131T230501Z-9f3a61c2")
    (host.releases_dir / "1.0.0-0123456789ab").mkdir(parents=True)
    (host.root / "activation.json").write_text('{"schema": 1, "confirmed": "1.1.0-0123456789ab"}\n')
    for number in range(3):
        touch_state(host, number)
        result = back_up(host, keep=1)
    assert [item.id for item in list_backups(host)] == [old.backup.id, result.backup.id]
    (host.releases_dir / "1.0.0-0123456789ab").rmdir()
    pending = {
        "schema": 1,
        "release": "1.1.0-0123456789ab",
        "previous": None,
        "stage": "canary",
        "deadline": 1.0,
        "boot_id": "x",
        "run": "20260131T230501Z-9f3a61c2",
        "token": 0,
        "activated": "x",
    }
    host.pending_path.write_text(json.dumps(pending))
    assert not prune_backups(host, keep=KeepRules(1)).removed
    host.pending_path.unlink()
    predicted = prune_backups(host, keep=KeepRules(1), check_mode=True)
    assert predicted.removed == (old.backup.id,)
    assert len(list_backups(host)) == 2
    assert prune_backups(host, keep=KeepRules(1)) == predicted
    assert [item.id for item in list_backups(host)] == [result.backup.id]


def test_rotation_alone_removes_nothing_when_the_newest_is_damaged(host):
    for number in range(3):
        touch_state(host, number)
        result = back_up(host)
    flip(result.backup.path, 5000)
    pruned = prune_backups(host, keep=KeepRules(1))
    assert (pruned.removed, pruned.damaged) == ((), (result.backup.id,))
    assert len(list_backups(host)) == 3
