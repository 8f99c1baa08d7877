# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The description of a service on this host, as the role host writes it to `/etc/mobius-host/<service>.json`."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MobiusError
from ..manifest import REVISION, SERVICE_NAME, release_of
from . import triggers
from .front.settings import WORKER, FrontSettings

SCHEMA = 1
CONFIG_DIR = "/etc/mobius-host"
COMMAND = "/usr/local/bin/mobius-host"
UNITS_DIR = "/etc/systemd/system"
CONFIGURATIONS = "configurations"  # the folder beside the descriptions


@dataclass(frozen=True)
class Host:
    """Where one service lives on this host; `start_timeout` and `drain_deadline` in seconds.

    Instances listen on the addresses of slots behind the `front`, and know nothing of MOBIUS.

    `overlap`: whether two instances may run at once. Without, a switch stops one before it starts the other, and
    requests wait in between. A worker never overlaps. `health_command`: of a worker, which is healthy when it ends
    with 0.

    `bundle_signers` are lines of an `allowed_signers` file: only a bundle that one of them signed is staged. Without
    any, a bundle need not be signed.

    `metrics_dir`: where the node exporter of Prometheus reads text files; None for no metrics.
    """

    service: str
    user: str
    root: Path
    run_dir: Path
    state_dir: Path
    config_dir: Path
    backup_dir: Path
    log_dir: Path
    health_path: str
    start_timeout: float
    drain_deadline: float
    cache_dir: Path
    front: FrontSettings
    command: Path = Path(COMMAND)
    units_dir: Path = Path(UNITS_DIR)
    watch_settings: triggers.WatchSettings = field(default_factory=triggers.WatchSettings)
    bundle_signers: tuple[str, ...] = ()
    overlap: bool = True
    health_command: tuple[str, ...] = ()
    descriptions_dir: Path = Path(CONFIG_DIR)
    metrics_dir: Path | None = None

    @classmethod
    def load(cls, service: str, config_dir: str | Path = CONFIG_DIR) -> Host:
        """Read `<config_dir>/<service>.json`.

        Raises:
            MobiusError: `invalid_input` for a name that no service has, `not_provisioned` when the file is missing,
                `state_damaged` when it cannot be read.
        """
        if not SERVICE_NAME.fullmatch(service):
            raise MobiusError("invalid_input", f"{service!r} is not a valid service name.")
        path = Path(config_dir) / f"{service}.json"
        content = read_state_file(path)
        if content is None:
            raise MobiusError("not_provisioned", f"This host is not prepared for {service}: {path} is missing.")
        if require_field(path, content, "service", str) != service:
            raise corrupt_state(path, f"it describes the service {content['service']!r}")
        folders = ("root", "run_dir", "state_dir", "cache_dir", "config_dir", "backup_dir", "log_dir")
        # a description that an earlier version wrote lacks these
        content = {"cache_dir": f"/var/cache/{service}", "command": COMMAND, "units_dir": UNITS_DIR, **content}
        paths = {name: Path(require_field(path, content, name, str)) for name in folders}
        if relative := [name for name, value in paths.items() if not value.is_absolute()]:
            raise corrupt_state(path, f"{relative[0]} is not an absolute path")
        if "front" not in content:
            raise MobiusError("not_provisioned", f"{path} is of an earlier version, whose services had no front.")
        require_field(path, content, "kind", str)
        return cls(
            service=service,
            user=require_field(path, content, "user", str),
            health_path=require_field(path, content, "health_path", str),
            start_timeout=require_number(path, content, "start_timeout"),
            drain_deadline=require_number(path, content, "drain_deadline"),
            command=Path(require_field(path, content, "command", str)),
            units_dir=Path(require_field(path, content, "units_dir", str)),
            watch_settings=_read_watch_settings(path, content),
            bundle_signers=_read_bundle_signers(path, content),
            overlap=require_field(path, {"overlap": True, **content}, "overlap", bool) and content["kind"] != WORKER,
            health_command=_read_health_command(path, content),
            front=_read_front(path, content),
            descriptions_dir=Path(config_dir),
            metrics_dir=_read_metrics_dir(path, content),
            **paths,
        )

    @property
    def releases_dir(self) -> Path:
        """The folder of the staged releases, one folder per release id."""
        return self.root / "releases"

    @property
    def activation_path(self) -> Path:
        """The activation record."""
        return self.root / "activation.json"

    @property
    def activation_copy_path(self) -> Path:
        """The copy of the activation record, written right after it.

        It is not in `state_dir`, which a restore exchanges as a whole.
        """
        return self.root / "activation-copy.json"

    @property
    def lock_path(self) -> Path:
        """The lock of every command that changes the activation record or the pending promotion."""
        return self.root / "activation.lock"

    @property
    def current_path(self) -> Path:
        """A link to the confirmed release, for people."""
        return self.root / "current"

    @property
    def pending_path(self) -> Path:
        """The provisional promotion; in memory, so that a reboot forgets it."""
        return self.run_dir / "pending.json"

    @property
    def watch_path(self) -> Path:
        """The monitoring window of the confirmed release; in memory, so that a reboot ends it."""
        return self.run_dir / "watch.json"

    @property
    def lease_path(self) -> Path:
        """The lock between runs; in memory, so that a reboot ends it."""
        return self.run_dir / "lease.json"

    @property
    def gates_dir(self) -> Path:
        """The verdicts of the gate, with what led to them."""
        return self.root / "gates"

    @property
    def journal_path(self) -> Path:
        """The chained journal of switches."""
        return self.state_dir / "journal.jsonl"

    @property
    def units_digests_path(self) -> Path:
        """The digests of the files of units as the role host has written them, in the format of `sha256sum`."""
        return self.units_dir / f"{self.service}.sha256sums"

    @property
    def front_unit(self) -> str:
        """The unit of the front."""
        return f"{self.service}-front.service"

    @property
    def traffic_unit(self) -> str:
        """The unit that counts the front's requests."""
        return f"{self.service}-traffic.service"

    @property
    def traffic_socket_unit(self) -> str:
        """The unit of the socket that the front logs to."""
        return f"{self.service}-traffic.socket"

    @property
    def traffic_page(self) -> Path:
        """What the traffic receiver has counted, in Prometheus's text format."""
        return self.run_dir / "traffic" / "traffic.prom"

    @property
    def units_at_boot(self) -> tuple[str, ...]:
        """The units that are enabled: a worker has no public socket."""
        return (self.boot_unit,) if self.front.kind == WORKER else (self.socket_unit, self.boot_unit)

    @property
    def socket_unit(self) -> str:
        """The unit that owns the public listening socket."""
        return f"{self.service}.socket"

    @property
    def boot_unit(self) -> str:
        """The unit that starts the confirmed release at boot."""
        return f"{self.service}-boot.service"

    @property
    def guard_unit(self) -> str:
        """The unit that reverts an unconfirmed promotion at its deadline."""
        return f"{self.service}-guard.service"

    @property
    def watch_unit(self) -> str:
        """The unit that watches a confirmed release while the previous one is still warm."""
        return f"{self.service}-watch.service"

    @property
    def unavailable_unit(self) -> str:
        """The unit that starts the service again when a command ends or is killed that had stopped it."""
        return f"{self.service}-unavailable.service"

    @property
    def configuration_path(self) -> Path:
        """The configuration that a new revision gets; not in `config_dir`, which a restore exchanges as a whole."""
        return self.descriptions_dir / CONFIGURATIONS / f"{self.service}.json"

    def unit(self, release: str) -> str:
        """The unit of the instance of a release or revision."""
        return f"{self.service}@{instance_name(release)}.service"

    def release_dir(self, release: str) -> Path:
        """The folder of a staged release, that of a revision's too: all its revisions share the tree."""
        return self.releases_dir / release_of(release)

    def revision_dir(self, revision: str) -> Path:
        """The folder of a staged revision: its configuration, and a link to the tree of its release."""
        return self.releases_dir / instance_name(revision)

    def instance_run_dir(self, release: str) -> Path:
        """The run folder of an instance: its address, and the script that starts it."""
        return self.run_dir / instance_name(release)

    def log_path(self, release: str) -> Path:
        """The log that an instance writes itself."""
        return self.log_dir / f"{instance_name(release)}.log"

    def leftovers(self, release: str) -> list[Path]:
        """What instances of a release left outside of its folder: its byte code, and its log with the rotated ones."""
        name = instance_name(release)
        cache = self.cache_dir / name
        return [*([cache] if cache.exists() else []), *sorted(self.log_dir.glob(f"{name}.*"))]

    @property
    def states_dir(self) -> Path:
        """The states of instances, a file for each; root's, so that no service can make it a link."""
        return self.run_dir / "states"

    def state_file(self, release: str) -> Path:
        """Where the instance of a release reads its state: `MOBIUS_STATE_FILE`."""
        return self.states_dir / release


