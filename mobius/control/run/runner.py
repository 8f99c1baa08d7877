# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a playbook of the collection through ansible-runner: progress, time limit, clean cancel, one outcome.

Ansible gets an environment that is listed here and nothing else of the caller's. Its own exit code counts only where
nothing better is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobius.control.bundle.reading import read_once
from mobius.control.history.opened_run import OpenedRun, close_left_open
from mobius.control.plan.changes import check_fidelity
from mobius.control.plan.planned_run import PLANNING
from mobius.control.run.account import RunAccount
from mobius.control.run.cancellation import Cancellation, cancel_on_signals
from mobius.control.run.events import EventListener
from mobius.control.run.gate_samples import SampleEvents
from mobius.control.run.outcome import Ending, ending
from mobius.control.run.progress import Show
from mobius.control.run.project import Project
from mobius.control.run.run_id import ENVIRONMENT_NAME, current_run_id
from mobius.control.run.workspace import FOLDER_VARIABLE, RunWorkspace
from mobius.control.service_file.parse import read_service_file
from mobius.errors import MobiusError

DEFAULT_TIMEOUT = 3600.0
"""Seconds that a run may take."""

_LEAVE_HEAD_SECONDS = 30.0  # for the hosts of a run that was stopped
_STOPPED_BY = {
    signal.SIGINT: "Ctrl-C (SIGINT) stopped the run.",
    signal.SIGTERM: "SIGTERM stopped the run: another process, or the shutdown of this machine.",
    signal.SIGHUP: "SIGHUP stopped the run: its terminal was closed.",
}
_POLL_SECONDS = 0.5  # between two checks of the time limit and of signals

# What Ansible, SSH and podman need of the caller. Everything else stays out: an ANSIBLE_ variable of a shell must not
# decide what a release does, and a PYTHONPATH must not bring in other code.
_PASSED_ON = (
    *("HOME", "USER", "LOGNAME", "SUDO_USER", "SHELL", "TERM", "TMPDIR", "TZ", "SSH_AUTH_SOCK", "SSH_AGENT_PID"),
    "SSH_CONNECTION",  # from where: for the history
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("ANSIBLE_HOME", "ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"),
    *("ANSIBLE_BECOME_PASSWORD_FILE", "ANSIBLE_CONNECTION_PASSWORD_FILE"),
)
# those that name files
_FILES = frozenset(
    (
        *("ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"),
        *("ANSIBLE_BECOME_PASSWORD_FILE", "ANSIBLE_CONNECTION_PASSWORD_FILE"),
    )
)
_PASSED_ON_PREFIXES = ("MOBIUS_", "XDG_", "CONTAINERS_")
# and what ansible-runner adds so that it hears of events; its ANSIBLE_HOST_KEY_CHECKING=False is none of them
_OF_RUNNER = (
    *("ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_RETRY_FILES_ENABLED", "AWX_ISOLATED_DATA_DIR"),
    *("RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS"),
)


@dataclass(frozen=True)
class RunRequest:
    """Which playbook to run, and with what.

    `playbook` and `inventory` are absolute paths (or a host list with a comma), `variables` are JSON values,
    `extra` are Ansible's own `-e` arguments, `timeout` is in seconds.
    """

    playbook: Path
    inventory: str
    project: Project
    variables: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    limit: str | None = None
    tags: tuple[str, ...] = ()
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    timeout: float = DEFAULT_TIMEOUT
    watched: str | None = None
    """Full name of a module whose last result of each host is kept in the summary."""
    planning: bool = False
    """Whether each host is asked for its fingerprint and all changes are collected, for a plan."""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    `changed` counts changed tasks by host, `changes` names them in their order (in a check run: what would change),
    `results` has the watched results by host, `failed_results` those of the hosts on which the watched task failed.
    """

    run: str
    playbook: str
    check: bool
    ending: Ending
    changed: dict[str, int]
    changes: dict[str, list[str]]
    seconds: float
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed_results: dict[str, dict[str, Any]] = field(default_factory=dict)
    collected: dict[str, Any] = field(default_factory=dict)
    """For a plan or of a run with one: `intent`, `hosts`, `fidelity` (`planned_run.compare_with_plan`)."""

    @property
    def account(self) -> RunAccount:
        """What is reported of the run's end."""
        command = Path(self.playbook).stem
        return RunAccount(command, self.ending, self.check, self.run, self.seconds, self.changed)

    def as_dict(self) -> dict[str, Any]:
        """The object that `--format json` prints, without the results."""
        return {
            **self.account.as_dict(),
            "playbook": self.playbook,
            "changes": self.changes,
            **({"fidelity": fidelity} if (fidelity := self.collected.get("fidelity")) else {}),
        }


