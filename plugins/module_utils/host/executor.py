# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observes a host and performs plans."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .. import durable
from ..errors import MobiusError
from ..manifest import RELEASE_ID
from .config import Host, instance_name, read_state_file, revision_name, set_aside
from .failures import InstanceError, to_failure
from .front.settings import WORKER
from .fronted import Front
from .instance import STATE_TIMEOUT_SECONDS, is_silent, request_instance
from .journal import append_journal, journal_head, missing_lines, read_last_lines
from .lock import LOCK_TIMEOUT_SECONDS, hold_lock
from .maintenance import read_maintenance, remove_maintenance, write_maintenance
from .plan import Action, Actor, HostPlan, Observation, ObservedInstance, PlanBuilder
from .rebuild import read_known_activation, rebuild_activation
from .recovery import recover
from .revision import health_path_of
from .state import (
    Activation,
    ActivationRecord,
    boot_id,
    is_live,
    read_activation,
    read_current_link,
    read_lease,
    read_pending,
    read_record,
    read_window,
    staged_releases,
)
from .systemd import Systemd, Unit
from .worker import Worker

SERVE_TIMEOUT_SECONDS = 5.0  # for an instance to answer before it serves; then it is killed and started again
UNAVAILABLE_TIMEOUT_SECONDS = 10.0  # for the unit to start that outlives a command which stops all instances
STOP_MARGIN_SECONDS = 15.0  # beyond the drain deadline, for a stopping instance to end
RESERVE_NAME = ".reserve"  # beside the activation record and the journal: removed to write them on a full disk
RESERVE_BYTES = 256 << 10

State = TypeVar("State")


