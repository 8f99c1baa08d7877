# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drills: the newest backup is brought back aside, a release runs on it until it is well, and all of it goes again.

The release's own unit is used, sandbox and all, under another name (`<service>-drill@<release>.service`, in `/run`, so
that a reboot forgets it) with the restored folders bound over the live ones: the instance finds everything where it
always is, cannot see the live state, has no public socket, and nothing of it is left afterwards.

`.<service>-drills.json` in the backup folder tells of the last drill and of the last one that succeeded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils import durable, gate
from ansible_collections.mobius.dhash.plugins.module_utils.backup import archive, restore
from ansible_collections.mobius.dhash.plugins.module_utils.backup import service as backup
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import InstanceError, to_failure
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_activation, staged_releases
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd

UNITS = Path("/run/systemd/system")
ANSWER_TIMEOUT = 10.0
"""Seconds that one answer may take."""

_POLL = 0.1
_SHOWN_LINES = 20
_NOTHING = "The live state was not touched."
# of the unit's own lines: what ties an instance to the live socket and folders, or would start it again
_OURS = ("Sockets", "RuntimeDirectory", "CacheDirectory", "CacheDirectoryMode", "Restart", "RestartSec")


@dataclass(frozen=True)
class Count:
    """What a database of the backup holds must be what the instance tells.

    Attributes:
        database: path of an SQLite database below the state folder; a missing one holds nothing.
        query: gives one row with one number.
        path: where the instance tells the number, as the member `key` of a JSON object.
    """

    database: str
    query: str
    path: str
    key: str


@dataclass(frozen=True)
class Questions:
    """How the instance is started and what it is asked; `environment` is what it is told besides its unit's own."""

    environment: Mapping[str, str]
    probes: tuple[gate.Probe, ...]
    count: Count | None

    @classmethod
    def parse(cls, environment: Mapping[str, Any], probes: Sequence[Mapping[str, Any]], count: Any) -> Questions:
        """From a module's arguments, or the settings of the installed command.

        Raises:
            MobiusError: invalid_input.
        """
        for name, value in environment.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) or not str(value).isprintable():
                raise MobiusError("invalid_input", f"The drill's environment has {name!r}, which no unit can carry.")
        asked = tuple(gate.Probe.parse({"method": "GET", "status": 200, "json": None, **probe}) for probe in probes)
        return cls({name: str(value) for name, value in environment.items()}, asked, Count(**count) if count else None)


@dataclass(frozen=True)
class Drilled:
    """A drill that succeeded, or in check mode what it would begin with.

    `release` is None on a host that has none: then the data alone was proven. `counted` is what the restored database
    holds and the instance told, `seconds` what the whole took.
    """

    backup: backup.Backup
    release: str | None
    files: int = 0
    counted: int | None = None
    seconds: float = 0.0


def drill(
    host: Host,
    questions: Questions,
    *,
    name: str | None = None,
    systemd: Systemd | None = None,
    check_mode: bool = False,
) -> Drilled:
    """Restore the newest full backup aside, run a release on it until it answers, remove all of it, note the outcome.

    Args:
        name: the host's own name, which the backup must be of; the kernel's when left out.
        check_mode: prove the backup and say which release would be started; nothing is extracted or noted.

    Raises:
        MobiusError: backup_missing, backup_damaged, disk_full; drill_failed or instance_not_ready, when the release
            does not run on it or does not answer from it. All are noted, but a missing backup.
    """
    units = _Units(systemd)
    begun = time.monotonic()
    with backup.exclusive(host, check_mode):
        if not check_mode:
            _clear(host, units)
        chosen = backup.find(host, "latest")
        release = _matching(host, chosen)
        try:
            manifest = restore.prove(host, chosen, name or os.uname().nodename)
            restore.require_space(host.state_dir.parent, manifest)
            if check_mode:
                return Drilled(chosen, release)
            with _restored(host, chosen, manifest) as (place, files):
                counted = _expected(place, questions.count)
                if release is not None:
                    with _running(host, units, release, place, questions) as aside:
                        _ask(aside, units, release, questions, counted)
            done = Drilled(chosen, release, files, counted, round(time.monotonic() - begun, 1))
        except (MobiusError, OSError) as error:
            if not check_mode:
                _note(host, chosen, release, failure=to_failure(error))
            raise
        _note(host, chosen, release, done=done)
        return done


