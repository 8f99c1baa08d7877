# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files in which instances read their state: each switch writes them, each command compares them with the records.

An instance finds the path of its own in `MOBIUS_STATE_FILE`. What was not written, as after a kill, the next command
writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import durable
from ..errors import MobiusError
from ..manifest import REVISION
from .config import Host
from .rebuild import read_known_activation, read_known_pending
from .state import Activation, Pending, boot_id, is_live, role_of
from .systemd import Systemd

SERVING, STANDBY, DRAINING = "serving", "standby", "draining"  # the words of a state file


@dataclass(frozen=True)
class StateFiles:
    """The state files of one service."""

    host: Host
    systemd: Systemd = field(default_factory=Systemd)
    clock: Callable[[], float] = time.monotonic
    boot: Callable[[], str] = boot_id

    def releases(self) -> list[str]:
        """The releases that have a file."""
        with contextlib.suppress(OSError):
            return sorted(path.name for path in self.host.states_dir.iterdir() if REVISION.fullmatch(path.name))
        return []

    def write_state(self, release: str, state: str) -> None:
        """Write the state file of an instance. Most read none, so a failure fails no switch: the next one writes it."""
        with contextlib.suppress(OSError):
            folder = self.host.states_dir
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)  # whatever the umask: instances run as another user
            durable.write_bytes(self.host.state_file(release), f"{state}\n".encode())

    def write_states(self) -> None:
        """Write the state file of each instance that differs from the records, as after a kill.

        An instance that drains is about to end, and its file is written again when it is started.
        """
        with contextlib.suppress(OSError, MobiusError):
            activation, live = self.records()
            for release in self.releases():
                state = SERVING if role_of(activation, live, release) == SERVING else STANDBY
                if self._written_state(release) not in (state, DRAINING):
                    self.write_state(release, state)

    def remove_state(self, release: str) -> None:
        """Remove the state file of an instance that has ended."""
        with contextlib.suppress(OSError):
            self.host.state_file(release).unlink()

    def _written_state(self, release: str) -> str | None:
        """The state in the file of an instance; None when there is nothing to read."""
        try:
            return self.host.state_file(release).read_text().strip()
        except (OSError, ValueError):
            return None

    def records(self) -> tuple[Activation, Pending | None]:
        """The activation record, and the pending promotion while it is live."""
        activation, pending = read_known_activation(self.host), read_known_pending(self.host)
        return activation, pending if is_live(activation, pending, self.clock(), self.boot()) else None
