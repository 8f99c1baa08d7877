# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a run goes into its history: an allow-list of fields, so that a secret has no way in.

No text that a task, a host or a variable may have made is recorded: no messages, no reasons of arbitrary tasks, no
names of tasks after templates were filled in, no values of variables. The plugins `run` and `outcome` come here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from mobius.control.history.opened_run import OpenedRun
from mobius.control.history.query import is_opening, sum_up
from mobius.control.history.verifier import digest
from mobius.control.history.writer import plain
from mobius.control.modules import module_entry, module_name
from mobius.control.run.outcome import Ending, FleetDecision
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import OUTCOMES, MobiusError

DECISION_FIELDS = ("service", "release", "why", "batches")
"""What a promotion may say about its decision."""


def result_data(host: str, action: str, task: str, status: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The data of a `result` record, None for a task of which nothing is recorded.

    Args:
        action: the task's module, by its full name.
        task: the task's name as the playbook has it, before templates are filled in.
        status: ok, changed, failed or unreachable.
    """
    recorded = module_entry(action).recorded
    bad = status in ("failed", "unreachable")
    if recorded is None and not bad:
        return None
    data: dict[str, Any] = {"host": host, "task": task, "module": action, "status": status}
    if bad:
        carried = result.get("mobius_failure")
        outcome = carried.get("outcome") if isinstance(carried, Mapping) else None
        plain = "unreachable" if status == "unreachable" else "timeout" if result.get("timedout") else "task_failed"
        data["outcome"] = outcome if outcome in OUTCOMES else plain
    if not result.get("_ansible_no_log"):
        data["fields"] = {name: result[name] for name in recorded or () if name in result}
    return data


def decision_data(
    about: Mapping[str, Any], decision: FleetDecision, results: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The data of a `decision` record.

    Args:
        about: what the promotion says of itself (`DECISION_FIELDS`).
        results: by host, the result that it registered; of its `evidence` the digest is recorded.
    """
    evidence = plain({host: (result or {}).get("evidence") for host, result in results.items()})
    hosts = {
        host: {"verdict": decision.verdicts.get(host), "evidence_sha256": digest(value) if value else None}
        for host, value in evidence.items()
    }
    return {
        **{name: about[name] for name in DECISION_FIELDS if about.get(name)},
        "decision": decision.decision,
        "verdict": decision.verdict,
        "mark_bad": decision.mark_bad,
        "outcome": decision.failure.get("outcome"),
        "hosts": hosts,
        "evidence_sha256": digest({host: entry["evidence_sha256"] for host, entry in hosts.items()}),
    }


class RunRecorder:
    """Records the results of one ansible-playbook process. Never raises: it warns of what it could not write."""

    def __init__(self, workspace: Callable[[], RunWorkspace], warn: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._warn = warn
        self._opened: OpenedRun | None = None
        self._started = time.monotonic()
        self._hosts: dict[str, dict[str, Any]] = {}
        self._has_warned = False

    def result(self, host: str, action: str, task: str, status: str, result: Mapping[str, Any]) -> None:
        """One result of one task on one host; of a loop, each item's."""
        items = result.get("results")
        if isinstance(items, list) and module_name(action):
            for item in items:
                if isinstance(item, Mapping):
                    self.result(host, action, task, "changed" if item.get("changed") else status, item)
            return
        data = result_data(host, action, task, status, result)
        if data is None:
            return
        if is_opening(action) and host in self._hosts and status == "ok":
            return  # a later play of the same run opens it again; nothing is new
        sum_up(self._hosts, data)
        self._safely(lambda opened: opened.history.add(opened.run, data))

    @property
    def opened(self) -> OpenedRun | None:
        """The opened run; None in a playbook that opens none."""
        if self._opened is None:
            self._opened = OpenedRun.read(self._workspace())
        return self._opened

    def end(
        self,
        ending: Ending,
        counts: Mapping[str, Mapping[str, int]],
        *,
        check: bool,
        fidelity: Mapping[str, Any] | None = None,
    ) -> None:
        """The run's end: each host's counts (ok, changed, failures, unreachable, …), and how it kept to its plan."""
        failed = {failure.host: failure.outcome for failure in ending.failures}
        hosts = {
            host: {
                "outcome": failed.get(host, "success"),
                **self._hosts.get(host, {}),
                **{name: counts[host].get(name, 0) for name in ("ok", "changed", "failures", "unreachable")},
            }
            for host in sorted(counts)
        }
        took = round((time.monotonic() - self._started) * 1000)
        data: dict[str, Any] = {"duration_ms": took, "check": check, "hosts": hosts}
        if not check and (lost := [host for host in hosts if counts[host].get("unreachable")]):
            data["unwitnessed"] = lost
        if self._has_warned:
            data["incomplete"] = True
        if fidelity is not None:
            data["fidelity"] = dict(fidelity)
        self._safely(lambda opened: opened.history.close(opened.run, ending.outcome, data))

    def _safely(self, write: Callable[[OpenedRun], Any]) -> None:
        if self.opened is None:
            return  # a playbook that opens no run has no history
        try:
            write(self.opened)
        except (MobiusError, OSError, ValueError) as error:
            if not self._has_warned:
                self._has_warned = True
                self._warn(f"The history of this run is incomplete: {error}")