def records(host: Host) -> dict[str, Any]:
    """The last drill (`last`) and the last that succeeded (`success`); either is missing when there was none."""
    try:
        found = json.loads(_records_path(host).read_bytes())
        return {key: found[key] for key in ("last", "success") if isinstance(found.get(key), dict)}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def require_recent(host: Host, days: float, now: datetime | None = None) -> str | None:
    """When the last successful drill was; refuses one that is older than `days`, and none on a host that serves.

    Raises:
        MobiusError: drill_outdated.
    """
    last = records(host).get("success")
    moment = _moment(last)
    if moment is None and read_activation(host).confirmed is None:
        return None  # a first install has nothing that could be lost
    if moment is None:
        raise MobiusError("drill_outdated", f"No backup of {host.service} on this host was ever proven by a drill.")
    age = (now or datetime.now(UTC)) - moment
    if age > timedelta(days=days):
        raise MobiusError(
            "drill_outdated",
            f"The last successful drill of {host.service} was {age / timedelta(days=1):.1f} days ago, "
            f"and {days:g} are allowed.",
        )
    return str(last["at"]) if last else None


def _moment(record: Mapping[str, Any] | None) -> datetime | None:
    try:
        return datetime.fromisoformat(str(record["at"])) if record else None
    except (KeyError, ValueError):
        return None


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-drills.json"


def _note(
    host: Host,
    chosen: backup.Backup,
    release: str | None,
    *,
    done: Drilled | None = None,
    failure: MobiusError | None = None,
) -> None:
    record: dict[str, Any] = {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "backup": chosen.id,
        "release": release,
        "outcome": failure.outcome if failure else "success",
        "reason": failure.reason if failure else "",
    }
    if done:
        record |= {"files": done.files, "counted": done.counted, "seconds": done.seconds}
    known = {**records(host), "last": record, **({"success": record} if done else {})}
    durable.write_json(_records_path(host), {"schema": 1, **known}, mode=0o600)


def _matching(host: Host, chosen: backup.Backup) -> str | None:
    """The release that wrote what is in the backup, while it is kept; else the one that a restore would start."""
    activation = read_activation(host)
    staged = staged_releases(host)
    if chosen.release in staged and not activation.is_bad(chosen.release):
        return chosen.release
    return activation.confirmed if activation.confirmed in staged else None


# --- Aside ------------------------------------------------------------------------------------------------------------


class _Units:
    """What a drill asks of systemd beside what a switch does."""

    def __init__(self, systemd: Systemd | None) -> None:
        self.systemd = systemd or Systemd()

    def text(self, unit: str) -> str:
        """A unit's file and all that was added to it."""
        return self.systemd.run_checked("systemctl", "cat", unit)

    def reload(self) -> None:
        self.systemd.run_checked("systemctl", "daemon-reload")

    def end(self, unit: str, timeout: float) -> None:
        """Stop a unit, wait until nothing of it runs, and forget that it failed; one not loaded is no matter."""
        self.systemd.run_checked("systemctl", "stop", unit, timeout=timeout)
        if any(found.active == "failed" for found in self.systemd.units(unit).values()):
            self.systemd.run_checked("systemctl", "reset-failed", unit)


def _template(host: Host) -> Path:
    return UNITS / f"{host.service}-drill@.service"


def _prefix(host: Host) -> str:
    return f"{durable.TEMPORARY_PREFIX}{host.service}-drill-"


def _run_dir(host: Host) -> Path:
    return host.run_dir.with_name(f"{host.run_dir.name}-drill")


def _clear(host: Host, units: _Units) -> None:
    """Remove what a drill made; of one that was killed, too."""
    template = _template(host)
    if template.exists():
        loaded = units.systemd.units(f"{host.service}-drill@*.service")
        for unit in loaded:
            units.end(unit, host.drain_deadline + 30)
        template.unlink()
        units.reload()
    shutil.rmtree(_run_dir(host), ignore_errors=True)
    for folder in host.state_dir.parent.glob(f"{_prefix(host)}*"):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _restored(host: Host, chosen: backup.Backup, manifest: archive.Manifest) -> Iterator[tuple[Path, int]]:
    """The backup's folders, extracted and read again as a restore does, in a place of their own; and how many files."""
    place = Path(tempfile.mkdtemp(prefix=_prefix(host), dir=host.state_dir.parent))
    try:
        owner_of, _ = restore.owners(host)
        (place / "data").mkdir()
        try:
            files = restore.unpack(chosen.path, manifest, place / "data", owner_of)
        except archive.DamagedError as error:
            raise MobiusError(
                "backup_damaged", f"The backup {chosen.id} could not be brought back: {error}. {_NOTHING}"
            ) from error
        yield place, files
    finally:
        shutil.rmtree(place)


def _expected(place: Path, count: Count | None) -> int | None:
    if count is None:
        return None
    database = place / "data/state" / count.database
    if not database.is_file():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return int(connection.execute(count.query).fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError) as error:
        reason = f"The restored database {count.database} cannot be counted: {error}. {_NOTHING}"
        raise MobiusError("backup_damaged", reason) from error