def instance_name(revision: str) -> str:
    """The name of a revision in units and folders: the name of a unit may have no `+`, and no release id has a `_`."""
    return revision.replace("+", "_")


def revision_name(instance: str) -> str:
    """The revision that units and folders name so."""
    return instance.replace("_", "+")


def configured_services(config_dir: str | Path = CONFIG_DIR) -> list[str]:
    """The services this host is prepared for, sorted."""
    return sorted(path.stem for path in Path(config_dir).glob("*.json"))


def corrupt_state(path: Path, problem: str) -> MobiusError:
    return MobiusError(
        "state_damaged", f"{path} is damaged: {problem}.", do_next=f"Nothing was changed. Repair {path} first."
    )


def read_state_file(path: Path) -> dict[str, Any] | None:
    """The object in a state file of schema 1; None when there is no such file."""
    try:
        content = json.loads(read_regular_file(path))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise  # this user may not read it, which says nothing about the file
    except OSError as error:
        raise corrupt_state(path, f"{error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise corrupt_state(path, f"it is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise corrupt_state(path, "it is not a JSON object")
    require_unicode(path, content)
    if content.get("schema") != SCHEMA:
        raise corrupt_state(path, f"its schema is {content.get('schema')!r}, not {SCHEMA}")
    return content


def require_unicode(path: Path, content: Mapping[str, Any]) -> None:
    """Require that all text can be written again: half of an escaped pair is JSON, and no Unicode."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise corrupt_state(path, "it has text that is not Unicode") from None


def read_regular_file(path: Path) -> bytes:
    """The content of a file; a pipe in its place must not make a switch wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> None:
    """Keep what is damaged, whatever it is, under another name beside it."""
    path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))


