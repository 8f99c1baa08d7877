# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records runs on three real hosts of a lab of its own, for the tests of everything that is shown of a run.

    python -m tests.recorded_runs.record            # all of them, in about ten minutes
    python -m tests.recorded_runs.record gate       # and what has to come before it, which is not recorded again

Each run becomes `runs/<name>.jsonl`: what stopped it and how long it took, then each event of it that
`mobius.control.run.events` reads. Paths, names and times of this machine are replaced.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobius.control.history.verifier import canonical
from mobius.control.modules import COLLECTION
from tests.fleet import CHECKOUT, Fleet

RUNS = Path(__file__).parent / "runs"
HOSTS = 3
STARTED = datetime(2026, 1, 31, 23, 5, 1, tzinfo=UTC)
"""When each recorded run began."""
RUN_ID = "20260131T230501Z-9f3a61c2"

_EVENTS = re.compile(r"playbook_on_(play_start|no_hosts_matched|stats)|runner_on_(ok|failed|unreachable)|error|warning")
_OF_DATA = ("play", "task", "task_action", "host", "ignore_errors", "processed", "failures", "dark", "changed")
_DROPPED = ("invocation", "ansible_facts", "_ansible_no_log", "evidence", "diff", "head", "heads", "history")
_OF_OTHERS = ("changed", "failed", "unreachable", "msg", "stderr", "module_stderr", "argument_errors", "timedout")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_SENTENCES = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d UTC": "2026-01-31 23:00 UTC",
    r"\d\d:\d\d-\d\d:\d\d UTC": "23:00-00:00 UTC",
    r"It is \d\d:\d\d UTC": "It is 12:00 UTC",
}
"""Times in sentences."""
_BACKUP = re.compile(r"\d{8}T\d{6}Z(?=-(?:full|state|\d+\.))")  # and evidence of a gate
_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


