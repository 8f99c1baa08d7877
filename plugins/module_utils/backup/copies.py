# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of backups on another host, over SSH: pushed and verified there, pulled and verified here.

`<folder>/<name of the host>/<service>-<id>.tar` and its `.sha256` lie there as here. With an `age` public key it is
`.tar.age` with a `.sha256` of its own, and who controls the host cannot read its old copies. Nothing is ever removed or
replaced there: what a host cannot do, nobody who took control of it can. The account needs a shell and coreutils. A
final name means a whole copy there, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .. import durable
from ..errors import MobiusError
from ..host.config import Host, make_room, read_regular_file
from .archive import CHUNK_BYTES, file_sha256
from .clock import Clock, timestamp, utc_now
from .store import (
    ID_PATTERN,
    Backup,
    backup_folder,
    digest_path,
    list_backups,
    lock_backups,
    parse_digest,
    require_host_name,
    update_record,
    write_digest,
)
from .verification import UNDAMAGED

_CONNECT_TIMEOUT_SECONDS = 20
_SSH_FAILED = 255  # the exit code of ssh itself
_ERROR_MAX_CHARACTERS = 300
_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_DESTINATION = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9\[][A-Za-z0-9_.:\]-]*")
_RECIPIENT = re.compile(r"(age1[0-9a-z]+)?")


@dataclass(frozen=True)
class CopyTarget:
    """Where copies go.

    Attributes:
        name: what people call it.
        destination: `user@host`, as ssh takes it; `port` its port.
        folder: absolute path there; one folder for each host is made in it.
        identity_file: the private key, on this host.
        known_hosts: a file with the key of the other host; nothing is sent to a host with another key.
        recipient: `age1...`; empty for copies that are not encrypted.
    """

    name: str
    destination: str
    folder: str
    identity_file: str
    known_hosts: str
    port: int = 22
    recipient: str = ""

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> CopyTarget:
        """From the settings of the installed command.

        Raises:
            MobiusError: invalid_input.
        """
        try:
            target = cls(**{**value, "port": int(value.get("port", 22))})
        except (TypeError, ValueError):
            raise MobiusError("invalid_input", f"A copy target has invalid settings: {value!r}.") from None
        problem = ""
        if not _PATH.fullmatch(target.folder):
            problem = f"the folder {target.folder!r}, which is not a plain absolute path"
        elif not _DESTINATION.fullmatch(target.destination):
            problem = f"the destination {target.destination!r}, which is not user@host"
        elif not _RECIPIENT.fullmatch(target.recipient):
            problem = "a recipient that is not an age public key"
        if problem:
            raise MobiusError("invalid_input", f"The copy target {target.name!r} has {problem}.")
        return target


def push_copies(host: Host, target: CopyTarget, host_name: str, clock: Clock = utc_now) -> list[str]:
    """Copy the newest good backup of each scope that is not there yet; the ids of those that were copied.

    Args:
        host_name: this host's name.

    Raises:
        MobiusError: unreachable, backup_damaged (here or there), missing_dependency without `age`, disk_full.
    """
    # what this host wrote when it had another name lies under that name
    newest = {
        backup.scope: backup for backup in list_backups(host) if backup.is_good and backup.host in (host_name, None)
    }
    stored = _list_remote_names(target, host, host_name)
    pushed = []
    for backup in sorted(newest.values(), key=lambda backup: backup.id):
        if not {f"{backup.path.name}.age", backup.path.name} & stored:
            _push_backup(target, host_name, backup)
            pushed.append(backup.id)
    times = {**read_copy_times(host), target.name: timestamp(clock())}
    make_room(_records_path(host))
    durable.write_json(_records_path(host), {"schema": 1, "copies": times}, mode=0o600)
    return pushed


def list_copies(host: Host, target: CopyTarget, host_name: str) -> list[str]:
    """The ids of the copies of a host that lie at the target, oldest first."""
    return _copy_ids(host, _list_remote_names(target, host, host_name))


