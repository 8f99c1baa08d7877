# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state files of a service: the activation record, the pending promotion, the monitoring window, the lease."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MobiusError
from ..manifest import REVISION
from .config import (
    SCHEMA,
    Host,
    corrupt_state,
    read_regular_file,
    read_state_file,
    require_field,
    require_number,
    require_release_field,
    require_unicode,
    revision_name,
)
from .journal import read_tail

CANARY_SHARE_PERCENT = 10  # of the requests
REPAIR = "What serves goes on serving. Run `mobius-host repair` on the host: it shows what it does and waits for a yes."


LEASE_MAX_SECONDS = 86_400.0


@dataclass(frozen=True)
class ActivationEntry:
    """One time that a release was confirmed (or refused: `confirmed` is None then). Times are RFC 3339, UTC."""

    release: str
    activated: str | None
    confirmed: str | None
    bad: bool
    reason: str | None
    run: str | None


@dataclass(frozen=True)
class Activation:
    """The activation record: what this host serves after any reboot, and what it served before.

    Retention keeps the releases in `pinned`.

    `token` rises with every confirmation and rollback; a pending promotion with another token is void. `last` is
    the journal line of the switch that wrote the file, so that a kill before the line was written loses nothing.
    `unjournaled` are the lines, oldest first, that could not be written to the journal when they were due.
    `journal`, `{lines, sha256}`, was the journal's head when the file was written: what is cut from the journal shows.
    """

    service: str
    token: int = 0
    confirmed: str | None = None
    history: tuple[ActivationEntry, ...] = ()
    pinned: tuple[str, ...] = ()
    last: Mapping[str, Any] | None = None
    journal: Mapping[str, Any] | None = None
    unjournaled: tuple[Mapping[str, Any], ...] = ()

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
            **({"journal": dict(self.journal)} if self.journal else {}),
            **({"unjournaled": [dict(line) for line in self.unjournaled]} if self.unjournaled else {}),
        }

    def journal_lines(self) -> tuple[Mapping[str, Any], ...]:
        """The lines that the journal may lack, oldest first."""
        is_last_new = self.last is not None and self.last not in self.unjournaled
        return (*self.unjournaled, *([self.last] if self.last is not None and is_last_new else []))

    def latest(self, release: str) -> ActivationEntry | None:
        """The newest entry of a release."""
        return next((entry for entry in reversed(self.history) if entry.release == release), None)

    def is_bad(self, release: str) -> bool:
        """Whether the release is marked bad on this host."""
        entry = self.latest(release)
        return entry is not None and entry.bad

    def previous(self, staged: Iterable[str]) -> str | None:
        """The target of a rollback: the newest other release that was confirmed, is not bad and is still staged."""
        kept = set(staged)
        for entry in reversed(self.history):
            release = entry.release
            if entry.confirmed and release != self.confirmed and release in kept and not self.is_bad(release):
                return release
        return None

    def marked(self, release: str, bad: bool, reason: str | None, run: str | None) -> Activation:
        """The same record with the release's newest entry marked bad, or no longer marked."""
        if self.latest(release) is None:
            if not bad:
                return self
            return dataclasses.replace(
                self, history=(*self.history, ActivationEntry(release, None, None, True, reason, run))
            )
        history = list(self.history)
        index = max(number for number, entry in enumerate(history) if entry.release == release)
        history[index] = dataclasses.replace(history[index], bad=bad, reason=reason)
        return dataclasses.replace(self, history=tuple(history))

    def with_pin(self, release: str, is_pinned: bool) -> Activation:
        """The same record with the release pinned, or no longer."""
        others = [name for name in self.pinned if name != release]
        return dataclasses.replace(self, pinned=tuple(sorted([*others, release] if is_pinned else others)))


@dataclass(frozen=True)
class Pending:
    """A promotion that is not confirmed: `deadline` in seconds of CLOCK_MONOTONIC of the boot `boot_id`.

    `share`: percent of the requests that a canary gets; None for `CANARY_SHARE_PERCENT`.
    """

    release: str
    previous: str | None
    stage: str  # "canary": beside the confirmed release; "serving": alone
    deadline: float
    boot_id: str
    run: str | None
    token: int
    activated: str
    share: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The content of `pending.json`."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if name != "share"}
        return {"schema": SCHEMA, **values, **({"share": self.share} if self.share is not None else {})}


