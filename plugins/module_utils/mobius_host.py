# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one piece of code that switches, reverts, confirms and watches a service on its host.

Modules import it, and the host role installs it as the command `mobius-host`, so that a playbook, the guard and a
person at the console run the same lines, with the controller gone and whatever state the releases are in. It runs under
the host's own Python, before and after any release: standard library only.

Every command works in the same way: `observe` reads the host, a `plan_*` function computes from that alone what there
is to do (`Plan`: before, after, actions), and only then the actions are performed, one by one. Check mode and `--diff`
show the same plan that the real run performs. Each plan begins with what an interrupted command left undone
(`_settle`), and a switch always goes in the same order: the target serves, the truth is written, the others stand by.
A kill between any two actions therefore leaves an instance that serves, and the next command finishes or undoes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import errno
import getpass
import hashlib
import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.mobius.dhash.plugins.module_utils import durable, errors, manifest, unavailable, watch
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

SCHEMA = 1
CONFIG_DIR = "/etc/mobius-host"
COMMAND = "/usr/local/bin/mobius-host"
RELEASE_ID = re.compile(r"[0-9a-z.]+-[0-9a-f]{12}")
SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
# what the installed command consists of; the digest over them tells one version of it from another
TOOL_SOURCES = ("comparison", "durable", "errors", "manifest", "mobius_host", "unavailable", "watch")
PACKAGE = "ansible_collections.mobius.dhash.plugins.module_utils"

STATE_TIMEOUT = 1.0  # seconds an instance has to tell its state
SERVE_TIMEOUT = 5.0  # seconds an instance has to serve, before it is started afresh
STANDBY_TIMEOUT = 3.0  # seconds an instance has to stand by, before it is killed
LOCK_TIMEOUT = 30.0  # seconds to wait for another command; the lock is never held while a release starts
GUARD_SLICE = 1.0  # seconds after which the guard looks at pending.json again
NOT_FOUND = 5  # what systemctl ends with when there is no such unit
TAKEN_BACK = 0.0  # the deadline of a promotion that is being taken back
ANSWER_BYTES = 8 << 20  # no answer of an instance is longer
REASON_LENGTH = 500  # characters of a reason that are kept
FIRST_SHA256 = "0" * 64
FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE = ".reserve"  # beside the truth and the journal: space that is given up to write them on a full disk
RESERVE_BYTES = 256 << 10


# --- The host, as the host role wrote it down -------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """Where one service lives on this host; `start_timeout` and `drain_deadline` in seconds.

    `bundle_signers` are lines of an `allowed_signers` file: only a bundle that one of them signed is staged. Without
    any, a bundle need not be signed.
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
    command: Path = Path(COMMAND)
    watching: watch.Settings = field(default_factory=watch.Settings)
    bundle_signers: tuple[str, ...] = ()

    @classmethod
    def load(cls, service: str, config_dir: str | Path = CONFIG_DIR) -> Host:
        """Read `<config_dir>/<service>.json`.

        Raises:
            MobiusError: `invalid_input` for a name that no service has, `not_provisioned` when the file is missing,
                `state_damaged` when it cannot be understood.
        """
        if not SERVICE_NAME.fullmatch(service):
            raise MobiusError("invalid_input", f"{service!r} is no name of a service.")
        path = Path(config_dir) / f"{service}.json"
        content = _read_json(path)
        if content is None:
            raise MobiusError("not_provisioned", f"This host is not prepared for {service}: {path} is missing.")
        if _take(path, content, "service", str) != service:
            raise _damaged(path, f"it is about {content['service']!r}")
        folders = ("root", "run_dir", "state_dir", "cache_dir", "config_dir", "backup_dir", "log_dir")
        # a description that an earlier version wrote has no cache_dir
        content = {"cache_dir": f"/var/cache/{service}", **content}
        paths = {name: Path(_take(path, content, name, str)) for name in folders}
        if relative := [name for name, value in paths.items() if not value.is_absolute()]:
            raise _damaged(path, f"{relative[0]} is no absolute path")
        return cls(
            service=service,
            user=_take(path, content, "user", str),
            health_path=_take(path, content, "health_path", str),
            start_timeout=float(_take(path, content, "start_timeout", int, float)),
            drain_deadline=float(_take(path, content, "drain_deadline", int, float)),
            command=Path(content.get("command", COMMAND)),
            watching=_watching(path, content),
            bundle_signers=_signers(path, content),
            **paths,
        )

    @property
    def releases_dir(self) -> Path:
        """The folder of the staged releases, one folder per release id."""
        return self.root / "releases"

    @property
    def activation_path(self) -> Path:
        """The durable truth."""
        return self.root / "activation.json"

    @property
    def lock_path(self) -> Path:
        """What whoever changes truth or pending holds."""
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
    def socket_unit(self) -> str:
        """The unit that owns the public listening socket."""
        return f"{self.service}.socket"

    @property
    def boot_unit(self) -> str:
        """The unit that starts what the truth names."""
        return f"{self.service}-boot.service"

    @property
    def guard_unit(self) -> str:
        """The unit that takes an unconfirmed promotion back."""
        return f"{self.service}-guard.service"

    @property
    def watch_unit(self) -> str:
        """The unit that watches a confirmed release while the one before is warm."""
        return f"{self.service}-watch.service"

    @property
    def unavailable_unit(self) -> str:
        """The unit that answers while the data is exchanged and no instance runs."""
        return f"{self.service}-unavailable.service"

    def unit(self, release: str) -> str:
        """The unit of a release's instance."""
        return f"{self.service}@{release}.service"

    def release_dir(self, release: str) -> Path:
        """The folder of a staged release."""
        return self.releases_dir / release

    def leftovers(self, release: str) -> list[Path]:
        """What instances of a release left outside of its folder: its byte code, and its log with the rotated ones."""
        cache = self.cache_dir / release
        return [*([cache] if cache.exists() else []), *sorted(self.log_dir.glob(f"{release}.*"))]

    def admin_socket(self, release: str) -> Path:
        """The Unix socket on which the release's own instance answers."""
        return self.run_dir / release / "admin.sock"


def configured_services(config_dir: str | Path = CONFIG_DIR) -> list[str]:
    """The services this host is prepared for, sorted."""
    return sorted(path.stem for path in Path(config_dir).glob("*.json"))


