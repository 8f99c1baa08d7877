# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The front of a service as the states of its instances: what transitions plan with is made true, and read, in HAProxy.

An instance serves while its slot is ready, and stands by while it is not. HAProxy forgets that with each start, so its
configuration is rendered before each one from the activation record, the pending promotion and the slots. A kill at any
line therefore leaves what these files say, and the next command finishes or undoes the rest. An instance that likes to
know its state finds it in a file of its own, which each switch writes and each command compares with the records.
"""

from __future__ import annotations

import contextlib
import grp
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .. import durable
from ..errors import MobiusError
from .config import set_aside
from .front import configuration
from .front.certificate import Certificate
from .front.configuration import DRAIN, MAINT, READY, ServerState
from .front.runtime import PAYLOAD_MAX_BYTES, Runtime
from .front.settings import FrontSettings
from .front.slots import HOST, Slot
from .instance import find_slot, read_slots, slot_table, started_with
from .maintenance import read_maintenance
from .state import CANARY_SHARE_PERCENT, Activation, Pending, role_of
from .state_files import DRAINING, SERVING, STANDBY, StateFiles

FULL_WEIGHT = 100
RUNTIME_TIMEOUT_SECONDS = 2.0  # for HAProxy to answer, before it is started again
FRONT_START_TIMEOUT_SECONDS = 30.0
SLOTS_LOCK_TIMEOUT_SECONDS = 20.0
DRAIN_POLL_SECONDS = 0.05
RAISE_ATTEMPTS = 10


@dataclass(frozen=True)
class Front(StateFiles):
    """The front of one service."""

    @property
    def settings(self) -> FrontSettings:
        """Its settings."""
        return self.host.front

    @property
    def runtime(self) -> Runtime:
        """The commands to the HAProxy that runs."""
        return Runtime(self.settings.runtime_socket, RUNTIME_TIMEOUT_SECONDS)

    def read_states(self, releases: Iterable[str]) -> dict[str, str | None]:
        """The state of the instances of these releases, "standby", "serving" or "draining"; None when it is not known.

        Raises:
            PermissionError: this user may not ask HAProxy.
        """
        numbers = {slot.release: slot.number for slot in read_slots(self.host) if slot.release is not None}
        try:
            servers = self.runtime.server_states()
            return {release: self._state(servers, numbers.get(release)) for release in releases}
        except PermissionError:
            raise
        except (OSError, MobiusError):
            return dict.fromkeys(releases)

    def _state(self, servers: Mapping[str, ServerState], number: int | None) -> str | None:
        if number is None:
            return None
        state = servers[f"slot{number}"].state
        if state == READY:
            return "serving"
        return "draining" if state == DRAIN and self.runtime.active_requests(number) else "standby"

    def releases(self) -> list[str]:
        """The releases that hold a slot."""
        return [slot.release for slot in read_slots(self.host) if slot.release is not None]

    def environment(self, release: str) -> dict[str, str]:
        """The variables that an instance is started with: where it has to listen, and the file with its state."""
        slot = self.assign(release)
        address = {"HOST": HOST, "PORT": str(slot.port), "MOBIUS_ADDRESS": slot.address}
        return {**address, "MOBIUS_STATE_FILE": str(self.host.state_file(release))}

    def assign(self, release: str) -> Slot:
        """Let a release hold a slot. That of an instance that has ended is free, unless its release has to serve.

        Raises:
            MobiusError: `environment_failed` when every slot is held.
        """
        table = slot_table(self.host)
        with durable.locked(self.host.run_dir / "slots.lock", timeout=SLOTS_LOCK_TIMEOUT_SECONDS):
            try:
                slots = table.read()
            except MobiusError:
                held = dict(started_with(self.host))
                set_aside(table.path)
                table.restore(held)
                slots = table.read()
            if held_slot := next((slot for slot in slots if slot.release == release), None):
                return held_slot
            for ended in self._ended(slots):
                table.free(ended)
                self.remove_state(ended)
            slot = table.choose(release)
            # no request may come before the instance is healthy; a front that does not run renders the slot so
            with contextlib.suppress(OSError, MobiusError):
                self.runtime.set_state(slot.number, MAINT)
            assigned = table.assign(release)
            with contextlib.suppress(OSError, MobiusError):
                self.runtime.name_release(self.settings, assigned)
            return assigned

    def _ended(self, slots: Iterable[Slot]) -> list[str]:
        units = self.systemd.units(self.host.unit("*"))
        activation, live = self.records()
        ended = []
        for release in (slot.release for slot in slots if slot.release is not None):
            unit = units.get(self.host.unit(release))
            is_stopped = unit is None or unit.active in ("inactive", "failed")
            if is_stopped and role_of(activation, live, release) != "serving":
                ended.append(release)
        return ended

    def start(self) -> None:
        """Start HAProxy unless it runs.

        Raises:
            MobiusError: `environment_failed` or `timeout`.
        """
        unit = self.host.front_unit
        shown = self.systemd.units(unit).get(unit)
        if shown is not None and shown.active == "active":
            return
        if not self.systemd.start(unit, FRONT_START_TIMEOUT_SECONDS):
            lines = self.systemd.log(unit)
            last_line = f" Its last line: {lines[-1]}" if lines else ""
            raise MobiusError("environment_failed", f"{unit} does not start.{last_line}")

    def serve(self, release: str) -> None:
        """Let an instance have requests, beside those that have them.

        Raises:
            MobiusError: HAProxy does not start, or refuses.
            OSError: it does not answer although it was started again.
        """
        self._command(lambda: self._make_ready(release))
        self.write_state(release, SERVING)
        self._write_configuration()

    def stand_by(self, release: str) -> None:
        """Let an instance have no new request; it ends those that it has. Raises as `serve` does."""
        slot = find_slot(self.host, release)
        if slot is None:
            return

        def drain() -> None:
            self.runtime.set_state(slot.number, DRAIN)
            self._set_weights(self.expected_states())

        self._command(drain)
        self.write_state(release, STANDBY)
        self._write_configuration()

    def _make_ready(self, release: str) -> None:
        slot = find_slot(self.host, release)
        if slot is None:
            raise MobiusError("instance_failed", f"{release} holds no slot of the front, so it cannot serve.")
        states = self.expected_states()
        states[slot.number] = states[slot.number] if states[slot.number].state == READY else ServerState(READY)
        self.runtime.name_release(self.settings, slot)
        self._set_weights(states)
        self.runtime.set_state(slot.number, READY)
        self.runtime.resume()

    def _set_weights(self, states: Mapping[int, ServerState]) -> None:
        for number, state in states.items():
            if state.state == READY:
                self.runtime.set_weight(number, state.weight)

    def _command(self, command: Callable[[], None]) -> None:
        """Give HAProxy a command; one that does not answer is started again, and renders its configuration then."""
        try:
            command()
        except PermissionError:
            raise
        except OSError:
            self.systemd.restart(self.host.front_unit)
            command()

    def expected_states(self) -> dict[int, ServerState]:
        """What each slot must be by the activation record and the pending promotion; a free one is in none."""
        activation, live = self.records()
        return expected_states(read_slots(self.host), activation, live)

    def render(self) -> None:
        """Write HAProxy's configuration: what serves by the records is ready. Without it, requests wait.

        Raises:
            OSError: what was there before is unchanged.
        """
        slots, states = read_slots(self.host), self.expected_states()
        activation, live = self.records()
        is_ready = any(state.state == READY for state in states.values())
        configuration.write(
            self.settings,
            slots,
            states,
            is_paused=not is_ready and (activation.confirmed is not None or live is not None),
            is_maintenance=read_maintenance(self.host) is not None,
            owner=_owner(),
        )

    def _write_configuration(self) -> None:
        """Render after a switch. The front renders again before it starts, so a failure here does no harm."""
        with contextlib.suppress(OSError, MobiusError):
            self.render()

    def read_page_served(self) -> bool | None:
        """Whether clients get the page of maintenance; None when the front does not run or does not say."""
        try:
            return self.runtime.is_maintenance(self.settings)
        except (OSError, MobiusError):
            return None

    def obey_maintenance(self) -> None:
        """Give clients the page of maintenance, or no longer, as the host's file says.

        Raises:
            MobiusError: HAProxy refuses; it obeys once it is started again.
            OSError: it does not answer although it was started again.
        """
        self._write_configuration()
        is_on = read_maintenance(self.host) is not None
        unit = self.host.front_unit
        shown = self.systemd.units(unit).get(unit)
        if shown is not None and shown.active in ("active", "reloading"):
            self._command(lambda: self.runtime.set_maintenance(self.settings, is_on))

    def use_certificate(self, certificate: Certificate) -> bool:
        """Let new connections have another certificate; False when the front does not run, which reads it at its start.

        Raises:
            MobiusError: `environment_failed` for a file that is too long; HAProxy refuses.
            OSError: it does not answer.
        """
        if len(certificate.pem) > PAYLOAD_MAX_BYTES:
            raise MobiusError(
                "environment_failed",
                f"The certificate {certificate.path} has more than {PAYLOAD_MAX_BYTES} bytes, so HAProxy can only read "
                "it itself.",
                do_next=f"Run `systemctl reload {self.host.front_unit}`: requests in flight are finished.",
            )
        try:
            self.runtime.replace_certificate(certificate.path, certificate.pem)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def pause(self) -> None:
        """Let requests wait, since no instance will be able to serve. Without a front that answers, nothing is done."""
        with contextlib.suppress(OSError, MobiusError):
            self.runtime.pause([slot.number for slot in read_slots(self.host) if slot.release is not None])

    def raise_by_record(self, release: str) -> None:
        """Let an instance that has become healthy serve, if it has to; a command at work may change the records."""
        if find_slot(self.host, release) is None:
            return
        with contextlib.suppress(OSError, MobiusError):
            for _ in range(RAISE_ATTEMPTS):
                before = self.records()
                is_serving = role_of(*before, release) == "serving"
                if is_serving:
                    self._make_ready(release)
                self.write_states()
                if self.records() == before:
                    return
                if is_serving and role_of(*self.records(), release) != "serving":
                    self.runtime.set_state(self._number(release), DRAIN)

    def _number(self, release: str) -> int:
        slot = find_slot(self.host, release)
        if slot is None:
            raise MobiusError("instance_failed", f"{release} holds no slot of the front.")
        return slot.number

    def drain(self, release: str) -> None:
        """Take an instance that is about to be stopped out of the front, and wait until it has no request any more.

        Without another that serves, requests wait for one. A front that does not answer has no requests.
        """
        slot = find_slot(self.host, release)
        if slot is None:
            return
        until = time.monotonic() + self.host.drain_deadline
        self.write_state(release, DRAINING)
        with contextlib.suppress(OSError, MobiusError):
            runtime = self.runtime
            ready = {name for name, state in runtime.server_states().items() if state.state == READY}
            if ready == {slot.server}:
                runtime.pause([slot.number])
            else:
                runtime.set_state(slot.number, DRAIN)
            while runtime.active_requests(slot.number) and time.monotonic() < until:
                time.sleep(DRAIN_POLL_SECONDS)


def expected_states(slots: Iterable[Slot], activation: Activation, live: Pending | None) -> dict[int, ServerState]:
    """What each slot must be: ready with its share of the requests, or drained; a free one is in none."""
    states = {}
    for slot in slots:
        if slot.release is None:
            continue
        if role_of(activation, live, slot.release) == "serving":
            states[slot.number] = ServerState(READY, _weight(slot.release, activation, live))
        else:
            states[slot.number] = ServerState(DRAIN)
    return states


def _weight(release: str, activation: Activation, live: Pending | None) -> int:
    if live is None or live.stage != "canary" or activation.confirmed is None:
        return FULL_WEIGHT
    share = CANARY_SHARE_PERCENT if live.share is None else live.share
    return share if release == live.release else 100 - share


def _owner() -> tuple[int, int] | None:
    """Root, with the group of HAProxy's user; None where there is none."""
    try:
        return (0, grp.getgrnam(configuration.HAPROXY_USER).gr_gid) if os.geteuid() == 0 else None
    except KeyError:
        return None
