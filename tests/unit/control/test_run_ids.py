# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run ids and actors."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from mobius.control.run.run_id import PATTERN, current_run_id, find_actor, new_run_id
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError


def test_a_run_id_contains_its_second_in_utc_and_sorts_by_it():
    moment = datetime(2026, 1, 31, 23, 5, 1, tzinfo=timezone(timedelta(hours=2)))
    first, second = new_run_id(moment), new_run_id(moment + timedelta(seconds=1))
    assert first.startswith("20260131T210501Z-")
    assert PATTERN.fullmatch(first)
    assert first < second


def test_two_runs_of_one_second_have_different_ids():
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    assert len({new_run_id(moment) for _ in range(100)}) == 100


def test_an_id_that_was_handed_down_is_used(tmp_path):
    arguments = "20260131T230501Z-9f3a61c2"
    assert current_run_id({"MOBIUS_RUN_ID": arguments}, RunWorkspace(tmp_path)) == arguments
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["x", "20260131T230501Z-9f3a61c2\n", "../20260131T230501Z-9f3a61c2"])
def test_an_id_of_another_form_is_refused(tmp_path, wrong):
    with pytest.raises(MobiusError) as caught:
        current_run_id({"MOBIUS_RUN_ID": wrong}, RunWorkspace(tmp_path))
    assert caught.value.outcome == "invalid_input"


def test_workers_of_one_process_agree_on_one_id_however_they_race(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(lambda _: current_run_id({}, RunWorkspace(tmp_path)), range(200)))
    assert len(ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mobius-run-id"]


def test_the_actor_is_who_was_named_else_who_logged_in_before_sudo():
    assert find_actor({"MOBIUS_ACTOR": " ci ", "SUDO_USER": "ada"}) == "ci"
    assert find_actor({"SUDO_USER": "ada"}).startswith("ada@")
    assert "@" in find_actor({})


@pytest.mark.root("only root can become somebody else")
def test_who_has_no_entry_in_the_passwd_database_is_named_by_the_uid() -> None:
    script = "import os; from mobius.control.run.run_id import find_actor; os.setuid(54321); print(find_actor({}))"
    command = [sys.executable, "-c", script]
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("uid-54321@"), done.stderr
