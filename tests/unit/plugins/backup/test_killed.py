# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a kill, a failing system call or a second run leaves: whole backups only."""

from __future__ import annotations

import os
import shutil

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import (
    clock,
    database,
    retention,
    safe_open,
    service,
    snapshot,
    store,
    verification,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    create_backup,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

from mobius.errors import OUTCOMES
from tests.backups import (
    PICTURE,
    START,
    back_up,
    names,
    touch_state,
)
from tests.killing import die_after_writing, die_before_line, killed

# kills


SOURCES = {
    module.__file__
    for module in (clock, database, durable, retention, safe_open, service, snapshot, store, verification)
}


def killed_at(host: Host, line: int, **options) -> bool:
    """Take a backup in a child process that is killed before the n-th line it executes; whether it came that far."""

    def work() -> None:
        die_before_line(line, SOURCES)
        create_backup(host, scope="full", keep=KeepRules(2), scratch=host.root, clock=lambda: START, **options)

    return killed(work)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "later_step", "least"), [(19, 61, 25), pytest.param(7, 31, 60, marks=pytest.mark.soak)]
)
def test_a_kill_at_any_line_leaves_whole_backups_only_and_the_next_run_cleans_up(
    host, tmp_path, step, later_step, least
):
    for number in range(2):
        touch_state(host, number)
        back_up(host)
    touch_state(host, 9)
    old = [item.id for item in list_backups(host)]
    pristine = tmp_path / "pristine"
    shutil.copytree(host.backup_dir, pristine)
    line, kills, stages = 1, 0, set()
    while killed_at(host, line):
        kills += 1
        results = verify_backups(host)
        stages.add(tuple(results))
        assert set(results.values()) == {None}, line  # a final name means whole, and the digest is there
        # the old ones go only after the new one is there
        assert old[-1] in results
        assert old[0] in results or len(results) == 2, line
        result = back_up(host, keep=2)
        assert [item.id for item in list_backups(host)][-1] > old[-1]
        assert verify_backups(host).keys() == {old[-1], result.backup.id}
        assert len(names(host)) == 4, names(host)
        shutil.rmtree(host.backup_dir)
        shutil.copytree(pristine, host.backup_dir)
        line += step if line < 1500 else later_step
    assert kills > least
    assert len(stages) >= 3, "the kills met every stage: before, between and after"


def killed_after_call(host: Host, number: int) -> bool:
    """Take a backup in a child process that is killed right after its n-th system call that writes."""

    def work() -> None:
        die_after_writing(number)
        create_backup(host, scope="full", keep=KeepRules(2), scratch=host.root, clock=lambda: START)

    return killed(work)


@pytest.mark.slow
def test_a_kill_after_any_system_call_that_writes_lists_no_partial_backup_and_loses_no_good_one(host, tmp_path):
    (host.state_dir / "library" / "long.jpg").write_bytes(PICTURE * 300)  # several writes
    for number in range(2):
        touch_state(host, number)
        back_up(host)
    touch_state(host, 9)
    old = [item.id for item in list_backups(host)]
    pristine = tmp_path / "pristine"
    shutil.copytree(host.backup_dir, pristine)
    number, stages = 0, []
    while killed_after_call(host, number + 1):
        number += 1
        results = verify_backups(host)
        assert set(results.values()) == {None}, number
        # an old one is removed only once there are two others, and of these one is new
        assert old[1] in results, number
        assert old[0] in results or len(results) == 2, number
        if not stages or stages[-1] != len(results):
            stages.append(len(results))
        shutil.rmtree(host.backup_dir)
        shutil.copytree(pristine, host.backup_dir)
    assert number > 20
    assert stages == [2, 3, 2], "before the new one, with it, and after the rotation"


@pytest.mark.slow
def test_a_system_call_that_fails_leaves_whole_backups_only(host, monkeypatch):
    """Every rename, fsync, unlink and mkstemp in turn fails; afterwards everything old is whole and the next run works."""
    touch_state(host, 1)
    old = back_up(host)
    calls = 0
    fail_at = 0

    def failing(real):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(5, "Input/output error")
            return real(*arguments, **options)

        return call

    for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "unlink"), (os, "fchmod")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    touch_state(host, 2)
    rounds = 0
    while True:
        calls, fail_at = 0, rounds + 1
        try:
            result = create_backup(host, scope="full", keep=KeepRules(1), scratch=host.root, clock=lambda: START)
        except (OSError, MobiusError):
            pass
        finally:
            fail_at = 0
        if calls <= rounds:
            break
        rounds += 1
        results = verify_backups(host)
        assert set(results.values()) == {None}
        assert results
        result = back_up(host, keep=1)
        assert verify_backups(host) == {result.backup.id: None}
        assert len(names(host)) == 2
        touch_state(host, rounds)
    assert rounds >= 8
    assert old.backup.id not in verify_backups(host)


def test_what_killed_runs_left_is_removed_and_nothing_else(host):
    left = [".mobius-tmp-svc-abcd1234", ".mobius-tmp-ab_d1234", "svc-20250101T000000Z-full.tar.sha256"]
    others = [".mobius-tmp-other-abcd1234", "notes.txt", "svc-old.tar", "other-20250101T000000Z-full.tar.sha256"]
    for name in (*left, *others):
        (host.backup_dir / name).write_text("x")
    (host.backup_dir / ".mobius-tmp-svc-efgh5678").mkdir()
    result = back_up(host)
    assert set(result.leftovers) == {*left, ".mobius-tmp-svc-efgh5678"}
    assert set(others) <= set(names(host))
    assert not set(result.leftovers) & set(names(host))


@pytest.mark.slow
def test_two_backups_at_once_make_one(host):
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                back_up_once(host)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(verify_backups(host)) == 1
    assert set(verify_backups(host).values()) == {None}


def back_up_once(host: Host) -> None:
    create_backup(host, scope="full", keep=KeepRules(5), scratch=host.root, clock=lambda: START)


def test_every_outcome_that_a_backup_may_have_is_in_the_table():
    assert {"disk_full", "state_damaged", "not_provisioned", "timeout", "backup_damaged"} <= set(OUTCOMES)
