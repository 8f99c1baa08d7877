# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The trial: what a release on hosts needs of a service, tried one after the other, within TRIAL_SECONDS."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import MobiusError
from ..gate.probes import Probe, require_response
from ..host.front.settings import HTTP, SLOT_COUNT, WORKER
from ..host.front.slots import Slot
from ..host.instance import send_request
from . import machine
from .clients import Clients
from .front import TrialFront, find_haproxy, free_ports
from .instance import BACKGROUND, ELSEWHERE, EXITED, HEALTHY, REFUSED, Instance, Start
from .leftovers import at_work, clear_leftovers
from .settings import TrialSettings

TRIAL_SECONDS = 27.0
START_SECONDS = 10.0  # for one start, when start_timeout is longer
LOAD_SECONDS = 0.5  # before a switch, and after it
DRAIN_SECONDS = 5.0
STOP_SECONDS = 8.0
PROBE_SECONDS = 5.0
SAMPLE_SECONDS = 0.2  # between two looks at the files that it writes
FIRST, SECOND = "0-000000000001", "0-000000000002"

KEPT, BROKEN, NOT_TRIED = "kept", "broken", "not tried"
_COMPILERS = ("node", "deno", "bun", "java", "dotnet", "luajit", "pypy3", "beam.smp")


@dataclass(frozen=True)
class Check:
    """One thing that a release needs.

    Attributes:
        result: kept, broken, or not tried.
        detail: what was seen.
        advice: the key of mobius.yml or the change that helps; empty unless it is broken.
    """

    name: str
    result: str
    detail: str = ""
    advice: str = ""


@dataclass
class Report:
    """What the service keeps and what not; `front` is the version of HAProxy, empty without it."""

    checks: list[Check] = field(default_factory=list)
    front: str = ""
    seconds: float = 0.0

    def add(self, name: str, problem: str, kept: str = "", advice: str = "") -> None:
        """A check with its problem, or none."""
        self.checks.append(Check(name, BROKEN, problem, advice) if problem else Check(name, KEPT, kept))

    def skip(self, why: str, *names: str) -> None:
        """Checks that could not be made."""
        self.checks += [Check(name, NOT_TRIED, why) for name in names]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "front": self.front,
            "seconds": round(self.seconds, 1),
        }


PROGRAM, START, HEALTH, ADDRESS, FOREGROUND, FRONT, TWICE, DRAIN, STOP, WRITES, SANDBOX, PROBES = (
    *("program", "start", "health", "address", "foreground", "front", "second instance", "drain", "stop"),
    *("writes", "sandbox", "probes"),
)
_ORDER = (PROGRAM, START, HEALTH, PROBES, ADDRESS, FOREGROUND, SANDBOX, FRONT, TWICE, DRAIN, STOP, WRITES)


