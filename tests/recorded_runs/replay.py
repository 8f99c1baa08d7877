# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gives a recorded run to the code that a run is given to: the same events, the same end."""

from __future__ import annotations

import json
import signal
from functools import cache
from pathlib import Path
from typing import Any

from mobius.cli.render.progress import Lines
from mobius.control.run.cancellation import Cancellation
from mobius.control.run.events import EventListener
from mobius.control.run.project import Project
from mobius.control.run.runner import RunRequest, RunSummary, ending_of

RUNS = Path(__file__).parent / "runs"
NAMES = tuple(sorted(path.stem for path in RUNS.glob("*.jsonl")))


@cache
def replay(name: str) -> RunSummary:
    """The summary of a recorded run, made of its events by the code of today."""
    about, *events = [json.loads(line) for line in (RUNS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    lines: list[str] = []
    listener = EventListener(
        Lines(lines.append), playbook=Path(about["playbook"]).stem, watched=about["watched"], check=about["check"]
    )
    for event in events:
        listener.event(event)
    request = RunRequest(
        Path("/checkout/playbooks", about["playbook"]),
        about["inventory"],
        Project(Path("/checkout"), Path("/checkout"), Path("/checkout/ansible.cfg")),
        limit=about["limit"],
        check=about["check"],
        timeout=about["timeout"],
    )
    cancellation = Cancellation(about["timeout"])
    cancellation.signal = signal.Signals[about["signal"]] if about["signal"] else None
    cancellation.timed_out = about["timed_out"]
    end = ending_of(request, listener, cancellation, about["code"], {})
    return RunSummary(
        run=about["run"],
        playbook=about["playbook"],
        check=about["check"],
        ending=end,
        changed=listener.changed,
        changes=listener.changes,
        seconds=about["seconds"],
        results=listener.results,
        failed_results=listener.failed_results,
    )


def recorded_outcome(name: str) -> str:
    """The outcome that the run had when it was recorded."""
    about: dict[str, Any] = json.loads((RUNS / f"{name}.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    return str(about["outcome"])
