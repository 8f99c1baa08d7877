# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run leaves for its plan: a check run's changes, from which one is made, or how a run kept to its plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobius import durable
from mobius.control.history.recorder import NOTE_FOLDER, Note
from mobius.control.plan.changes import Collector, Fidelity, compare
from mobius.control.plan.plan import Plan
from mobius.control.run.outcome import Ending, ending

PLANNING = "MOBIUS_PLANNING"
"""Environment variable that `mobius plan` sets for its check run."""
_NAME = "mobius-changes.json"


def settle(
    note: Note | None, collector: Collector, environment: Mapping[str, str], *, check: bool, diffs: bool
) -> Fidelity | None:
    """Compare a run with its plan, and leave what was collected for the `mobius` that started it, if one did.

    Raises:
        MobiusError: plan_invalid, when the plan is no longer what the run began with.
    """
    folder = environment.get(NOTE_FOLDER)
    fidelity = None
    if note is not None and note.plan and not check:
        fidelity = compare(Plan.read(Path(note.plan)).hosts, collector.hosts, diffs=diffs)
    if folder and (fidelity is not None or (check and environment.get(PLANNING))):
        left = {
            "intent": note.intent if note else None,
            "hosts": {host: found.as_dict() for host, found in collector.hosts.items()},
            "fidelity": fidelity.as_dict() if fidelity else None,
        }
        durable.write_json(Path(folder) / _NAME, left, mode=0o600)
    return fidelity


def unsettled(end: Ending, reason: str) -> Ending:
    """The ending of a run that could not be compared with its plan: a success is none."""
    return ending("plan_mismatch", f"The run could not be compared with its plan: {reason}") if end.code == 0 else end


def read_collected(folder: Path) -> dict[str, Any]:
    """What `settle` has left in the folder of a run; empty when it left nothing."""
    try:
        value = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {}
