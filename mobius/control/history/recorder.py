# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a run goes into its history: an allow-list of fields, so that a secret has no way in.

No text that a task, a host or a variable may have made is recorded: no messages, no reasons of arbitrary tasks, no
names of tasks after templates were filled in, no values of variables. The plugins `run` and `outcome` come here.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobius import __version__, durable
from mobius.control.history.query import is_opening, sum_up
from mobius.control.history.verifier import digest
from mobius.control.history.writer import History, Holder, plain
from mobius.control.run.outcome import Decision, Ending
from mobius.errors import OUTCOMES, MobiusError

NOTE_FOLDER = "MOBIUS_RUN_FOLDER"
_COLLECTION = "mobius.dhash."

# module: the fields of its result that are recorded. `reason` only where the module itself has made every word of it.
RESULT_FIELDS: dict[str, tuple[str, ...]] = {
    "backup": ("id", "sha256", "bytes", "verified", "removed"),
    "bundle_info": ("release", "service", "sha256", "commit", "version"),
    "decide": ("decision", "verdict", "mark_bad"),
    "gate": ("verdict", "reason", "evidence"),
    "instance": ("release", "state"),
    "mark": ("release", "bad"),
    "promotion": ("release", "state", "confirmed", "token"),
    "release": ("release", "signer"),
    "restore": ("id", "saved"),
    "restore_drill": ("backup", "release", "files"),
    "retention": ("removed",),
    "rollback": ("left", "confirmed", "token", "seconds", "witnessed"),
    "run": ("release", "witnessed"),
    "window": ("window",),
}
CHANGE_FIELDS = ("ticket", "release_owner", "deploy_operator", "media_engineer", "triage_lead", "approvals", "window")
"""The keys of the variable `mobius_change` that are recorded."""


DECISION_FIELDS = ("service", "release", "why", "batches")
"""What a promotion may say about its decision."""


def repository(folder: Path) -> dict[str, Any]:
    """`{commit, clean}` of the checkout; both null where git does not know it."""

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = ask("status", "--porcelain")
    return {"commit": ask("rev-parse", "HEAD"), "clean": None if changes is None else changes == ""}


def tree_digest(sources: Sequence[str]) -> str | None:
    """SHA-256 over the names and contents of all files of an inventory; null for a list of hosts.

    Of an inventory that is a file, the variables of groups and hosts beside it belong to it.
    """
    total = hashlib.sha256()
    found = False
    for source in sources:
        place = Path(source)
        root, files = place, sorted(place.rglob("*"))
        if not place.is_dir():
            root = place.parent
            beside = (path for name in ("group_vars", "host_vars") for path in (root / name).rglob("*"))
            files = [place, *sorted(beside)] if place.is_file() else []
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                found = True
                name = path.relative_to(root).as_posix()
                total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest() if found else None


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, null when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def whence(environment: Mapping[str, str]) -> dict[str, Any]:
    """From where a run was started: machine, user, and the address of the SSH client, if any."""
    ssh = environment.get("SSH_CONNECTION", "").split()
    with contextlib.suppress(KeyError, OSError):
        return {"machine": socket.gethostname(), "user": getpass.getuser(), "ssh_client": ssh[0] if ssh else None}
    return {"machine": socket.gethostname(), "user": None, "ssh_client": ssh[0] if ssh else None}


_CODE = ("playbooks", "roles", "plugins", "mobius", "ansible.cfg")


def code_digest(checkout: Path) -> str | None:
    """SHA-256 over everything of a checkout that decides what a run does."""
    return tree_digest([str(checkout / name) for name in _CODE])


