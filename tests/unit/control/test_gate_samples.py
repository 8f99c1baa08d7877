"""What a gate has seen so far comes to the run that waits for it, and what cannot be read is left out."""

from __future__ import annotations

import json
import threading

from mobius.control.run import gate_samples
from mobius.control.run.gate_samples import SampleEvents, forward_samples
from mobius.control.run.progress import Progress
from mobius.control.run.workspace import RunWorkspace

SEEN = {"elapsed": 4.0, "deadline": 30.0, "wanted": 3.0, "healthy": 1.5, "samples": 8, "signals": []}


def test_a_run_hears_each_new_sample_of_each_host_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_samples, "_POLL_SECONDS", 0.01)
    samples = SampleEvents(RunWorkspace(tmp_path))
    assert samples.new() == []
    looks = iter([None, "", "no JSON", "[]", "7", *(json.dumps({**SEEN, "samples": count}) for count in range(1000))])
    published = threading.Event()

    def look() -> str | None:
        message = next(looks)
        if message and '"samples": 3' in message:
            published.set()
        return message

    with forward_samples(RunWorkspace(tmp_path), "a/../b", look):
        assert published.wait(30)
    heard = samples.new()
    assert [(event["event"], event["event_data"]["host"]) for event in heard] == [("gate_sample", "a/../b")]
    assert samples.new() == []
    assert [path.suffix for path in (tmp_path / "gates").iterdir()] == [".json"], "nothing lies beside it"


def test_the_thread_has_ended_with_the_gate(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_samples, "_POLL_SECONDS", 0.01)
    before = set(threading.enumerate())
    with forward_samples(RunWorkspace(tmp_path), "lab1", lambda: None):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) <= before


def test_a_folder_that_is_gone_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_samples, "_POLL_SECONDS", 0.01)
    looked = threading.Event()

    def look() -> str:
        looked.set()
        return json.dumps(SEEN)

    with forward_samples(RunWorkspace(tmp_path / "gone"), "lab1", look):
        assert looked.wait(30)
    assert SampleEvents(RunWorkspace(tmp_path / "gone")).new() == []


def test_a_sample_of_a_host_without_a_gate_says_nothing():
    event = {"event": "gate_sample", "created": "2026-01-31T23:05:01+00:00", "event_data": {**SEEN, "host": "lab1"}}
    progress, notes = Progress("release").after(event)
    assert (dict(progress.hosts), notes) == ({}, ())
