# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Random histories of a backup folder: changes, backups, rotations, clocks that jump, kills, and disks that rot.

After every step the folder holds whole backups and those that the history itself damaged, the newest good one is never
gone, and what a kept release needs is there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import create_backup, prune_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import SCOPES, Backup, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_archive, verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.killing import die_after_writing, killed

RELEASES = ("1.0.0-0123456789ab", "1.1.0-0123456789ab")
KEPT = RELEASES[:1]
"""Of these the newest backup is needed; the others are removed from the host."""
START = datetime(2026, 1, 31, 23, 5, 1, tzinfo=UTC)
QUICK = settings(deadline=None, max_examples=15, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=300, stateful_step_count=30)
NUMBERS = st.integers(0, 2)
KEEPS = st.builds(KeepRules, st.integers(1, 2)) | st.builds(
    KeepRules, st.integers(1, 3), st.integers(0, 40), NUMBERS, NUMBERS, NUMBERS
)
JUMPS = st.integers(-3, 40).map(lambda days: timedelta(days=days))
"""Between two backups; the clock may be set back."""


class History(RuleBasedStateMachine):
    """One host; `good` are the ids whose bytes nobody but the code under test has touched."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.now = START
        self.changes = 0
        self.good: dict[str, str] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize()
    def prepare(self) -> None:
        about: dict[str, Any] = {"schema": 1, "service": "svc", "user": "svc", "health_path": "/health"}
        about |= {"start_timeout": 60, "drain_deadline": 30, "root": str(self.place / "root")}
        about |= {"kind": "http", "front": {"port": 8080, "first_port": 18080, "internal_port": 18084}}
        about |= {f"{name}_dir": str(self.place / name) for name in ("run", "state", "config", "backup", "log")}
        for name in ("root", "run", "state", "config", "backup", "log", "conf", "scratch"):
            (self.place / name).mkdir()
        (self.place / "conf/svc.json").write_text(json.dumps(about))
        self.host = Host.load("svc", self.place / "conf")
        for release in KEPT:
            (self.host.releases_dir / release).mkdir(parents=True)
        self.confirm(RELEASES[1])
        self.change()

    def change(self) -> None:
        self.changes += 1
        (self.host.state_dir / "note").write_text(f"{self.changes}\n")

    @rule(release=st.sampled_from(RELEASES))
    def confirm(self, release: str) -> None:
        (self.host.root / "activation.json").write_text(json.dumps({"schema": 1, "confirmed": release}))

    @rule(keep=KEEPS, jump=JUMPS, scope=st.sampled_from(SCOPES), changed=st.sampled_from((True, True, False)))
    def create(self, keep: KeepRules, jump: timedelta, scope: str, changed: bool) -> None:
        if changed:
            self.change()
        self.now += jump
        before = {item.id for item in list_backups(self.host)}
        options: dict[str, Any] = {
            "scope": scope,
            "keep": keep,
            "scratch": self.place / "scratch",
            "clock": lambda: self.now,
        }
        predicted = create_backup(self.host, check_mode=True, **options)
        result = create_backup(self.host, **options)
        assert (predicted.written, predicted.removed) == (result.written, result.removed)
        assert result.backup is not None
        if result.written:
            assert result.backup.id not in before
            assert result.backup.id > max((name for name in before if name.endswith(scope)), default="")
            self.good[result.backup.id] = str(result.backup.sha256)
        self._removed_at_most(before, set(result.removed))
        assert all(name.endswith(scope) for name in result.removed)
        assert self._note_in(result.backup) == self.changes

    @rule(keep=KEEPS)
    def prune(self, keep: KeepRules) -> None:
        before = {item.id for item in list_backups(self.host)}
        pruned = prune_backups(self.host, keep=keep, clock=lambda: self.now)
        self._removed_at_most(before, set(pruned.removed))

    @rule(keep=KEEPS, jump=JUMPS, number=st.integers(1, 70))
    def killed(self, keep: KeepRules, jump: timedelta, number: int) -> None:
        """After the n-th system call that writes; a change of its own makes sure that there is work."""
        self.change()
        self.now += jump
        before = {item.id for item in list_backups(self.host)}

        def work() -> None:
            die_after_writing(number)
            create_backup(self.host, scope="full", keep=keep, scratch=self.place / "scratch", clock=lambda: self.now)

        killed(work)
        for item in list_backups(self.host):
            if item.id not in before:
                self.good[item.id] = str(item.sha256)
        removed = before - {item.id for item in list_backups(self.host)}
        assert not removed or any(name not in before for name in self.good), "removed before there was a new one"
        self.good = {name: digest for name, digest in self.good.items() if name not in removed}

    @precondition(lambda self: len(self.good) > 1)
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.good)))
        path = self.host.backup_dir / f"svc-{name}.tar"
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
        path.write_bytes(content)
        del self.good[name]

    @rule()
    def verify(self) -> None:
        results = verify_backups(self.host)
        assert {name for name, reason in results.items() if reason is None} == set(self.good)

    @invariant()
    def the_good_ones_are_what_was_written_and_nothing_partial_is_listed(self) -> None:
        listed = {item.id: item for item in list_backups(self.host)} if hasattr(self, "host") else {}
        assert set(self.good) <= set(listed)
        for name, digest in self.good.items():
            assert verify_archive(listed[name].path, digest)[0].head["id"] == name

    def _removed_at_most(self, before: set[str], removed: set[str]) -> None:
        """What was removed is what was reported; the newest good one of each scope and each release is kept."""
        left = {item.id: item for item in list_backups(self.host)}
        assert before - set(left) == removed
        for scope in SCOPES:
            good = sorted(name for name in {*self.good} if name.endswith(scope))
            assert not good or good[-1] in left
        self.good = {name: digest for name, digest in self.good.items() if name not in removed}

    def _note_in(self, result: Backup) -> int:
        """The number of the last change, as the archive has it."""
        data = result.path.read_bytes()
        at = data.index(b"state/note\0") + 512
        return int(data[at : data.index(b"\n", at)])


def test_a_history_of_backups() -> None:
    run_state_machine_as_test(History, settings=QUICK)


@pytest.mark.soak
def test_many_long_histories_of_backups() -> None:
    run_state_machine_as_test(History, settings=LONG)