@dataclass(frozen=True)
class MonitoringWindow:
    """The monitoring window of a release: `began` and `until` in seconds of CLOCK_MONOTONIC of the boot `boot_id`.

    `token` is the token of the activation record when that release was confirmed: any later switch ends the window.
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
        """Whether it belongs to the confirmed release, in this boot."""
        expected = (activation.confirmed, activation.token, boot)
        return (self.release, self.token, self.boot_id) == expected


def read_window(host: Host) -> MonitoringWindow | None:
    """The content of `watch.json`, open or over; None when there is none.

    A damaged file counts as none: a lost watch must not block a switch.
    """
    path = host.watch_path
    try:
        content = read_state_file(path)
        if content is None:
            return None
        return MonitoringWindow(
            release=require_release_field(path, content, "release", str),
            previous=require_release_field(path, content, "previous", str, None),
            began=require_number(path, content, "began"),
            until=require_number(path, content, "until"),
            boot_id=require_field(path, content, "boot_id", str),
            token=require_field(path, content, "token", int),
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

    def is_live(self, now: float, boot: str) -> bool:
        """Whether it still keeps others out."""
        return self.boot_id == boot and now < self.expires <= now + LEASE_MAX_SECONDS


def read_lease(host: Host) -> Lease | None:
    """The lease, live or expired; None when there is none or the file is damaged, which must block nothing."""
    path = host.lease_path
    try:
        content = json.loads(read_regular_file(path))
        if not isinstance(content, dict):
            return None
        require_unicode(path, content)
        return Lease(
            run=require_field(path, content, "run", str),
            actor=require_field(path, content, "actor", str),
            since=require_field(path, content, "since", str),
            seconds=require_number(path, content, "seconds"),
            expires=require_number(path, content, "expires"),
            boot_id=require_field(path, content, "boot_id", str),
            token=require_field(path, content, "token", int),
        )
    except PermissionError:
        raise  # this user may not read it, which says nothing about the file
    except (MobiusError, OSError, ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class ActivationRecord:
    """The activation record as it was read.

    `problem`: why the copy was read in place of `activation.json`; None when that was read. `is_copied`: whether the
    copy holds the same.
    """

    activation: Activation
    problem: str | None = None
    is_copied: bool = True


def read_activation(host: Host) -> Activation:
    """The activation record; an empty one when nothing was ever promoted. Raises as `read_record` does."""
    return read_record(host).activation


def read_record(host: Host) -> ActivationRecord:
    """The activation record from `activation.json`, or from its copy when that one cannot be relied on.

    A write replaces `activation.json` first, so a kill between the two leaves a copy that is one write behind, and
    `activation.json` counts: the copy never names what was not committed. For the same reason an `activation.json` with
    a lower token than its copy is not the one that was written last, and the copy counts.

    Raises:
        MobiusError: `state_damaged` when neither can be relied on.
    """
    path, copy_path = host.activation_path, host.activation_copy_path
    activation, problem = read_activation_file(host, path)
    copy, copy_problem = read_activation_file(host, copy_path)
    if activation is not None and (copy is None or copy.token <= activation.token):
        return ActivationRecord(activation, None, copy == activation)
    if activation is not None:
        problem = f"{path} is damaged: it is older than its copy."
    elif problem is None:
        if copy is None and copy_problem is None and not host.current_path.is_symlink():
            return ActivationRecord(Activation(host.service))
        problem = f"{path} is missing."
    if copy is not None:
        newest = max((line["token"] for line in read_tail(host) if type(line.get("token")) is int), default=0)
        if newest <= copy.token:
            return ActivationRecord(copy, problem)
        copy_problem = f"Its copy {copy_path} is older than the journal."
    raise MobiusError(
        "state_damaged",
        f"{problem} {copy_problem or f'Its copy {copy_path} is missing.'}",
        do_next=REPAIR,
    )


def read_activation_file(host: Host, path: Path) -> tuple[Activation | None, str | None]:
    """The record in a file, or why it cannot be read; neither when there is no such file."""
    try:
        content = read_state_file(path)
        return (None if content is None else parse_activation(host, path, content)), None
    except MobiusError as error:
        return None, error.reason


def parse_activation(host: Host, path: Path, content: Mapping[str, Any]) -> Activation:
    """The activation record that a state file holds.

    Raises:
        MobiusError: `state_damaged`.
    """
    if require_field(path, content, "service", str) != host.service:
        raise corrupt_state(path, f"it describes the service {content['service']!r}")
    history = []
    for item in require_field(path, content, "history", list):
        if not isinstance(item, dict):
            raise corrupt_state(path, f"its history holds {item!r}")
        history.append(
            ActivationEntry(
                release=require_release_field(path, item, "release", str),
                activated=require_field(path, item, "activated", str, None),
                confirmed=require_field(path, item, "confirmed", str, None),
                bad=require_field(path, item, "bad", bool),
                reason=require_field(path, item, "reason", str, None),
                run=require_field(path, item, "run", str, None),
            )
        )
    pinned = require_field(path, content, "pinned", list)
    if not all(isinstance(release, str) for release in pinned):
        raise corrupt_state(path, f"pinned is {pinned!r}")
    last = content.get("last")
    if last is not None and not isinstance(last, dict):
        raise corrupt_state(path, f"last is {last!r}")
    unjournaled = content.get("unjournaled", [])  # an earlier version wrote none
    if not isinstance(unjournaled, list) or not all(isinstance(line, dict) for line in unjournaled):
        raise corrupt_state(path, f"unjournaled is {unjournaled!r}")
    confirmed = require_release_field(path, content, "confirmed", str, None)
    if confirmed is not None and all(entry.release != confirmed for entry in history):
        raise corrupt_state(path, f"its history lacks the confirmed release {confirmed}")
    token = require_field(path, content, "token", int)
    return Activation(
        host.service,
        token,
        confirmed,
        tuple(history),
        tuple(pinned),
        last,
        _journal_head(content),
        tuple(unjournaled),
    )


def _journal_head(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The journal's head in an activation record; an earlier version wrote none."""
    head = content.get("journal")
    if not isinstance(head, dict) or type(head.get("lines")) is not int or not isinstance(head.get("sha256"), str):
        return None
    return head if head["lines"] >= 0 else None


