"""The progress of a run, from the recorded events of real ones (`run_events/record.py` made them)."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live as RichLive

from mobius.cli.render.progress import Lines, Live, line, view
from mobius.control.run.progress import EXPECTED, GateSignal, Progress, ProgressNote

EVENTS = Path(__file__).parent / "run_events"


def events(name: str) -> list[dict]:
    return [json.loads(text) for text in (EVENTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def played(name: str, message: list[dict] | None = None) -> list[tuple[dict, Progress, tuple[ProgressNote, ...]]]:
    """Each event of a recorded run, the progress after it, and what was told of it."""
    progress, steps = Progress("release"), []
    for event in message or events(name):
        progress, notes = progress.after(event)
        steps.append((event, progress, notes))
    return steps


def phases(steps: list) -> list[str]:
    return [note.text for _, _, notes in steps for note in notes if note.kind == "phase"]


def drawn(progress: Progress, width: int = 100, height: int = 30, later: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    console.print(view(progress, progress.began + timedelta(seconds=later), height))
    return console.file.getvalue()


def test_a_release_goes_through_the_phases_that_are_expected_of_it_batch_by_batch():
    steps = played("release")
    assert tuple(steps[-1][1].phases) == EXPECTED["release"]
    assert phases(steps) == [
        *("lock", "preflight", "backup", "stage", "standby", "lock"),
        *(
            f"{phase}, batch {number} of 3: lab{number}"
            for number in (1, 2, 3)
            for phase in ("canary", "gate", "switch")
        ),
        *("decide", "confirm", "clean up"),
    ]


@pytest.mark.slow
def test_no_phase_depends_on_what_a_task_is_called():
    renamed = events("release")
    for number, event in enumerate(renamed):
        event["event_data"]["task"] = f"Task {number}"
    assert phases(played("release", renamed)) == phases(played("release"))


def test_the_phases_that_are_ahead_become_fewer_until_none_is_left():
    ahead = [len(progress.ahead) for _, progress, _ in played("release")]
    assert ahead == sorted(ahead, reverse=True)
    assert (ahead[0], ahead[-1]) == (len(EXPECTED["release"]), 0)


def test_the_gate_reports_its_verdict_and_each_figure_of_both_releases():
    gates = [note for _, _, notes in played("release") for note in notes if note.kind == "gate"]
    assert [note.host for note in gates] == ["lab1", "lab2", "lab3"]
    for note in gates:
        assert note.text.startswith("pass: 2.0.0-")
        assert "; error rate 0 (before: 0); " in note.text
        assert "p95 hash time in seconds 0.0" in note.text


def test_a_gate_that_failed_is_followed_by_no_switch_but_a_revert():
    steps = played("release_refused")
    assert phases(steps)[-6:] == [
        "canary, batch 1 of 3: lab1",
        "gate, batch 1 of 3: lab1",
        "canary, batch 2 of 3: lab2",  # where they were held back
        "canary, batch 3 of 3: lab3",
        "decide",
        "revert",
    ]
    messages = [note.text for _, _, notes in steps for note in notes if note.kind == "gate"]
    assert len(messages) == 1 and messages[0].startswith("fail: The p95 hash time in seconds of 2.0.0-")


def test_while_a_gate_observes_its_figures_and_the_time_left_show_as_they_become_known():
    samples = [note for _, _, notes in played("release_refused") for note in notes if note.kind == "sample"]
    assert len(samples) > 5
    left = [float(note.text.split()[0]) for note in samples]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]
    assert "s left at most; good for " in samples[-1].text
    assert "too high" in samples[-1].text
    messages: list[str] = []
    lines = Lines(messages.append)
    for note in samples:
        lines.note(note)
    assert 1 < len(messages) < len(samples), "one in ten seconds"


@pytest.mark.parametrize(
    ("over", "proven", "shown"),
    [(False, False, ""), (True, False, ", may be too high"), (True, True, ", too high")],
)
def test_a_signal_is_too_high_only_when_it_is_proven(over, proven, shown):
    signal = GateSignal("error rate", 0.05, 0.001, over, proven)
    assert str(signal) == f"error rate 0.05 (before: 0.001){shown}"


def test_a_line_has_the_time_in_utc_and_leaves_out_what_did_nothing():
    messages: list[str] = []
    lines = Lines(messages.append)
    for _, _, notes in played("release"):
        for note in notes:
            lines.note(note)
    assert all(re.match(r"\d\d:\d\d:\d\dZ  [a-z]", text) for text in messages)
    assert not [text for text in messages if text[11:].startswith(("ok ", "skipped "))]
    assert any(text[11:].startswith("changed      lab1") for text in messages)


def test_the_view_shows_where_the_run_is_and_where_each_host_is():
    steps = played("release")
    at_gate = next(progress for _, progress, _ in steps if progress.phase == "gate" and progress.batch == 2)
    text = drawn(at_gate, later=75)
    assert "lock › preflight › backup › stage › standby › canary › gate › switch › decide" in " ".join(text.split())
    assert "1:15  Run the gate on the new release  batch 2 of 3" in text
    assert text.index("lab2") < text.index("lab1"), "who works comes first"


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (200, 60)])
def test_the_view_of_a_large_fleet_fits_on_the_terminal(width, height):
    progress = played("release")[-1][1]
    many = {f"host{number:03}": progress.hosts["lab1"] for number in range(300)}
    text = drawn(Progress("release", progress.began, phase="backup", hosts=many), width, height)
    assert len(text.splitlines()) <= height
    assert all(len(text) <= width for text in text.splitlines())
    assert "hosts more" in text


def test_what_a_host_reports_cannot_steer_the_terminal():
    progress = played("release")[-1][1]
    evil = "\x1b[2J\x1b]0;title\x07[bold]x[/bold]"
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    shown = Live(RichLive(console=console, auto_refresh=False))
    shown.note(ProgressNote(progress.began, "failed", "lab1", evil))
    shown.text(evil)
    assert file.getvalue().count("[bold]x[/bold]") == 2
    assert "\x1b" not in file.getvalue() and "\x07" not in file.getvalue()
    assert "[bold]x[/bold]" in line(ProgressNote(progress.began, "failed", "lab1", evil))


ANYTHING = [
    *(None, True, "x", "\x1b[2J", 10**400, 1e300, -5, float("nan"), float("inf"), [], [7], {}, {"name": []}),
    *([{"name": {}, "new": "x", "old": float("nan"), "over": 1}], {"signals": 7}, {"values": {"signals": [None]}}),
]


@pytest.mark.parametrize(
    "key", ["elapsed", "deadline", "wanted", "healthy", "samples", "signals", "evidence", "verdict"]
)
def test_whatever_a_host_reports_of_its_gate_the_run_goes_on(key):
    at = "2026-01-31T23:05:01+00:00"
    about = {"host": "lab1", "task_action": "mobius.dhash.gate", "task_path": "/roles/promote/tasks/gate.yml:1"}
    sample = {"host": "lab1", "elapsed": 1, "deadline": 60, "wanted": 10, "healthy": 1, "samples": 2, "signals": []}
    for value in ANYTHING:
        progress = Progress("release")
        for event, data in (
            ("runner_on_start", about),
            ("gate_sample", {**sample, key: value}),
            ("runner_on_ok", {**about, "res": {"verdict": "pass", key: value}}),
        ):
            progress, notes = progress.after({"event": event, "created": at, "event_data": data})
            assert all(line(note) for note in notes)
            assert "\x1b" not in drawn(progress)
