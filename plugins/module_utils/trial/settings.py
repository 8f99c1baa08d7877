# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is tried: the tree of a release, and what `mobius.yml` says of the service."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..host.front.settings import HTTP
from ..host.front.slots import Slot
from ..host.revision import expand_word

# of systemd, where a unit sets no other
HOST_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class TrialSettings:
    """A trial.

    Attributes:
        folder: the trial's own, short enough for sockets: everything that it writes is in there.
        tree: the release's files, below `folder`.
        shared: folders that the service may write.
        probes: requests in the form of the module probe, and what each has to be answered with.
        front: `reuse_connections` and `timeouts` of the front.
    """

    service: str
    folder: Path
    tree: Path
    exec: str
    kind: str = HTTP
    health: str = "/health"
    health_command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    probes: tuple[Mapping[str, Any], ...] = ()
    overlap: bool = True
    jit: bool = False
    start_timeout: float = 60.0
    drain_timeout: float = 30.0
    front: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> TrialSettings:
        """From the object that the control node sends."""
        paths = {name: Path(value[name]) for name in ("folder", "tree")}
        lists = {name: tuple(value[name]) for name in ("health_command", "shared", "probes") if name in value}
        return cls(**{**value, **paths, **lists})

    @property
    def state_folder(self) -> Path:
        """What stands for /var/lib/<service>."""
        return self.folder / "state"

    @property
    def home_folder(self) -> Path:
        """The home of the service, which it has on no host."""
        return self.folder / "home"

    @property
    def temporary_folder(self) -> Path:
        """What stands for /tmp, which each instance has of its own on a host."""
        return self.folder / "tmp"

    @property
    def log_folder(self) -> Path:
        """What stands for /var/log/<service>."""
        return self.folder / "log"

    def make_folders(self) -> None:
        """Make the folders that a host would have."""
        folders = (self.state_folder, self.home_folder, self.temporary_folder, self.log_folder, self.folder / "cache")
        for folder in (*folders, *(self.state_folder / name for name in self.shared)):
            folder.mkdir(exist_ok=True)

    def environment_of(self, slot: Slot) -> dict[str, str]:
        """The environment of an instance; the roles' (roles/host/vars/main.yml), with folders of the trial."""
        release = str(slot.release)
        return {
            "PATH": HOST_SEARCH_PATH,
            "LANG": "C.UTF-8",
            "USER": self.service,
            "LOGNAME": self.service,
            "HOME": str(self.home_folder),
            "TMPDIR": str(self.temporary_folder),
            "MOBIUS_CLIENT_ADDRESS": "forwarded",
            "MOBIUS_DRAIN_DEADLINE": f"{self.drain_timeout:g}",
            "MOBIUS_SERVICE": self.service,
            "MOBIUS_ENVIRONMENT": "production",
            "MOBIUS_RELEASE_ID": release,
            "MOBIUS_LOG_FILE": str(self.log_folder / f"{release}.log"),
            "PYTHONPATH": str(self.tree),
            "PYTHONPYCACHEPREFIX": str(self.folder / "cache"),
            "PYTHONNOUSERSITE": "1",
            **{name: self.in_trial(value) for name, value in self.environment.items()},
            **({} if self.kind == "worker" else {"HOST": "127.0.0.1", "PORT": str(slot.port)}),
            **({} if self.kind == "worker" else {"MOBIUS_ADDRESS": slot.address}),
            "MOBIUS_STATE_FILE": str(self.state_file(release)),
        }

    def state_file(self, release: str) -> Path:
        """The file with the state of an instance, whose path also tells its processes from all others."""
        return self.folder / f"{release}.state"

    def in_trial(self, text: str) -> str:
        """A text with the trial's folder in place of /var/lib/<service>."""
        return text.replace(f"/var/lib/{self.service}", str(self.state_folder))

    def command_of(self, command: str, slot: Slot) -> list[str]:
        """The words of a command as a host would run them; the program is as it was written.

        Raises:
            ValueError: a quotation that does not end, or no word at all.
        """
        environment = self.environment_of(slot)
        words = [
            self.in_trial(expand_word(word, str(slot.release), lambda name: environment.get(name, "")))
            for word in shlex.split(command)
        ]
        if not words:
            raise ValueError("it is empty")
        return words

    def find_program(self, name: str) -> Path | None:
        """The file of a program: one of the tree, an absolute path, or one that a host finds; None when it is none."""
        if "/" in name:
            path = Path(name) if name.startswith("/") else self.tree / name
            return path if path.is_file() and os.access(path, os.X_OK) else None
        found = shutil.which(name, path=HOST_SEARCH_PATH)
        return Path(found) if found else None
