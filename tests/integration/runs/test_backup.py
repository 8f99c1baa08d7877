# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module backup through Ansible: its arguments, its answers, and check mode against the real run."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

HOST = """
- hosts: here1
  module_defaults:
    mobius.dhash.backup: {{service: svc, config_dir: {folder}/conf}}
  tasks:
    - name: Open the run
      mobius.dhash.run:
    - name: Prepare
      mobius.dhash.host_tool:
        command: {folder}/mobius-host
        lib_dir: {folder}/lib
        config_dir: {folder}/conf
        service: svc
        config:
          user: root
          root: {folder}/opt
          run_dir: {folder}/run
          state_dir: {folder}/state
          config_dir: {folder}/etc
          backup_dir: {folder}/backups
          log_dir: {folder}/log
          health_path: /health
          start_timeout: 60
          drain_deadline: 30
          kind: http
          front: {{port: 8080, first_port: 18080, internal_port: 18084}}
      check_mode: false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("conf", "lib", "opt", "run", "state", "etc", "backups", "log"):
        (tmp_path / name).mkdir()
    (tmp_path / "state/note").write_text("x\n")
    return tmp_path


def test_a_check_run_predicts_the_backup_that_the_run_writes_and_a_second_run_changes_nothing(run, folder):
    text = HOST.format(folder=folder) + "    - mobius.dhash.backup: {run: 20260131T230501Z-9f3a61c2}\n"
    watched = {"watched": "mobius.dhash.backup", "diff": True}
    predicted = run(text, check=True, **watched)
    assert predicted.ending.outcome == "success", run.lines
    assert list((folder / "backups").iterdir()) == []
    assert any("+new full backup of 1 files, 2 bytes" in line for line in run.lines)
    done = run(text, **watched)
    again = run(text, **watched)
    results = [summary.results["here1"] for summary in (predicted, done, again)]
    assert [result["changed"] for result in results] == [True, True, False]
    assert results[0]["differences"] == results[1]["differences"] == ["no backup"]
    assert results[0]["diff"]["after"] == results[1]["diff"]["after"]
    assert (results[0]["id"], results[0]["verified"]) == ("", False)
    assert results[1]["id"] == results[2]["id"]
    assert results[1]["verified"] is results[2]["verified"] is True
    assert Path(results[1]["path"]).stat().st_size == results[1]["bytes"]


def test_a_damaged_backup_fails_verification_with_its_name(run, folder):
    first = run(HOST.format(folder=folder) + "    - mobius.dhash.backup:\n", watched="mobius.dhash.backup")
    archive = Path(first.results["here1"]["path"])
    whole = run(
        HOST.format(folder=folder) + "    - mobius.dhash.backup: {state: verified}\n", watched="mobius.dhash.backup"
    )
    assert whole.results["here1"]["verified"] == [first.results["here1"]["id"]]
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    summary = run(HOST.format(folder=folder) + "    - mobius.dhash.backup: {state: verified}\n")
    assert (summary.ending.outcome, summary.ending.code) == ("backup_damaged", 2)
    assert first.results["here1"]["id"] in summary.ending.reason


def test_a_damaged_source_ends_the_run_with_its_outcome_in_check_mode_too_and_consent_makes_it_a_warning(run, folder):
    def back_up(*options: str, check: bool = False):
        values = ", ".join(("databases: [index.sqlite3]", *options))
        text = HOST.format(folder=folder) + f"    - mobius.dhash.backup: {{{values}}}\n"
        return run(text, check=check, watched="mobius.dhash.backup")

    database = folder / "state/index.sqlite3"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table pictures (path text)")
    assert back_up().ending.outcome == "success"
    good = next((folder / "backups").glob("*.tar")).name
    database.write_bytes(bytes(100) + database.read_bytes()[100:])
    for check in (True, False, False):
        summary = back_up(check=check)
        assert (summary.ending.outcome, summary.ending.code) == ("source_damaged", 3), run.lines
        assert "state/index.sqlite3: file is not a database" in summary.ending.reason
        assert good.removeprefix("svc-").removesuffix(".tar") in summary.ending.reason
        assert len(list((folder / "backups").glob("*.tar"))) == (1 if check else 2)
    summary = back_up("accept_damage: true")
    assert summary.ending.outcome == "success", run.lines
    assert summary.results["here1"]["source_damage"] == "state/index.sqlite3: file is not a database"
    assert any("is damaged" in line for line in run.lines), run.lines


def test_what_a_playbook_does_shows_in_the_metrics_and_reading_renews_nothing(run, folder):
    def gauge(name: str) -> str:
        return next(line.split()[-1] for line in metrics.read_text().splitlines() if line.startswith(name))

    metrics, settings = folder / "metrics/svc-backup.prom", folder / "backup-conf/svc.json"
    settings.parent.mkdir()
    metrics.parent.mkdir()
    settings.write_text(json.dumps({"metrics_dir": str(metrics.parent)}))
    value = f"command_config_dir: {settings.parent}"
    first = run(HOST.format(folder=folder) + f"    - mobius.dhash.backup: {{{value}}}\n", watched="mobius.dhash.backup")
    assert gauge('mobius_backups{service="svc",scope="full"}') == "1"
    metrics.unlink()
    run(HOST.format(folder=folder) + f"    - mobius.dhash.backup: {{state: listed, {value}}}\n")
    run(HOST.format(folder=folder) + f"    - mobius.dhash.backup: {{scope: state, {value}}}\n", check=True)
    assert not metrics.exists()
    archive = Path(first.results["here1"]["path"])
    archive.write_bytes(archive.read_bytes()[:-700] + b"x" * 700)
    verify = HOST.format(folder=folder) + f"    - mobius.dhash.backup: {{state: verified, {value}}}\n"
    assert run(verify).ending.outcome == "backup_damaged"
    assert gauge('mobius_backup_damaged{service="svc",scope="full"}') == "1"
    settings.write_text("{")
    summary = run(verify)
    assert summary.ending.outcome == "backup_damaged"
    assert any("metrics of the backups were not written" in line for line in run.lines), run.lines


def test_a_host_that_was_not_prepared_is_named_as_such(run, tmp_path):
    summary = run(
        f"- hosts: here1\n  tasks: [mobius.dhash.run: , mobius.dhash.backup: {{service: svc, config_dir: {tmp_path}/none}}]\n"
    )
    assert (summary.ending.outcome, summary.ending.code) == ("not_provisioned", 3)
