# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The instance of a drill: a release on restored folders, beside the live one and invisible to clients.

The release's own unit is used, sandbox and all, under another name (`<service>-drill@<release>.service`, in `/run`, so
that a reboot removes it) with the restored folders bound over the live ones: the instance has everything at its usual
path, cannot read the live state, has no public socket, and nothing of it is left afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from ..gate.probes import Probe, send_probe
from ..gate.requests import Request, instance_requests
from ..host.config import Host, instance_name
from ..host.failures import InstanceError
from ..host.front.slots import HOST
from ..host.instance import is_answering, slot_table
from ..host.revision import health_path_of, write_script
from ..host.state_files import STANDBY, StateFiles
from ..host.systemd import Systemd
from ..manifest import release_of

UNITS_DIR = Path("/run/systemd/system")
UNCHANGED = "The live state was not changed."
_ANSWER_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_STOP_RESERVE_SECONDS = 30  # beside the drain deadline
_LOG_LINES = 20
# of the unit's own lines: what ties an instance to the live socket and folders, or would start it again
_REMOVED_KEYS = ("Sockets", "RuntimeDirectory", "CacheDirectory", "CacheDirectoryMode", "Restart", "RestartSec")


@dataclass(frozen=True)
class CountCheck:
    """What a database of the backup holds must be what the instance reports.

    Attributes:
        database: path of an SQLite database below the state folder; a missing one holds nothing.
        query: gives one row with one number.
        path: where the instance reports the number, as the member `key` of a JSON object.
    """

    database: str
    query: str
    path: str
    key: str


@dataclass(frozen=True)
class DrillChecks:
    """How the instance is started and what it must answer; `environment` is added to that of its unit."""

    environment: Mapping[str, str]
    probes: tuple[Probe, ...]
    count: CountCheck | None

    @classmethod
    def parse(cls, environment: Mapping[str, Any], probes: Sequence[Mapping[str, Any]], count: Any) -> DrillChecks:
        """From a module's arguments, or the settings of the installed command.

        Raises:
            MobiusError: invalid_input.
        """
        for name, value in environment.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) or not str(value).isprintable():
                raise MobiusError("invalid_input", f"The drill's environment has {name!r}, which no unit can carry.")
        parsed = tuple(Probe.parse({"method": "GET", "status": 200, "json": None, **probe}) for probe in probes)
        count_check = CountCheck(**count) if count else None
        return cls({name: str(value) for name, value in environment.items()}, parsed, count_check)