@dataclass(frozen=True)
class Intent:
    """What a run is about to do, as the action plugin sees it.

    `variables` are the extra variables, of which only names and keyed digests are recorded; `bundle` and `plan` are
    paths or empty.
    """

    run: str
    actor: str
    playbook: str
    checkout: Path
    inventory: tuple[str, ...]
    hosts: tuple[str, ...]
    check: bool
    limit: str | None = None
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    bundle: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    plan: str = ""
    via: str = "ansible-playbook"
    ansible: str = ""

    def record(self, history: History, environment: Mapping[str, str]) -> dict[str, Any]:
        """The data of the `intent` record."""
        playbook = Path(self.playbook)
        bundle = Path(self.bundle) if self.bundle else None
        names = tuple(_short(source, self.checkout) for source in self.inventory)
        return {
            "actor": self.actor,
            "from": whence(environment),
            "via": self.via,
            **repository(self.checkout),
            "playbook": _short(self.playbook, self.checkout),
            "playbook_sha256": file_digest(playbook),
            "inventory": ", ".join(names),
            "inventory_sha256": tree_digest(self.inventory),
            "code_sha256": code_digest(self.checkout),
            "bundle": bundle.name if bundle else None,
            "bundle_sha256": file_digest(bundle) if bundle else None,
            "hosts": sorted(self.hosts),
            "limit": self.limit,
            "tags": [tag for tag in self.tags if tag != "all"],
            "skip_tags": list(self.skip_tags),
            "check": self.check,
            "plan": self.plan or None,
            "plan_sha256": file_digest(Path(self.plan)) if self.plan else None,
            "change": {name: self.change[name] for name in CHANGE_FIELDS if name in self.change},
            "reason": self.reason or None,
            "variables": {name: history.digest(value) for name, value in sorted(self.variables.items())},
            "versions": {
                "mobius": __version__,
                "ansible": self.ansible,
                "python": platform.python_version(),
            },
        }


def _short(path: str, checkout: Path) -> str:
    place = Path(path)
    try:
        return place.resolve().relative_to(checkout.resolve()).as_posix()
    except ValueError:
        return path


# --- The note that the processes of one run share ---------------------------------------------------------------------


def note_place(environment: Mapping[str, str], process_folder: Path) -> Path:
    """Where a run's processes find what was opened: in a folder that only they share and that ends with them."""
    given = environment.get(NOTE_FOLDER)
    return Path(given if given and Path(given).is_dir() else process_folder) / "mobius-history.json"


@dataclass(frozen=True)
class Note:
    """An opened run: its history, the head right after its intent, the intent, and its plan's path or empty."""

    run: str
    folder: Path
    key: Path | None
    head: dict[str, Any]
    intent: dict[str, Any]
    plan: str

    @classmethod
    def read(cls, place: Path) -> Note | None:
        """The note, None when there is none yet."""
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        key = value["key"]
        head, intent, plan = value["head"], value["intent"], value["plan"]
        return cls(value["run"], Path(value["folder"]), Path(key) if key else None, head, intent, plan)

    def write(self, place: Path) -> None:
        """Leave it for the other processes of the run."""
        value = {**vars(self), "folder": str(self.folder), "key": str(self.key) if self.key else None}
        durable.write_json(place, value, mode=0o600)

    @property
    def history(self) -> History:
        """The history that it speaks of."""
        return History(self.folder, self.key)


def open_run(
    intent: Intent,
    history: History,
    holder: Holder,
    environment: Mapping[str, str],
    place: Path,
    approval: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _data: {},
) -> Note:
    """Record the intent, once a run, and leave the note. The first worker does it; the others find the note.

    Args:
        approval: from the intent's data, what is recorded of the run's plan and approvals.

    Raises:
        MobiusError: the intent cannot be recorded, and then nothing may change on any host.
    """
    found = Note.read(place)
    if found is not None and found.run == intent.run:
        return found
    try:
        data = intent.record(history, environment)
        if approved := approval(data):
            data["approval"] = dict(approved)
        head = history.open(intent.run, holder, data)
        note = Note(intent.run, history.folder, history.key, head, data, intent.plan)
        note.write(place)
    except OSError as error:
        raise MobiusError("history_failed", f"The history cannot be written: {error.strerror or error}.") from error
    return note


def close_left_open(place: Path, run: str, end: Ending, seconds: float) -> None:
    """Record the end of a run whose ansible-playbook was stopped before it could.

    Raises:
        MobiusError: it cannot be written; the next run closes this one as interrupted then.
    """
    note = Note.read(place)
    if note is not None and note.run == run:
        note.history.close(run, end.outcome, {"duration_ms": round(seconds * 1000), "hosts": {}, "closed_by": "mobius"})


# --- Results ----------------------------------------------------------------------------------------------------------