@contextlib.contextmanager
def _running(host: Host, units: _Units, release: str, place: Path, questions: Questions) -> Iterator[Host]:
    """An instance on the restored folders; the host as it is seen through it. Nothing of it is left afterwards."""
    aside = dataclasses.replace(host, run_dir=_run_dir(host), log_dir=place / "log")
    unit = f"{host.service}-drill@{release}.service"
    about = host.log_dir.stat()
    aside.log_dir.mkdir()
    if os.geteuid() == 0:
        os.chown(aside.log_dir, about.st_uid, about.st_gid)
    aside.log_dir.chmod(stat.S_IMODE(about.st_mode))
    text = unit_text(units.text(host.unit(release)), host, place, questions.environment)
    try:
        UNITS.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(_template(host), text.encode())
        units.reload()
        if not units.systemd.start(unit, host.start_timeout):
            raise _failed("drill_failed", f"{release} stopped by itself while it started.", aside, units, release)
        yield aside
    except MobiusError as error:
        if error.outcome == "timeout":
            reason = f"{release} was not ready after {host.start_timeout:g} s."
            raise _failed("instance_not_ready", reason, aside, units, release) from error
        raise
    finally:
        units.end(unit, host.drain_deadline + 30)
        _template(host).unlink(missing_ok=True)
        units.reload()
        shutil.rmtree(aside.run_dir, ignore_errors=True)


def unit_text(text: str, host: Host, place: Path, environment: Mapping[str, str]) -> str:
    """The text of the drill's unit, from that of the release's own with all that was added to it."""
    kept = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        key, _, value = line.partition("=")
        asks_the_truth = key.startswith("ExecStart") and key != "ExecStart" and str(host.command) in value
        told_to_serve = key == "EnvironmentFile" and value.lstrip("-").startswith(f"{host.run_dir}/")
        if not (key in _OURS or asks_the_truth or told_to_serve or line.startswith("#")):
            kept.append(line)
    data, run_dir = place / "data", _run_dir(host)
    binds = [f"{data}/state:{host.state_dir}", f"{place}/log:{host.log_dir}", f"{run_dir}:{host.run_dir}"]
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


def _ask(aside: Host, units: _Units, release: str, questions: Questions, counted: int | None) -> None:
    """Ask what an instance that said it is ready must answer. What it counts in the background may take a while."""
    until = time.monotonic() + aside.start_timeout
    ask = gate.asker(aside, release)
    try:
        wrong = _wrong(aside, ask, release, questions)
        while wrong is None and (found := _miscounted(ask, questions.count, counted)) is not None:
            if time.monotonic() > until:
                wrong = found
            time.sleep(_POLL)
    except (OSError, http.client.HTTPException) as error:
        wrong = f"It gave no answer ({type(error).__name__}: {error})."
    if wrong is not None:
        reason = f"{release} does not answer from the backup. {wrong} {_NOTHING}"
        raise InstanceError("drill_failed", reason, _last_lines(aside, units, release))


def _wrong(aside: Host, ask: gate.Ask, release: str, questions: Questions) -> str | None:
    status, _, body = ask("GET", aside.health_path, None, None, ANSWER_TIMEOUT)
    health = _object(body)
    if status != 200 or health.get("status") not in ("pass", "warn") or health.get("releaseId") not in (None, release):
        return f"Its health answered {status} with {health.get('status')!r}."
    for probe in questions.probes:
        mismatch = gate.ask_probe(ask, probe, ANSWER_TIMEOUT)
        if mismatch is not None:
            return mismatch.sentence()
    return None


def _miscounted(ask: gate.Ask, count: Count | None, counted: int | None) -> str | None:
    if count is None:
        return None
    status, _, body = ask("GET", count.path, None, None, ANSWER_TIMEOUT)
    told = _object(body).get(count.key)
    if status == 200 and told == counted:
        return None
    return f"The restored {count.database} holds {counted}, and it tells {told!r}."


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _failed(outcome: str, reason: str, aside: Host, units: _Units, release: str) -> InstanceError:
    lines = _last_lines(aside, units, release)
    said = f" Its last line: {lines[-1]}" if lines else ""
    return InstanceError(outcome, f"{reason} {_NOTHING}{said}", lines)


def _last_lines(aside: Host, units: _Units, release: str) -> list[str]:
    lines = units.systemd.log(f"{aside.service}-drill@{release}.service", _SHOWN_LINES)
    with contextlib.suppress(OSError):
        own = (aside.log_dir / f"{release}.log").read_text(errors="replace").splitlines()
        lines = [*lines, *own[-_SHOWN_LINES:]]
    return lines