def make_room(path: Path) -> None:
    """Set a folder aside that lies where a file is written: no file can replace it."""
    if path.is_dir() and not path.is_symlink():
        set_aside(path)


def require_field(path: Path, content: Mapping[str, Any], name: str, *types: type | None) -> Any:
    """One field of a state file, checked; None among the types allows null."""
    if name not in content:
        raise corrupt_state(path, f"{name} is missing")
    value = content[name]
    # not isinstance: to Python, true is a number
    if (None if value is None else type(value)) not in types:
        raise corrupt_state(path, f"{name} is {value!r}")
    return value


def require_number(path: Path, content: Mapping[str, Any], name: str) -> float:
    """One field of a state file that is a finite number: a deadline that is none would never come."""
    value = require_field(path, content, name, int, float)
    try:
        number = float(value)
    except OverflowError:  # integers may be larger
        number = math.inf
    if not math.isfinite(number):
        raise corrupt_state(path, f"{name} is no finite number")
    return number


def _read_watch_settings(path: Path, content: Mapping[str, Any]) -> triggers.WatchSettings:
    if "watch" not in content:
        return triggers.WatchSettings()  # an earlier version wrote it
    settings = require_field(path, content, "watch", dict)
    if "signals" in settings:
        require_field(path, settings, "signals", list)
    try:
        return triggers.WatchSettings.parse(settings)
    except MobiusError as error:
        raise corrupt_state(path, error.reason.rstrip(".")) from None
    except OverflowError as error:
        raise corrupt_state(path, f"watch has a number that is too large ({error})") from None


def _read_front(path: Path, content: Mapping[str, Any]) -> FrontSettings:
    front = require_field(path, content, "front", dict)
    try:
        shared = {name: content[name] for name in ("service", "run_dir", "health_path", "kind")}
        return FrontSettings.parse({**front, **shared})
    except MobiusError as error:
        raise corrupt_state(path, error.reason.rstrip(".")) from None


def _read_bundle_signers(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    if "bundle_signers" not in content:
        return ()  # an earlier version wrote it
    lines = require_field(path, content, "bundle_signers", list)
    if not all(isinstance(line, str) and line.strip() and line.isprintable() for line in lines):
        raise corrupt_state(path, "bundle_signers is not a list of lines")
    return tuple(lines)


def _read_metrics_dir(path: Path, content: Mapping[str, Any]) -> Path | None:
    folder = require_field(path, {"metrics_dir": "", **content}, "metrics_dir", str)
    if folder and not Path(folder).is_absolute():
        raise corrupt_state(path, "metrics_dir is not an absolute path")
    return Path(folder) if folder else None


def _read_health_command(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    words = require_field(path, {"health_command": [], **content}, "health_command", list)
    if not all(isinstance(word, str) and word.isprintable() for word in words):
        raise corrupt_state(path, "health_command is not a list of words")
    return tuple(words)


def require_release_field(path: Path, content: Mapping[str, Any], name: str, *types: type | None) -> Any:
    value = require_field(path, content, name, *types)
    if value is not None and not REVISION.fullmatch(value):
        raise corrupt_state(path, f"{name} is {value!r}, which is not a release id")
    return value


def only_service(config_dir: str) -> str:
    """The one service that this host is prepared for.

    Raises:
        MobiusError: not_provisioned, invalid_input.
    """
    services = configured_services(config_dir)
    if not services:
        raise MobiusError("not_provisioned", f"This host is not prepared for any service: {config_dir} is empty.")
    if len(services) > 1:
        raise MobiusError("invalid_input", f"This host has {', '.join(services)}: name one with --service.")
    return services[0]
