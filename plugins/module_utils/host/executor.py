# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observes a host and performs a plan: everything that reads or changes a host goes through here."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .. import durable
from ..errors import MobiusError
from .config import RELEASE_ID, Host
from .failures import DISK_FULL_ERRNOS, InstanceError
from .instance import STATE_TIMEOUT_SECONDS, admin_request, request_state
from .journal import append_journal, journal_has_line, read_last_lines
from .plan import Action, Actor, HostPlan, Observation, ObservedInstance, PlanBuilder
from .recovery import recover
from .state import (
    boot_id,
    is_live,
    read_activation,
    read_current_link,
    read_lease,
    read_pending,
    read_window,
    staged_releases,
)
from .systemd import Systemd, Unit

SERVE_TIMEOUT_SECONDS = 5.0  # seconds an instance has to serve, before it is started afresh
STANDBY_TIMEOUT_SECONDS = 3.0  # seconds an instance has to stand by, before it is killed
LOCK_TIMEOUT_SECONDS = 30.0  # seconds to wait for another command; the lock is never held while a release starts
RESERVE_NAME = ".reserve"  # beside the truth and the journal: space that is given up to write them on a full disk
RESERVE_BYTES = 256 << 10


@dataclass
class Executor:
    """The hands of this module: everything that reads or changes a host goes through here."""

    host: Host
    actor: Actor
    systemd: Systemd = field(default_factory=Systemd)
    clock: Callable[[], float] = time.monotonic
    boot: Callable[[], str] = boot_id
    start_timeout: float | None = None  # seconds, instead of the host's

    def observe(self) -> Observation:
        """Look at everything that a plan depends on.

        Raises:
            MobiusError: `state_damaged` when a state file cannot be understood.
        """
        host = self.host
        activation, pending = read_activation(host), read_pending(host)
        units = self.systemd.units(host.socket_unit, host.boot_unit, host.guard_unit, host.watch_unit, host.unit("*"))
        pattern = re.compile(re.escape(host.service) + "@(" + RELEASE_ID.pattern + r")\.service")
        found = {match[1]: unit for name, unit in units.items() if (match := pattern.fullmatch(name))}
        running = [release for release, unit in found.items() if unit.active == "active"]
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as pool:
            states = dict(zip(running, pool.map(lambda release: request_state(host, release), running), strict=True))
        moment, boot = self.clock(), self.boot()
        inactive = Unit("", "inactive", "", "", "")
        return Observation(
            activation=activation,
            pending=pending,
            live=is_live(activation, pending, moment, boot),
            at=moment,
            boot=boot,
            staged=frozenset(staged_releases(host)),
            instances={release: ObservedInstance(unit.active, states.get(release)) for release, unit in found.items()},
            listening=units.get(host.socket_unit, inactive).active == "active",
            enabled=all(
                units.get(name, inactive).file_state == "enabled" for name in (host.socket_unit, host.boot_unit)
            ),
            guarded=units.get(host.guard_unit, inactive).active in ("active", "activating"),
            current=read_current_link(host),
            written=journal_has_line(host, activation.last),
            window=read_window(host),
            watched=units.get(host.watch_unit, inactive).active in ("active", "activating"),
            window_seconds=host.watching.seconds,
            lease=read_lease(host),
        )

    def run(self, make: Callable[[Observation], HostPlan], *, check: bool = False) -> HostPlan:
        """Plan, and unless `check`, do it. A plan that starts a release starts it before it takes the lock.

        Raises:
            MobiusError: a refusal, or an action that failed; what was done before it stays, and the next command goes
                on from there.
        """
        if check:
            return make(self.observe())
        with self.locked():
            plan = make(self.observe())
            if not plan.starts():
                self.perform(plan)
                return plan
        for release in plan.starts():
            self._start(release)
        with self.locked():
            replanned = make(self.observe())
            self.perform(replanned)
        return HostPlan(plan.before, replanned.after, plan.actions, plan.note)

    @contextlib.contextmanager
    def locked(self) -> Any:
        """Hold the host's lock.

        Raises:
            MobiusError: `timeout` when another command holds it too long, `not_provisioned` without its folder.
        """
        if not self.host.root.is_dir():
            raise MobiusError("not_provisioned", f"This host is not prepared: {self.host.root} is missing.")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(durable.locked(self.host.lock_path, LOCK_TIMEOUT_SECONDS))
            except TimeoutError:
                raise MobiusError(
                    "timeout", f"Another command has been holding {self.host.lock_path} for {LOCK_TIMEOUT_SECONDS:g} s."
                ) from None
            yield

    def perform(self, plan: HostPlan) -> None:
        """Perform a plan's actions in their order, under the lock.

        Raises:
            OSError: a state file could not be written. Whoever serves without being named by the truth stands by then,
                as long as somebody else serves.
        """
        try:
            for action in plan.actions:
                self._perform(action)
        except OSError:
            self._stand_by_unexpected()
            raise
        if any(action.verb == "write_activation" for action in plan.actions):
            self._keep_reserves()

    def _stand_by_unexpected(self) -> None:
        with contextlib.suppress(MobiusError, OSError):
            builder = PlanBuilder(self.observe())
            recover(builder, self.actor)
            for action in builder.actions:
                if action.verb == "stand_by":
                    self._perform(action)

    def _keep_reserves(self) -> None:
        """Have the space that a rollback on a full disk needs; a disk that is full already cannot give it."""
        for folder in (self.host.root, self.host.state_dir):
            with contextlib.suppress(OSError):
                path = folder / RESERVE_NAME
                if not path.exists():
                    durable.write_bytes(path, os.urandom(RESERVE_BYTES), mode=0o600)

    def _write_with_reserve(self, folder: Path, write: Callable[[], None]) -> None:
        """Write a state file, on a full disk in the place of the folder's reserve."""
        try:
            write()
        except OSError as error:
            reserve = folder / RESERVE_NAME
            if error.errno not in DISK_FULL_ERRNOS or not reserve.exists():
                raise
            reserve.unlink()
            write()

    def wait_until_stopped(self, release: str) -> None:
        """Wait until an instance that was asked to stop has drained and is gone.

        Raises:
            MobiusError: `timeout` when it is still there well after its deadline.
        """
        unit = self.host.unit(release)
        until = time.monotonic() + self.host.drain_deadline + 15
        while (found := self.systemd.units(unit).get(unit)) and found.active == "deactivating":
            if time.monotonic() > until:
                raise MobiusError("timeout", f"{unit} has not stopped after {self.host.drain_deadline + 15:g} s.")
            time.sleep(0.1)

    def _perform(self, action: Action) -> None:
        host, release = self.host, str(action.release)
        match action.verb:
            case "start":
                self._start(release)
            case "serve":
                self._serve(release)
            case "stand_by":
                self._standby(release)
            case "stop":
                self.systemd.stop(host.unit(release))
            case "write_activation":
                self._write_with_reserve(
                    host.root, lambda: durable.write_json(host.activation_path, action.value.as_dict())
                )
            case "write_pending":
                durable.write_json(host.pending_path, action.value.as_dict())
            case "remove_pending":
                host.pending_path.unlink(missing_ok=True)
            case "start_guard":
                self._guard()
            case "write_window":
                durable.write_json(host.watch_path, action.value.as_dict())
            case "start_watch":
                # afresh: one that watches the release before has to look at watch.json again
                self.systemd.restart(host.watch_unit)
            case "remove_window":
                host.watch_path.unlink(missing_ok=True)
            case "link_current":
                durable.replace_symlink(host.current_path, f"releases/{release}")
            case "stop_listening":
                self.systemd.stop(host.socket_unit, host.boot_unit)
            case "enable_units":
                self.systemd.enable(host.socket_unit, host.boot_unit)
            case "append_journal":
                self._write_with_reserve(host.state_dir, lambda: append_journal(host, action.value))

    def _start(self, release: str) -> None:
        unit = self.host.unit(release)
        timeout = self.start_timeout or self.host.start_timeout
        until = time.monotonic() + timeout
        reason = f"{release} was not ready after {timeout:g} s."
        try:
            ready = self.systemd.start(unit, timeout)
        except MobiusError as error:
            if error.outcome != "timeout":
                raise
            self._fail_start("instance_not_ready", release, reason)
        while ready and request_state(self.host, release) is None:
            if time.monotonic() > until:
                self._fail_start("instance_not_ready", release, reason)
            time.sleep(0.05)
            ready = self._active(release)
        if not ready:
            found = self.systemd.units(unit).get(unit)
            if found is not None and found.result == "timeout":
                reason = f"{release} was not ready after {self.host.start_timeout:g} s, the unit's own limit."
                self._fail_start("instance_not_ready", release, reason)
            self._fail_start("instance_failed", release, f"{release} stopped by itself while it started.")

    def _fail_start(self, outcome: str, release: str, reason: str) -> NoReturn:
        if release != read_activation(self.host).confirmed:
            # systemd would start it again and again; what is confirmed, it shall
            self.systemd.stop(self.host.unit(release))
        lines = self.last_lines(release)
        said = f" Its last line: {lines[-1]}" if lines else ""
        raise InstanceError(outcome, f"{reason}{said}", lines)

    def last_lines(self, release: str, lines: int = 20) -> list[str]:
        """The last lines that an instance wrote, to systemd's journal and to its log file."""
        unit = self.systemd.log(self.host.unit(release), lines)
        own = read_last_lines(self.host.log_dir / f"{release}.log")[-lines:]
        return [*unit, *(line.decode(errors="replace") for line in own)]

    def _active(self, release: str) -> bool:
        unit = self.host.unit(release)
        found = self.systemd.units(unit).get(unit)
        return found is not None and found.active == "active"

    def _serve(self, release: str) -> None:
        """An instance that hangs in standby is killed and started afresh; it serves nobody yet, so nothing is lost."""
        until = time.monotonic() + SERVE_TIMEOUT_SECONDS
        was_restarted = False
        while True:
            left = max(STATE_TIMEOUT_SECONDS, until - time.monotonic())
            try:
                status, _, body = admin_request(self.host, release, "POST", "/admin/serve", timeout=left)
            except OSError as error:
                if time.monotonic() > until and not was_restarted and self._active(release):
                    self.systemd.kill(self.host.unit(release))
                    self._start(release)
                    was_restarted, until = True, time.monotonic() + SERVE_TIMEOUT_SECONDS
                    continue
                if time.monotonic() > until or not self._active(release):
                    lines = self.last_lines(release)
                    raise InstanceError(
                        "instance_failed", f"{release} does not answer, so it cannot serve ({error}).", lines
                    ) from None
                time.sleep(0.05)
                continue
            if status != 200:
                said = body.decode(errors="replace").strip()[:200]
                raise InstanceError("instance_failed", f"{release} refuses to serve ({status}): {said}", [])
            return

    def _standby(self, release: str) -> None:
        """An instance that cannot be told is killed: hung, it would go on taking connections that it never answers."""
        until = time.monotonic() + STANDBY_TIMEOUT_SECONDS
        while self._active(release):
            try:
                status, _, _ = admin_request(
                    self.host, release, "POST", "/admin/standby", timeout=STANDBY_TIMEOUT_SECONDS
                )
                if status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                # it starts again as what the truth says by now
                self.systemd.kill(self.host.unit(release))
                return
            time.sleep(0.05)

    def _guard(self) -> None:
        try:
            # not `start`: a guard that is just ending because nothing was pending would not be started again
            self.systemd.restart(self.host.guard_unit)
        except MobiusError:
            self.host.pending_path.unlink(missing_ok=True)
            raise
