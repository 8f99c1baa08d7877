# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The table of runs and one run for people, from a history that was recorded on real hosts."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from mobius import cli
from mobius.cli.render.history import list_lines, show_lines
from mobius.cli.render.text import TextStyle
from mobius.control.history import query
from tests.recorded_runs.replay import RUNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(RUNS.parent / "history.jsonl", tmp_path)
    return tmp_path


@pytest.fixture
def history(folder: Path, capsys):
    """`mobius history …` on the recorded history: exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["history", *arguments, "--dir", str(folder)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_list_has_a_header_and_each_column_begins_where_its_name_does(folder):
    header, *rows = list_lines(query.read_runs(folder))
    assert header.split("  ")[0] == "STARTED (UTC)"
    starts = [match.start() for match in re.finditer(r"(?<=  )\S", f"  {header}")]
    assert len(rows) >= 10 and len(starts) == 9
    for row in rows:
        padded = f"  {row}"
        assert all(padded[start - 1] == " " and padded[start] != " " for start in starts if start != starts[1]), row


def test_the_list_names_the_version_that_was_tried_also_of_a_refused_run(history):
    code, out, _ = history("list", "--outcome", "locked")
    header, row = out.splitlines()
    tried = row[header.index("TRIED") : header.index("FROM")].strip()
    assert (code, tried) == (0, "1.4.0")
    assert row[header.index("OUTCOME") : header.index("WHO")].strip() == "locked"
    assert row[header.index("WHO") : header.index("RUN")].strip() == "root@control"


def test_filters_choose_runs_by_host_outcome_day_and_release(history):
    def listed(*arguments: str) -> list[dict]:
        code, out, err = history("list", *arguments, "--format", "json")
        assert code == 0, err
        return json.loads(out)

    everything = listed()
    assert listed("--host", "lab3") == everything and listed("--host", "lab9") == []
    assert {run["outcome"] for run in listed("--outcome", "locked")} == {"locked"}
    assert listed("--since", "2026-01-31") == everything and listed("--since", "2026-02-02") == []
    first = listed("--release", "1.3.0")
    assert 0 < len(first) < len(everything)
    assert all("1.3.0" in json.dumps([run["from_release"], run["to_release"]]) for run in first)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("list", "--outcome", "locke"), "There is no outcome locke; the nearest known one is locked."),
        (("list", "--since", "yesterday"), "'yesterday' is not a day like 2026-01-31"),
        (("show", "1999"), "No run begins with 1999."),
        (("show", "2026"), "runs begin with 2026."),
    ],
)
def test_what_chooses_no_run_is_refused(history, arguments, sentence):
    code, _, err = history(*arguments)
    assert code == 1 and sentence in err


def test_times_are_utc_unless_the_machines_own_are_wanted(folder, monkeypatch):
    runs = query.read_runs(folder)[:1]
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    try:
        assert list_lines(runs)[1].startswith("2026-01-31 23:05  ")
        header, row = list_lines(runs, local=True)
        assert header.startswith("STARTED (XYZ)") and row.startswith("2026-02-01 04:35  ")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_shows_decision_verdicts_bundle_and_what_every_host_did(folder):
    run = next(run for run in query.read_runs(folder) if run["decisions"] and not run["check"])
    text = "\n".join(show_lines(run, TextStyle(10_000)))
    assert re.search(r"^release 1\.3\.0-[0-9a-f]{12}: success$", text, re.MULTILINE)
    assert re.search(r"decision  confirm for all hosts \(3 pass\), record \d+", text)
    assert re.search(r"lab1: pass: 1\.3\.0-[0-9a-f]{12} was healthy for", text)
    assert re.search(r"lab1: nothing to 1\.3\.0-[0-9a-f]{12}", text)
    assert re.search(r"bundle +stand-in-1\.3\.0\.tar\.gz, SHA-256 [0-9a-f]{64}", text)
    assert "{" not in text, "no JSON"


def test_a_refused_run_shows_each_failed_task_once_with_its_hosts(folder):
    run = next(run for run in query.read_runs(folder) if run["outcome"] == "locked")
    text = "\n".join(show_lines(run, TextStyle(10_000)))
    assert "Acquire the lock of the first host: locked (lab1)" in text
    assert "Refuse the run without the lock of the first host: locked (lab2, lab3)" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_run_is_wrapped_between_words(folder, width):
    for run in query.read_runs(folder):
        assert all(len(line) <= width or " " not in line.strip() for line in show_lines(run, TextStyle(width)))
