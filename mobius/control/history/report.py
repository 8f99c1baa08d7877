# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The figures of the history's report: the four DORA figures, and the gates' numbers, new beside old."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

CHANGES = ("promote.yml", "release.yml", "rollback.yml")
"""The playbooks that change which release a host serves."""


@dataclass(frozen=True)
class Dora:
    """The four DORA figures of a period; None where there is nothing to count from. Times are in seconds.

    Source: dora.dev/guides/dora-metrics-four-keys. Lead time is taken from the start of a release's run to its
    confirmation, since the history does not know when a commit was made.
    """

    deployments_a_day: float | None
    lead_time: float | None
    failure_rate: float | None
    time_to_restore: float | None


def dora(runs: Sequence[Mapping[str, Any]]) -> Dora:
    """The figures of these runs.

    A deployment is a run of promote or release that ended; it failed when it did not end with
    success, or when the next change was a rollback. Time to restore is from a failed deployment's start to the end of
    the next change that succeeded.
    """
    changes = [run for run in runs if not run["check"] and run["finished"] and playbook_name(run) in CHANGES]
    deployments = [index for index, run in enumerate(changes) if playbook_name(run) != "rollback.yml"]
    failed, restores, leads = 0, [], []
    for index in deployments:
        run, later = changes[index], changes[index + 1 :]
        rolled_back = bool(later) and playbook_name(later[0]) == "rollback.yml"
        good = run["outcome"] == "success"
        if good:
            leads.append(seconds_between(run["started"], run["finished"]))
        if not good or rolled_back:
            failed += 1
            restored = next((other for other in later if other["outcome"] == "success"), None)
            restores += [seconds_between(run["started"], restored["finished"])] if restored else []
    if not deployments:
        return Dora(None, None, None, None)
    days = max(1.0, seconds_between(changes[deployments[0]]["started"], changes[deployments[-1]]["started"]) / 86400)
    good_ones = sum(changes[index]["outcome"] == "success" for index in deployments)
    return Dora(
        good_ones / days,
        statistics.median(leads) if leads else None,
        failed / len(deployments),
        statistics.median(restores) if restores else None,
    )


def gate_figures(evidence: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of `old` and `new` in a gate's evidence, at any depth: `{metric: {old, new}}`."""
    pairs: dict[str, dict[str, float]] = {}
    for path, number in _numbers(evidence, ()):
        for side in ("old", "new"):
            if side in path:
                pairs.setdefault(".".join(part for part in path if part != side), {})[side] = number
    return pairs


def _numbers(value: Mapping[str, Any], before: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], float]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, (*before, name))
        elif isinstance(item, int | str) and not isinstance(item, bool):
            try:
                number = float(item)  # records hold floats as text
            except ValueError:
                continue
            if math.isfinite(number):
                yield (*before, name), number


def playbook_name(run: Mapping[str, Any]) -> str:
    """The file's name of a run's playbook."""
    return str(run["playbook"] or "").rpartition("/")[2]


def moment_of(text: str) -> datetime:
    """The moment that a record names."""
    return datetime.fromisoformat(text)


def seconds_between(begin: str, end: str) -> float:
    """Seconds from one recorded moment to another."""
    return (moment_of(end) - moment_of(begin)).total_seconds()