def result_data(host: str, action: str, task: str, status: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The data of a `result` record, None for a task of which nothing is recorded.

    Args:
        action: the task's module, by its full name.
        task: the task's name as the playbook has it, before templates are filled in.
        status: ok, changed, failed or unreachable.
    """
    module = action.removeprefix(_COLLECTION) if action.startswith(_COLLECTION) else ""
    bad = status in ("failed", "unreachable")
    if module not in RESULT_FIELDS and not bad:
        return None
    data: dict[str, Any] = {"host": host, "task": task, "module": action, "status": status}
    if bad:
        carried = result.get("mobius_failure")
        outcome = carried.get("outcome") if isinstance(carried, Mapping) else None
        plain = "unreachable" if status == "unreachable" else "timeout" if result.get("timedout") else "task_failed"
        data["outcome"] = outcome if outcome in OUTCOMES else plain
    if not result.get("_ansible_no_log"):
        data["fields"] = {name: result[name] for name in RESULT_FIELDS.get(module, ()) if name in result}
    return data


def decision_data(
    about: Mapping[str, Any], decision: Decision, results: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    """The data of a `decision` record.

    Args:
        about: what the promotion says of itself (`DECISION_FIELDS`).
        results: by host, what it has noted; its `evidence`, where there is some, is recorded as a digest.
    """
    evidence = plain({host: (result or {}).get("evidence") for host, result in results.items()})
    hosts = {
        host: {"verdict": decision.verdicts.get(host), "evidence_sha256": digest(found) if found else None}
        for host, found in evidence.items()
    }
    return {
        **{name: about[name] for name in DECISION_FIELDS if about.get(name)},
        "decision": decision.decision,
        "verdict": decision.verdict,
        "mark_bad": decision.mark_bad,
        "outcome": decision.failure.get("outcome"),
        "hosts": hosts,
        "evidence_sha256": digest({host: said["evidence_sha256"] for host, said in hosts.items()}),
    }


class RunRecorder:
    """Hears and records the results of one ansible-playbook process. Never raises: what it could not write is told."""

    def __init__(self, place: Callable[[], Path], tell: Callable[[str], None]) -> None:
        self._place = place
        self._tell = tell
        self._note: Note | None = None
        self._started = time.monotonic()
        self._hosts: dict[str, dict[str, Any]] = {}
        self._told = False

    def result(self, host: str, action: str, task: str, status: str, result: Mapping[str, Any]) -> None:
        """One result of one task on one host; of a loop, each item's."""
        items = result.get("results")
        if isinstance(items, list) and action.startswith(_COLLECTION):
            for item in items:
                if isinstance(item, Mapping):
                    self.result(host, action, task, "changed" if item.get("changed") else status, item)
            return
        data = result_data(host, action, task, status, result)
        if data is None:
            return
        if is_opening(action) and host in self._hosts and status == "ok":
            return  # a later play of the same run opens it again; nothing is new
        sum_up(self._hosts, data)
        self._safely(lambda note: note.history.add(note.run, data))

    @property
    def note(self) -> Note | None:
        """What the run has opened, None when it has opened nothing."""
        if self._note is None:
            self._note = Note.read(self._place())
        return self._note

    def end(
        self,
        ending: Ending,
        counts: Mapping[str, Mapping[str, int]],
        *,
        check: bool,
        fidelity: Mapping[str, Any] | None = None,
    ) -> None:
        """The run's end: each host's counts (ok, changed, failures, unreachable, …), and how it kept to its plan."""
        failed = {failure.host: failure.outcome for failure in ending.failures}
        hosts = {
            host: {
                "outcome": failed.get(host, "success"),
                **self._hosts.get(host, {}),
                **{name: counts[host].get(name, 0) for name in ("ok", "changed", "failures", "unreachable")},
            }
            for host in sorted(counts)
        }
        took = round((time.monotonic() - self._started) * 1000)
        data: dict[str, Any] = {"duration_ms": took, "check": check, "hosts": hosts}
        if fidelity is not None:
            data["fidelity"] = dict(fidelity)
        self._safely(lambda note: note.history.close(note.run, ending.outcome, data))

    def _safely(self, write: Callable[[Note], Any]) -> None:
        if self.note is None:
            return  # a playbook that opens no run has no history
        try:
            write(self.note)
        except (MobiusError, OSError, ValueError) as error:
            if not self._told:
                self._told = True
                self._tell(f"The history of this run is incomplete: {error}")


def parent_holder() -> Holder:
    """The holder of this run: the ansible-playbook process whose worker we are."""
    return Holder.of(os.getppid())
