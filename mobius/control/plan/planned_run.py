# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run and its plan: the changes of a check run, from which a plan is made, or how well a run kept to its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mobius.control.history.opened_run import OpenedRun
from mobius.control.plan.changes import Collector, Fidelity, compare
from mobius.control.plan.plan import ChangePlan
from mobius.control.run.outcome import Ending, ending
from mobius.control.run.workspace import RunWorkspace

PLANNING = "MOBIUS_PLANNING"
"""Environment variable that `mobius plan` sets for its check run."""


def compare_with_plan(
    opened: OpenedRun | None, collector: Collector, environment: Mapping[str, str], *, check: bool, diffs: bool
) -> Fidelity | None:
    """Compare a run with its plan, and keep what was collected for the `mobius` that started it, if one did.

    Raises:
        MobiusError: plan_invalid, when the plan is no longer what the run began with.
    """
    workspace = RunWorkspace.of_mobius(environment)
    fidelity = None
    if opened is not None and opened.plan and not check:
        fidelity = compare(ChangePlan.read(Path(opened.plan)).hosts, collector.hosts, diffs=diffs)
    if workspace is not None and (fidelity is not None or (check and environment.get(PLANNING))):
        workspace.write_changes(
            {
                "intent": opened.intent if opened else None,
                "hosts": {host: changes.as_dict() for host, changes in collector.hosts.items()},
                "fidelity": fidelity.as_dict() if fidelity else None,
            }
        )
    return fidelity


def not_compared(end: Ending, reason: str) -> Ending:
    """The ending of a run that could not be compared with its plan: a success is none."""
    if end.code != 0:
        return end
    mismatch = ending("plan_mismatch", f"The run could not be compared with its plan: {reason}")
    return replace(mismatch, hosts=end.hosts, release=end.release)
