# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a playbook of the checkout through ansible-runner: progress, time limit, clean cancel, one outcome.

Ansible sees an environment that is written down here and nothing else of the caller's; its own exit code is looked at
only where it could not say anything better.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import mobius
from mobius.control.history.recorder import NOTE_FOLDER, close_left_open, note_place
from mobius.control.plan.changes import judged
from mobius.control.plan.planned_run import PLANNING, read_collected
from mobius.control.run.gate_samples import Samples
from mobius.control.run.outcome import Ending, Observer, ending
from mobius.control.run.progress import Progress, Show
from mobius.control.run.run_id import ENVIRONMENT_NAME, current_run_id
from mobius.errors import MobiusError

DEFAULT_INVENTORY = "inventories/local"
DEFAULT_TIMEOUT = 3600.0
"""Seconds that a run may take."""

_GRACE = 10.0  # seconds that ansible-playbook gets to stop its workers before everything of it is killed
_POLL = 0.5  # seconds between two looks at the time limit and at signals

# What Ansible, SSH and podman need of the caller. Everything else stays out: an ANSIBLE_ variable of a shell must not
# decide what a release does, and a PYTHONPATH must not bring in other code.
_PASSED_ON = (
    *("HOME", "USER", "LOGNAME", "SUDO_USER", "SHELL", "TERM", "TMPDIR", "TZ", "SSH_AUTH_SOCK", "SSH_AGENT_PID"),
    "SSH_CONNECTION",  # from where: for the history
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("ANSIBLE_HOME", "ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"),
    *("ANSIBLE_BECOME_PASSWORD_FILE", "ANSIBLE_CONNECTION_PASSWORD_FILE"),
)
_PASSED_ON_PREFIXES = ("MOBIUS_", "XDG_", "CONTAINERS_")
# and what ansible-runner adds so that it hears of events; its ANSIBLE_HOST_KEY_CHECKING=False is none of them
_OF_RUNNER = (
    *("ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_RETRY_FILES_ENABLED", "AWX_ISOLATED_DATA_DIR"),
    *("RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS"),
)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class RunRequest:
    """What is to be run, and with what.

    `playbook` and `inventory` are absolute paths (or a host list with a comma), `variables` are JSON values,
    `extra` are Ansible's own `-e` arguments, `timeout` is in seconds.
    """

    playbook: Path
    inventory: str
    checkout: Path
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
    `results` has the watched results by host.
    """

    run: str
    playbook: str
    check: bool
    ending: Ending
    changed: dict[str, int]
    changes: dict[str, list[str]]
    seconds: float
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    collected: dict[str, Any] = field(default_factory=dict)
    """For a plan or of a run with one: `intent`, `hosts`, `fidelity` (`plan.planned_run.settle`)."""

    def as_dict(self) -> dict[str, Any]:
        """The object that `--format json` prints, without the results."""
        return {
            "run": self.run,
            "playbook": self.playbook,
            "check": self.check,
            "outcome": self.ending.outcome,
            "exit_code": int(self.ending.code),
            "reason": self.ending.reason,
            "do_next": self.ending.do_next,
            "failures": [failure.as_dict() for failure in self.ending.failures],
            "changed": self.changed,
            "changes": self.changes,
            "seconds": round(self.seconds, 1),
            **({"fidelity": fidelity} if (fidelity := self.collected.get("fidelity")) else {}),
        }


def find_checkout() -> Path:
    """The checkout whose playbooks are run: the one this package lies in, else the one we stand in.

    Raises:
        MobiusError: environment_failed, when there is none.
    """
    here = Path.cwd()
    for folder in (Path(mobius.__file__).resolve().parents[1], here, *here.parents):
        if (folder / "galaxy.yml").is_file() and (folder / "playbooks").is_dir():
            return folder
    raise MobiusError(
        "environment_failed",
        "The playbooks of MOBIUS are not here.",
        do_next="Run mobius inside a checkout of the project.",
    )


def find_inventory(name: str, checkout: Path) -> str:
    """The absolute path of an inventory, looked for from here and from the checkout; a list with commas as it is.

    Raises:
        MobiusError: unknown_inventory.
    """
    if "," in name:
        return name
    for folder in (Path.cwd(), checkout):
        place = folder / Path(name).expanduser()
        if place.exists():
            return str(place.resolve())
    raise MobiusError("unknown_inventory", f"There is no inventory {name}.")


def extra_argument(text: str) -> str:
    """One `-e` argument as Ansible takes it: `key=value`, JSON, or `@file` with the file's absolute path.

    Raises:
        MobiusError: invalid_input, when it is none of these or the file is missing.
    """
    if text.startswith("@"):
        place = Path(text[1:]).expanduser().absolute()
        if not place.is_file():
            raise MobiusError("invalid_input", f"There is no file {place} for -e {text}.")
        return f"@{place}"
    if text.startswith("{"):
        try:
            json.loads(text)
        except ValueError as error:
            raise MobiusError("invalid_input", f"-e {text} is not JSON: {error}.") from error
        return text
    if not re.match(r"[A-Za-z_]\w*=", text):
        raise MobiusError("invalid_input", f"-e {text} is neither key=value nor JSON nor @file.")
    return text


def run_playbook(request: RunRequest, show: Show) -> RunSummary:
    """Run a playbook to its end, its time limit, or a signal to stop, whichever comes first.

    Args:
        show: is told what happens, and where the run is.

    Raises:
        MobiusError: missing_dependency, when ansible-runner or ansible-playbook is not installed.
    """
    try:
        from ansible_runner import Runner, RunnerConfig
    except ModuleNotFoundError as error:
        raise MobiusError("missing_dependency", f"The Python package {error.name} is not installed.") from error
    bin_folder = Path(sys.executable).parent
    ansible = shutil.which("ansible-playbook", path=f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if ansible is None:
        raise MobiusError("missing_dependency", "ansible-playbook is not installed.")

    private = Path(tempfile.mkdtemp(prefix="mobius-run-"))
    started = time.monotonic()
    try:
        run = current_run_id(os.environ, private)
        environment = {**_environment(request.checkout, bin_folder, run), NOTE_FOLDER: str(private)}
        environment[PLANNING] = "1" if request.planning else ""
        config = RunnerConfig(
            private_data_dir=str(private),
            project_dir=str(request.checkout),
            playbook=str(request.playbook),
            inventory=request.inventory,
            limit=request.limit,
            tags=",".join(request.tags) or None,
            verbosity=request.verbosity or None,
            cmdline=_command_line(request, private) or None,
            quiet=True,
        )
        config.prepare()
        config.pexpect_timeout = _POLL  # given as a setting it is lost: without a file of settings there are none
        config.command[0] = ansible
        # the last entry is ansible-runner's own; one before it came from the caller's environment
        config.env["ANSIBLE_CALLBACK_PLUGINS"] = config.env["ANSIBLE_CALLBACK_PLUGINS"].rpartition(":")[2]
        config.env = {**environment, **{name: config.env[name] for name in _OF_RUNNER}}
        with _stop_on_signals(request.timeout) as stop:
            watcher = _Watcher(request, show)

            samples = Samples(private)

            def due() -> bool:
                for event in samples.new():
                    watcher.hear(event)
                show.now(watcher.progress)
                return stop.due()

            runner = Runner(config, event_handler=watcher.event, cancel_callback=due)
            runner.run()
            stop.sweep()
        seconds = time.monotonic() - started
        collected = read_collected(private)
        end = _ending(request, watcher, stop, int(runner.rc or 0), environment)
        if fidelity := collected.get("fidelity"):
            end = judged(end, fidelity["missing"], fidelity["extra"])
        try:
            close_left_open(note_place({}, private), run, end, seconds)
        except MobiusError as error:
            show.text(f"warning: {error.reason} The next run closes this one as interrupted.")
    finally:
        shutil.rmtree(private, ignore_errors=True)
    name = request.playbook.name
    told = (watcher.changed, watcher.changes, seconds, watcher.results, collected)
    return RunSummary(run, name, request.check, end, *told)


def _environment(checkout: Path, bin_folder: Path, run: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return {
        **kept,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        ENVIRONMENT_NAME: run,
    }


def _command_line(request: RunRequest, private: Path) -> str:
    flags = [flag for flag, wanted in (("--check", request.check), ("--diff", request.diff)) if wanted]
    extra = [part for text in request.extra for part in ("-e", text)]
    if request.variables:  # by a file: every user of the machine can read a command line
        place = private / "variables.json"
        place.write_text(json.dumps(dict(request.variables)), encoding="utf-8")
        extra += ["-e", f"@{place}"]
    return shlex.join([*flags, *extra])


def _ending(request: RunRequest, watcher: _Watcher, stop: _Stop, code: int, environment: Mapping[str, str]) -> Ending:
    """The outcome: what stopped the run, else what the hosts reported, else why Ansible never came to report."""
    if stop.signal is not None:
        return ending("interrupted", f"The run was stopped by {stop.signal.name}.")
    if stop.timed_out:
        return ending("timeout", f"The run took longer than its limit of {request.timeout:g} seconds.")
    if watcher.ending is not None:
        if watcher.ending.code == 0 and code != 0:
            return ending("task_failed", f"ansible-playbook ended with code {code}. {watcher.complaint}".strip())
        return watcher.ending
    if not _hosts(request, environment):
        limited = f" within --limit {request.limit}" if request.limit else ""
        return ending("unknown_inventory", f"The inventory {request.inventory} has no host{limited}.")
    return ending("playbook_error", watcher.complaint or f"ansible-playbook ended with code {code} before any play.")


def _hosts(request: RunRequest, environment: Mapping[str, str]) -> list[str]:
    """All hosts that the inventory has within the limit, asked only after Ansible refused to start."""
    limit = ["--limit", request.limit] if request.limit else []
    command = ["ansible-inventory", "-i", request.inventory, "--list", *limit]
    try:
        answer = subprocess.run(
            command,
            cwd=request.checkout,
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


class _Watcher:
    """Hears every event of a run: tells progress, and remembers what the outcome needs."""

    def __init__(self, request: RunRequest, show: Show) -> None:
        self._request = request
        self._show = show
        self.progress = Progress(playbook=request.playbook.stem)
        self._observer = Observer()
        self._play = ""
        self._complaint: list[str] = []
        self._complaining = False
        self.ending: Ending | None = None
        self.changed: dict[str, int] = {}
        self.changes: dict[str, list[str]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    @property
    def complaint(self) -> str:
        """Ansible's own last words, where it ended without a result of any task."""
        return " ".join(self._complaint)

    def hear(self, event: Mapping[str, Any]) -> None:
        """Go on with the progress, and tell of it."""
        self.progress, notes = self.progress.after(event)
        for note in notes:
            self._show.note(note)
        self._show.now(self.progress)

    def event(self, event: Mapping[str, Any]) -> bool:
        """One event of ansible-runner; it is not kept as a file."""
        data: Mapping[str, Any] = event.get("event_data") or {}
        self.hear(event)
        handler = getattr(self, f"_on_{event.get('event')}", None)
        if handler is not None:
            handler(data)
        text = _ANSI.sub("", str(event.get("stdout") or "")).strip("\r\n")
        if event.get("event") in ("verbose", "error", "warning", "deprecated"):
            self._plain(text)
        elif text and (self._request.verbosity or event.get("event") == "runner_on_file_diff"):
            self._lines(text)
        return False

    def _on_playbook_on_play_start(self, data: Mapping[str, Any]) -> None:
        self._play = str(data.get("play", ""))

    def _on_playbook_on_no_hosts_matched(self, _data: Mapping[str, Any]) -> None:
        self._observer.no_hosts_matched(self._play)

    def _on_runner_on_ok(self, data: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        if data.get("task_action") == self._request.watched:
            self.results[str(data.get("host"))] = dict(result)
        if result.get("changed"):
            self.changes.setdefault(str(data.get("host")), []).append(str(data.get("task")))
        if result.get("_ansible_verbose_always") and not self._request.verbosity and "msg" in result:
            self._lines(str(result["msg"]))

    def _on_runner_on_failed(self, data: Mapping[str, Any]) -> None:
        if not data.get("ignore_errors"):
            self._observer.failed(str(data.get("host")), str(data.get("task")), data.get("res") or {})

    def _on_runner_on_unreachable(self, data: Mapping[str, Any]) -> None:
        self._observer.unreachable(str(data.get("host")), str(data.get("task")), data.get("res") or {})

    def _on_playbook_on_stats(self, data: Mapping[str, Any]) -> None:
        processed = data.get("processed") or {}
        self.ending = self._observer.end(data.get("failures") or {}, data.get("dark") or {}, processed)
        counts = data.get("changed") or {}
        self.changed = {host: int(counts.get(host, 0)) for host in sorted(processed)}

    def _lines(self, text: str) -> None:
        for line in text.splitlines():
            self._show.text(f"{'':<11}{line.rstrip()}")

    def _plain(self, text: str) -> None:
        """Lines that belong to no task: warnings and errors of Ansible itself, wrapped at the width of a terminal."""
        for line in text.splitlines() or [""]:
            plain = line.strip()
            if plain.startswith(("[ERROR]:", "ERROR!")):
                self._complaint = [plain.partition(" ")[2]]
                self._complaining = True
            elif not plain or plain.startswith("Origin:"):
                self._complaining = False
            elif self._complaining:
                self._complaint.append(plain)
            if plain and (self._request.verbosity or plain.startswith(("[", "ERROR!")) or self._complaining):
                self._show.text(f"{'':<11}{plain}")


class _Stop:
    """Ends a run that is over its time or that a signal stops: first politely, then with everything it started."""

    def __init__(self, timeout: float) -> None:
        self.signal: signal.Signals | None = None
        self.timed_out = False
        self._deadline = time.monotonic() + timeout
        self._asked: float | None = None
        self._own = set(_descendants(os.getpid()))
        self._doomed: set[_Process] = set()
        self._impatient = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler; a second signal means at once."""
        self._impatient = self.signal is not None
        self.signal = self.signal or signal.Signals(number)

    def due(self) -> bool:
        """Whether ansible-runner is to kill its child now. Called again and again while the run goes on."""
        now = time.monotonic()
        if self.signal is None and now >= self._deadline:
            self.timed_out = True
        if self.signal is None and not self.timed_out:
            return False
        if self._asked is None:
            self._asked = now
            for process in self._started():
                if process.parent == os.getpid():
                    process.send(signal.SIGINT)  # it tells its workers, which have sessions of their own
            return False
        if self._impatient or now >= self._asked + _GRACE:
            self._started()
            return True
        return False

    def _started(self) -> list[_Process]:
        """Everything that this run has started and that lives now; it is remembered for the sweep."""
        started = [process for process in _descendants(os.getpid()) if process not in self._own]
        self._doomed.update(started)
        return started

    def sweep(self) -> None:
        """Kill what is left of a stopped run: a worker has a session of its own and outlives its killed parent."""
        for process in self._doomed:
            process.send(signal.SIGKILL)


@contextmanager
def _stop_on_signals(timeout: float) -> Iterator[_Stop]:
    stop = _Stop(timeout)
    # what the caller ignores stays ignored: nohup ignores SIGHUP, a shell SIGINT for what it runs in the background
    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop.note) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Process:
    """A process that a reused id is not taken for: the id and the time it started, in clock ticks since boot."""

    pid: int
    started: int
    parent: int = field(compare=False)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        now = _read_process(self.pid)
        if now == self:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _read_process(pid: int) -> _Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Process(pid, int(fields[19]), int(fields[1]))


def _descendants(pid: int) -> list[_Process]:
    """All processes that stem from `pid`, from /proc."""
    everything = [_read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    found: list[_Process] = []
    family = {pid}
    while True:
        more = [process for process in everything if process and process.parent in family and process.pid not in family]
        if not more:
            return found
        found += more
        family.update(process.pid for process in more)
