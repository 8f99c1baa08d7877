# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The folder that the processes of one run share: names, writes and reads every temporary file in it.

`mobius` makes a private folder for a run, hands it down as MOBIUS_RUN_FOLDER and removes it when the run has ended. A
plain `ansible-playbook` has none; there it is Ansible's own temporary folder, which the workers of one process share
and which ends with that process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mobius import durable

FOLDER_VARIABLE = "MOBIUS_RUN_FOLDER"

_RUN_ID = "mobius-run-id"
_HISTORY_NOTE = "mobius-history.json"
_CHANGES = "mobius-changes.json"
_VARIABLES = "variables.json"
_OPENED = "mobius-opened"
_REFUSED = "mobius-refused"
_GATES = "gates"


class RunWorkspace:
    """The temporary files of one run. Only the methods here know their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls) -> RunWorkspace:
        """A new private folder, for `mobius`, which also removes it."""
        return cls(Path(tempfile.mkdtemp(prefix="mobius-run-")))

    @classmethod
    def of_mobius(cls, environment: Mapping[str, str]) -> RunWorkspace | None:
        """The folder of the `mobius` that runs this process; None in a plain ansible-playbook run."""
        folder = environment.get(FOLDER_VARIABLE)
        return cls(Path(folder)) if folder else None

    @classmethod
    def of_process(cls, environment: Mapping[str, str], process_folder: Path) -> RunWorkspace:
        """The folder of `mobius` while it exists, else `process_folder`, Ansible's own temporary one."""
        workspace = cls.of_mobius(environment)
        return workspace if workspace is not None and workspace.folder.is_dir() else cls(process_folder)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def claim_run_id(self, proposed: str) -> str:
        """The run's id: `proposed`, unless another process of the run was first. Nobody ever reads half an id."""
        path = self.folder / _RUN_ID
        proposal = self.folder / f".{_RUN_ID}-{secrets.token_hex(8)}"
        proposal.write_text(proposed, encoding="ascii")
        try:
            os.link(proposal, path)
        except FileExistsError:
            pass
        finally:
            proposal.unlink()
        return path.read_text(encoding="ascii")

    def write_variables(self, variables: Mapping[str, Any]) -> Path:
        """Keep extra variables in a file: every user of the machine can read a command line."""
        path = self.folder / _VARIABLES
        path.write_text(json.dumps(dict(variables)), encoding="utf-8")
        return path

    def write_history_note(self, note: Mapping[str, Any]) -> None:
        """Keep what the first worker recorded of the run, for the other processes."""
        durable.write_json(self.folder / _HISTORY_NOTE, dict(note), mode=0o600)

    def read_history_note(self) -> dict[str, Any] | None:
        """What was recorded of the run; None when nothing is yet.

        Raises:
            OSError: there is a note, and it cannot be read: the run must not go on as if nothing had been recorded.
        """
        path = self.folder / _HISTORY_NOTE
        try:
            path.stat()
        except FileNotFoundError:
            return None
        return _parse_object(path.read_bytes())

    def write_opened_host(self, host: str, opened: Mapping[str, Any]) -> None:
        """Keep how the run was opened for a host."""
        durable.write_json(self._host_path(_OPENED, host), dict(opened), mode=0o600)

    def read_opened_host(self, host: str) -> dict[str, Any] | None:
        """What `write_opened_host` kept; None when the run was not opened for this host."""
        return _read_object(self._host_path(_OPENED, host))

    def write_refusal(self, host: str, failure: Mapping[str, Any]) -> None:
        """Keep why a condition has refused a task on a host: Ansible reports no more of it than a message."""
        with contextlib.suppress(OSError):
            durable.write_json(self._host_path(_REFUSED, host), dict(failure), mode=0o600)

    def read_refusal(self, host: str) -> dict[str, Any] | None:
        """What `write_refusal` kept; None when no condition has refused a task on this host."""
        return _read_object(self._host_path(_REFUSED, host))

    def _host_path(self, kind: str, host: str) -> Path:
        return self.folder / f"{kind}-{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"

    def write_changes(self, changes: Mapping[str, Any]) -> None:
        """Keep what a run has changed, or in check mode would change, for the `mobius` that started it."""
        durable.write_json(self.folder / _CHANGES, dict(changes), mode=0o600)

    def read_changes(self) -> dict[str, Any]:
        """What `write_changes` kept; empty when that is nothing."""
        return _read_object(self.folder / _CHANGES) or {}

    def publish_sample(self, host: str, sample: Mapping[str, Any]) -> None:
        """Keep the newest sample of a host's gate. A reader never sees half of it.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.folder / _GATES
        folder.mkdir(exist_ok=True)
        path = folder / f"{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"
        path.with_suffix(".new").write_text(json.dumps({**sample, "host": host}), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    def read_new_samples(self, read_before: dict[str, int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each sample that was published since the last call, with the time it was written, in nanoseconds.

        Args:
            read_before: which was read when; kept by the caller from one call to the next.
        """
        with contextlib.suppress(OSError):
            for path in sorted((self.folder / _GATES).glob("*.json")):
                written = path.stat().st_mtime_ns
                if read_before.get(path.name) != written:
                    read_before[path.name] = written
                    sample = _read_object(path)
                    if sample is not None:
                        yield written, sample

    @contextlib.contextmanager
    def bundle_lock(self, bundle: Path) -> Iterator[None]:
        """One process of the run at a time; where a lock cannot be had, each goes on alone."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                lock = stack.enter_context(self._bundle_path(bundle).with_suffix(".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write_bundle_facts(self, bundle: Path, facts: Mapping[str, Any]) -> None:
        """Keep what reading a bundle has shown. When that fails, every process reads the bundle for itself."""
        with contextlib.suppress(OSError):
            self._bundle_path(bundle).write_text(json.dumps(dict(facts)), encoding="utf-8")

    def read_bundle_facts(self, bundle: Path) -> dict[str, Any] | None:
        """What `write_bundle_facts` kept; None for nothing, or for half of it by a process that was killed."""
        return _read_object(self._bundle_path(bundle))

    def _bundle_path(self, bundle: Path) -> Path:
        return self.folder / f"bundle-{hashlib.sha256(os.fsencode(bundle)).hexdigest()[:16]}.json"


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when it cannot be read or is none."""
    try:
        return _parse_object(path.read_bytes())
    except OSError:
        return None


def _parse_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
