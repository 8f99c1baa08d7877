# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prints at the end of every ansible-playbook run how it ended: outcome, code, team, hosts, what to do next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: outcome
type: aggregate
short_description: Prints the outcome of the run
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
description:
  - Prints one block at the end of a run, with the outcome's name, exit code and team, each failed host and its reason,
    and what to do next.
  - Records results and the end in the history of runs, when M(mobius.dhash.run) has opened the run. Its hosts keep the
    final head of the history then (M(mobius.dhash.witness)); those that do not are recorded, and named in a warning.
  - Sends the start and the end of a run that is no check run to the receivers in the variable C(mobius_notify). What
    could not be delivered is a warning.
  - The exit code of C(ansible-playbook) stays Ansible's own; C(mobius) ends with the code printed here.
requirements:
  - enabled as V(mobius.dhash.outcome) in C(callbacks_enabled)
"""

import contextlib
import os
import sys
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.cli.render.outcome import outcome_lines
from mobius.cli.render.plan import fidelity_lines
from mobius.cli.render.text import TextStyle
from mobius.control.history.closing import Opening, leave_head
from mobius.control.history.query import is_opening
from mobius.control.history.recorder import RunRecorder
from mobius.control.notify.notifier import Notifier
from mobius.control.plan.changes import Collector
from mobius.control.plan.planned_run import compare_with_plan, not_compared
from mobius.control.run.account import RunAccount
from mobius.control.run.action import current_workspace
from mobius.control.run.installed_modules import installed_digest
from mobius.control.run.outcome import Observer
from mobius.errors import ExitCode, MobiusError


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Feeds the run's observer and prints its ending."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "mobius.dhash.outcome"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._observer = Observer(check=bool(context.CLIARGS.get("check")))
        self._collector = Collector()
        self._play = ""
        self._playbook = ""
        self._began = time.monotonic()
        self._playing: Any = None
        self._openings: dict[str, Opening] = {}
        self._passwords: dict[str, Any] = {}
        self._notifier = Notifier("", self._display.warning)
        self._recorder = RunRecorder(
            current_workspace,
            lambda text: self._display.warning(text),
        )

    def v2_playbook_on_start(self, playbook: Any) -> None:
        with contextlib.suppress(OSError):
            installed_digest(Path(__file__).resolve().parents[1])  # once, and not by each worker
        self._playbook = Path(str(playbook._file_name)).stem
        self._notifier = Notifier(self._playbook, self._display.warning)

    def set_play_context(self, play_context: Any) -> None:
        self._passwords = {"conn_pass": play_context.password, "become_pass": play_context.become_pass}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play.get_name()
        self._playing = play

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._observer.no_hosts_matched(self._play)

    def v2_runner_on_ok(self, result: Any) -> None:
        facts = result.result.get("ansible_facts")
        if isinstance(facts, dict) and "mobius_run_id" in facts:
            self._observer.run = str(facts["mobius_run_id"])
            if not self._notifier.opened and not context.CLIARGS.get("check"):
                self._notify(result.host, facts)
        action, _ = _task(result)
        self._observer.ended(result.host.get_name(), action, result.result)
        self._notifier.take(action, result.result)
        self._record("changed" if result.result.get("changed") else "ok", result)
        self._collect(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._collect(result, skipped=True)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            reported = result.result
            if "mobius_failure" not in reported and (
                refusal := current_workspace().read_refusal(result.host.get_name())
            ):
                reported = {**reported, "mobius_failure": refusal}
            self._observer.failed(result.host.get_name(), result.task_name, reported)
            self._record("failed", result)
        self._observer.ended(result.host.get_name(), _task(result)[0], result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._observer.unreachable(result.host.get_name(), result.task_name, result.result)
        self._record("unreachable", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        ending = self._observer.end(stats.failures, stats.dark, stats.processed)
        counts = {host: stats.summarize(host) for host in stats.processed}
        check, diffs = (bool(context.CLIARGS.get(name)) for name in ("check", "diff"))
        fidelity = None
        try:
            fidelity = compare_with_plan(self._recorder.opened, self._collector, os.environ, check=check, diffs=diffs)
        except (MobiusError, OSError) as error:
            self._display.warning(f"The run could not be compared with its plan: {error}")
            ending = not_compared(ending, str(error))
        if fidelity is not None:
            ending = fidelity.applied_to(ending)
        self._recorder.end(ending, counts, check=check, fidelity=fidelity.record() if fidelity else None)
        self._leave_head({host for host, count in counts.items() if count["unreachable"]})
        color = constants.COLOR_OK if ending.code == ExitCode.SUCCESS else constants.COLOR_ERROR
        self._display.banner("MOBIUS")
        account = RunAccount(
            command=self._playbook,
            ending=ending,
            check=check,
            run=self._observer.run or "",
            seconds=time.monotonic() - self._began,
            changed={host: count["changed"] for host, count in sorted(counts.items())},
        )
        width = TextStyle.of(sys.stdout).width
        for line in [*(fidelity_lines(fidelity) if fidelity else ()), *outcome_lines(account, TextStyle(width))]:
            self._display.display(line, color=color)
        self._notifier.end(ending)

    def _leave_head(self, unreachable: Set[str]) -> None:
        """Have the hosts keep the head of the run's end; a host that was out of reach is named, and not waited for."""
        if self._recorder.opened is None or self._recorder.opened.intent["check"]:
            return
        openings = {host: opening for host, opening in self._openings.items() if host not in unreachable}
        missing = dict.fromkeys(sorted(unreachable), "It was out of reach.")
        try:
            missing |= leave_head(self._recorder.opened, openings, self._passwords)
        except (MobiusError, AnsibleError, OSError) as error:
            self._display.warning(f"The final head of the history could not be left with the hosts: {error}")
        for host, why in missing.items():
            self._display.warning(f"{host} does not keep the final head of the history. {why}")

    def _notify(self, host: Any, facts: dict[str, Any]) -> None:
        """The run was opened: read the receivers, with the inventory's templates and vaults, and send that it began."""
        try:
            known = self._playing.get_variable_manager().get_vars(play=self._playing, host=host)
            templar = Templar(loader=self._playing._loader, variables=known)

            def value(name: str, default: Any) -> Any:
                return plain(templar.template(known[name])) if name in known else default

            receivers = value("mobius_notify", [])
            about = {
                "run": str(facts["mobius_run_id"]),
                "actor": str(facts.get("mobius_run_actor", "")),
                "service": str(value("mobius_service", "") or ""),
                "hosts": len(known.get("ansible_play_hosts_all", ())),
                "bundle": Path(str(value("mobius_bundle", "") or "")).name,
            }
        except (AnsibleError, TypeError, ValueError) as error:  # its text may hold a value
            self._display.warning(
                f"mobius_notify cannot be read ({type(error).__name__}), so nobody gets a message about this run."
            )
            receivers, about = [], {"run": "", "actor": "", "service": "", "hosts": 0}
        self._notifier.open(receivers, **about)

    def _record(self, status: str, result: Any) -> None:
        action, name = _task(result)
        if is_opening(action):
            self._openings[result.host.get_name()] = Opening(self._playing, result.task)
        self._recorder.result(result.host.get_name(), action, name, status, result.result)

    def _collect(self, result: Any, *, skipped: bool = False) -> None:
        self._collector.result(result.host.get_name(), *_task(result), result.result, skipped=skipped)


def _task(result: Any) -> tuple[str, str]:
    """The module and the name of a result's task; the name before its templates are filled in: that may be secret."""
    task = result.task
    written = task._ds.get("name") if isinstance(getattr(task, "_ds", None), dict) else None
    action = str(task.resolved_action or task.action)
    return action, str(written or action)


def plain(value: Any) -> Any:
    """A value of Ansible's, with what it does lazily done: mappings, lists and scalars of Python."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