def _damaged(path: Path, how: str) -> MobiusError:
    return MobiusError(
        "state_damaged", f"{path} cannot be understood: {how}.", do_next=f"Nothing was changed. Look at {path}."
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a state file of schema 1; None when there is no such file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no object")
    if content.get("schema") != SCHEMA:
        raise _damaged(path, f"its schema is {content.get('schema')!r}, not {SCHEMA}")
    return content


def _take(path: Path, content: Mapping[str, Any], name: str, *types: type | None) -> Any:
    """One field of a state file, checked; None among the types allows null."""
    if name not in content:
        raise _damaged(path, f"{name} is missing")
    value = content[name]
    # not isinstance: to Python, true is a number
    if (None if value is None else type(value)) not in types:
        raise _damaged(path, f"{name} is {value!r}")
    return value


def _watching(path: Path, content: Mapping[str, Any]) -> watch.Settings:
    if "watch" not in content:
        return watch.Settings()  # an earlier version wrote it
    try:
        return watch.Settings.parse(_take(path, content, "watch", dict))
    except MobiusError as error:
        raise _damaged(path, error.reason.rstrip(".")) from None


def _signers(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    if "bundle_signers" not in content:
        return ()  # an earlier version wrote it
    lines = _take(path, content, "bundle_signers", list)
    if not all(isinstance(line, str) and line.strip() and line.isprintable() for line in lines):
        raise _damaged(path, "bundle_signers is no list of lines")
    return tuple(lines)


def _take_release(path: Path, content: Mapping[str, Any], name: str, *types: type | None) -> Any:
    value = _take(path, content, name, *types)
    if value is not None and not RELEASE_ID.fullmatch(value):
        raise _damaged(path, f"{name} is {value!r}, which is no release id")
    return value


# --- The truth and what is pending ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One time that a release was confirmed (or refused: `confirmed` is None then). Times are RFC 3339, UTC."""

    release: str
    activated: str | None
    confirmed: str | None
    bad: bool
    reason: str | None
    run: str | None


@dataclass(frozen=True)
class Activation:
    """The durable truth: what this host serves after any reboot, and what it served before.

    `token` rises with every confirmation and rollback; a pending promotion that carries another one is void. `last` is
    the journal line of the switch that wrote the file, so that a kill before the line was written loses nothing.
    """

    service: str
    token: int = 0
    confirmed: str | None = None
    history: tuple[Entry, ...] = ()
    pinned: tuple[str, ...] = ()
    last: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The content of `activation.json`."""
        return {
            "schema": SCHEMA,
            "service": self.service,
            "token": self.token,
            "confirmed": self.confirmed,
            "history": [dataclasses.asdict(entry) for entry in self.history],
            "pinned": list(self.pinned),
            "last": dict(self.last) if self.last else None,
        }

    def latest(self, release: str) -> Entry | None:
        """The newest entry of a release."""
        return next((entry for entry in reversed(self.history) if entry.release == release), None)

    def is_bad(self, release: str) -> bool:
        """Whether the release is marked bad on this host."""
        entry = self.latest(release)
        return entry is not None and entry.bad

    def previous(self, staged: Iterable[str]) -> str | None:
        """The release to go back to: the newest other one that was confirmed, is not bad and is still staged."""
        kept = set(staged)
        for entry in reversed(self.history):
            release = entry.release
            if entry.confirmed and release != self.confirmed and release in kept and not self.is_bad(release):
                return release
        return None

    def marked(self, release: str, bad: bool, reason: str | None, run: str | None) -> Activation:
        """The same truth with the release's newest entry marked bad, or no longer."""
        if self.latest(release) is None:
            if not bad:
                return self
            return dataclasses.replace(self, history=(*self.history, Entry(release, None, None, True, reason, run)))
        history = list(self.history)
        index = max(number for number, entry in enumerate(history) if entry.release == release)
        history[index] = dataclasses.replace(history[index], bad=bad, reason=reason)
        return dataclasses.replace(self, history=tuple(history))


@dataclass(frozen=True)
class Pending:
    """A promotion that nobody has confirmed: `deadline` in seconds of CLOCK_MONOTONIC of the boot `boot_id`."""

    release: str
    previous: str | None
    stage: str  # "canary": beside the confirmed one; "serving": alone
    deadline: float
    boot_id: str
    run: str | None
    token: int
    activated: str

    def as_dict(self) -> dict[str, Any]:
        """The content of `pending.json`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Window:
    """The monitoring window of a release: `began` and `until` in seconds of CLOCK_MONOTONIC of the boot `boot_id`.

    `token` is the truth's as that release was confirmed: with any later switch the window is over.
    """

    release: str
    previous: str | None
    began: float
    until: float
    boot_id: str
    token: int

    def as_dict(self) -> dict[str, Any]:
        """The content of `watch.json`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def is_of(self, activation: Activation, boot: str) -> bool:
        """Whether it is about what the truth names, in this boot."""
        mine = (activation.confirmed, activation.token, boot)
        return (self.release, self.token, self.boot_id) == mine


def read_window(host: Host) -> Window | None:
    """What `watch.json` says, over or not; None when there is none.

    One that cannot be understood counts as none, because a watch that is lost must not stand in the way of a switch.
    """
    path = host.watch_path
    try:
        content = _read_json(path)
        if content is None:
            return None
        return Window(
            release=_take_release(path, content, "release", str),
            previous=_take_release(path, content, "previous", str, None),
            began=float(_take(path, content, "began", int, float)),
            until=float(_take(path, content, "until", int, float)),
            boot_id=_take(path, content, "boot_id", str),
            token=_take(path, content, "token", int),
        )
    except MobiusError:
        return None


@dataclass(frozen=True)
class Lease:
    """Who holds the lock between runs (`lease.py` has its rules).

    `expires` in seconds of CLOCK_MONOTONIC of the boot `boot_id`; `seconds`: its length.
    """

    run: str
    actor: str
    since: str
    seconds: float
    expires: float
    boot_id: str
    token: int

    def live(self, now: float, boot: str) -> bool:
        """Whether it still keeps others out."""
        return self.boot_id == boot and now < self.expires


def read_lease(host: Host) -> Lease | None:
    """The lease, live or run out; None when there is none, or a file that is none: it could not keep anybody out."""
    try:
        content = json.loads(host.lease_path.read_bytes())
        return Lease(**{item.name: content[item.name] for item in dataclasses.fields(Lease)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def read_activation(host: Host) -> Activation:
    """The truth of `activation.json`; an empty one when nothing was ever promoted.

    Raises:
        MobiusError: `state_damaged` when the file cannot be understood, or is gone though there is a current release.
    """
    path = host.activation_path
    content = _read_json(path)
    if content is None:
        if host.current_path.is_symlink():
            raise _damaged(path, f"it is missing, though {host.current_path} names a release")
        return Activation(host.service)
    if _take(path, content, "service", str) != host.service:
        raise _damaged(path, f"it is about {content['service']!r}")
    history = []
    for item in _take(path, content, "history", list):
        if not isinstance(item, dict):
            raise _damaged(path, f"its history holds {item!r}")
        history.append(
            Entry(
                release=_take_release(path, item, "release", str),
                activated=_take(path, item, "activated", str, None),
                confirmed=_take(path, item, "confirmed", str, None),
                bad=_take(path, item, "bad", bool),
                reason=_take(path, item, "reason", str, None),
                run=_take(path, item, "run", str, None),
            )
        )
    pinned = _take(path, content, "pinned", list)
    if not all(isinstance(release, str) for release in pinned):
        raise _damaged(path, f"pinned is {pinned!r}")
    last = content.get("last")
    if last is not None and not isinstance(last, dict):
        raise _damaged(path, f"last is {last!r}")
    confirmed = _take_release(path, content, "confirmed", str, None)
    if confirmed is not None and all(entry.release != confirmed for entry in history):
        raise _damaged(path, f"its history does not know the confirmed release {confirmed}")
    token = _take(path, content, "token", int)
    return Activation(host.service, token, confirmed, tuple(history), tuple(pinned), last)


def read_pending(host: Host) -> Pending | None:
    """What `pending.json` says, dead or alive; None when there is none.

    Raises:
        MobiusError: `state_damaged` when the file cannot be understood.
    """
    path = host.pending_path
    content = _read_json(path)
    if content is None:
        return None
    stage = _take(path, content, "stage", str)
    if stage not in ("canary", "serving"):
        raise _damaged(path, f"stage is {stage!r}")
    return Pending(
        release=_take_release(path, content, "release", str),
        previous=_take_release(path, content, "previous", str, None),
        stage=stage,
        deadline=float(_take(path, content, "deadline", int, float)),
        boot_id=_take(path, content, "boot_id", str),
        run=_take(path, content, "run", str, None),
        token=_take(path, content, "token", int),
        activated=_take(path, content, "activated", str),
    )


def boot_id() -> str:
    """The kernel's name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_open(activation: Activation, pending: Pending | None, boot: str) -> bool:
    """Whether a promotion awaits its end: it is of this boot, and no switch has overtaken it."""
    return (
        pending is not None
        and pending.boot_id == boot
        and pending.token == activation.token
        and pending.release != activation.confirmed
    )


def is_live(activation: Activation, pending: Pending | None, now: float, boot: str) -> bool:
    """Whether a promotion still counts: it awaits its end, and its deadline has not passed."""
    return pending is not None and is_open(activation, pending, boot) and now < pending.deadline


def role_of(activation: Activation, pending: Pending | None, release: str) -> str:
    """What an instance is to be, "serving" or "standby"; `pending` only when it is live."""
    if pending is not None and release == pending.release:
        return "serving"
    if release == activation.confirmed and (pending is None or pending.stage == "canary"):
        return "serving"
    return "standby"


# --- The instances: their admin sockets, and systemd ------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self.late = False

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def cut(self) -> None:
        """End the conversation from another thread: whoever reads sees its end."""
        self.late = True
        channel = self.sock
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)


def admin_request(
    host: Host,
    release: str,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str | None = None,
    timeout: float = 5.0,
) -> tuple[int, dict[str, str], bytes]:
    """Ask the instance of a release itself: `(status, headers with lower-case names, body)`.

    Args:
        timeout: seconds until the whole answer must be there; a release that dribbles must not hold up its rollback.

    Raises:
        OSError: nobody answers, not in time, or with something that is not HTTP or is longer than ANSWER_BYTES.
    """
    connection = _UnixConnection(host.admin_socket(release), timeout)
    alarm = threading.Timer(timeout, connection.cut)
    alarm.daemon = True
    try:
        connection.connect()
        alarm.start()
        connection.request(method, path, body=body, headers={"Content-Type": content_type} if content_type else {})
        answer = connection.getresponse()
        content = answer.read(ANSWER_BYTES + 1)
        if len(content) > ANSWER_BYTES:
            raise ConnectionError(f"the instance of {release} gave more than {ANSWER_BYTES} bytes")
        if connection.late:
            raise TimeoutError(f"the instance of {release} had not answered after {timeout:g} s")
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
    except http.client.HTTPException as error:
        raise ConnectionError(f"the instance of {release} gave no HTTP answer ({error!r})") from error
    finally:
        alarm.cancel()
        connection.close()


def _admin_state(host: Host, release: str) -> str | None:
    """ "standby", "serving" or "draining", as the instance says; None when it does not."""
    try:
        status, _, body = admin_request(host, release, "GET", "/admin/state", timeout=STATE_TIMEOUT)
        state = json.loads(body)["state"] if status == 200 else None
    except PermissionError:
        raise  # this user may not ask, which is no news of the instance
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if state in ("standby", "serving", "draining") else None


@dataclass(frozen=True)
class Unit:
    """What systemd says of a unit."""

    name: str
    active: str  # active, activating, deactivating, inactive, failed
    sub: str
    file_state: str
    result: str


class Systemd:
    """The few things asked of systemd, through systemctl."""

    def _run(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        try:
            return subprocess.run(
                arguments,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MobiusError("timeout", f"`{' '.join(arguments)}` took longer than {timeout:g} s.") from None
        except FileNotFoundError:
            raise MobiusError("missing_dependency", f"{arguments[0]} is not installed on this host.") from None

    def must(self, *arguments: str, timeout: float = 30.0) -> str:
        """What a command says that has to succeed."""
        done = self._run(*arguments, timeout=timeout)
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise MobiusError("environment_failed", f"`{' '.join(arguments)}` failed: {said}")
        return done.stdout

    def units(self, *patterns: str) -> dict[str, Unit]:
        """The loaded units that these names and globs match, by name."""
        shown = self.must("systemctl", "show", "--property=Id,ActiveState,SubState,UnitFileState,Result", *patterns)
        found = {}
        for block in shown.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if values:
                unit = Unit(
                    values["Id"],
                    values.get("ActiveState", "inactive"),
                    values.get("SubState", ""),
                    values.get("UnitFileState", ""),
                    values.get("Result", ""),
                )
                found[unit.name] = unit
        return found

    def start(self, unit: str, timeout: float) -> bool:
        """Start a unit and wait until it is ready; False when it failed.

        Raises:
            MobiusError: `timeout` when it is neither after `timeout` seconds, `not_provisioned` without a unit file.
        """
        done = self._run("systemctl", "start", unit, timeout=timeout)
        if done.returncode == NOT_FOUND:
            raise MobiusError("not_provisioned", f"systemd does not know {unit}.")
        return done.returncode == 0

    def restart(self, unit: str) -> None:
        """Start a unit afresh."""
        self.must("systemctl", "restart", unit)

    def stop(self, *units: str) -> None:
        """Ask units to stop, without waiting: an instance drains first."""
        self.must("systemctl", "stop", "--no-block", *units)

    def kill(self, unit: str, name: str = "KILL") -> None:
        """Send a unit's processes a signal. One that is killed starts again as its Restart= says."""
        self.must("systemctl", "kill", f"--signal={name}", unit)

    def enable(self, *units: str) -> None:
        """Have units start at boot."""
        self.must("systemctl", "enable", *units)

    def log(self, unit: str, lines: int = 20) -> list[str]:
        """The last lines that a unit's own processes wrote to the journal; none when they cannot be had."""
        done = self._run("journalctl", f"_SYSTEMD_UNIT={unit}", "--lines", str(lines), "--output", "cat", "--no-pager")
        return done.stdout.splitlines() if done.returncode == 0 else []


# --- What a host looks like, and what a plan makes of it --------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """An instance as seen: its unit's state, and what it says itself (None: it does not answer)."""

    unit: str
    state: str | None = None

    @property
    def exists(self) -> bool:
        """Whether there is something to stop: it runs, or systemd is about to run it again."""
        return self.unit in ("active", "activating", "reloading")

    @property
    def word(self) -> str:
        """One word for people: standby, serving, draining, starting, silent, stopping, failed, stopped."""
        if self.unit == "active":
            return self.state or "silent"
        return {"activating": "starting", "deactivating": "stopping", "failed": "failed"}.get(self.unit, "stopped")


@dataclass(frozen=True)
class Observation:
    """A host at one moment. `live`: the pending promotion counts. `written`: the journal has the truth's last line."""

    activation: Activation
    pending: Pending | None
    live: bool
    at: float  # seconds of CLOCK_MONOTONIC
    boot: str
    staged: frozenset[str]
    instances: Mapping[str, Instance]
    listening: bool
    enabled: bool
    guarded: bool
    current: str | None
    written: bool
    window: Window | None = None
    watched: bool = False
    window_seconds: float = 0.0
    lease: Lease | None = None

    @property
    def overtime(self) -> bool:
        """Whether the monitoring window is over, and is kept open because a run holds the host.

        What is warm, and would be stopped at its end, may be just what that run has found ready and is about to ask.
        """
        window, lease = self.open_window, self.lease
        held = lease is not None and lease.live(self.at, self.boot)
        return window is not None and self.at >= window.until and held

    @property
    def open_window(self) -> Window | None:
        """The monitoring window when it is about the confirmed release."""
        window = self.window
        return window if window is not None and window.is_of(self.activation, self.boot) else None

    @property
    def promoting(self) -> Pending | None:
        """The pending promotion when it is live."""
        return self.pending if self.live else None

    @property
    def open(self) -> Pending | None:
        """The pending promotion when it awaits its end, overdue or not."""
        return self.pending if is_open(self.activation, self.pending, self.boot) else None

    def instance(self, release: str) -> Instance:
        """The instance of a release, a stopped one when there is none."""
        return self.instances.get(release, Instance("inactive"))

    def role(self, release: str) -> str:
        """What the release is to be."""
        return role_of(self.activation, self.promoting, release)

    def view(self) -> dict[str, Any]:
        """What of it is a plan's business: what `--diff` shows before and after."""
        words = {release: item.word for release, item in self.instances.items() if item.exists}
        return {
            "confirmed": self.activation.confirmed,
            "pending": {"release": self.pending.release, "stage": self.pending.stage} if self.pending else None,
            "instances": {name: "standby" if word == "draining" else word for name, word in sorted(words.items())},
            "bad": sorted({item.release for item in self.activation.history if self.activation.is_bad(item.release)}),
            "current": self.current,
            "listening": self.listening,
            "enabled": self.enabled,
            "token": self.activation.token,
            "watched": self.open_window.release if self.open_window else None,
        }


@dataclass(frozen=True)
class Action:
    """One step. `value` is the state to write, or the line to log."""

    verb: str
    release: str | None = None
    value: Any = None

    def __str__(self) -> str:
        sentence = _SENTENCES[self.verb]
        return sentence.format(release=self.release, value=self.value)


_SENTENCES = {
    "start": "start {release}",
    "serve": "let {release} serve",
    "standby": "let {release} stand by",
    "stop": "stop {release}",
    "truth": "write activation.json",
    "pending": "write pending.json for {release}",
    "forget": "remove pending.json",
    "guard": "start the guard",
    "window": "write watch.json for {release}",
    "watch": "start the watch",
    "unwatch": "remove watch.json",
    "link": "point current at {release}",
    "close": "stop listening",
    "enable": "enable the socket and boot units",
    "log": "write the journal",
}


def _folded(seen: Observation, action: Action) -> Observation:
    """What a host looks like after an action. This is the prediction that check mode shows."""

    def instances(release: str | None, instance: Instance | None) -> Mapping[str, Instance]:
        others = {name: item for name, item in seen.instances.items() if name != release}
        return {**others, str(release): instance} if instance else others

    replace = dataclasses.replace
    match action.verb:
        case "start":
            running = Instance("active", seen.role(str(action.release)))
            return replace(seen, instances=instances(action.release, running), listening=True)
        case "serve":
            return replace(seen, instances=instances(action.release, Instance("active", "serving")))
        case "standby":
            return replace(seen, instances=instances(action.release, Instance("active", "standby")))
        case "stop":
            return replace(seen, instances=instances(action.release, None))
        case "truth":
            live = is_live(action.value, seen.pending, seen.at, seen.boot)
            return replace(seen, activation=action.value, live=live, written=False)
        case "pending":
            live = is_live(seen.activation, action.value, seen.at, seen.boot)
            return replace(seen, pending=action.value, live=live)
        case "forget":
            return replace(seen, pending=None, live=False)
        case "guard":
            return replace(seen, guarded=True)
        case "window":
            return replace(seen, window=action.value, watched=False)
        case "watch":
            return replace(seen, watched=True)
        case "unwatch":
            return replace(seen, window=None)
        case "link":
            return replace(seen, current=action.release)
        case "close":
            return replace(seen, listening=False)
        case "enable":
            return replace(seen, enabled=True)
        case "log":
            return replace(seen, written=True)
    return seen


@dataclass(frozen=True)
class Plan:
    """What a command will do. `note` is one sentence for people."""

    before: Observation
    after: Observation
    actions: tuple[Action, ...]
    note: str

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.actions)

    def starts(self) -> list[str]:
        """The releases that the plan starts."""
        return [str(action.release) for action in self.actions if action.verb == "start"]

    def result(self) -> dict[str, Any]:
        """What a module returns of it."""
        return {
            "changed": self.changed,
            "diff": {"before": self.before.view(), "after": self.after.view()},
            "actions": [str(action) for action in self.actions],
            "note": self.note,
            "confirmed": self.after.activation.confirmed,
            "token": self.after.activation.token,
        }


class _Draft:
    """A plan in the making: it collects actions and knows what the host looks like after them."""

    def __init__(self, seen: Observation) -> None:
        self.before = seen
        self.now = seen
        self.actions: list[Action] = []

    def do(self, verb: str, release: str | None = None, value: Any = None) -> None:
        action = Action(verb, release, value)
        self.actions.append(action)
        self.now = _folded(self.now, action)

    def serve(self, release: str) -> None:
        """Have a release serve, started first if need be."""
        if self.now.instance(release).unit != "active":
            self.do("start", release)
        if self.now.instance(release).state != "serving":
            self.do("serve", release)

    def rest(self, release: str) -> None:
        """Have a release stand by; one that loops through restarts is stopped."""
        instance = self.now.instance(release)
        if instance.unit == "active" and instance.state not in ("standby", "draining"):
            self.do("standby", release)
        elif instance.exists and instance.unit != "active":
            self.do("stop", release)

    def stop(self, release: str) -> None:
        """Have no instance of a release."""
        if self.now.instance(release).exists:
            self.rest(release)
        if self.now.instance(release).exists:
            self.do("stop", release)

    def close_if_bare(self) -> None:
        """On a host that has served nothing yet, an instance's socket unit goes with the last instance."""
        bare = self.now.activation.confirmed is None and not self.now.live
        if bare and self.now.listening and not any(item.exists for item in self.now.instances.values()):
            self.do("close")

    def finish(self) -> None:
        """What follows from the truth."""
        confirmed = self.now.activation.confirmed
        if confirmed is not None and self.now.current != confirmed:
            self.do("link", confirmed)
        if confirmed is not None and not self.now.enabled:
            self.do("enable")

    def plan(self, note: str) -> Plan:
        return Plan(self.before, self.now, tuple(self.actions), note)


@dataclass(frozen=True)
class Who:
    """Who asks, and why: what the journal keeps, as one line that can be written whatever was typed."""

    actor: str
    run: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            readable = self.reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            object.__setattr__(self, "reason", " ".join(readable.split())[:REASON_LENGTH])


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _line(event: str, before: str | None, after: str | None, token: int, who: Who) -> dict[str, Any]:
    """A line of the journal, still without its link to the line before."""
    return {
        "at": _now(),
        "event": event,
        "from": before,
        "to": after,
        "run": who.run,
        "token": token,
        "reason": who.reason,
        "actor": who.actor,
    }


def _write_down(draft: _Draft) -> None:
    """Add the line to the journal that a kill kept from it, before the truth that has it is replaced."""
    if not draft.now.written:
        draft.do("log", value=draft.now.activation.last)


def _settle(draft: _Draft, who: Who) -> None:
    """Finish, or undo, what a killed command or a passed deadline left behind.

    The truth decides: an instance serves exactly when its role says so. Only instances that answer are told anything,
    and nobody is told to stand by before the one that is to serve does; so this cannot fail where nothing is broken.
    """
    _write_down(draft)
    pending = draft.now.pending
    if pending is not None and not draft.now.live:
        if draft.now.open:
            late = Who(who.actor, pending.run, "it was not confirmed before its deadline")
            _revert(draft, pending.release, late, mark_bad=False)
        else:
            draft.do("forget")
    wanted = [release for release in draft.now.instances if draft.now.role(release) == "serving"]
    for release in wanted:
        if draft.now.instance(release).state in ("standby", "draining"):
            draft.do("serve", release)
    strangers = [
        release
        for release, instance in draft.now.instances.items()
        if release not in wanted and instance.state == "serving"
    ]
    confirmed = draft.now.activation.confirmed
    if any(draft.now.instance(release).state == "serving" for release in wanted):
        for release in strangers:
            draft.do("standby", release)
    elif confirmed is None:
        for release in strangers:
            draft.stop(release)
        draft.close_if_bare()
    if confirmed is not None and draft.now.current != confirmed:
        draft.do("link", confirmed)
    if draft.now.open_window is not None and not draft.now.watched:
        draft.do("watch")


def _revert(draft: _Draft, release: str, who: Who, *, mark_bad: bool) -> None:
    """Have the confirmed release serve again, and the other one gone; without a confirmed one, nothing at all.

    Once the confirmed one serves, the promotion is made overdue: from there on whoever comes next, the guard at the
    latest, goes on taking it back.
    """
    confirmed = draft.now.activation.confirmed
    if confirmed is not None:
        draft.serve(confirmed)
    pending = draft.now.open
    line = _line("reverted", release, confirmed, draft.now.activation.token, who)
    if mark_bad and not draft.now.activation.is_bad(release):
        truth = draft.now.activation.marked(release, True, who.reason, who.run)
        draft.do("truth", value=dataclasses.replace(truth, last=line))
        draft.do("log", value=line)
    elif pending is not None and pending.deadline > TAKEN_BACK:
        draft.do("log", value=line)
    if pending is not None and pending.deadline > TAKEN_BACK:
        draft.do("pending", release, dataclasses.replace(pending, deadline=TAKEN_BACK))
    draft.stop(release)
    if draft.now.pending is not None:
        draft.do("forget")
    draft.close_if_bare()


def plan_instance(seen: Observation, release: str, state: str, *, assume_staged: bool = False) -> Plan:
    """An instance that runs beside what serves (`standby`), or no instance (`stopped`)."""
    draft = _Draft(seen)
    _must_be_id(release)
    if state == "standby":
        _must_be_staged(seen, release, assume_staged)
        if seen.instance(release).unit != "active":
            draft.do("start", release)
        return draft.plan(f"{release} runs")
    if release == seen.activation.confirmed or (seen.open and seen.open.release == release):
        raise MobiusError("release_in_use", f"{release} is what this host serves, so its instance is not stopped.")
    draft.stop(release)
    draft.close_if_bare()
    return draft.plan(f"{release} does not run")


def plan_canary(
    seen: Observation,
    release: str,
    who: Who,
    *,
    deadline: float,
    retry_bad: bool = False,
    assume_staged: bool = False,
) -> Plan:
    """A pending promotion whose release serves beside the confirmed one. `deadline` in seconds from now."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    activation, pending = draft.now.activation, draft.now.promoting
    if pending is not None and pending.release != release:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, so {release} has to wait."
        )
    if activation.confirmed == release:
        draft.serve(release)
        return draft.plan(f"{release} is confirmed and serves")
    if activation.is_bad(release) and not retry_bad:
        entry = activation.latest(release)
        why = f": {entry.reason}" if entry and entry.reason else ""
        raise MobiusError("release_bad", f"{release} was marked bad on this host{why.rstrip('.')}.")
    _must_be_staged(draft.now, release, assume_staged)
    if draft.now.instance(release).unit != "active":
        draft.do("start", release)
    if pending is None or pending.run != who.run:
        wanted = Pending(
            release=release,
            previous=activation.confirmed,
            stage=pending.stage if pending else "canary",
            deadline=draft.now.at + deadline,
            boot_id=draft.now.boot,
            run=who.run,
            token=activation.token,
            activated=pending.activated if pending else _now(),
        )
        draft.do("log", value=_line("canary", activation.confirmed, release, activation.token, who))
        draft.do("pending", release, wanted)
        draft.do("guard")
    elif not draft.now.guarded:
        draft.do("guard")
    draft.serve(release)
    return draft.plan(f"{release} serves beside {activation.confirmed or 'nothing'}, until confirmed or reverted")


def plan_provisional(seen: Observation, release: str, who: Who, *, deadline: float) -> Plan:
    """The pending release serves alone. `deadline` in seconds from now."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    if draft.now.activation.confirmed == release and draft.now.promoting is None:
        draft.serve(release)
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(draft.now, release, who)
    if not draft.now.guarded:
        draft.do("guard")
    draft.serve(release)
    if pending.stage == "canary":
        line = _line("provisional", pending.previous, release, pending.token, who)
        draft.do("log", value=line)
        renewed = dataclasses.replace(pending, stage="serving", deadline=draft.now.at + deadline)
        draft.do("pending", release, renewed)
    if pending.previous is not None:
        draft.rest(pending.previous)
    return draft.plan(f"{release} serves alone, until confirmed or reverted")


def plan_renewed(seen: Observation, release: str, who: Who, *, deadline: float) -> Plan:
    """The promotion goes on, its deadline counted from now: `deadline` in seconds. One that is confirmed has none."""
    _must_be_id(release)
    draft = _Draft(seen)
    if seen.activation.confirmed == release and seen.promoting is None:
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(seen, release, who)
    draft.do("pending", release, dataclasses.replace(pending, deadline=seen.at + deadline))
    return draft.plan(f"{release} waits for its confirmation")


def plan_confirmed(seen: Observation, release: str | None, who: Who) -> Plan:
    """The pending release (None: whichever is) is the truth; of the others, only the previous one stays warm."""
    draft = _Draft(seen)
    _settle(draft, who)
    if release is None:
        if draft.now.promoting is None:
            raise MobiusError("nothing_pending", "There is no promotion to confirm on this host.")
        release = draft.now.promoting.release
    _must_be_id(release)
    activation = draft.now.activation
    if activation.confirmed == release and draft.now.promoting is None:
        draft.serve(release)
        draft.finish()
        if (activation.last or {}).get("event") == "confirmed":
            _keep_warm(draft)
        return draft.plan(f"{release} is confirmed and serves")
    pending = _own_pending(draft.now, release, who)
    draft.serve(release)
    token = activation.token + 1
    line = _line("confirmed", activation.confirmed, release, token, who)
    entry = Entry(release, pending.activated, line["at"], False, who.reason, pending.run)
    truth = dataclasses.replace(
        activation, token=token, confirmed=release, history=(*activation.history, entry), last=line
    )
    if draft.now.window_seconds:
        # before the truth, which makes it count: a kill in between leaves nothing unwatched
        at = draft.now.at
        until = at + draft.now.window_seconds
        draft.do("window", release, Window(release, activation.confirmed, at, until, draft.now.boot, token))
    draft.do("truth", value=truth)
    if activation.confirmed is not None:
        draft.rest(activation.confirmed)
    draft.do("forget")
    draft.do("log", value=line)
    draft.finish()
    _keep_warm(draft)
    if draft.now.open_window is not None:
        draft.do("watch")
    return draft.plan(f"{release} is confirmed and serves")


def plan_reverted(seen: Observation, release: str, who: Who, *, mark_bad: bool = False) -> Plan:
    """What served before serves, and the release does not run. One that is confirmed is left as it is."""
    _must_be_id(release)
    draft = _Draft(seen)
    pending = seen.pending
    mine = pending is not None and pending.release == release
    if not mine:
        _settle(draft, who)
        pending = draft.now.pending
    if draft.now.activation.confirmed == release:
        if mine:
            _settle(draft, who)
        return draft.plan(f"{release} was confirmed before; there is nothing provisional to take back")
    if not mine and pending is not None:
        raise MobiusError(
            "fenced", f"{pending.release} is being promoted by {pending.run or 'somebody'}, not {release}."
        )
    if draft.now.live:
        _own_pending(draft.now, release, who)
    _write_down(draft)
    _revert(draft, release, who, mark_bad=mark_bad)
    _settle(draft, who)
    return draft.plan(f"{draft.now.activation.confirmed or 'nothing'} serves; {release} was taken back")


@dataclass(frozen=True)
class Promotion:
    """What the module `promotion` is asked for.

    `predicted`: earlier tasks of the same check run have brought about the stages before, in prediction only; so they
    are taken as done. `deadline` in seconds from now.
    """

    release: str
    state: str
    who: Who
    deadline: float = 300.0
    mark_bad: bool = False
    retry_bad: bool = False
    predicted: bool = False
    assume_staged: bool = False

    def plan(self, seen: Observation) -> Plan:
        """The plan for this wish on a host that looks like `seen`."""
        if self.state == "reverted":
            return plan_reverted(seen, self.release, self.who, mark_bad=self.mark_bad)
        if self.predicted:
            seen = self._as_predicted(seen)
        if self.state == "canary":
            return self._canary(seen)
        if self.state == "provisional":
            return plan_provisional(seen, self.release, self.who, deadline=self.deadline)
        if self.state == "renewed":
            return plan_renewed(seen, self.release, self.who, deadline=self.deadline)
        return plan_confirmed(seen, self.release, self.who)

    def _canary(self, seen: Observation) -> Plan:
        return plan_canary(
            seen,
            self.release,
            self.who,
            deadline=self.deadline,
            retry_bad=self.retry_bad,
            assume_staged=self.assume_staged,
        )

    def _as_predicted(self, seen: Observation) -> Observation:
        """The host as the tasks before this one would have left it."""
        seen = plan_instance(seen, self.release, "standby", assume_staged=self.assume_staged).after
        if self.state == "canary":
            return seen
        # whether a release that was marked bad may be tried again is asked once, at the first stage
        seen = dataclasses.replace(self, retry_bad=True)._canary(seen).after
        if self.state == "provisional":
            return seen
        return plan_provisional(seen, self.release, self.who, deadline=self.deadline).after


def plan_rollback(seen: Observation, to: str | None, who: Who) -> Plan:
    """The release that was left is marked bad, and the one before (or `to`, any kept one) serves as the truth.

    A promotion that is pending is what is taken back first. A rollback that was killed after it had written the truth
    is completed, and not counted as another step.
    """
    draft = _Draft(seen)
    activation, pending = seen.activation, seen.open
    rightful = (activation.confirmed, pending.release if pending else None)
    last = activation.last or {}
    # Ansible repeats a module whose connection broke: one run takes one step, however often it asks
    repeated = who.run is not None and last.get("run") == who.run
    interrupted = last.get("event") == "rollback" and (
        repeated
        or not seen.written
        or (seen.pending is not None and pending is None)
        or seen.current != activation.confirmed
        or any(item.state == "serving" and name not in rightful for name, item in seen.instances.items())
    )
    _write_down(draft)
    if interrupted and to in (None, activation.confirmed):
        _settle(draft, who)
        if activation.confirmed is not None:
            draft.serve(activation.confirmed)
        elif last.get("from"):
            draft.stop(last["from"])
        draft.finish()
        draft.close_if_bare()
        word = "completed" if draft.actions else "has done"
        return draft.plan(f"{word} the rollback to {activation.confirmed or 'nothing'}")

    target = to
    if target is None:
        # a promotion is taken back to what it was to replace; only then does a step count
        target = activation.confirmed if pending is not None else activation.previous(seen.staged)
    if target is None and pending is not None:
        _roll_back_to_nothing(draft, pending.release, who)
        return draft.plan(f"nothing serves: {pending.release} was the first release, and was taken back")
    if target is None:
        raise MobiusError(
            "nothing_to_roll_back",
            f"{activation.confirmed} has no earlier healthy release to go back to."
            if activation.confirmed
            else "Nothing was ever confirmed on this host, so there is nothing to go back to.",
        )
    _must_be_id(target)
    _must_be_staged(seen, target, False)
    if not any(entry.release == target and entry.confirmed for entry in activation.history):
        raise MobiusError(
            "invalid_input",
            f"{target} was never confirmed on this host, so there is no going back to it.",
            do_next="Release it with its probes and its gate instead: `mobius release`.",
        )
    if target == activation.confirmed and pending is None:
        _settle(draft, who)
        draft.serve(target)
        draft.finish()
        return draft.plan(f"{target} is confirmed and serves")

    left = [release for release in (pending.release if pending else None, activation.confirmed) if release]
    left = [release for release in left if release != target]
    draft.serve(target)
    token = activation.token + 1
    line = _line("rollback", left[0] if left else None, target, token, who)
    truth = activation
    for release in left:
        truth = truth.marked(release, True, who.reason or "rolled back", who.run)
    if target != activation.confirmed:
        entry = Entry(target, line["at"], line["at"], False, f"rolled back from {left[0]}" if left else None, who.run)
        truth = dataclasses.replace(truth, history=(*truth.history, entry))
    draft.do("truth", value=dataclasses.replace(truth, token=token, confirmed=target, last=line))
    if seen.pending is not None:
        draft.do("forget")
    for release in left:
        silent = draft.now.instance(release).word == "silent"
        draft.rest(release)
        if silent:
            draft.do("stop", release)
    draft.do("log", value=line)
    draft.finish()
    _settle(draft, who)
    return draft.plan(f"rolled back from {left[0] if left else 'nothing'} to {target}")


def _roll_back_to_nothing(draft: _Draft, release: str, who: Who) -> None:
    activation = draft.now.activation
    line = _line("rollback", release, None, activation.token + 1, who)
    truth = activation.marked(release, True, who.reason or "rolled back", who.run)
    draft.do("truth", value=dataclasses.replace(truth, token=activation.token + 1, last=line))
    draft.do("forget")
    draft.stop(release)
    draft.close_if_bare()
    draft.do("log", value=line)


def plan_mark(seen: Observation, release: str, bad: bool, who: Who) -> Plan:
    """The release is refused on this host, or no longer."""
    _must_be_id(release)
    draft = _Draft(seen)
    _settle(draft, who)
    activation = draft.now.activation
    if activation.is_bad(release) == bad:
        return draft.plan(f"{release} is {'' if bad else 'not '}marked bad")
    if bad and activation.confirmed == release:
        raise MobiusError(
            "release_in_use",
            f"{release} is what this host serves, so it is not marked bad.",
            do_next="Roll back: that marks it bad and serves the release before.",
        )
    if bad and draft.now.open is not None and draft.now.open.release == release:
        # what is bad must not be confirmed by the run that promotes it
        _revert(draft, release, who, mark_bad=True)
        return draft.plan(f"{release} is marked bad and was taken back; {activation.confirmed or 'nothing'} serves")
    line = _line("marked_bad" if bad else "marked_good", release, release, activation.token, who)
    truth = activation.marked(release, bad, who.reason, who.run)
    draft.do("truth", value=dataclasses.replace(truth, last=line))
    draft.do("log", value=line)
    return draft.plan(f"{release} is {'' if bad else 'no longer '}marked bad")


def plan_boot(seen: Observation, who: Who) -> Plan:
    """What the truth names runs."""
    draft = _Draft(seen)
    confirmed = seen.activation.confirmed
    if confirmed is not None and seen.instance(confirmed).unit != "active":
        draft.do("start", confirmed)
    _settle(draft, who)
    return draft.plan(f"{draft.now.activation.confirmed or 'nothing'} serves")


def plan_guard(seen: Observation, who: Who) -> Plan:
    """A promotion past its deadline is taken back, and what a kill left undone is done; before that, nothing."""
    draft = _Draft(seen)
    if not seen.live:
        _settle(draft, who)
    serving = draft.now.activation.confirmed or "nothing"
    return draft.plan(f"{seen.open.release} was taken back; {serving} serves" if seen.open else "nothing is overdue")


def plan_watched_rollback(seen: Observation, window: Window, who: Who) -> Plan:
    """The rollback that the watch asks for, and the release that gave cause for it stopped.

    Nothing when another switch came first, nor while a promotion awaits its end: that one replaces the release, or is
    taken back without having been to blame.
    """
    if not window.is_of(seen.activation, seen.boot) or seen.open is not None:
        return _Draft(seen).plan(f"{window.release} is left alone")
    plan = plan_rollback(seen, None, who)
    draft = _Draft(plan.after)
    draft.stop(window.release)  # it may leak or spin in standby, too
    if draft.now.window is not None:
        draft.do("unwatch")
    return Plan(seen, draft.now, (*plan.actions, *draft.actions), plan.note)


def plan_unwatched(seen: Observation, who: Who) -> Plan:
    """After the monitoring window, nothing is warm but what a promotion needs; before its end, nothing is done."""
    draft = _Draft(seen)
    window = seen.open_window
    if window is not None and seen.at < window.until:
        return draft.plan(f"{window.release} is watched for {window.until - seen.at:.0f} s more")
    if seen.overtime:
        return draft.plan("the host is held by a run, so nothing that is warm is stopped")
    _settle(draft, who)
    pending = draft.now.open
    needed = (draft.now.activation.confirmed, *((pending.release, pending.previous) if pending else ()))
    if window is not None and window.previous not in (None, *needed):
        draft.stop(str(window.previous))
    if seen.window is not None:
        draft.do("unwatch")
    return draft.plan(f"{window.release} was watched to the end" if window else "nothing is to be watched")


def _keep_warm(draft: _Draft) -> None:
    """Only the confirmed release and the one to go back to keep running, the latter as long as the window lasts."""
    over = draft.now.window_seconds and draft.now.open_window is None
    keep = (draft.now.activation.confirmed, None if over else draft.now.activation.previous(draft.now.staged))
    for release in list(draft.now.instances):
        if release not in keep:
            draft.stop(release)


def _own_pending(seen: Observation, release: str, who: Who) -> Pending:
    pending = seen.promoting
    if pending is None or pending.release != release:
        raise MobiusError(
            "nothing_pending",
            f"{release} is not being promoted on this host"
            + (f"; {pending.release} is." if pending else "; its promotion was reverted or never began."),
        )
    if who.run is not None and pending.run is not None and pending.run != who.run:
        raise MobiusError("fenced", f"{release} is being promoted by the run {pending.run}, not by {who.run}.")
    return pending


def _must_be_id(release: str) -> None:
    if not RELEASE_ID.fullmatch(release):
        raise MobiusError("invalid_input", f"{release!r} is no release id.")


def _must_be_staged(seen: Observation, release: str, assume: bool) -> None:
    if release not in seen.staged and not assume:
        raise MobiusError("release_missing", f"{release} is not staged on this host.")


# --- The journal ------------------------------------------------------------------------------------------------------


def _last_lines(path: Path, size: int = 1 << 16) -> list[bytes]:
    """The last lines of a file, without their ends; the first of them may be cut."""
    try:
        # the service's user may write beside its own log: what it linked or piped there is not ours to read
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return []
        raise
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            return []
        stream.seek(max(0, found.st_size - size))
        return stream.read(size).splitlines()


def journal_has(host: Host, line: Mapping[str, Any] | None) -> bool:
    """Whether the end of the journal has this line, whatever it is chained to."""
    if line is None:
        return True
    for raw in reversed(_last_lines(host.journal_path)):
        try:
            found = json.loads(raw)
        except ValueError:
            continue
        if isinstance(found, dict) and {**line, "prev_sha256": found.get("prev_sha256")} == found:
            return True
    return False


def append_journal(host: Host, line: Mapping[str, Any]) -> None:
    """Add a line, chained to the one before it by that one's SHA-256."""
    lines = _last_lines(host.journal_path)
    previous = hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_SHA256
    text = json.dumps({**line, "prev_sha256": previous}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    durable.append_line(host.journal_path, text)


def journal_problems(host: Host) -> list[str]:
    """What is wrong with the journal, one sentence a line; empty when the chain is whole."""
    problems = []
    previous = FIRST_SHA256
    try:
        lines = host.journal_path.read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    for number, raw in enumerate(lines, 1):
        try:
            content = json.loads(raw)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            problems.append(f"line {number} of {host.journal_path} is no JSON object")
        elif content.get("prev_sha256") != previous:
            problems.append(f"line {number} of {host.journal_path} does not follow the line before it")
        previous = hashlib.sha256(raw).hexdigest()
    return problems


# --- Observing, and performing a plan ---------------------------------------------------------------------------------


class InstanceError(MobiusError):
    """An instance did not do what it was to do; `journal` has its last lines."""

    def __init__(self, outcome: str, reason: str, journal: list[str]) -> None:
        super().__init__(outcome, reason)
        self.journal = journal


@dataclass
class Switch:
    """The hands of this module: everything that reads or changes a host goes through here."""

    host: Host
    who: Who
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
            states = dict(zip(running, pool.map(lambda release: _admin_state(host, release), running), strict=True))
        moment, boot = self.clock(), self.boot()
        inactive = Unit("", "inactive", "", "", "")
        return Observation(
            activation=activation,
            pending=pending,
            live=is_live(activation, pending, moment, boot),
            at=moment,
            boot=boot,
            staged=frozenset(staged_releases(host)),
            instances={release: Instance(unit.active, states.get(release)) for release, unit in found.items()},
            listening=units.get(host.socket_unit, inactive).active == "active",
            enabled=all(
                units.get(name, inactive).file_state == "enabled" for name in (host.socket_unit, host.boot_unit)
            ),
            guarded=units.get(host.guard_unit, inactive).active in ("active", "activating"),
            current=_current(host),
            written=journal_has(host, activation.last),
            window=read_window(host),
            watched=units.get(host.watch_unit, inactive).active in ("active", "activating"),
            window_seconds=host.watching.seconds,
            lease=read_lease(host),
        )

    def run(self, make: Callable[[Observation], Plan], *, check: bool = False) -> Plan:
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
            rest = make(self.observe())
            self.perform(rest)
        return Plan(plan.before, rest.after, plan.actions, plan.note)

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
                stack.enter_context(durable.locked(self.host.lock_path, LOCK_TIMEOUT))
            except TimeoutError:
                raise MobiusError(
                    "timeout", f"Another command has been holding {self.host.lock_path} for {LOCK_TIMEOUT:g} s."
                ) from None
            yield

    def perform(self, plan: Plan) -> None:
        """Perform a plan's actions in their order, under the lock.

        Raises:
            OSError: a state file could not be written. Whoever serves without being named by the truth stands by then,
                as long as somebody else serves.
        """
        try:
            for action in plan.actions:
                self._do(action)
        except OSError:
            self._obey_the_truth()
            raise
        if any(action.verb == "truth" for action in plan.actions):
            self._keep_reserves()

    def _obey_the_truth(self) -> None:
        with contextlib.suppress(MobiusError, OSError):
            draft = _Draft(self.observe())
            _settle(draft, self.who)
            for action in draft.actions:
                if action.verb == "standby":
                    self._do(action)

    def _keep_reserves(self) -> None:
        """Have the space that a rollback on a full disk needs; a disk that is full already cannot give it."""
        for folder in (self.host.root, self.host.state_dir):
            with contextlib.suppress(OSError):
                path = folder / RESERVE
                if not path.exists():
                    durable.write_bytes(path, os.urandom(RESERVE_BYTES), mode=0o600)

    def _in_any_case(self, folder: Path, write: Callable[[], None]) -> None:
        """Write a state file, on a full disk in the place of the folder's reserve."""
        try:
            write()
        except OSError as error:
            reserve = folder / RESERVE
            if error.errno not in FULL or not reserve.exists():
                raise
            reserve.unlink()
            write()

    def wait_gone(self, release: str) -> None:
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

    def _do(self, action: Action) -> None:
        host, release = self.host, str(action.release)
        match action.verb:
            case "start":
                self._start(release)
            case "serve":
                self._serve(release)
            case "standby":
                self._standby(release)
            case "stop":
                self.systemd.stop(host.unit(release))
            case "truth":
                self._in_any_case(host.root, lambda: durable.write_json(host.activation_path, action.value.as_dict()))
            case "pending":
                durable.write_json(host.pending_path, action.value.as_dict())
            case "forget":
                host.pending_path.unlink(missing_ok=True)
            case "guard":
                self._guard()
            case "window":
                durable.write_json(host.watch_path, action.value.as_dict())
            case "watch":
                # afresh: one that watches the release before has to look at watch.json again
                self.systemd.restart(host.watch_unit)
            case "unwatch":
                host.watch_path.unlink(missing_ok=True)
            case "link":
                durable.replace_symlink(host.current_path, f"releases/{release}")
            case "close":
                self.systemd.stop(host.socket_unit, host.boot_unit)
            case "enable":
                self.systemd.enable(host.socket_unit, host.boot_unit)
            case "log":
                self._in_any_case(host.state_dir, lambda: append_journal(host, action.value))

    def _start(self, release: str) -> None:
        unit = self.host.unit(release)
        timeout = self.start_timeout or self.host.start_timeout
        until = time.monotonic() + timeout
        late = f"{release} was not ready after {timeout:g} s."
        try:
            ready = self.systemd.start(unit, timeout)
        except MobiusError as error:
            if error.outcome != "timeout":
                raise
            self._give_up("instance_not_ready", release, late)
        while ready and _admin_state(self.host, release) is None:
            if time.monotonic() > until:
                self._give_up("instance_not_ready", release, late)
            time.sleep(0.05)
            ready = self._active(release)
        if not ready:
            found = self.systemd.units(unit).get(unit)
            if found is not None and found.result == "timeout":
                late = f"{release} was not ready after {self.host.start_timeout:g} s, the unit's own limit."
                self._give_up("instance_not_ready", release, late)
            self._give_up("instance_failed", release, f"{release} stopped by itself while it started.")

    def _give_up(self, outcome: str, release: str, reason: str) -> NoReturn:
        if release != read_activation(self.host).confirmed:
            # systemd would start it again and again; what is confirmed, it shall
            self.systemd.stop(self.host.unit(release))
        lines = self.last_lines(release)
        said = f" Its last line: {lines[-1]}" if lines else ""
        raise InstanceError(outcome, f"{reason}{said}", lines)

    def last_lines(self, release: str, lines: int = 20) -> list[str]:
        """The last lines that an instance wrote, to systemd's journal and to its log file."""
        unit = self.systemd.log(self.host.unit(release), lines)
        own = _last_lines(self.host.log_dir / f"{release}.log")[-lines:]
        return [*unit, *(line.decode(errors="replace") for line in own)]

    def _active(self, release: str) -> bool:
        unit = self.host.unit(release)
        found = self.systemd.units(unit).get(unit)
        return found is not None and found.active == "active"

    def _serve(self, release: str) -> None:
        """An instance that hangs in standby is killed and started afresh; it serves nobody yet, so nothing is lost."""
        until = time.monotonic() + SERVE_TIMEOUT
        afresh = False
        while True:
            left = max(STATE_TIMEOUT, until - time.monotonic())
            try:
                status, _, body = admin_request(self.host, release, "POST", "/admin/serve", timeout=left)
            except OSError as error:
                if time.monotonic() > until and not afresh and self._active(release):
                    self.systemd.kill(self.host.unit(release))
                    self._start(release)
                    afresh, until = True, time.monotonic() + SERVE_TIMEOUT
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
        until = time.monotonic() + STANDBY_TIMEOUT
        while self._active(release):
            try:
                status, _, _ = admin_request(self.host, release, "POST", "/admin/standby", timeout=STANDBY_TIMEOUT)
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


def staged_releases(host: Host) -> list[str]:
    """The release ids that are staged on this host, sorted."""
    try:
        names = os.listdir(host.releases_dir)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if RELEASE_ID.fullmatch(name) and (host.releases_dir / name).is_dir())


def _current(host: Host) -> str | None:
    try:
        return Path(os.readlink(host.current_path)).name
    except OSError:
        return None


def status(host: Host, seen: Observation) -> dict[str, Any]:
    """What `release_info` returns and `mobius-host status --json` prints."""
    pending, window = seen.promoting, seen.open_window
    releases = []
    known = {entry.release for entry in seen.activation.history}
    for release in sorted(seen.staged | known | {name for name, item in seen.instances.items() if item.exists}):
        entry = seen.activation.latest(release)
        about = _about(host, release)
        word = seen.instance(release).word
        if word in ("stopped", "stopping"):
            bad = entry is not None and entry.bad
            word = "bad" if bad else "kept" if release in seen.staged else "removed"
        releases.append(
            {
                "release": release,
                "version": about.get("version") or release.rsplit("-", 1)[0],
                "commit": about.get("commit"),
                "state": word,
                "staged": release in seen.staged,
                "confirmed": entry.confirmed if entry else None,
                "activated": entry.activated if entry else None,
                "bad": entry.bad if entry else False,
                "reason": entry.reason if entry else None,
            }
        )
    return {
        "service": host.service,
        "confirmed": seen.activation.confirmed,
        "previous": seen.activation.previous(seen.staged),
        "token": seen.activation.token,
        "pending": {**pending.as_dict(), "remaining": round(pending.deadline - seen.at, 3)} if pending else None,
        "watch": {"release": window.release, "remaining": max(0.0, round(window.until - seen.at, 3))}
        if window
        else None,
        "serving": sorted(name for name, item in seen.instances.items() if item.state == "serving"),
        "releases": releases,
        "history": [dataclasses.asdict(entry) for entry in seen.activation.history],
    }


def _about(host: Host, release: str) -> dict[str, Any]:
    """The release's `release.json`; empty when it is missing or damaged, which `verify` tells."""
    try:
        content = json.loads((host.release_dir(release) / "release.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def verify(host: Host, releases: Sequence[str] = ()) -> dict[str, list[str]]:
    """Compare staged releases (all, when none is named) with what was built, and the journal with itself.

    Returns:
        For each release, and for `journal`, what is wrong, one sentence each; an empty list when nothing is.
    """
    staged = staged_releases(host)
    for release in releases:
        if release not in staged:
            raise MobiusError("release_missing", f"{release} is not staged on this host.")
    found = {}
    for release in releases or staged:
        try:
            found[release] = list(manifest.verify_tree(host.release_dir(release)))
        except manifest.ManifestError as error:
            found[release] = [str(error)]
    read_activation(host)
    read_pending(host)
    return {**found, "journal": journal_problems(host)}


# --- The installed command --------------------------------------------------------------------------------------------


def tool_sources(names: Sequence[str] = TOOL_SOURCES) -> dict[str, str]:
    """The text of each file that an installed command consists of, by its path; read from a module's archive, too."""
    sources = {}
    for name in names:
        module = sys.modules[f"{PACKAGE}.{name}"] if name != "mobius_host" else sys.modules[__name__]
        loader = module.__spec__.loader if module.__spec__ else None
        text = loader.get_source(module.__name__) if loader and hasattr(loader, "get_source") else None
        if text is None:
            raise MobiusError("environment_failed", f"The source of {name} cannot be read.")
        path = name.replace(".", "/")
        sources[f"{path}/__init__.py" if hasattr(module, "__path__") else f"{path}.py"] = text
    return sources


def tool_digest(sources: Mapping[str, str] | None = None) -> str:
    """The first 12 hex digits of a SHA-256 over the sources: they tell one version of the command from another."""
    digest = hashlib.sha256()
    for name, text in sorted((tool_sources() if sources is None else sources).items()):
        digest.update(f"{name} {len(text.encode())}\n{text}".encode())
    return digest.hexdigest()[:12]


def launcher(lib_dir: str | Path, digest: str, entry: str = "mobius_host", config_dir: str | Path = CONFIG_DIR) -> str:
    """The text of a command: it fixes the version of the code and the folder of its settings, and lets nothing of its
    surroundings in."""
    return f'''#!/usr/bin/python3 -IS
# Written by Ansible; changes are lost.
import sys

DIGEST = "{digest}"
sys.path.insert(0, "{lib_dir}/" + DIGEST)
sys.argv[1:1] = ["--config-dir", "{config_dir}"]

from {PACKAGE}.{entry} import main

sys.exit(main())
'''


def installed_digest(command: str | Path) -> str | None:
    """The digest of an installed command; None when there is none."""
    try:
        found = re.search(r'^DIGEST = "([0-9a-f]{12})"$', Path(command).read_text(encoding="utf-8"), re.MULTILINE)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def require_tool(service: str, config_dir: str | Path = CONFIG_DIR) -> Host:
    """The host's description, when it is prepared for the service and its command is of this very version.

    Raises:
        MobiusError: `not_provisioned` or `host_tool_mismatch`.
    """
    host = Host.load(service, config_dir)
    found = installed_digest(host.command)
    if found is None:
        raise MobiusError("not_provisioned", f"{host.command} is not installed on this host.")
    if found != tool_digest():
        raise MobiusError(
            "host_tool_mismatch", f"{host.command} on this host is version {found}, and this run's is {tool_digest()}."
        )
    return host


# --- Failures ---------------------------------------------------------------------------------------------------------


def understood(error: Exception) -> MobiusError:
    """An error of the operating system as a failure that a person can act on; a MobiusError as it is."""
    if isinstance(error, MobiusError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return MobiusError("disk_full", f"There is no space left for {error.filename or 'the state of this host'}.")
    if isinstance(error, PermissionError):
        what = f"Not allowed: {error.filename or error}."
        return MobiusError("environment_failed", what, do_next="Run this as root, for example with sudo.")
    return MobiusError("environment_failed", f"{type(error).__name__}: {error}")


def as_failure(error: Exception) -> dict[str, Any]:
    """The arguments of a module's `fail_json`."""
    failure = understood(error)
    result: dict[str, Any] = {"msg": failure.reason, "mobius_failure": failure.as_dict()}
    if isinstance(failure, InstanceError):
        result["journal"] = failure.journal
    return result


# --- The command `mobius-host` ----------------------------------------------------------------------------------------


def _actor() -> str:
    return f"console:{os.environ.get('SUDO_USER') or getpass.getuser()}"


def _print_status(facts: Mapping[str, Any]) -> None:
    print(f"service    {facts['service']}")
    print(f"confirmed  {facts['confirmed'] or 'nothing'}")
    print(f"serving    {', '.join(facts['serving']) or 'nothing'}")
    if facts["pending"]:
        pending = facts["pending"]
        print(f"pending    {pending['release']} ({pending['stage']}), reverts in {pending['remaining']:.0f} s")
    if facts["watch"]:
        print(f"watched    {facts['watch']['release']}, for {facts['watch']['remaining']:.0f} s more")
    for item in facts["releases"]:
        bad = f"  bad: {item['reason'] or 'no reason given'}" if item["bad"] else ""
        print(f"  {item['release']:<32} {item['state']:<9} {item['confirmed'] or '-'}{bad}")


def _status(switch: Switch, options: argparse.Namespace) -> int:
    facts = status(switch.host, switch.observe())
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
    else:
        _print_status(facts)
    return 0


def _rollback(switch: Switch, options: argparse.Namespace) -> int:
    started = time.monotonic()
    plan = switch.run(lambda seen: plan_rollback(seen, options.to, switch.who))
    print(f"{switch.host.service}: {plan.note} ({time.monotonic() - started:.2f} s).")
    return 0


def _confirm(switch: Switch, _: argparse.Namespace) -> int:
    print(f"{switch.host.service}: {switch.run(lambda seen: plan_confirmed(seen, None, switch.who)).note}.")
    return 0


def _verify(switch: Switch, options: argparse.Namespace) -> int:
    found = verify(switch.host, [options.release] if options.release else [])
    for name, problems in found.items():
        print(f"{name}: {'whole' if not problems else f'{len(problems)} problems'}")
        for problem in problems:
            print(f"  {problem}")
    if damaged := [name for name, problems in found.items() if problems and name != "journal"]:
        raise MobiusError("tree_damaged", f"{', '.join(damaged)} on this host is not what was built.")
    if found["journal"]:
        raise MobiusError("state_damaged", f"The journal is damaged: {found['journal'][0]}.")
    return 0


def _boot(switch: Switch, _: argparse.Namespace) -> int:
    print(switch.run(lambda seen: plan_boot(seen, switch.who)).note)
    return 0


def _guard(switch: Switch, _: argparse.Namespace) -> int:
    """Wait for the deadline of what is pending, however often it is moved, and take back what is overdue.

    The deadline is absolute, so a guard that was killed and started again waits no longer than the first would have.
    """
    while True:
        pending = read_pending(switch.host)
        if pending and is_live(read_activation(switch.host), pending, switch.clock(), switch.boot()):
            time.sleep(max(0.0, min(GUARD_SLICE, pending.deadline - switch.clock())))
            continue
        # also when nothing is pending: a guard that was killed while it took something back has that to finish
        plan = switch.run(lambda seen: plan_guard(seen, switch.who))
        if plan.after.pending is None:
            print(plan.note)
            return 0


def _unavailable(switch: Switch, _: argparse.Namespace) -> int:
    """Answer 503 for as long as somebody holds the host's lock."""
    unavailable.serve(switch.host.lock_path, switch.host.user if os.geteuid() == 0 else None)
    return 0


def _role(switch: Switch, options: argparse.Namespace) -> int:
    """Tell an instance that starts what it is to be. It takes no lock: whoever starts it may hold it."""
    activation, pending = read_activation(switch.host), read_pending(switch.host)
    live = pending if is_live(activation, pending, switch.clock(), switch.boot()) else None
    text = f"MOBIUS_START={role_of(activation, live, options.release)}\n"
    durable.write_bytes(options.env_file, text.encode())
    return 0


def _watch(switch: Switch, options: argparse.Namespace) -> int:
    """Watch the confirmed release to the end of its window (or for `--seconds`), and roll back on a trigger.

    The end is absolute, so a watch that was killed and started again lasts no longer than the first would have.
    """
    host, activation = switch.host, read_activation(switch.host)
    if options.seconds is not None:
        began, token = switch.clock(), activation.token
        settings = dataclasses.replace(host.watching, unhealthy_seconds=options.grace)
        settings = dataclasses.replace(settings, interval=min(settings.interval, 1.0, options.grace / 4))
        window = Window(activation.confirmed or "", None, began, began + options.seconds, switch.boot(), token)
        if activation.confirmed is not None:
            _watch_window(switch, window, settings, patient=False)
        print(f"{activation.confirmed or 'nothing'} was watched for {options.seconds:g} s")
        return 0
    while True:
        opened = read_window(host)
        if opened is not None and opened.is_of(read_activation(host), switch.boot()):
            _watch_window(switch, opened, host.watching, patient=True)
        # a run may have taken the host since that last look: plan and lease are made under the same lock
        plan = switch.run(lambda seen: plan_unwatched(seen, switch.who))
        if not plan.after.overtime:
            print(plan.note)
            return 0


def _watch_window(switch: Switch, window: Window, settings: watch.Settings, *, patient: bool) -> None:
    """Look until the window is over or another switch has ended it.

    A `patient` one tries again when going back fails, and looks on after the end while a run holds the host.

    Raises:
        MobiusError: `rolled_back`.
    """
    host, release = switch.host, window.release
    watcher = watch.Watcher(settings, _baseline(host, release))
    refused: str | None = None
    while window.is_of(read_activation(host), switch.boot()):
        left = window.until - switch.clock()
        if left <= 0 and not (patient and _held(switch)):
            return
        problem, page = _look(host, release, settings.metrics_path)
        why = watcher.look(switch.clock(), problem, page)
        if why is not None:
            # no run: a rollback of its own, which no repeated question of that run completes
            switch.who = Who("watch", None, f"{release} {why}")
            try:
                plan = switch.run(lambda seen: plan_watched_rollback(seen, window, switch.who))
            except (MobiusError, OSError) as error:
                if not patient:
                    raise
                said = f"{release} {why}, and going back failed: {understood(error).reason}"
                if said != refused:
                    refused = said
                    print(said, file=sys.stderr, flush=True)
            else:
                if plan.changed:
                    print(plan.note)
                    raise MobiusError("rolled_back", f"{release} {why}, so this host went back.")
        left = window.until - switch.clock()
        time.sleep(min(settings.interval, left) if left > 0 else settings.interval)


def _held(switch: Switch) -> bool:
    lease = read_lease(switch.host)
    return lease is not None and lease.live(switch.clock(), switch.boot())


def _look(host: Host, release: str, metrics_path: str) -> tuple[str | None, str | None]:
    """What is wrong with an instance's health (None: nothing), and its page of metrics (None: it gave none)."""
    problem = None
    try:
        code, _, body = admin_request(host, release, "GET", host.health_path, timeout=STATE_TIMEOUT)
        if code != 200:
            problem = f"its health answered {code} with {body[:120].decode(errors='replace')!r}"
        code, _, body = admin_request(host, release, "GET", metrics_path, timeout=STATE_TIMEOUT)
    except OSError as error:
        return problem or f"it does not answer ({type(error).__name__})", None
    return problem, body.decode(errors="replace") if code == 200 else None


def _baseline(host: Host, release: str) -> dict[str, float]:
    """What the gate measured as it let the release pass, by the name of the signal; empty when it kept nothing."""
    for path in sorted(host.gates_dir.glob(f"*-{release}.json"), reverse=True):
        with contextlib.suppress(MobiusError, OSError):
            content = _read_json(path)
            if content is not None and content.get("verdict") == "pass":
                return watch.baseline_of(content)
    return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mobius-host", description="Switches, takes back, confirms and watches a service on this host."
    )
    parser.add_argument("--service", help="which service; may be left out when the host has only one")
    parser.add_argument("--config-dir", default=CONFIG_DIR, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Switch, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        return found

    command("status", _status, "show what serves and what is kept").add_argument(
        "--json", action="store_true", help="for programs"
    )
    rollback = command("rollback", _rollback, "serve the release before, now, and mark this one bad")
    rollback.add_argument("--to", metavar="ID", help="the release to go back to, any kept one")
    rollback.add_argument("--reason", metavar="TEXT", help="why, for the history")
    rollback.add_argument("--run", metavar="ID", dest="run_id", help="the run that asks")
    command("confirm", _confirm, "keep the release that is being promoted")
    checked = command("verify", _verify, "compare the staged files with what was built, and check the journal")
    checked.add_argument("release", metavar="ID", nargs="?", help="only this release")
    watched = command("watch", _watch, "roll back when the confirmed release turns out badly after all")
    watched.add_argument("--seconds", type=float, help="how long to watch; without it, to the end of its window")
    watched.add_argument("--grace", type=float, default=10.0, help="with --seconds, how long it may be unhealthy")
    command("boot", _boot, "start what the truth names (for systemd)")
    command("guard", _guard, "take back an unconfirmed promotion at its deadline (for systemd)")
    command("unavailable", _unavailable, "answer 503 while the data is exchanged (for systemd)")
    role = command("role", _role, "tell an instance whether it is to serve (for systemd)")
    role.add_argument("release", metavar="ID")
    role.add_argument("--env-file", metavar="FILE", required=True, help="where to write MOBIUS_START")
    return parser


def only_service(config_dir: str) -> str:
    """The one service that this host is prepared for.

    Raises:
        MobiusError: not_provisioned, invalid_input.
    """
    services = configured_services(config_dir)
    if not services:
        raise MobiusError("not_provisioned", f"This host is not prepared for any service: {config_dir} is empty.")
    if len(services) > 1:
        raise MobiusError("invalid_input", f"This host has {', '.join(services)}: say which with --service.")
    return services[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code of the table in errors.py."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        # argparse ends with 2, which here means a failed release
        return int(errors.ExitCode.INPUT if stop.code else errors.ExitCode.SUCCESS)
    actor = options.command if options.command in ("guard", "boot", "watch") else _actor()
    try:
        host = Host.load(options.service or only_service(options.config_dir), options.config_dir)
        who = Who(actor, getattr(options, "run_id", None), getattr(options, "reason", None))
        return int(options.run(Switch(host, who), options))
    except KeyboardInterrupt:
        failure = MobiusError("interrupted", "Interrupted.")
    except (MobiusError, OSError) as error:
        failure = understood(error)
    print(f"mobius-host: {failure.reason}\n{failure.do_next}", file=sys.stderr)
    return int(failure.code)