def read_pending(host: Host) -> Pending | None:
    """The content of `pending.json`, live or overdue; None when there is none.

    Raises:
        MobiusError: `state_damaged` when the file is damaged.
    """
    path = host.pending_path
    try:
        content = read_state_file(path)
        return None if content is None else _parse_pending(path, content)
    except MobiusError as error:
        raise MobiusError("state_damaged", error.reason, do_next=REPAIR) from None


def _parse_pending(path: Path, content: Mapping[str, Any]) -> Pending:
    stage = require_field(path, content, "stage", str)
    if stage not in ("canary", "serving"):
        raise corrupt_state(path, f"stage is {stage!r}")
    return Pending(
        release=require_release_field(path, content, "release", str),
        previous=require_release_field(path, content, "previous", str, None),
        stage=stage,
        deadline=require_number(path, content, "deadline"),
        boot_id=require_field(path, content, "boot_id", str),
        run=require_field(path, content, "run", str, None),
        token=require_field(path, content, "token", int),
        activated=require_field(path, content, "activated", str),
        share=_share(path, content),
    )


def _share(path: Path, content: Mapping[str, Any]) -> int | None:
    share = content.get("share")
    if share is not None and (type(share) is not int or not 1 <= share <= 99):
        raise corrupt_state(path, f"share is {share!r}")
    return share


def boot_id() -> str:
    """The kernel's name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_open(activation: Activation, pending: Pending | None, boot: str) -> bool:
    """Whether a promotion is neither confirmed nor reverted: it is of this boot, and no later switch replaced it."""
    return (
        pending is not None
        and pending.boot_id == boot
        and pending.token == activation.token
        and pending.release != activation.confirmed
    )


def is_live(activation: Activation, pending: Pending | None, now: float, boot: str) -> bool:
    """Whether a promotion still counts: it is open, and its deadline has not passed."""
    return pending is not None and is_open(activation, pending, boot) and now < pending.deadline


def role_of(activation: Activation, pending: Pending | None, release: str) -> str:
    """The role of an instance, "serving" or "standby"; `pending` only when it is live."""
    if pending is not None and release == pending.release:
        return "serving"
    if release == activation.confirmed and (pending is None or pending.stage == "canary"):
        return "serving"
    return "standby"


def staged_releases(host: Host) -> list[str]:
    """The releases and revisions that are staged on this host, sorted."""
    try:
        names = os.listdir(host.releases_dir)
    except FileNotFoundError:
        return []
    releases = (revision_name(name) for name in names if "+" not in name)
    return sorted(name for name in releases if REVISION.fullmatch(name) and _is_staged(host, name))


def _is_staged(host: Host, revision: str) -> bool:
    return host.revision_dir(revision).is_dir() and host.release_dir(revision).is_dir()


def read_current_link(host: Host) -> str | None:
    """The release that the link `current` points to, or whatever it points to elsewhere; None when it is no link."""
    try:
        target = os.readlink(host.current_path)
    except OSError:
        return None
    release = revision_name(target.removeprefix("releases/"))
    return release if REVISION.fullmatch(release) and target.startswith("releases/") else target