def pull_copy(
    host: Host,
    target: CopyTarget,
    backup_id: str,
    *,
    host_name: str,
    of_host: str | None = None,
    identity: str | None = None,
) -> Path:
    """Fetch a copy into this host's backup folder, verified by both digests.

    Another host's goes to a folder of that host's name in it, separate from this host's: timers run at the same second
    on all hosts, so their ids are the same, and rotation must not count them.

    Args:
        backup_id: an id, or `latest` for the newest full one.
        host_name: this host's name.
        of_host: the name of the host whose copy it is; this one's when left out.
        identity: file with the age key that decrypts an encrypted one.

    Raises:
        MobiusError: unreachable, backup_missing, backup_damaged, missing_dependency, invalid_input.
    """
    owner = of_host or host_name
    names = _list_remote_names(target, host, owner)
    copy_id = _choose_copy(_copy_ids(host, names), backup_id)
    if copy_id is None:
        raise MobiusError("backup_missing", f"There is no copy {backup_id} of {owner} at {target.name}.")
    final = backup_folder(host, None if owner == host_name else owner) / f"{host.service}-{copy_id}.tar"
    is_encrypted = final.name not in names
    if is_encrypted and not identity:
        raise MobiusError(
            "invalid_input",
            f"The copy {copy_id} is encrypted.",
            do_next="Give the file with the age key that decrypts it: --identity FILE.",
        )
    stored = f"{final.name}.age" if is_encrypted else final.name
    with lock_backups(host, check_mode=False):
        expected = _read_remote_digest(target, owner, final.name)
        if final.exists():
            if file_sha256(final) == expected:
                return final
            raise MobiusError(
                "invalid_input",
                f"This host has another backup {copy_id} already, so the copy was not pulled.",
                do_next="Move that one elsewhere first, with its .sha256, or pull another copy.",
            )
        expected_stored = _read_remote_digest(target, owner, stored) if is_encrypted else expected
        descriptor, temporary = tempfile.mkstemp(
            prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=host.backup_dir
        )
        try:
            with os.fdopen(descriptor, "wb") as stream:
                remote = f"{_remote_folder(target, owner)}/{stored}"
                actual_stored = _fetch_file(target, remote, stream, identity if is_encrypted else None)
                stream.flush()
                os.fsync(stream.fileno())
            if actual_stored != expected_stored or file_sha256(Path(temporary)) != expected:
                raise MobiusError("backup_damaged", f"The copy {copy_id} at {target.name} is not what was written.")
            final.parent.mkdir(mode=0o700, exist_ok=True)
            durable.fsync_dir(host.backup_dir)
            write_digest(final, expected)
            os.rename(temporary, final)
            durable.fsync_dir(final.parent)
            if final.parent == host.backup_dir:  # one of this id may have been damaged before
                update_record(host, copy_id, UNDAMAGED)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            if not final.exists():
                digest_path(final).unlink(missing_ok=True)
    return final


def read_copy_times(host: Host) -> dict[str, str]:
    """By name of the copy target, when it last held the newest backups."""
    try:
        times = json.loads(read_regular_file(_records_path(host)))["copies"]
        return {str(name): str(at) for name, at in times.items()}
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-copies.json"


def _copy_ids(host: Host, names: set[str]) -> list[str]:
    pattern = re.compile(rf"{re.escape(host.service)}-({ID_PATTERN})\.tar(\.age)?")
    return sorted({match[1] for name in names if (match := pattern.fullmatch(name))})


def _choose_copy(ids: list[str], backup_id: str) -> str | None:
    matching = [
        candidate
        for candidate in ids
        if candidate == backup_id or (backup_id == "latest" and candidate.endswith("-full"))
    ]
    return matching[-1] if matching else None


# --- At the target ----------------------------------------------------------------------------------------------------


def _remote_folder(target: CopyTarget, owner: str) -> str:
    require_host_name(owner)
    return f"{target.folder}/{owner}"


def _ssh_command(target: CopyTarget, script: str) -> list[str]:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": target.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": str(_CONNECT_TIMEOUT_SECONDS),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    return [
        # -F none: neither the administrator's nor the user's configuration changes where it goes
        *("ssh", "-F", "none", "-T", "-p", str(target.port), "-i", target.identity_file),
        *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        target.destination,
        script,
    ]


def _to_error(target: CopyTarget, what: str, code: int, stderr: bytes) -> MobiusError:
    text = _last_characters(stderr)
    if code == _SSH_FAILED:
        return MobiusError("unreachable", f"{target.name} ({target.destination}) cannot be reached over SSH: {text}")
    if "No space left" in text or "quota" in text:
        return MobiusError("disk_full", f"{target.name} ran full: {text}")
    return MobiusError("environment_failed", f"{what} at {target.name} failed: {text or f'exit code {code}'}")


def _last_characters(stderr: bytes) -> str:
    return " ".join(stderr.decode(errors="replace").split())[-_ERROR_MAX_CHARACTERS:]


def _run_remotely(target: CopyTarget, what: str, script: str) -> bytes:
    """The output of a script at the target; `what` it does, for a message."""
    command = _ssh_command(target, script)
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise MobiusError("missing_dependency", "ssh is not installed on this host.") from None
    if done.returncode != 0:
        raise _to_error(target, what, done.returncode, done.stderr)
    return done.stdout


def _list_remote_names(target: CopyTarget, host: Host, owner: str) -> set[str]:
    folder = shlex.quote(_remote_folder(target, owner))
    listing = _run_remotely(target, "Listing the copies", f"if test -d {folder}; then ls -1 {folder}; fi")
    prefix = f"{host.service}-"
    return {line for line in listing.decode(errors="replace").splitlines() if line.startswith(prefix)}