def extra_argument(text: str) -> str:
    """One `-e` argument as Ansible takes it: `key=value`, JSON, or `@file` with the file's absolute path.

    Raises:
        MobiusError: invalid_input, when it is none of these or the file is missing.
    """
    if text.startswith("@"):
        path = Path(text[1:]).expanduser().absolute()
        if not path.is_file():
            raise MobiusError("invalid_input", f"There is no file {path} for -e {text}.")
        return f"@{path}"
    if text.startswith("{"):
        try:
            json.loads(text)
        except ValueError as error:
            raise MobiusError("invalid_input", f"-e {text} is not JSON: {error}.") from error
        return text
    if not re.match(r"[A-Za-z_]\w*=", text):
        raise MobiusError("invalid_input", f"-e {text} is neither key=value nor JSON nor @file.")
    return text


def limit_argument(text: str | None) -> str | None:
    """`--limit` with the absolute path of each `@file`: Ansible runs in the project's folder, and the person elsewhere.

    Raises:
        MobiusError: invalid_input, when a file is missing.
    """
    if text is None or "@" not in text:
        return text
    parts = []
    for part in text.split(","):
        path = Path(part.strip()[1:]).expanduser().absolute() if part.strip().startswith("@") else None
        if path is not None and not path.is_file():
            raise MobiusError("invalid_input", f"There is no file {path} for --limit {text}.")
        parts.append(part if path is None else f"@{path}")
    return ",".join(parts)


