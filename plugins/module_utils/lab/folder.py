# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The folder `.lab`: what the control node keeps of a lab. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.mobius.dhash.plugins.module_utils.durable import json_bytes, write_bytes
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.lab.plan import SSH_PORT, ExpectedLab, HostAction
from ansible_collections.mobius.dhash.plugins.module_utils.lab.podman import cgroup_version, find_program

SCHEMA = 1


class LabFolder:
    """The folder `.lab` below `root`: keys, known hosts and `lab.json`.

    Everything in it belongs to the owner of `root`, also when root writes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folder = self.root / ".lab"
        stat = self.root.stat()
        self._owner = (stat.st_uid, stat.st_gid)
        self.client_key = self.folder / "id_ed25519"
        self.known_hosts = self.folder / "known_hosts"
        self.file = self.folder / "lab.json"

    def host_key(self, name: str) -> Path:
        """The private SSH host key of a host."""
        return self.folder / f"{name}_host_ed25519"

    def public(self, key: Path) -> str:
        """The public part of a key pair, `ssh-ed25519 <base64>`; empty when the pair is incomplete."""
        try:
            if not key.read_bytes():
                return ""
            return " ".join(key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def keys(self, name: str) -> dict[str, str]:
        """The public keys that a host is created with."""
        return {"client": self.public(self.client_key), "host": self.public(self.host_key(name))}

    def recorded_ports(self, lab: str) -> dict[str, dict[int, int]]:
        """The ports each host had; empty when the record is missing, damaged, or of another lab (a copied folder)."""
        try:
            record = json.loads(self.file.read_bytes())
            if record["schema"] != SCHEMA or record["lab"] != lab:
                return {}
            return {row["name"]: {int(k): int(v) for k, v in row["ports"].items()} for row in record["hosts"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def lock_file(self) -> Path:
        """The file to lock while the lab changes. It lies outside of `.lab`, which is removed with the lab."""
        folder = self.root / ".cache"
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            os.chown(folder, *self._owner)
        return folder / "lab.lock"

    def make_folder(self) -> None:
        """Make the folder, readable by its owner only."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.folder, *self._owner)

    def make_key(self, key: Path) -> None:
        """Make a key pair unless a complete one exists."""
        if self.public(key):
            return
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.folder) as temporary:
            new_key = Path(temporary) / "key"
            command = [
                find_program("ssh-keygen"),
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                "mobius-lab",
                "-f",
                str(new_key),
            ]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode != 0:
                raise MobiusError("environment_failed", f"ssh-keygen failed: {done.stderr.decode(errors='replace')}")
            # The private part last: a pair is complete when both files exist.
            key.unlink(missing_ok=True)
            self._write(key.with_suffix(".pub"), new_key.with_suffix(".pub").read_bytes(), 0o644)
            self._write(key, new_key.read_bytes(), 0o600)

    def files(self, expected: ExpectedLab, actions: Iterable[HostAction]) -> dict[Path, bytes]:
        """The expected content of `lab.json` and `known_hosts`."""
        hosts = [action for action in actions if action.verb != "remove"]
        lines = [f"[127.0.0.1]:{host.ports[SSH_PORT]} {self.public(self.host_key(host.name))}\n" for host in hosts]
        service_port = expected.inner_ports[1]
        record = {
            "schema": SCHEMA,
            "lab": expected.lab,
            "root": str(self.root),
            "image": expected.image,
            "service_port": service_port,
            "memory_limits_enforced": cgroup_version() == 2,
            "hosts": [
                {
                    "name": host.name,
                    "container": host.container,
                    "debian": expected.debian,
                    "ssh_port": host.ports[SSH_PORT],
                    "http_port": host.ports[service_port],
                    "ports": {str(inner): outer for inner, outer in host.ports.items()},
                }
                for host in hosts
            ],
        }
        return {self.known_hosts: "".join(lines).encode(), self.file: json_bytes(record)}

    def differs(self, files: Mapping[Path, bytes]) -> bool:
        """Whether a file is missing or has other content."""
        return any(not path.exists() or path.read_bytes() != data for path, data in files.items())

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write the files that differ, each in one step."""
        for path, data in files.items():
            if self.differs({path: data}):
                self._write(path, data, 0o644)

    def remove_leftovers(self, expected: ExpectedLab) -> None:
        """Remove the keys of removed hosts and the leftovers of killed runs."""
        expected_keys = {self.host_key(name).name for name in expected.hosts}
        for path in self.folder.iterdir():
            if path.name.startswith((".new-", ".mobius-tmp-")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif "_host_ed25519" in path.name and path.name.removesuffix(".pub") not in expected_keys:
                path.unlink()

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        write_bytes(path, data, mode=mode, owner=self._owner)

    def ssh(self, port: int) -> list[str]:
        """The command that logs in with the same options as Ansible."""
        return [
            *(find_program("ssh"), "-F", "none", "-i", str(self.client_key), "-p", str(port), "-l", "root"),
            *("-o", f'UserKnownHostsFile="{self.known_hosts}"', "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *("-o", "ConnectTimeout=5", "127.0.0.1"),
        ]