@dataclass
class Executor:
    """Reads and changes one host: everything that a command does to it goes through here."""

    host: Host
    actor: Actor
    systemd: Systemd = field(default_factory=Systemd)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    boot: Callable[[], str] = boot_id
    start_timeout: float | None = None  # seconds, instead of the host's
    may_rebuild: bool = False  # whether damaged state files are rebuilt in memory, in place of a failure
    pending_may_be_lost: bool = False  # whether a damaged pending.json is set aside, in place of a failure
    finds_silent: bool = False  # whether instances are asked for a response: a rollback stops the one that hangs
    journal_may_wait: bool = False  # whether a broken journal fails no plan: nothing blocks a rollback
    journal_problem: str | None = None  # why a line of the journal waits for the next command
    _unjournaled: list[Mapping[str, Any]] = field(default_factory=list, init=False)  # the lines that wait, oldest first

    def observe(self) -> Observation:
        """Read everything that a plan depends on.

        Raises:
            MobiusError: `state_damaged` when a state file is damaged.
        """
        host = self.host
        empty_record = ActivationRecord(Activation(host.service))
        record, lost = self._read_state(read_record, empty_record, self.may_rebuild)
        pending, pending_problem = self._read_state(read_pending, None, self.may_rebuild or self.pending_may_be_lost)
        units = self.systemd.units(host.socket_unit, host.boot_unit, host.guard_unit, host.watch_unit, host.unit("*"))
        pattern = re.compile(re.escape(host.service) + "@(" + RELEASE_ID.pattern + r"(?:_[0-9a-f]{8})?)\.service")
        instances = {
            revision_name(match[1]): unit for name, unit in units.items() if (match := pattern.fullmatch(name))
        }
        others = (
            unit for name, unit in units.items() if name.startswith(f"{host.service}@") and not pattern.fullmatch(name)
        )
        active = [release for release, unit in instances.items() if unit.active == "active"]
        states, silent = self.front.read_states(active), self._find_silent(active) if self.finds_silent else set()
        now, boot = self.clock(), self.boot()
        activation = record.activation
        if lost:
            serving = [release for release, state in states.items() if state == "serving"]
            activation = rebuild_activation(host, serving, boot)
        unjournaled, is_readable = self._read_unjournaled(activation)
        inactive = Unit("", "inactive", "", "", "")
        return Observation(
            activation=activation,
            pending=pending,
            is_live=is_live(activation, pending, now, boot),
            at=now,
            boot=boot,
            staged=frozenset(staged_releases(host)),
            instances={
                release: ObservedInstance(unit.active, states.get(release), release in silent)
                for release, unit in instances.items()
            },
            is_listening=units.get(host.socket_unit, inactive).active == "active",
            is_enabled=all(units.get(name, inactive).file_state == "enabled" for name in host.units_at_boot),
            is_guarded=units.get(host.guard_unit, inactive).active in ("active", "activating"),
            current=read_current_link(host),
            unjournaled=unjournaled,
            is_journal_readable=is_readable,
            window=read_window(host),
            is_watched=units.get(host.watch_unit, inactive).active in ("active", "activating"),
            window_seconds=host.watch_settings.seconds,
            lease=read_lease(host),
            record_problem=lost or record.problem,
            is_copied=record.is_copied,
            is_record_lost=lost is not None,
            pending_problem=pending_problem,
            overlaps=host.overlap,
            kind=host.front.kind,
            maintenance=read_maintenance(host),
            is_page_served=self.front.read_page_served(),
            unknown_units=tuple(sorted(unit.name for unit in others if unit.active not in ("inactive", "failed"))),
        )

    @property
    def front(self) -> Front | Worker:
        """The front of the service, or what is in its place."""
        if self.host.front.kind == WORKER:
            return Worker(self.host, self.systemd, self.clock, self.boot)
        return Front(self.host, self.systemd, self.clock, self.boot)

    def _find_silent(self, running: list[str]) -> set[str]:
        """The instances that give no response: the front knows where it sends requests, not what becomes of them."""
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as pool:
            silent = pool.map(lambda release: is_silent(self.host, release, STATE_TIMEOUT_SECONDS), running)
            return {release for release, gives_none in zip(running, silent, strict=True) if gives_none}

    def _read_state(self, read: Callable[[Host], State], empty: State, may_be_lost: bool) -> tuple[State, str | None]:
        """What a state file holds, or in place of a damaged one that may be lost what is empty, and the problem."""
        try:
            return read(self.host), None
        except MobiusError as error:
            if not may_be_lost or error.outcome != "state_damaged":
                raise
            return empty, error.reason

    def _read_unjournaled(self, activation: Activation) -> tuple[tuple[Mapping[str, Any], ...], bool]:
        """The lines of the record that the journal lacks, all of them when it cannot be read; and whether it can."""
        lines = activation.journal_lines()
        try:
            return missing_lines(self.host, lines), True
        except OSError:
            if not self.journal_may_wait:
                raise
            return lines, False

    def run(self, make_plan: Callable[[Observation], HostPlan], *, check: bool = False) -> HostPlan:
        """Make a plan and, unless `check`, perform it. Releases that it starts are started before the lock is acquired,
        where two instances may run at once.

        Raises:
            MobiusError: a refusal, or an action that failed; the actions before it stay done, and the next command
                continues from there.
        """
        if check:
            return make_plan(self.observe())
        with self.locked():
            plan = make_plan(self.observe())
            if not plan.starts() or not self.host.overlap:
                self.perform(plan)
                return replace(plan, journal_problem=self.journal_problem)
        for release in plan.starts():
            self._start(release)
        with self.locked():
            replanned = make_plan(self.observe())
            self.perform(replanned)
        return HostPlan(plan.before, replanned.after, plan.actions, plan.note, self.journal_problem)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the host; raises as `hold_lock` does."""
        # without overlap, it is held while a release starts
        seconds = LOCK_TIMEOUT_SECONDS + (0.0 if self.host.overlap else self.host.start_timeout)
        return hold_lock(self.host, self.actor, seconds)

    def perform(self, plan: HostPlan) -> None:
        """Perform a plan's actions in their order, under the lock.

        Raises:
            OSError: a state file could not be written. Every instance that serves against the activation record then
                stands by, unless no other instance serves.
        """
        self._unjournaled = []
        try:
            for action in plan.actions:
                self._perform(action)
        except OSError:
            self._stand_by_unexpected()
            raise
        finally:
            self._keep_unjournaled()
        if any(action.verb == "write_activation" for action in plan.actions):
            self._keep_reserves()
        self.front.write_states()

    def _stand_by_unexpected(self) -> None:
        with contextlib.suppress(MobiusError, OSError):
            builder = PlanBuilder(self.observe())
            recover(builder, self.actor)
            for action in builder.actions:
                if action.verb == "stand_by":
                    self._perform(action)

    def _keep_reserves(self) -> None:
        """Reserve the space that a rollback needs on a full disk; not possible on a disk that is already full."""
        for folder in (self.host.root, self.host.state_dir):
            with contextlib.suppress(OSError):
                path = folder / RESERVE_NAME
                if not path.exists():
                    durable.write_bytes(path, os.urandom(RESERVE_BYTES), mode=0o600)

    def _write_with_reserve(self, folder: Path, write: Callable[[], None]) -> None:
        """Write a state file; on a full disk, remove the reserve of the folder first."""
        try:
            write()
        except OSError as error:
            reserve = folder / RESERVE_NAME
            if error.errno not in durable.DISK_FULL_ERRNOS or not reserve.exists():
                raise
            reserve.unlink()
            write()

    def _append_journal(self, line: Mapping[str, Any]) -> None:
        """Append a line, after those that wait for it."""
        self._unjournaled.append(line)
        try:
            while self._unjournaled:
                write = functools.partial(append_journal, self.host, self._unjournaled[0])
                self._write_with_reserve(self.host.state_dir, write)
                self._unjournaled.pop(0)
            self.journal_problem = None
        except OSError as error:
            if not self.journal_may_wait:
                raise
            reason = to_failure(error).reason
            self.journal_problem = f"The journal has no line of this {line.get('event')} yet: {reason}"

    def _keep_unjournaled(self) -> None:
        """Keep the lines that could not be written in the record: the next command writes them."""
        if self._unjournaled and self.journal_may_wait:
            with contextlib.suppress(MobiusError, OSError):
                activation = read_activation(self.host)
                if activation.unjournaled != tuple(self._unjournaled):
                    self._write_activation(activation)

    def _write_activation(self, activation: Activation) -> None:
        host = self.host
        head = journal_head(host, activation.journal)
        activation = replace(activation, journal=head, unjournaled=tuple(self._unjournaled))
        self._write_with_reserve(host.root, lambda: _replace_record(host.activation_path, activation))
        self._write_copy(activation)

    def _write_copy(self, activation: Activation) -> None:
        """Write the copy of the record. The record counts already, so a failure here is left to the next command."""
        with contextlib.suppress(OSError):
            _replace_record(self.host.activation_copy_path, activation)

    def pause(self) -> None:
        """Let requests wait, since no instance will run; needs the lock.

        A unit outlives this command: when the lock is free again, because the command has ended or was killed, it
        starts what has to run.

        Raises:
            MobiusError: `environment_failed`, before anything was changed.
        """
        unit = self.host.unavailable_unit
        shown = self.systemd.units(unit).get(unit)
        # one that is ending waits for this lock, and then does the same
        is_ending = shown is not None and shown.active == "deactivating"
        if not is_ending and not self.systemd.start(unit, UNAVAILABLE_TIMEOUT_SECONDS):
            raise MobiusError("environment_failed", f"{unit} did not start.")
        self.front.pause()

    def wait_until_stopped(self, release: str) -> None:
        """Wait until an instance that is stopping has drained and ended.

        Raises:
            MobiusError: `timeout` when it still runs well after its drain deadline.
        """
        unit = self.host.unit(release)
        timeout = self.host.drain_deadline + STOP_MARGIN_SECONDS
        until = time.monotonic() + timeout
        while (shown := self.systemd.units(unit).get(unit)) and shown.active == "deactivating":
            if time.monotonic() > until:
                raise MobiusError("timeout", f"{unit} has not stopped after {timeout:g} s.")
            time.sleep(0.1)

    def _perform(self, action: Action) -> None:
        host, release = self.host, str(action.release)
        match action.verb:
            case "pause":
                self.pause()
            case "start":
                self._start(release)
            case "serve":
                self._serve(release)
            case "stand_by":
                self.front.stand_by(release)
            case "stop":
                self.systemd.stop(host.unit(release))
                if not host.overlap:
                    self.wait_until_stopped(release)
            case "write_activation" | "heal_activation":
                self._write_activation(action.value)
            case "write_copy":
                self._write_copy(read_activation(host))
            case "write_pending":
                durable.write_json(host.pending_path, action.value.as_dict())
            case "remove_pending":
                host.pending_path.unlink(missing_ok=True)
            case "start_guard":
                self._start_guard()
            case "set_pending_aside":
                set_aside(host.pending_path)
            case "write_window":
                durable.write_json(host.watch_path, action.value.as_dict())
            case "start_watch":
                # not `start`: a watch of the previous release must read watch.json again
                self.systemd.restart(host.watch_unit)
            case "remove_window":
                host.watch_path.unlink(missing_ok=True)
            case "link_current":
                if host.current_path.is_dir() and not host.current_path.is_symlink():
                    set_aside(host.current_path)
                durable.replace_symlink(host.current_path, f"releases/{instance_name(release)}")
            case "stop_listening":
                front = (host.front_unit, host.traffic_socket_unit, host.traffic_unit)
                self.systemd.stop(host.socket_unit, host.boot_unit, *front)
            case "enable_units":
                self.systemd.enable(*host.units_at_boot)
            case "begin_maintenance":
                self._write_with_reserve(host.root, lambda: write_maintenance(host, action.value))
                self.front.obey_maintenance()
            case "end_maintenance":
                remove_maintenance(host)
                self.front.obey_maintenance()
            case "obey_maintenance":
                self.front.obey_maintenance()
            case "append_journal":
                self._append_journal(action.value)

    def _start(self, release: str) -> None:
        unit = self.host.unit(release)
        timeout = self.start_timeout or self.host.start_timeout
        started = time.monotonic()
        until = started + timeout
        reason = f"{release} was not ready after {timeout:g} s."
        self.front.assign(release)
        try:
            is_ready = self.systemd.start(unit, timeout)
        except MobiusError as error:
            if error.outcome != "timeout":
                raise
            self._fail_start("instance_not_ready", release, reason)
        if is_ready:
            # only now: at boot, clients wait in the socket's queue until there is an instance
            self.front.start()
        while is_ready and self.front.read_states([release])[release] is None:
            if time.monotonic() > until:
                self._fail_start("instance_not_ready", release, reason)
            time.sleep(0.05)
            is_ready = self._is_active(release)
        if not is_ready:
            seconds = time.monotonic() - started
            shown = self.systemd.units(unit).get(unit)
            own = (shown.start_timeout if shown else None) or self.host.start_timeout
            # systemd forgets the result with the next start, a second later; no instance starts for longer than it may
            if seconds >= own or (shown is not None and shown.result == "timeout"):
                reason = f"{release} was not ready after {own:g} s, the time-out of its unit on this host."
                self._fail_start("instance_not_ready", release, reason)
            self._fail_start("instance_failed", release, f"{release} ended while it started.")

    def _fail_start(self, outcome: str, release: str, reason: str) -> NoReturn:
        if release != read_known_activation(self.host).confirmed:
            # systemd would restart it for ever, which only the confirmed release needs
            self.systemd.stop(self.host.unit(release))
        lines = self.last_lines(release)
        last_line = f" Its last line: {lines[-1]}" if lines else ""
        raise InstanceError(outcome, f"{reason}{last_line}", lines)

    def last_lines(self, release: str, lines: int = 20) -> list[str]:
        """The last lines that an instance wrote, to systemd's journal and to its log file."""
        journal = self.systemd.log(self.host.unit(release), lines)
        log_file = read_last_lines(self.host.log_path(release))[-lines:]
        return [*journal, *(line.decode(errors="replace") for line in log_file)]

    def _is_active(self, release: str) -> bool:
        unit = self.host.unit(release)
        shown = self.systemd.units(unit).get(unit)
        return shown is not None and shown.active == "active"

    def _serve(self, release: str) -> None:
        """Let an instance serve. One that hangs in standby has no clients, so it is killed and started again."""
        self._require_answer(release)
        self.front.serve(release)

    def _require_answer(self, release: str) -> None:
        until = time.monotonic() + SERVE_TIMEOUT_SECONDS
        was_restarted = False
        while True:
            left = max(STATE_TIMEOUT_SECONDS, until - time.monotonic())
            try:
                request_instance(self.host, release, "GET", health_path_of(self.host, release), timeout=left)
            except OSError as error:
                if time.monotonic() > until and not was_restarted and self._is_active(release):
                    self.systemd.kill(self.host.unit(release))
                    self._start(release)
                    was_restarted, until = True, time.monotonic() + SERVE_TIMEOUT_SECONDS
                    continue
                if time.monotonic() > until or not self._is_active(release):
                    lines = self.last_lines(release)
                    raise InstanceError(
                        "instance_failed", f"{release} does not answer, so it cannot serve ({error}).", lines
                    ) from None
                time.sleep(0.05)
            else:
                return

    def _start_guard(self) -> None:
        try:
            # not `start`: it would do nothing for a guard that is just ending because nothing was pending
            self.systemd.restart(self.host.guard_unit)
        except MobiusError:
            self.host.pending_path.unlink(missing_ok=True)
            raise


def _replace_record(path: Path, activation: Activation) -> None:
    """Write an activation record; what is damaged there is kept beside it."""
    try:
        read_state_file(path)
    except MobiusError:
        set_aside(path)
    durable.write_json(path, activation.as_dict())
