# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service without clients, in place of the front of one that has some: it has no port, and serves while it runs."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from .config import Host
from .front.certificate import Certificate
from .revision import health_command_of
from .state_files import DRAINING, SERVING, StateFiles
from .systemd import Systemd

OUTPUT_MAX_BYTES = 4096  # of a health command, that are kept


@dataclass(frozen=True)
class Worker(StateFiles):
    """What the executor asks of a front, for a service that needs none."""

    def read_states(self, releases: Iterable[str]) -> dict[str, str | None]:
        """The state of the instances of these releases, which run: all serve."""
        return dict.fromkeys(releases, SERVING)

    def assign(self, release: str) -> None:
        """A worker has no address."""

    def environment(self, release: str) -> dict[str, str]:
        """The variables that an instance is started with."""
        return {"MOBIUS_STATE_FILE": str(self.host.state_file(release))}

    def start(self) -> None:
        """There is no front to start."""

    def serve(self, release: str) -> None:
        """Let an instance know that it serves; it does with its start."""
        self.write_state(release, SERVING)

    def stand_by(self, release: str) -> None:
        """Let an instance know that it is about to be stopped: a worker that runs beside another would work as well."""
        self.write_state(release, DRAINING)

    def pause(self) -> None:
        """Nobody waits."""

    def raise_by_record(self, release: str) -> None:  # noqa: ARG002 - as a front has it
        """Let an instance that was started know its state."""
        self.write_states()

    def drain(self, release: str) -> None:
        """Let an instance know that it is about to be stopped; its own SIGTERM ends its work."""
        self.write_state(release, DRAINING)

    def read_page_served(self) -> bool | None:
        """Nobody is given a page."""
        return None

    def obey_maintenance(self) -> None:
        """Nobody is given a page."""

    def use_certificate(self, certificate: Certificate) -> bool:  # noqa: ARG002 - as a front has it
        """Nothing uses one."""
        return False

    def render(self) -> None:
        """There is no front to configure."""


def request_health(host: Host, release: str, timeout: float, systemd: Systemd | None = None) -> tuple[int, bytes]:
    """The health of a worker, as an HTTP service would give it: 200, or 503 with what its health command wrote.

    Without a health command, an instance that runs is healthy.

    Args:
        timeout: seconds.

    Raises:
        OSError: the instance does not run, or its health command takes longer.
    """
    unit = host.unit(release)
    shown = (systemd or Systemd()).units(unit).get(unit)
    if shown is None or shown.active not in ("active", "activating"):
        raise ConnectionRefusedError(f"{release} does not run")
    health_command = health_command_of(host, release)
    if not health_command:
        return 200, b""
    try:
        done = subprocess.run(
            health_command,
            cwd=host.release_dir(release) / "tree",
            env={"PATH": "/usr/bin:/bin", **_role_environment(host, release)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            user=host.user,
            group=pwd.getpwnam(host.user).pw_gid,
            extra_groups=[],
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the health command had not ended after {timeout:g} s") from None
    return 200 if done.returncode == 0 else 503, done.stdout[-OUTPUT_MAX_BYTES:]


def _role_environment(host: Host, release: str) -> dict[str, str]:
    """What an instance was started with by its role."""
    with contextlib.suppress(OSError, ValueError):
        text = (host.instance_run_dir(release) / "role.env").read_text()
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {}
