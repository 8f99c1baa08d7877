# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The slots of a front: fixed addresses on 127.0.0.1 that HAProxy knows, and the release that holds each.

HAProxy cannot be given a new address while it runs, so an instance gets a free slot's. The file is in the run folder,
in memory: a reboot ends every instance, and with them their slots. Who changes it holds the host's lock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import durable
from ...errors import MobiusError
from ..config import SCHEMA, corrupt_state, read_state_file, require_field
from .settings import SLOT_COUNT

HOST = "127.0.0.1"
REVISION = re.compile(r"[0-9a-z.]{1,64}-[0-9a-f]{12}(\+[0-9a-f]{8})?")
"""A release id, or the revision of one. HAProxy receives it in commands and returns it in its log."""


@dataclass(frozen=True)
class Slot:
    """One slot; `release` is None while it is free."""

    number: int
    port: int
    release: str | None = None

    @property
    def address(self) -> str:
        """What an instance listens on: `127.0.0.1:<port>`."""
        return f"{HOST}:{self.port}"

    @property
    def server(self) -> str:
        """Its name in HAProxy's configuration and log."""
        return server_name(self.number)


def server_name(number: int) -> str:
    """The name of a slot in HAProxy's configuration and log."""
    return f"slot{number}"


class Slots:
    """The slots of one service, kept in a file.

    Args:
        path: `FrontSettings.slots_path`.
        ports: `FrontSettings.slot_ports`.
    """

    def __init__(self, path: Path, ports: Sequence[int]) -> None:
        if len(ports) != SLOT_COUNT:
            raise ValueError(f"{len(ports)} ports for {SLOT_COUNT} slots")
        self.path = path
        self.ports = tuple(ports)

    def read(self) -> tuple[Slot, ...]:
        """All slots by number; all are free when there is no file.

        Raises:
            MobiusError: `state_damaged`.
        """
        content = read_state_file(self.path)
        releases = {} if content is None else require_field(self.path, content, "slots", dict)
        if unknown := sorted(set(releases) - {str(number) for number in range(1, SLOT_COUNT + 1)}):
            raise corrupt_state(self.path, f"it has a slot {unknown[0]!r}")
        for number, release in releases.items():
            if not isinstance(release, str) or not REVISION.fullmatch(release):
                raise corrupt_state(self.path, f"slot {number} is held by {release!r}, which is not a release")
        if len(set(releases.values())) < len(releases):
            raise corrupt_state(self.path, "a release holds two slots")
        return tuple(Slot(number, port, releases.get(str(number))) for number, port in enumerate(self.ports, start=1))

    def find(self, release: str) -> Slot | None:
        """The slot that a release holds; None when it holds none. Raises as `read` does."""
        return next((slot for slot in self.read() if slot.release == release), None)

    def choose(self, release: str) -> Slot:
        """The slot that `assign` would give to the release; nothing is written.

        Raises:
            MobiusError: `invalid_input` for what is no release, `environment_failed` when every slot is held,
                `state_damaged`.
        """
        if not REVISION.fullmatch(release):
            raise MobiusError("invalid_input", f"{release!r} is not a release id.")
        slots = self.read()
        held = next((slot for slot in slots if slot.release == release), None)
        free = next((slot for slot in slots if slot.release is None), None)
        if held is None and free is None:
            holders = ", ".join(str(slot.release) for slot in slots)
            raise MobiusError(
                "environment_failed",
                f"There is no free slot for {release}: {holders} hold all {SLOT_COUNT}.",
                do_next="Stop an instance that neither serves nor is pending; `mobius-host status` shows them.",
            )
        chosen = held or free
        assert chosen is not None
        return Slot(chosen.number, chosen.port, release)

    def assign(self, release: str) -> Slot:
        """Let a release hold a free slot, or the one that it holds, durably. Raises as `choose` does, and OSError."""
        chosen = self.choose(release)
        self._write([chosen if slot.number == chosen.number else slot for slot in self.read()])
        return chosen

    def free(self, release: str) -> bool:
        """Free the slot of a release, durably; whether it held one. Raises as `read` does, and OSError."""
        slots = self.read()
        if all(slot.release != release for slot in slots):
            return False
        self._write([Slot(slot.number, slot.port) if slot.release == release else slot for slot in slots])
        return True

    def restore(self, releases: dict[int, str]) -> None:
        """Replace a damaged file by what the instances that run were started with: their slots' releases by number."""
        self._write([Slot(number, port, releases.get(number)) for number, port in enumerate(self.ports, start=1)])

    def _write(self, slots: Sequence[Slot]) -> None:
        held: dict[str, Any] = {str(slot.number): slot.release for slot in slots if slot.release is not None}
        durable.write_json(self.path, {"schema": SCHEMA, "slots": held})