def run_playbook(request: RunRequest, show: Show) -> RunSummary:
    """Run a playbook to its end, its time limit, or a signal to stop, whichever comes first.

    Args:
        show: gets what happens, and the progress.

    Raises:
        MobiusError: missing_dependency, when ansible-runner or ansible-playbook is not installed; invalid_input, for
            what is wrong in the project's `mobius.yml`.
    """
    if request.project.service_file is not None:
        read_service_file(request.project.service_file)
    try:
        from ansible_runner import Runner, RunnerConfig
    except ModuleNotFoundError as error:
        raise MobiusError("missing_dependency", f"The Python package {error.name} is not installed.") from error
    bin_folder = Path(sys.executable).parent
    ansible = shutil.which("ansible-playbook", path=f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if ansible is None:
        raise MobiusError("missing_dependency", "ansible-playbook is not installed.")

    workspace = RunWorkspace.create()
    started = time.monotonic()
    try:
        run = current_run_id(os.environ, workspace)
        environment = {**_environment(request.project, bin_folder, run), FOLDER_VARIABLE: str(workspace.folder)}
        environment[PLANNING] = "1" if request.planning else ""
        config = RunnerConfig(
            private_data_dir=str(workspace.folder),
            project_dir=str(request.project.folder),
            playbook=str(request.playbook),
            inventory=_inventories(request),
            limit=request.limit,
            tags=",".join(request.tags) or None,
            verbosity=request.verbosity or None,
            cmdline=_command_line(request, workspace) or None,
            quiet=True,
        )
        config.prepare()
        config.pexpect_timeout = (
            _POLL_SECONDS  # given as a setting it is lost: without a file of settings there are none
        )
        config.command[0] = ansible
        # the last entry is ansible-runner's own; one before it came from the caller's environment
        config.env["ANSIBLE_CALLBACK_PLUGINS"] = config.env["ANSIBLE_CALLBACK_PLUGINS"].rpartition(":")[2]
        config.env = {**environment, **{name: config.env[name] for name in _OF_RUNNER}}
        with cancel_on_signals(request.timeout) as cancellation:
            listener = EventListener(
                show,
                playbook=request.playbook.stem,
                watched=request.watched,
                verbosity=request.verbosity,
                check=request.check,
            )
            samples = SampleEvents(workspace)

            # only now: Ansible's process is there, and a fork would have copied the thread's locks
            read_ahead = functools.cache(lambda: _read_bundle_ahead(request, workspace))

            def due() -> bool:
                read_ahead()
                for event in samples.new():
                    listener.take(event)
                show.now(listener.progress)
                return cancellation.due()

            runner = Runner(config, event_handler=listener.event, cancel_callback=due)
            runner.run()
            cancellation.sweep()
        seconds = time.monotonic() - started
        collected = workspace.read_changes()
        end = ending_of(request, listener, cancellation, int(runner.rc or 0), environment)
        if fidelity := collected.get("fidelity"):
            end = check_fidelity(end, fidelity["missing"], fidelity["extra"])
        try:
            if closed := close_left_open(workspace, run, end, seconds):
                _leave_head(request, closed, show)
        except MobiusError as error:
            show.text(f"warning: {error.reason} The next run closes this one as interrupted.")
    finally:
        workspace.remove()
    name = request.playbook.name
    return RunSummary(
        run=run,
        playbook=name,
        check=request.check,
        ending=end,
        changed=listener.changed,
        changes=listener.changes,
        seconds=seconds,
        results=listener.results,
        failed_results=listener.failed_results,
        collected=collected,
    )


def _read_bundle_ahead(request: RunRequest, workspace: RunWorkspace) -> None:
    """Read the bundle of a release while Ansible starts: the task that needs it finds what was read, or fails."""
    bundle = str(request.variables.get("mobius_bundle") or "")
    sha256 = str(request.variables.get("mobius_bundle_sha256") or "")

    def read() -> None:
        with contextlib.suppress(MobiusError, OSError):
            read_once(bundle, sha256, workspace)

    if Path(bundle).is_absolute():
        threading.Thread(target=read, daemon=True).start()


def _leave_head(request: RunRequest, closed: OpenedRun, show: Show) -> None:
    """Have the hosts of a run that was stopped keep the final head of the history, as a run's own end does.

    Raises:
        MobiusError: the history cannot be written.
    """
    hosts = [str(host) for host in closed.intent["hosts"]]
    if closed.intent["check"] or not hosts:
        return
    head = {**closed.history.head(), "run": closed.run}
    leaving = dataclasses.replace(
        request,
        playbook=request.project.playbooks / "witnesses.yml",
        variables={**request.variables, "mobius_witness_hosts": hosts, "mobius_witness_head": head},
        tags=(),
        timeout=_LEAVE_HEAD_SECONDS,
        watched="mobius.dhash.witness",
    )
    results = run_playbook(leaving, _Hidden()).results
    if missing := sorted(host for host in hosts if not results.get(host, {}).get("witnessed")):
        closed.history.name_unwitnessed(closed.run, missing)
        show.text(f"warning: {', '.join(missing)} do not keep the final head of the history.")


class _Hidden:
    """Shows nothing of a run."""

    def now(self, *_: Any, **__: Any) -> None:
        return

    note = text = now


def _environment(project: Project, bin_folder: Path, run: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    for name in _FILES.intersection(kept):
        kept[name] = ",".join(_from_here(part) for part in kept[name].split(","))
    return {
        **kept,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        **project.environment,
        "ANSIBLE_NOCOLOR": "1",
        ENVIRONMENT_NAME: run,
    }


def _from_here(text: str) -> str:
    """The absolute path of a file that the caller's environment names, also as `label@file`."""
    label, at, file = text.rpartition("@")
    if file in ("", "prompt", "prompt_ask_vault_pass"):
        return text
    return f"{label}{at}{Path(file).expanduser().absolute()}"


def _command_line(request: RunRequest, workspace: RunWorkspace) -> str:
    flags = [flag for flag, is_set in (("--check", request.check), ("--diff", request.diff)) if is_set]
    extra = [part for text in request.extra for part in ("-e", text)]
    if request.variables:
        extra += ["-e", f"@{workspace.write_variables(request.variables)}"]
    return shlex.join([*flags, *extra])


def _inventories(request: RunRequest) -> list[str]:
    """The inventories that Ansible reads; the project's `mobius.yml` first, since later ones win."""
    service_file = request.project.service_file
    return [*([str(service_file)] if service_file else []), request.inventory]


def ending_of(
    request: RunRequest, listener: EventListener, cancellation: Cancellation, code: int, environment: Mapping[str, str]
) -> Ending:
    """The outcome: what stopped the run, else what the hosts reported, else why Ansible never came to report."""
    with_hosts = listener.observer.with_hosts
    if cancellation.signal is not None:
        return with_hosts(ending("interrupted", _STOPPED_BY[cancellation.signal]))
    if cancellation.timed_out:
        return with_hosts(ending("timeout", f"The run took longer than its limit of {request.timeout:g} seconds."))
    if listener.ending is not None:
        if listener.ending.code == 0 and code != 0:
            reason = f"ansible-playbook ended with code {code}. {listener.complaint}".strip()
            return with_hosts(ending("task_failed", reason))
        return listener.ending
    if not _hosts(request, environment):
        if request.limit:
            reason = f"The inventory {request.inventory} has no host within --limit {request.limit}."
            return ending("unknown_inventory", reason, do_next="Give --limit hosts or groups of that inventory.")
        return ending("unknown_inventory", f"The inventory {request.inventory} has no host.")
    return ending("playbook_error", listener.complaint or f"ansible-playbook ended with code {code} before any play.")


def _hosts(request: RunRequest, environment: Mapping[str, str]) -> list[str]:
    """All hosts that the inventory has within the limit, asked only after Ansible refused to start."""
    limit = ["--limit", request.limit] if request.limit else []
    inventories = [part for inventory in _inventories(request) for part in ("-i", inventory)]
    command = ["ansible-inventory", *inventories, "--list", *limit]
    try:
        answer = subprocess.run(
            command,
            cwd=request.project.folder,
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        inventory = json.loads(answer.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return []
    return [host for name, group in inventory.items() if name != "_meta" for host in group.get("hosts", [])]