def _read_remote_digest(target: CopyTarget, owner: str, stored: str) -> str:
    path = f"{_remote_folder(target, owner)}/{stored}.sha256"
    digest = parse_digest(_run_remotely(target, "Reading a digest", f"cat {shlex.quote(path)}"), stored)
    if digest is None:
        raise MobiusError("backup_damaged", f"The digest of {stored} at {target.name} is not a line of sha256sum.")
    return digest


# --- Transfers --------------------------------------------------------------------------------------------------------


def _push_backup(target: CopyTarget, owner: str, backup: Backup) -> None:
    """Send it under a temporary name, have it read again there, and only then give it its name."""
    if backup.sha256 is None:
        raise MobiusError("backup_damaged", f"The backup {backup.id} has no .sha256, so it is not copied.")
    folder = _remote_folder(target, owner)
    stored = f"{backup.path.name}.age" if target.recipient else backup.path.name
    part = shlex.quote(f"{folder}/.{stored}.part")
    receive = f"umask 077 && mkdir -p {shlex.quote(folder)} && cat > {part}"
    sent, plain = _send_file(target, receive, backup.path)
    if plain != backup.sha256:
        reason = f"The backup {backup.id} is not what was written, so no copy of it was kept."
        raise MobiusError("backup_damaged", reason)
    digests = {stored: sent, backup.path.name: backup.sha256}
    write_digests = " && ".join(
        f"printf '%s  %s\\n' {digest} {shlex.quote(name)} > {shlex.quote(f'{folder}/{name}.sha256')}"
        for name, digest in digests.items()
    )
    final = shlex.quote(f"{folder}/{stored}")
    verify = f'test "$(sha256sum < {part})" = "{sent}  -" || {{ echo "it reads back wrong" >&2; exit 1; }}'
    keep = f"umask 077 && sync {part} && {verify} && {write_digests} && mv -n {part} {final} && sync {final}"
    _run_remotely(target, "Keeping a copy", keep)


def _send_file(target: CopyTarget, script: str, path: Path) -> tuple[str, str]:
    """Stream a file, through age for a recipient, to a script; the SHA-256 of what was sent and of the file."""
    with open(path, "rb") as source, contextlib.ExitStack() as stack:
        remote = stack.enter_context(_process(_ssh_command(target, script), stdin=subprocess.PIPE))
        assert remote.stdin is not None
        if target.recipient:
            age = stack.enter_context(_process(["age", "--encrypt", "--recipient", target.recipient], stdin=source))
            assert age.stdout is not None
            sent = _copy_stream(age.stdout, remote.stdin)
            _require_success(age, "age")
            plain = file_sha256(path)
        else:
            sent = plain = _copy_stream(source, remote.stdin)
        stderr = remote.communicate()[1]
        if remote.returncode != 0:
            raise _to_error(target, "Writing a copy", remote.returncode, stderr)
        return sent, plain


def _fetch_file(target: CopyTarget, path: str, stream: BinaryIO, identity: str | None) -> str:
    """Stream a file into `stream`, decrypted by age when there is an `identity`; the SHA-256 of what arrived."""
    with contextlib.ExitStack() as stack:
        remote = stack.enter_context(_process(_ssh_command(target, f"cat {shlex.quote(path)}")))
        assert remote.stdout is not None
        if identity:
            command = ["age", "--decrypt", "--identity", identity]
            age = stack.enter_context(_process(command, stdin=subprocess.PIPE, stdout=stream))
            assert age.stdin is not None
            digest = _copy_stream(remote.stdout, age.stdin)
            _require_success(age, "age")
        else:
            digest = _copy_stream(remote.stdout, stream)
        stderr = remote.communicate()[1]
        if remote.returncode != 0:
            raise _to_error(target, "Reading a copy", remote.returncode, stderr)
        return digest


@contextlib.contextmanager
def _process(
    command: list[str], *, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise MobiusError("missing_dependency", f"{command[0]} is not installed on this host.") from None
    try:
        yield process
    finally:
        process.kill()
        with contextlib.suppress(OSError):
            process.communicate()


def _copy_stream(source: Any, target: Any) -> str:
    """Copy a stream; its SHA-256. A reader that has ended reports why itself, later."""
    digest = hashlib.sha256()
    with contextlib.suppress(BrokenPipeError):
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _require_success(process: subprocess.Popen[bytes], name: str) -> None:
    stderr = process.communicate()[1]
    if process.returncode != 0:
        raise MobiusError("environment_failed", f"{name} failed: {_last_characters(stderr) or process.returncode}")