@dataclass(frozen=True)
class DrillInstance:
    """An instance of a host's releases on restored folders."""

    host: Host
    systemd: Systemd

    @property
    def template(self) -> Path:
        """The file of its unit."""
        return UNITS_DIR / f"{self.host.service}-drill@.service"

    @property
    def run_dir(self) -> Path:
        """Its folder in place of the host's run folder."""
        return self.host.run_dir.with_name(f"{self.host.run_dir.name}-drill")

    def unit(self, release: str) -> str:
        """The name of its unit."""
        return f"{self.host.service}-drill@{instance_name(release)}.service"

    def remove(self) -> None:
        """Remove all of an instance, also of one that a killed drill left."""
        if self.template.exists():
            for unit in self.systemd.units(f"{self.host.service}-drill@*.service"):
                self._stop(unit)
            self.template.unlink()
            self._reload_units()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    @contextlib.contextmanager
    def running(self, release: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Host]:
        """An instance of the release on the restored folders in `folder`; nothing of it is left afterwards.

        Yields:
            The host with the instance's folders in place of the live ones.

        Raises:
            MobiusError: drill_failed or instance_not_ready, when it does not start.
        """
        host, unit = self.host, self.unit(release)
        front = dataclasses.replace(host.front, run_dir=self.run_dir, first_port=find_free_port())
        aside = dataclasses.replace(host, run_dir=self.run_dir, log_dir=folder / "log", front=front)
        live_log = host.log_dir.stat()
        aside.log_dir.mkdir()
        if os.geteuid() == 0:
            os.chown(aside.log_dir, live_log.st_uid, live_log.st_gid)
        aside.log_dir.chmod(stat.S_IMODE(live_log.st_mode))
        release_unit = self.systemd.run_checked("systemctl", "cat", host.unit(release))
        port = front.first_port
        address = {"HOST": HOST, "PORT": str(port), "MOBIUS_ADDRESS": f"{HOST}:{port}"}
        # in the unit, the drill's run folder is in the place of the host's
        known = {"MOBIUS_STATE_FILE": str(host.state_file(release)), "MOBIUS_RELEASE_ID": release_of(release)}
        environment = {**environment, **address, **known}
        aside.run_dir.mkdir(parents=True, exist_ok=True)
        StateFiles(aside, self.systemd).write_state(release, STANDBY)
        text = unit_text(release_unit, host, folder, self.run_dir, environment)
        try:
            write_script(aside, release, environment)
            UNITS_DIR.mkdir(parents=True, exist_ok=True)
            durable.write_bytes(self.template, text.encode())
            self._reload_units()
            if not self.systemd.start(unit, host.start_timeout):
                reason = f"{release} stopped by itself while it started."
                raise self._start_failure("drill_failed", reason, aside, release)
            slot_table(aside).assign(release)
            self._wait_until_healthy(aside, release)
            yield aside
        except MobiusError as error:
            if error.outcome == "timeout":
                reason = f"{release} was not ready after {host.start_timeout:g} s."
                raise self._start_failure("instance_not_ready", reason, aside, release) from error
            raise
        finally:
            self._stop(unit)
            self.template.unlink(missing_ok=True)
            self._reload_units()
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def _wait_until_healthy(self, aside: Host, release: str) -> None:
        """Wait until an instance answers its health path: its unit has started with its process.

        Raises:
            MobiusError: `drill_failed` when it ends, `timeout`.
        """
        unit, deadline = self.unit(release), time.monotonic() + self.host.start_timeout
        while not is_answering(aside, release, _ANSWER_TIMEOUT_SECONDS):
            shown = self.systemd.units(unit).get(unit)
            if shown is None or shown.active != "active":
                reason = f"{release} stopped by itself while it started."
                raise self._start_failure("drill_failed", reason, aside, release)
            if time.monotonic() > deadline:
                raise MobiusError("timeout", f"{unit} was not ready.")
            time.sleep(_POLL_SECONDS)

    def require_answers(self, aside: Host, release: str, checks: DrillChecks, counted: int | None) -> None:
        """Refuse an instance that has started and does not answer as it must.

        What it counts in the background may take until its start time-out.

        Args:
            aside: what `running` yields.
            counted: the number that the restored database holds.

        Raises:
            MobiusError: drill_failed.
        """
        deadline = time.monotonic() + aside.start_timeout
        request = instance_requests(aside, release)
        try:
            problem = _wrong_answer(request, aside, release, checks.probes)
            while problem is None and (mismatch := _wrong_count(request, checks.count, counted)) is not None:
                if time.monotonic() > deadline:
                    problem = mismatch
                time.sleep(_POLL_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            problem = f"It gave no answer ({type(error).__name__}: {error})."
        if problem is not None:
            reason = f"{release} does not answer from the backup. {problem} {UNCHANGED}"
            raise InstanceError("drill_failed", reason, self._last_lines(aside, release))

    def _reload_units(self) -> None:
        self.systemd.run_checked("systemctl", "daemon-reload")

    def _stop(self, unit: str) -> None:
        """Stop a unit, wait until nothing of it runs, and reset its failure; one that is not loaded is fine."""
        timeout = self.host.drain_deadline + _STOP_RESERVE_SECONDS
        self.systemd.run_checked("systemctl", "stop", unit, timeout=timeout)
        if any(loaded.active == "failed" for loaded in self.systemd.units(unit).values()):
            self.systemd.run_checked("systemctl", "reset-failed", unit)

    def _start_failure(self, outcome: str, reason: str, aside: Host, release: str) -> InstanceError:
        lines = self._last_lines(aside, release)
        last_line = f" Its last line: {lines[-1]}" if lines else ""
        return InstanceError(outcome, f"{reason} {UNCHANGED}{last_line}", lines)

    def _last_lines(self, aside: Host, release: str) -> list[str]:
        lines = self.systemd.log(self.unit(release), _LOG_LINES)
        with contextlib.suppress(OSError):
            log = aside.log_path(release).read_text(errors="replace").splitlines()
            lines = [*lines, *log[-_LOG_LINES:]]
        return lines


def unit_text(text: str, host: Host, folder: Path, run_dir: Path, environment: Mapping[str, str]) -> str:
    """The text of the drill's unit.

    Args:
        text: of the release's own unit, with all that was added to it.
        folder: with the restored folders in `data`, and a folder `log`.
        run_dir: in place of the host's run folder.
        environment: what is added to the unit's own.
    """
    kept = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        key, _, value = line.partition("=")
        reads_activation = key.startswith("Exec") and key != "ExecStart" and str(host.command) in value
        has_role_file = key == "EnvironmentFile" and value.lstrip("-").startswith(f"{host.run_dir}/")
        if not (key in _REMOVED_KEYS or reads_activation or has_role_file or line.startswith("#")):
            kept.append(line)
    data = folder / "data"
    binds = [f"{data}/state:{host.state_dir}", f"{folder}/log:{host.log_dir}", f"{run_dir}:{host.run_dir}"]
    if (data / "config").is_dir():
        binds.append(f"{data}/config:{host.config_dir}")
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in environment.items()}
    kept += [
        "[Service]",
        "Restart=no",
        f"RuntimeDirectory={run_dir.relative_to('/run')}/%i",
        *(f"BindPaths={bind}" for bind in binds),
        *(f'Environment="{name}={value.replace("%", "%%")}"' for name, value in escaped.items()),
    ]
    return "\n".join(kept) + "\n"


def find_free_port() -> int:
    """A port of this host on which nothing listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _wrong_answer(request: Request, aside: Host, release: str, probes: Sequence[Probe]) -> str | None:
    status, _, body = request("GET", health_path_of(aside, release), None, None, _ANSWER_TIMEOUT_SECONDS)
    if not 200 <= status < 300:
        return f"Its health answered {status}."
    answering = _parse_object(body).get("releaseId", release_of(release))
    if answering != release_of(release):
        return f"Its health is that of {answering!r}."
    for probe in probes:
        mismatch = send_probe(request, probe, _ANSWER_TIMEOUT_SECONDS)
        if mismatch is not None:
            return mismatch.sentence()
    return None


def _wrong_count(request: Request, count: CountCheck | None, counted: int | None) -> str | None:
    if count is None:
        return None
    status, _, body = request("GET", count.path, None, None, _ANSWER_TIMEOUT_SECONDS)
    reported = _parse_object(body).get(count.key)
    if status == 200 and reported == counted:
        return None
    return f"The restored {count.database} holds {counted}, and the instance reports {reported!r}."


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