def recorded_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without what is never read of it."""
    data = event.get("event_data") or {}
    kept = {name: data[name] for name in _OF_DATA if data.get(name) not in (None, {}, [])}
    if isinstance(result := data.get("res"), Mapping):
        is_ours = str(data.get("task_action")).startswith(COLLECTION)
        kept["res"] = {
            name: value for name, value in result.items() if (name not in _DROPPED if is_ours else name in _OF_OTHERS)
        }
    stdout = {"stdout": event["stdout"]} if event["event"] in ("error", "warning") else {}
    return {"event": event["event"], "created": event["created"], **stdout, "event_data": kept}


class Scrubber:
    """Replaces what only this machine and this moment have: paths, its name, times and ids of runs."""

    def __init__(self, root: Path, began: datetime, run: str = "") -> None:
        self._texts = {str(root): "/project", str(CHECKOUT): "/checkout"}
        self._began = began
        self._ids = {run: RUN_ID}

    def line(self, value: Mapping[str, Any]) -> str:
        text = json.dumps(value, sort_keys=True)
        for own, neutral in self._texts.items():
            text = text.replace(own, neutral)
        text = re.sub(r"/tmp/[A-Za-z0-9_./-]*", "/tmp/x", text)
        text = _TIME.sub(lambda match: self._shifted(match[0]), text)
        for pattern, neutral in _SENTENCES.items():
            text = re.sub(pattern, neutral, text)
        name = re.escape(socket.gethostname())
        text = re.sub(rf"(?<=[@\"]){name}(?=[\" ])", "control", text)
        text = _BACKUP.sub(lambda match: self._moved(match[0]), text)
        return _RUN.sub(lambda match: self._id(match[0]), text) + "\n"

    def _id(self, run: str) -> str:
        """The id of a run, at its shifted time; two runs never have the same one."""
        if run not in self._ids:
            self._ids[run] = f"{self._moved(run)}-{len(self._ids):08x}"
        return self._ids[run]

    def _moved(self, name: str) -> str:
        """The time at the beginning of an id, shifted."""
        moment = datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return f"{moment - self._began + STARTED:%Y%m%dT%H%M%SZ}"

    def _shifted(self, text: str) -> str:
        moment = datetime.fromisoformat(text)
        shifted = (moment - self._began + STARTED).astimezone(UTC).isoformat(timespec="microseconds")
        return shifted.replace("+00:00", "Z") if text.endswith("Z") else shifted


def run_recorded(path: Path, root: Path, arguments: list[str]) -> None:
    """Run `mobius` with these arguments and write what came of it to `path`."""
    from mobius.cli import run
    from mobius.control.run import runner
    from mobius.control.run.events import EventListener

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when the recorder is a background job
    began = datetime.now(UTC)
    events: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    take, make = EventListener.event, runner.run_playbook

    def event(listener: EventListener, item: Mapping[str, Any]) -> bool:
        if _EVENTS.fullmatch(str(item.get("event"))) and not ends:
            events.append(recorded_event(item))
        return take(listener, item)

    ending_of = runner.ending_of

    def ended(request: Any, listener: Any, cancellation: Any, code: int, environment: Any) -> Any:
        if not ends:  # a second playbook leaves the final head with the hosts
            stopped = cancellation.signal.name if cancellation.signal else None
            about = {
                "playbook": request.playbook.name,
                "inventory": request.inventory,
                "limit": request.limit,
                "check": request.check,
                "timeout": request.timeout,
                "watched": request.watched,
                "bundle": request.variables.get("mobius_bundle"),
            }
            ends.append(
                {
                    **about,
                    "signal": stopped,
                    "timed_out": cancellation.timed_out,
                    "code": code,
                    "arguments": arguments[:1],
                }
            )
        return ending_of(request, listener, cancellation, code, environment)

    def run_playbook(*args: Any) -> Any:
        summary = make(*args)
        if ends:
            about = {"seconds": round(summary.seconds, 1), "run": summary.run, "outcome": summary.ending.outcome}
            ends[0] = {**about, **ends[0]}
        return summary

    EventListener.event = event  # type: ignore[method-assign]
    runner.ending_of = ended
    import mobius.cli.playbook

    mobius.cli.playbook.run_playbook = run_playbook
    code = run(arguments)
    scrubber = Scrubber(root, began, str(ends[0].get("run")) if ends else "")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(scrubber.line(value) for value in (*ends, *events))
    sys.exit(code)


def scrubbed_history(history: Path, root: Path) -> str:
    """The history of these runs, with the times of a January and without what only this machine has."""
    records = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    scrubber = Scrubber(root, datetime.fromisoformat(records[0]["at"]))
    return "".join(canonical(json.loads(scrubber.line(record))).decode() + "\n" for record in records)


class Recorder:
    """The fleet, and what is recorded of its runs."""

    def __init__(self, fleet: Fleet, names: frozenset[str]) -> None:
        self.fleet = fleet
        self.unexpected: list[str] = []
        self._names = names

    def begin(self, name: str, *arguments: str, **variables: Any) -> subprocess.Popen[str]:
        """Start a run whose record gets this name."""
        path = RUNS / f"{name}.jsonl" if not self._names or name in self._names else Path("/dev/null")
        command = self.fleet.command(*arguments, **variables)[1:]
        return subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--run", str(path), str(self.fleet.root), *command],
            cwd=CHECKOUT,
            env=self.fleet.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, expected: str, *arguments: str, **variables: Any) -> None:
        """Record a run, which must have this outcome."""
        if self._names and name not in self._names and expected != "success":
            return  # it leaves nothing that a later run needs, but for the mark of `gate`
        self.finish(self.begin(name, *arguments, **variables), name, expected)

    def finish(self, process: subprocess.Popen[str], name: str, expected: str) -> None:
        out, err = process.communicate(timeout=400)
        outcome = json.loads(out)["outcome"] if out.strip() else "none"
        print(f"{name}: {outcome}", flush=True)
        if outcome != expected:
            self.unexpected.append(f"{name} ended with {outcome}, not {expected}:\n{out}\n{err}")

    def release(self, name: str, expected: str, path: str, *arguments: str, **variables: Any) -> None:
        self.run(name, expected, "release", "--bundle", path, *arguments, **variables)


def until_line(process: subprocess.Popen[str], end: str) -> None:
    """Read the progress of a run until a line with this end."""
    lines: list[str] = []
    for line in process.stderr or ():
        lines.append(line)
        if line.rstrip().endswith(end):
            return
    raise SystemExit(f"the run ended before {end!r}:\n{''.join(lines)}")


def record_all(recorder: Recorder) -> None:
    """All of them, one after another: each begins where the one before has left the hosts."""
    fleet = recorder.fleet
    probe = {"name": "astronaut-baseline", "path": "/hash", "json": {"dhash": "00183c7e7e3c1800"}}
    recorder.run("status_not_provisioned", "not_provisioned", "status")
    recorder.run("provision", "success", "provision")
    recorder.run("nothing_to_roll_back", "nothing_to_roll_back", "rollback")
    bundles = {version: fleet.bundle(version)[0] for version in ("1.3.0", "1.4.0")}
    recorder.release("first_release", "success", bundles["1.3.0"])
    recorder.release("release_checked", "success", bundles["1.4.0"], "--check")
    recorder.release("release", "success", bundles["1.4.0"])
    recorder.release("release_again", "success", bundles["1.4.0"])
    recorder.run("status", "success", "status")
    wrong = fleet.bundle("1.5.0", dhash="80183c7e7ebc2bc1")[0]
    recorder.release("golden_probe", "golden_mismatch", wrong, deploy_golden=[probe])
    unwell = fleet.bundle("1.5.1", unwell_after=6)[0]
    recorder.release("gate", "rolled_back", unwell, promote_healthy_seconds=7)
    recorder.release("release_bad", "release_bad", unwell)
    crashing = fleet.bundle("1.5.2", crash=True)[0]
    recorder.release("instance_failed", "instance_failed", crashing)
    recorder.release("outside_window", "outside_window", bundles["1.4.0"], mobius_change_window=closed_window())
    recorder.release("downgrade", "downgrade", bundles["1.3.0"])
    long = fleet.bundle("1.6.0")[0]
    gate = {"promote_healthy_seconds": 35, "promote_gate_deadline": 38, "promote_confirm_deadline": 80}
    first = recorder.begin("interrupted", "release", "--bundle", long, mobius_lease_seconds=30, **gate)
    until_line(first, "canary, batch 1 of 3: lab1")
    recorder.release("locked", "locked", bundles["1.4.0"], mobius_lease_wait=0)
    first.send_signal(signal.SIGINT)
    recorder.finish(first, "interrupted", "interrupted")
    fleet.until(lambda: not any(status["pending"] for status in fleet.statuses().values()), 120)
    recorder.run("rollback", "success", "rollback", "--reason", "wrong hashes")
    recorder.run("status_after_rollback", "success", "status")
    recorder.run("backup", "success", "backup", "create")
    recorder.release("retried", "success", bundles["1.4.0"], mobius_retry_bad=True)
    recorder.run("rollback_with_data", "success", "rollback", "--backup", "latest", "--yes")
    with fleet.cut_off("lab3"):
        recorder.release("host_unreachable", "unreachable", long)
        recorder.run("status_unreachable", "unreachable", "status")
    lost = recorder.begin("host_lost", "release", "--bundle", long, "--timeout", "300", promote_confirm_deadline=60)
    until_line(lost, "gate, batch 2 of 3: lab2")
    with fleet.cut_off("lab2"):
        recorder.finish(lost, "host_lost", "unreachable")


def closed_window() -> str:
    """A change window that is closed for the next hours."""
    hour = datetime.now(UTC).hour
    return f"{(hour + 12) % 24:02d}:00-{(hour + 13) % 24:02d}:00"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_recorded(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    RUNS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recorded-runs-") as folder:
        fleet = Fleet(Path(folder))
        fleet.lab("up", "--hosts", str(HOSTS))
        try:
            recorder = Recorder(fleet, frozenset(sys.argv[1:]))
            record_all(recorder)
            if len(sys.argv) == 1:
                text = scrubbed_history(fleet.root / ".lab/history/history.jsonl", fleet.root)
                (RUNS.parent / "history.jsonl").write_text(text, encoding="utf-8")
        finally:
            fleet.lab("down")
    sys.exit("\n".join(recorder.unexpected) or None)
