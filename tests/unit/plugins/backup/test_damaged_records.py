# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The records beside the backups are damaged at random: backups are still written, listed, verified and restorable."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup import copies, drill, store
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import metrics_text
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import require_restorable
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from tests.backups import back_up, touch_state
from tests.unit.plugins.switch.test_random_damage import damage


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_damaged_records_cost_no_backup(host: Host, seed: int) -> None:
    chance = random.Random(seed)
    touch_state(host)
    first = back_up(host).backup
    verify_backups(host)
    drill.record_drill(host, first, None, failure=MobiusError("drill_failed", "A test."))
    (host.backup_dir / ".svc-copies.json").write_text('{"schema": 1, "copies": {"a": "2026-01-01T00:00:00Z"}}')
    records: list[Path] = sorted(host.backup_dir.glob(".*.json"))
    assert len(records) == 3
    about = [damage(chance, path) for path in chance.sample(records, chance.choice((1, 3)))]
    touch_state(host, 2)
    second = back_up(host).backup
    assert {backup.id for backup in store.list_backups(host)} == {first.id, second.id}, about
    assert verify_backups(host) == {first.id: None, second.id: None}, about
    assert store.find_backup(host, "latest").id == second.id, about
    assert require_restorable(host, second, str(second.host), record=True).files, about
    assert copies.read_copy_times(host) is not None and drill.read_records(host) is not None
    assert "mobius_backup_damaged" in metrics_text(host), about
    drill.record_drill(host, second, None, failure=MobiusError("drill_failed", "A test."))
    assert drill.read_records(host)["last"]["backup"] == second.id, about
