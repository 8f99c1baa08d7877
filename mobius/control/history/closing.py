# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The end of a run leaves the history's final head with the run's hosts, so that no tail of it stays open.

It is done after the end is recorded, which the last task of a playbook could not wait for, also after a failure, and
for all hosts at once. The callback plugin `outcome` comes here: a play within its process costs no start of Ansible and
uses the run's connections.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible import context
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.playbook.play import Play
from ansible.template import trust_as_template
from ansible.utils.context_objects import CLIArgs

from mobius.control.history.opened_run import OpenedRun

TASK_TIMEOUT_SECONDS = 20
"""Within which a host has to keep the head; connecting to it takes no longer than Ansible's own time-out."""

_DIR = "{{ mobius_witness_dir | default('') or omit }}"
_RESULT = "__mobius_head_kept"
_CONNECTING = (
    *("become", "become_user", "become_method", "become_exe", "become_flags"),
    *("connection", "remote_user", "port", "environment"),
)


@dataclass(frozen=True)
class Opening:
    """The play and the task that opened the run on a host: they know how to connect to it."""

    play: Any
    task: Any

    def connecting(self) -> dict[str, Any]:
        """The keywords of a task that say how to connect to its host, as the task that opened the run had them."""
        return {name: value for name in _CONNECTING if (value := getattr(self.task, name, None))}


class _QuietTaskQueueManager(TaskQueueManager):  # type: ignore[misc]
    """Runs a play that no callback reports: those of the run have ended."""

    def load_callbacks(self) -> None:
        return


def leave_head(opened: OpenedRun, openings: Mapping[str, Opening], passwords: Mapping[str, Any]) -> dict[str, str]:
    """Have each host keep the history's head. Gives those that do not keep it, each with the reason.

    They are recorded. That record has a head as well, so the others are sent that one too.

    Args:
        openings: by host.
        passwords: Ansible's own, `conn_pass` and `become_pass`.

    Raises:
        MobiusError, OSError: the history cannot be written.
    """
    missing = _send(opened, openings, passwords)
    if missing:
        opened.history.name_unwitnessed(opened.run, sorted(missing))
        _send(opened, {host: opening for host, opening in openings.items() if host not in missing}, passwords)
    return missing


def _send(opened: OpenedRun, openings: Mapping[str, Opening], passwords: Mapping[str, Any]) -> dict[str, str]:
    head = {**opened.history.head(), "run": opened.run}
    plays: dict[tuple[int, str], list[str]] = {}
    for host, opening in sorted(openings.items()):
        plays.setdefault((id(opening.play), repr(opening.connecting())), []).append(host)
    missing: dict[str, str] = {}
    for hosts in plays.values():
        missing |= _run_play(openings[hosts[0]], hosts, head, passwords)
    return missing


def _run_play(
    opening: Opening, hosts: list[str], head: Mapping[str, Any], passwords: Mapping[str, Any]
) -> dict[str, str]:
    manager, loader = opening.play.get_variable_manager(), opening.play.get_loader()
    inventory = manager._inventory
    task = {
        "name": "Keep the final head of the history",
        "mobius.dhash.witness": {"head": dict(head), "dir": trust_as_template(_DIR)},
        "register": _RESULT,
        "timeout": TASK_TIMEOUT_SECONDS,
        **opening.connecting(),
    }
    content = {
        "name": "Leave the final head of the history with the hosts",
        "hosts": hosts,
        "gather_facts": False,
        "strategy": "ansible.builtin.linear",
        "vars": dict(opening.play.vars),
        "vars_files": list(opening.play.vars_files or []),
        "tasks": [task],
    }
    with _every_task():
        play = Play.load(content, variable_manager=manager, loader=loader)
        inventory.remove_restriction()  # that of the run's last batch
        queue = _QuietTaskQueueManager(
            inventory=inventory,
            variable_manager=manager,
            loader=loader,
            passwords=dict(passwords),
            forks=context.CLIARGS.get("forks"),
        )
        try:
            queue.run(play)
        finally:
            queue.cleanup()
        results = {host: manager.get_vars(play=play, host=inventory.get_host(host)).get(_RESULT) for host in hosts}
    return {host: problem for host, result in results.items() if (problem := _problem(result))}


@contextlib.contextmanager
def _every_task() -> Iterator[None]:
    """Without what the command line leaves out of a run: tags, the tasks before a first one, and --step."""
    before = context.CLIARGS
    context.CLIARGS = CLIArgs({**before, "tags": ("all",), "skip_tags": (), "start_at_task": None, "step": False})
    try:
        yield
    finally:
        context.CLIARGS = before


def _problem(result: Mapping[str, Any] | None) -> str:
    """Why a host does not keep the head, from the result of its task; empty when it does."""
    if not result:
        return "It did not answer."
    if result.get("witnessed"):
        return ""
    return str(next(iter(result.get("warnings") or ()), result.get("msg") or "It did not answer."))
