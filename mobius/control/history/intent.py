# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run is about to do, as its history records it before anything changes on a host."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mobius
from mobius import __version__
from mobius.control.history.writer import History
from mobius.control.service_file.keys import FILE_NAME

CHANGE_FIELDS = ("ticket", "release_owner", "deploy_operator", "media_engineer", "triage_lead", "approvals", "window")
"""The keys of the variable `mobius_change` that are recorded."""


def repository(folder: Path) -> dict[str, Any]:
    """`{commit, clean}` of the project; both null where git does not know it."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if changes is None else changes == ""}


def tree_digest(sources: Sequence[str]) -> str | None:
    """SHA-256 over the names and contents of all files of an inventory; null for a list of hosts.

    Of an inventory that is a file, the variables of groups and hosts beside it belong to it.
    """
    total = hashlib.sha256()
    is_empty = True
    for source in map(Path, sources):
        root, files = source, sorted(source.rglob("*"))
        if not source.is_dir():
            root = source.parent
            beside = (path for name in ("group_vars", "host_vars") for path in (root / name).rglob("*"))
            files = [source, *sorted(beside)] if source.is_file() else []
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                is_empty = False
                name = path.relative_to(root).as_posix()
                total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return None if is_empty else total.hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, null when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def origin(environment: Mapping[str, str]) -> dict[str, Any]:
    """From where a run was started: machine, user, and the address of the SSH client, if any."""
    ssh = environment.get("SSH_CONNECTION", "").split()
    with contextlib.suppress(KeyError, OSError):
        return {"machine": socket.gethostname(), "user": getpass.getuser(), "ssh_client": ssh[0] if ssh else None}
    return {"machine": socket.gethostname(), "user": None, "ssh_client": ssh[0] if ssh else None}


_COLLECTION_FOLDERS = ("playbooks", "roles", "plugins")
_PROJECT_FOLDERS = (*_COLLECTION_FOLDERS, "files", "library", "tasks", "templates")


def code_digest(collection: Path, playbook: Path) -> str | None:
    """SHA-256 over everything that decides what a run does: the collection, this package, and what lies beside the
    playbook (or beside its folder, when that is called playbooks), where it is not the collection's."""
    beside = playbook.resolve().parent
    beside = beside.parent if beside.name == "playbooks" else beside
    sources = (
        *(collection.resolve() / name for name in _COLLECTION_FOLDERS),
        *(beside / name for name in _PROJECT_FOLDERS if beside != collection.resolve()),
        Path(mobius.__file__).resolve().parent,
        collection / "ansible.cfg",
    )
    return tree_digest([str(source) for source in sources])


@dataclass(frozen=True)
class Intent:
    """What a run is about to do, as the action plugin sees it.

    `project` is the user's folder and `collection` that of the playbooks; a checkout is both. `variables` are the extra
    variables, of which only names and keyed digests are recorded. `bundle` and `plan` are paths or empty. `new_chain`
    is why hosts that have witnessed another history begin with this one, or empty.
    """

    run: str
    actor: str
    playbook: str
    project: Path
    collection: Path
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
    new_chain: str = ""
    via: str = "ansible-playbook"
    ansible: str = ""

    def record(self, history: History, environment: Mapping[str, str]) -> dict[str, Any]:
        """The data of the `intent` record."""
        playbook = Path(self.playbook)
        bundle = Path(self.bundle) if self.bundle else None
        # the service's file is told from the inventory by its name: plans name what they are made for without it
        names = tuple(self._short(source) for source in self.inventory if Path(source).name != FILE_NAME)
        return {
            "actor": self.actor,
            "from": origin(environment),
            "via": self.via,
            **repository(self._repository),
            "playbook": self._short(self.playbook),
            "playbook_sha256": file_digest(playbook),
            "inventory": ", ".join(names),
            "inventory_sha256": tree_digest(self.inventory),
            "code_sha256": code_digest(self.collection, playbook),
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
            **({"new_chain": self.new_chain} if self.new_chain else {}),
            "variables": {name: history.digest(value) for name, value in sorted(self.variables.items())},
            "versions": {
                "mobius": __version__,
                "ansible": self.ansible,
                "python": platform.python_version(),
            },
        }

    @property
    def _repository(self) -> Path:
        """The folder whose commit is recorded: the project, or that of a playbook which lies elsewhere."""
        playbook = Path(self.playbook).resolve()
        ours = any(playbook.is_relative_to(folder.resolve()) for folder in (self.collection, self.project))
        return self.project if ours else playbook.parent

    def _short(self, path: str) -> str:
        return short_path(path, self.collection, self.project)


def short_path(path: str, *folders: Path) -> str:
    """A path relative to the first of the folders that has it, so that it means the same on another machine."""
    for folder in folders:
        with contextlib.suppress(ValueError):
            return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    return path
