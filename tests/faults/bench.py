# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two hosts that serve, operations on them, one fault at a time, and what must hold after each."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobius.errors import OUTCOMES
from mobius.manifest import release_of
from tests.clients import ClientLoad, client_load
from tests.faults.cases import DISK_FAULTS, HISTORY, Case
from tests.faults.disks import Disk
from tests.fleet import Fleet, kill_family

TASK = re.compile(r"Z  task +(\S.*)$")
DATABASE = "/var/lib/stand-in/index/notes.sqlite3"
# so that a host reverts an unconfirmed promotion, and frees the lock of a dead run, within a case
SHORT: dict[str, Any] = {"mobius_lease_seconds": 20, "promote_confirm_deadline": 20}
SETTINGS: dict[str, Any] = {
    "promote_batches": [1, "100%"],
    "backup_writes": {"database": "index/notes.sqlite3", "query": "SELECT count(*) FROM notes WHERE at >= :since"},
    "backup_drill_probes": [],
    "backup_drill_count": {},
}
OPERATION_SECONDS = 300
SETTLE_SECONDS = 60


class Operation:
    """A run of `mobius` that is followed task by task."""

    def __init__(self, fleet: Fleet, *arguments: str, **variables: Any) -> None:
        self.words = arguments[0]
        self.process = fleet.begin(*arguments, stdout=subprocess.PIPE, **variables)
        self.lines: list[str] = []
        self.tasks: list[str] = []
        self.killed = False
        self._output = ""
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._follow), threading.Thread(target=self._read)]
        for thread in self._threads:
            thread.start()

    def _follow(self) -> None:
        for line in self.process.stderr or ():
            with self._changed:
                self.lines.append(line)
                if match := TASK.search(line.rstrip()):
                    self.tasks.append(match[1])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        self._output = self.process.stdout.read() if self.process.stdout else ""

    def wait_for(self, number: int, phase: str) -> bool:
        """Wait until the task of this number, or of this name, has begun; False when the run ended before."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or (phase in self.tasks if phase else len(self.tasks) >= number), OPERATION_SECONDS
            )
            return phase in self.tasks if phase else len(self.tasks) >= number

    def kill(self) -> None:
        self.killed = self.process.poll() is None
        if self.killed:
            kill_family(self.process.pid)

    def finish(self) -> None:
        try:
            self.process.wait(OPERATION_SECONDS)
        finally:
            if self.process.poll() is None:
                kill_family(self.process.pid)
            for thread in self._threads:
                thread.join()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    @property
    def stderr(self) -> str:
        return "".join(self.lines)

    @property
    def summary(self) -> dict[str, Any]:
        try:
            parsed = json.loads(self._output)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def outcome(self) -> str:
        return "killed" if self.killed else str(self.summary.get("outcome", f"exit code {self.process.returncode}"))

    def __str__(self) -> str:
        reason = str(self.summary.get("reason") or "")
        return f"{self.words}: {self.outcome} ({len(self.tasks)} tasks) {reason}".strip()

    def violations(self) -> list[str]:
        """What is wrong with how it ended: its exit code, its outcome, a traceback."""
        broken = []
        if "Traceback (most recent call last)" in self.stderr + self._output:
            broken.append(f"{self.words} printed a traceback: {self.stderr[-3000:]}")
        if self.killed:
            return broken
        known = OUTCOMES.get(self.outcome)
        if known is None:
            broken.append(f"{self.words} ended with no outcome: {self.outcome}: {self.stderr[-3000:]}")
        elif int(known.code) != self.process.returncode:
            broken.append(f"{self.words} ended with {self.process.returncode}, but {self.outcome} has {known.code}")
        return broken


@dataclass
class Result:
    """How a case went."""

    seed: int
    case: str
    seconds: float = 0.0
    outcomes: list[str] = field(default_factory=list)
    struck_at: str = ""
    requests: int = 0
    failed: int = 0
    violations: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)


class Bench:
    """Hosts, which each case finds serving and leaves serving."""

    def __init__(self, root: Path, *, hosts: int = 2) -> None:
        self._hosts = hosts
        root.mkdir(parents=True, exist_ok=True)
        self.fleet = Fleet(root)
        self.history = root / "history"
        self.history.mkdir(exist_ok=True)
        self.fleet.variables |= SETTINGS | {"mobius_history_dir": str(self.history)}
        self._versions = root / "versions"

    def begin(self, operation: str, hosts: list[str], **variables: Any) -> Operation:
        """Start an operation on these hosts; a release has a new bundle."""
        limit = ("--limit", ",".join(hosts))
        arguments = {
            "rollback": ("rollback", "--reason", "a case of the fault series"),
            "rollback with data": ("rollback", "--backup", "latest", "--yes"),
            "restore": ("backup", "restore", "latest"),
            "provision": ("provision",),
        }.get(operation)
        if arguments is None:
            arguments = ("release", "--bundle", self._bundle())
        return Operation(self.fleet, *arguments, *limit, **variables)

    def _bundle(self) -> str:
        number = int(self._versions.read_text()) + 1 if self._versions.exists() else 1
        self._versions.write_text(str(number))
        return self.fleet.bundle(f"{number}.0.0")[0]

    def run(self, operation: str, hosts: list[str], **variables: Any) -> Operation:
        done = self.begin(operation, hosts, **variables)
        done.finish()
        return done

    def is_ready(self) -> bool:
        """Whether the hosts are where a case may begin already."""
        record = self.fleet.root / ".lab/lab.json"
        if not record.exists() or len(self.fleet.names) != self._hosts:
            return False
        return not any(self._problem(host) or self.fleet.status(host)["previous"] is None for host in self.fleet.names)

    def prepare(self) -> None:
        """Bring the hosts to where a case may begin, from whatever state: two releases, data, and a backup of it.

        Raises:
            AssertionError: with what the command printed.
        """
        self.fleet.lab("up", "--hosts", str(self._hosts))
        hosts = self.fleet.names
        self.fleet.fresh()
        for operation in ("provision", "release"):
            done = self.run(operation, hosts)
            assert done.process.returncode == 0, done.stderr
        script = "\n".join(
            (
                "import sqlite3",
                f"d = sqlite3.connect('{DATABASE}')",
                "d.execute('CREATE TABLE IF NOT EXISTS notes (at TEXT)')",
                "d.execute(\"INSERT INTO notes VALUES ('2020-01-01T00:00:00Z')\")",
                "d.commit()",
            )
        )
        for host in hosts:
            self.fleet.shell(
                host, f"python3 - <<'END'\n{script}\nEND\nchown --reference=/var/lib/stand-in/index {DATABASE}"
            )
        done = self.run("release", hosts)
        assert done.process.returncode == 0, done.stderr

    # --- a case

    def case(self, case: Case) -> Result:
        """Do one case, and verify all that must hold after it."""
        started = time.monotonic()
        result = Result(case.seed, str(case))
        runs: list[Operation] = []
        try:
            self._do(case, result, runs)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            result.violations.append(f"the case could not be done: {error!r}")
        result.seconds = round(time.monotonic() - started, 1)
        if result.violations:
            result.logs = [item.stderr[-6000:] for item in runs]
        return result

    def _do(self, case: Case, result: Result, runs: list[Operation]) -> None:
        hosts = self.fleet.names if case.both_hosts else [case.host]
        ports = {host: int(item["ports"]["8080"]) for item in self.fleet.hosts() if (host := item["name"]) in hosts}
        with contextlib.ExitStack() as stack:
            loads = {host: stack.enter_context(client_load(port, pause=0.05)) for host, port in ports.items()}
            runs += self._strike(case, hosts, result)
            result.outcomes = [str(item) for item in runs]
            for operation in runs:
                result.violations += operation.violations()
            result.violations += self._wait_until_whole(hosts)
            following = self.run("release", hosts)
            runs.append(following)
            result.outcomes.append(f"next {following}")
            result.violations += following.violations()
            if following.process.returncode != 0:
                result.violations.append(f"the next release ended with {following.outcome}: {following.stderr[-3000:]}")
            result.violations += self._wait_until_whole(hosts)
        result.violations += self._client_violations(case, loads, result)
        result.violations += self._verify(hosts)

    def _strike(self, case: Case, hosts: list[str], result: Result) -> list[Operation]:
        if case.fault == "race":
            first = self.begin(case.operation, hosts, **SHORT)
            time.sleep(case.delay)
            if first.process.poll() is None:
                result.struck_at = first.tasks[-1] if first.tasks else "its start"
            second = self.begin(case.second, hosts, **SHORT)
            first.finish()
            second.finish()
            return [first, second]
        disk = self._disk(case)
        with disk.own(case.fault) if disk else contextlib.nullcontext(), contextlib.ExitStack() as until_repaired:
            if case.task_number == 0 and not case.phase:
                self._begin_fault(case, disk, until_repaired)
                result.struck_at = "before it began"
            operation = self.begin(case.operation, hosts, **SHORT)
            try:
                if not result.struck_at and operation.wait_for(case.task_number, case.phase):
                    time.sleep(case.delay)
                    result.struck_at = operation.tasks[-1]
                    if case.fault == "controller killed":
                        operation.kill()
                    else:
                        self._begin_fault(case, disk, until_repaired)
                if case.lasting:
                    time.sleep(case.lasting)
                    until_repaired.close()
            finally:
                operation.finish()
        return [operation]

    def _begin_fault(self, case: Case, disk: Disk | None, until_repaired: contextlib.ExitStack) -> None:
        fleet, host = self.fleet, case.host
        if disk:
            disk.strike(case.fault, case.slack)
            until_repaired.callback(disk.repair, case.fault)
        elif case.fault == "host killed":
            fleet.power_off(host)
            until_repaired.callback(fleet.power_on, host)
        elif case.fault == "host paused":
            fleet.pause(host)
            until_repaired.callback(fleet.unpause, host)
        elif case.fault == "host cut off":
            until_repaired.enter_context(fleet.cut_off(host))

    def _disk(self, case: Case) -> Disk | None:
        if case.fault not in DISK_FAULTS:
            return None
        if case.folder == HISTORY:
            return Disk(str(self.history), run_here)
        return Disk(case.folder.format(service=self.fleet.service), lambda script: self.fleet.shell(case.host, script))

    # --- what must hold

    def _wait_until_whole(self, hosts: list[str]) -> list[str]:
        """Wait until every host serves exactly its confirmed release; what is wrong when one does not in time."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            problems = [problem for host in hosts if (problem := self._problem(host))]
            if not problems or time.monotonic() > end:
                return [f"after {SETTLE_SECONDS} s: {problem}" for problem in problems]
            time.sleep(0.5)

    def _problem(self, host: str) -> str:
        try:
            status = self.fleet.status(host)
        except (AssertionError, ValueError) as error:
            return f"{host}: mobius-host status: {str(error)[-500:]}"
        answer = self.fleet.answer(host)
        serves_it = status["serving"] == [status["confirmed"]] and answer == release_of(status["confirmed"] or "")
        if status["pending"] is None and serves_it:
            return ""
        return f"{host}: {answer} answers, {status['serving']} serve, {status['confirmed']} is confirmed, pending {status['pending']}"

    def _client_violations(self, case: Case, loads: dict[str, ClientLoad], result: Result) -> list[str]:
        problems = []
        struck = case.host if case.fault in ("host killed", "host paused") else ""
        for host, load in loads.items():
            result.requests += sum(load.answers.values()) + len(load.failures)
            result.failed += len(load.failures)
            if load.failures and host != struck:
                problems.append(f"{host}: {len(load.failures)} requests failed, the first with {load.failures[0]}")
            if load.answers["None"] and host != struck:
                problems.append(f"{host}: {load.answers['None']} requests were answered by no release")
        return problems

    def _verify(self, hosts: list[str]) -> list[str]:
        """What the commands that verify report, and whether the data is whole."""
        problems = []
        integrity = (
            f"import sqlite3; print(sqlite3.connect('{DATABASE}').execute('PRAGMA integrity_check').fetchone()[0])"
        )
        service = self.fleet.service
        for host in hosts:
            for command in (
                f"mobius-host --service {service} verify 2>&1",
                f"mobius-backup --service {service} verify 2>&1",
                f'python3 -c "{integrity}" | grep -x ok 2>&1',
                "! systemctl --failed --plain --no-legend | grep .",
            ):
                output = self.fleet.shell(host, f"{command} && echo as-expected || true")
                if not output.endswith("as-expected\n"):
                    problems.append(f"{host}: {command.split(' 2>')[0]}: {output[-1500:]}")
        verified = self.fleet.verify_history(self.history)
        if verified.returncode != 0:
            problems.append(
                f"history verify ended with {verified.returncode}: {verified.stdout[-1500:]}{verified.stderr[-500:]}"
            )
        return problems


def run_here(script: str) -> str:
    """What a script of bash prints on this machine."""
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