class Trial:
    """One trial of a service."""

    def __init__(self, settings: TrialSettings) -> None:
        self.settings = settings
        self.report = Report()
        self.began = time.monotonic()
        first_port = free_ports(SLOT_COUNT + 1)
        self.slots = tuple(
            Slot(number, first_port + number - 1, {1: FIRST, 2: SECOND}.get(number))
            for number in range(1, SLOT_COUNT + 1)
        )
        self.first = Instance(settings, self.slots[0])
        self.second = Instance(settings, self.slots[1])
        self.front: TrialFront | None = None
        self.written: set[str] = set()

    @property
    def _remaining(self) -> float:
        return max(1.0, TRIAL_SECONDS - (time.monotonic() - self.began))

    def run(self) -> Report:
        """Try everything; no process is left."""
        self.settings.make_folders()
        before = _snapshot(self.settings)
        with at_work(self.settings.folder):
            clear_leftovers(self.settings.folder)
            try:
                with self._watch_files():
                    self._try_first()
            finally:
                for instance in (self.first, self.second):
                    instance.kill()
                if self.front is not None:
                    self.front.stop()
        self._report_writes(before)
        self.report.checks.sort(key=lambda check: _ORDER.index(check.name))
        self.report.seconds = time.monotonic() - self.began
        return self.report

    # -- the first instance --

    def _try_first(self) -> None:
        names = self._names
        program_problem, advice = self._program_problem()
        self.report.add(PROGRAM, program_problem, kept=self.settings.exec, advice=advice)
        if program_problem:
            self.report.skip("it cannot be started", *names)
            return
        try:
            self.first.start()
        except OSError as error:
            self.report.add(START, f"it cannot be run: {error.strerror or error}", advice=_SHEBANG)
            self.report.skip("it did not start", *names[1:])
            return
        start = self.first.wait_until_healthy(min(self.settings.start_timeout, START_SECONDS))
        if start.result != HEALTHY:
            self._report_failed_start(start)
            return
        self.report.add(START, "", kept=f"healthy after {start.seconds:.1f} s")
        self.report.add(HEALTH, "", kept=self._health_text)
        self._report_probes()
        if self.settings.kind != WORKER:
            self._report_address(self.first)
        self.report.add(FOREGROUND, "", kept="the process that was started goes on")
        self._report_sandbox()
        if self.settings.kind != WORKER:
            self._try_behind_front()
        if self.first.is_running and all(check.name != STOP for check in self.report.checks):
            self._report_stop(self.first, min(STOP_SECONDS, self.settings.drain_timeout + 10))

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of what is tried after the program was found."""
        if self.settings.kind == WORKER:
            return (START, HEALTH, FOREGROUND, SANDBOX, STOP)
        return (START, HEALTH, ADDRESS, FOREGROUND, SANDBOX, FRONT, TWICE, DRAIN, STOP)

    @property
    def _health_text(self) -> str:
        if self.settings.kind == WORKER:
            return "its health command ended with 0" if self.settings.health_command else "it runs"
        return f"GET {self.settings.health}" if self.settings.kind == HTTP else "it accepts connections"

    def _program_problem(self) -> tuple[str, str]:
        try:
            name = self.settings.command_of(self.settings.exec, self.slots[0])[0]
        except ValueError as error:
            return f"exec is no command: {error}", "Correct exec in mobius.yml."
        if self.settings.find_program(name) is not None:
            return "", ""
        if "/" not in name:
            where = "no host finds it in /usr/local/bin, /usr/bin and the like"
            return f"{name} is not there: {where}", "Pack it, and write its path in exec, or install it on the hosts."
        path = self.settings.tree / name
        if path.is_file():
            return f"{name} is not executable", f"Run `chmod +x {name}` before it is packed."
        return f"there is no file {name} in the release", "Correct exec in mobius.yml; its path begins in the folder."

    def _report_failed_start(self, start: Start) -> None:
        names = list(self._names)
        where = {EXITED: START, BACKGROUND: FOREGROUND, REFUSED: HEALTH, ELSEWHERE: ADDRESS}.get(start.result, START)
        if where != START:
            self.report.add(START, "", kept="it runs")
        advice = {
            EXITED: self._exit_advice(start.detail),
            BACKGROUND: "Run it in the foreground (`daemon off`, no `--daemon`): systemd restarts what ends.",
            REFUSED: "Set health in mobius.yml to a path that it answers with 2xx.",
            ELSEWHERE: "Let exec have {address}, or {port}: it has to listen where it is told.",
        }.get(start.result, "")
        if self.settings.kind == WORKER and start.result == REFUSED:
            advice = "Correct health_command in mobius.yml, or leave it out."
        detail = start.detail
        if not advice:
            detail = f"not healthy after {start.seconds:.0f} s: {start.detail}"
            advice = (
                f"Let exec have {{address}}, or {{port}}. If it needs longer than {start.seconds:.0f} s, it has "
                f"start_timeout ({self.settings.start_timeout:g} s) on hosts, and this trial cannot wait for it."
            )
        self.report.add(where, detail, advice=advice)
        names = [name for name in names if name not in (START, where)]
        self.report.skip("it did not become healthy", *names)

    @staticmethod
    def _exit_advice(detail: str) -> str:
        if "in use" in detail.lower() or "eaddrinuse" in detail.lower():
            return "Its port is taken: let exec have {address}, or {port}, which is free, and not a port of its own."
        return "Read its last lines; it starts with an empty environment but for `environment` of mobius.yml."

    def _report_probes(self) -> None:
        if not self.settings.probes:
            return

        def request(
            method: str, path: str, body: bytes | None, content_type: str | None, timeout: float
        ) -> tuple[int, Mapping[str, str], bytes]:
            return send_request(self.slots[0].port, method, path, body, {"Content-Type": content_type}, timeout)

        problem = ""
        try:
            for value in self.settings.probes:
                probe = Probe.parse({"method": "GET", "status": 200, **value})
                mismatch = require_response(request, probe, self.settings.service, PROBE_SECONDS)
                if mismatch is not None:
                    problem = mismatch.sentence().rstrip(".")
                    break
        except MobiusError as error:
            problem = error.reason.rstrip(".")
        advice = "Correct the service, or what the probe expects in mobius.yml: a release that fails one is refused."
        self.report.add(PROBES, problem, kept=f"{len(self.settings.probes)} as expected", advice=advice)

    def _report_address(self, instance: Instance) -> None:
        if not machine.is_known():
            self.report.skip("this machine does not tell where a process listens", ADDRESS)
            return
        listeners = machine.find_listeners(instance.pids)
        public = [one for one in listeners if not one.is_loopback]
        own = instance.slot.port
        if any(one.port == own for one in public):
            problem = f"it listens on all addresses ({public[0]}), so clients reach it past the front"
            self.report.add(
                ADDRESS, problem, advice="Let exec have {address} or {host}: it has to listen on 127.0.0.1."
            )
            return
        problem = f"it also listens on {public[0]}" if public else ""
        advice = "Clients reach that past the front, and a second instance cannot have it: close it, or use {host}."
        self.report.add(ADDRESS, problem, kept=f"it listens on {instance.slot.address} only", advice=advice)

    def _report_sandbox(self) -> None:
        if not machine.is_known():
            self.report.skip("this machine does not tell of it", SANDBOX)
            return
        pids = self.first.pids
        compilers = sorted(machine.find_programs(pids) & set(_COMPILERS))
        problem = ""
        if not self.settings.jit and (compilers or machine.has_written_code(pids)):
            problem = f"{compilers[0] if compilers else 'it'} needs memory that is written and executed"
        advice = "Set `sandbox: {jit: true}` in mobius.yml; hosts kill it at its start otherwise."
        self.report.add(SANDBOX, problem, kept="no switch is needed that mobius.yml has not", advice=advice)

    # -- the second instance, and the front --

    def _try_behind_front(self) -> None:
        if not self._start_front():
            self._try_second()
            self.report.skip("there is no front", DRAIN)
            return
        assert self.front is not None
        self._report_front()
        is_second_healthy = self._try_second()
        if not is_second_healthy or self.settings.kind != HTTP:
            why = "there is no second instance to switch to" if not is_second_healthy else "clients speak no HTTP"
            self.report.skip(why, DRAIN)
            return
        clients = Clients(self.front.port, self.settings.health)
        clients.start()
        try:
            time.sleep(LOAD_SECONDS)
            limit = min(DRAIN_SECONDS, self.settings.drain_timeout, self._remaining)
            is_drained = self.front.switch(self.slots[0], self.slots[1], limit)
            self._report_stop(self.first, min(STOP_SECONDS, self._remaining))
            time.sleep(LOAD_SECONDS)
        finally:
            clients.stop()
        problem = f"{clients.summary} of {clients.answered} requests failed" if clients.failures else ""
        if not is_drained:
            problem = f"it had requests {limit:g} s after it got no new ones"
        advice = "Let it answer what it has accepted after SIGTERM, and share nothing with the second instance."
        kept = f"{clients.answered} requests of keep-alive clients, 0 failed, while one instance replaced the other"
        self.report.add(DRAIN, problem, kept=kept, advice=advice)

    def _start_front(self) -> bool:
        haproxy = find_haproxy()
        if haproxy is None:
            self.report.skip("HAProxy is not installed here; requests went directly to the instance", FRONT)
            return False
        self.front = TrialFront(self.settings, haproxy, self.slots[0].port)
        try:
            self.front.start(self.slots, ready=1)
        except (MobiusError, OSError) as error:
            self.report.skip(str(error).rstrip("."), FRONT)
            return False
        self.report.front = self.front.version
        return True

    def _report_front(self) -> None:
        assert self.front is not None
        if self.settings.kind != HTTP:
            self.report.add(FRONT, "", kept="HAProxy passes connections on")
            return
        clients = Clients(self.front.port, self.settings.health)
        clients.start()
        time.sleep(0.2)
        clients.stop()
        problem = f"{clients.summary} of {clients.answered} requests failed" if clients.failures else ""
        advice = "Let it speak HTTP/1.1 or 1.0 on its address, and answer any Host and X-Forwarded headers."
        self.report.add(FRONT, problem, kept=f"{clients.answered} requests through HAProxy", advice=advice)

    def _try_second(self) -> bool:
        """Start a second instance beside the first; whether it is healthy."""
        if not self.settings.overlap:
            self.report.skip("mobius.yml has overlap: false", TWICE)
            return False
        try:
            self.second.start()
            start = self.second.wait_until_healthy(min(self.settings.start_timeout, START_SECONDS, self._remaining))
        except OSError as error:
            start = Start(EXITED, str(error), 0.0)
        problem = "" if start.result == HEALTHY else start.detail
        if not problem and not self.first.is_running:
            problem = f"the first instance ended when the second one started: {self.first.last_lines()}"
        advice = "Let both use their own {address} and no file together; or set `overlap: false` in mobius.yml."
        self.report.add(TWICE, problem, kept=f"healthy beside the first after {start.seconds:.1f} s", advice=advice)
        return not problem

    def _report_stop(self, instance: Instance, limit: float) -> None:
        took = instance.terminate(limit)
        on_hosts = self.settings.drain_timeout + 10
        problem = (
            f"it still ran {limit:.0f} s after SIGTERM; hosts kill it after {on_hosts:g} s" if took is None else ""
        )
        advice = "End on SIGTERM; in a shell script, `exec` the server. drain_timeout gives it longer."
        kept = "" if took is None else f"ended {took:.1f} s after SIGTERM"
        self.report.add(STOP, problem, kept=kept, advice=advice)

    # -- what it writes --

    @contextlib.contextmanager
    def _watch_files(self) -> Iterator[None]:
        stopped = threading.Event()

        def watch() -> None:
            while not stopped.wait(SAMPLE_SECONDS):
                self.written |= machine.find_written_files(self.first.pids | self.second.pids)

        thread = threading.Thread(target=watch, daemon=True)
        if machine.is_known():
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            if machine.is_known():
                thread.join()

    def _report_writes(self, before: dict[str, tuple[int, int]]) -> None:
        if self.first.process is None:
            self.report.skip("it did not start", WRITES)
            return
        after = _snapshot(self.settings)
        inside = sorted(name for name in after if after[name] != before.get(name))
        inside += sorted(name for name in before if name not in after)
        # each instance has a /tmp of its own on a host
        allowed = (str(self.settings.folder), "/tmp/", "/var/tmp/")
        outside = sorted(name for name in self.written if not name.startswith(allowed))
        problems = [
            *([f"the release itself ({', '.join(inside[:3])})"] if inside else []),
            *([f"{', '.join(outside[:3])}"] if outside else []),
        ]
        advice = (
            "Hosts let it write below its shared folders only: name one in `shared` of mobius.yml and write to "
            f"/var/lib/{self.settings.service}/<name>; print its log to stdout."
        )
        problem = f"it writes to {' and '.join(problems)}" if problems else ""
        self.report.add(WRITES, problem, kept="nothing outside of its shared folders", advice=advice)


_SHEBANG = "Is it built for this machine, and does its first line name an interpreter that is there?"


def _snapshot(settings: TrialSettings) -> dict[str, tuple[int, int]]:
    """Size and time of each file of the release, and of the home that no host has."""
    files = {}
    for root, label in ((settings.tree, ""), (settings.home_folder, "~/")):
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    files[label + os.path.relpath(path, root)] = (status.st_size, status.st_mtime_ns)
    return files
