# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of backups on another host, over SSH: pushed and proven there, pulled back and proven here.

`<folder>/<name of the host>/<service>-<id>.tar` and its `.sha256` lie there as here. With an `age` public key it is
`.tar.age` with a `.sha256` of its own, and who holds the host cannot read its old copies. Nothing is ever removed or
replaced there: what a host cannot do, nobody who took it over can. The account needs a shell and coreutils. A
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import archive
from ansible_collections.mobius.dhash.plugins.module_utils.backup import service as backup
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

CONNECT_TIMEOUT = 20
_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")


@dataclass(frozen=True)
class Place:
    """Where copies go.

    Attributes:
        name: what people call it.
        destination: `user@host`, as ssh takes it; `port` its port.
        folder: absolute path there; one folder for each host is made in it.
        identity_file: the private key, on this host.
        known_hosts: a file with the key of the other host, which nothing is sent to otherwise.
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
    def parse(cls, value: Mapping[str, Any]) -> Place:
        """From the settings of the installed command.

        Raises:
            MobiusError: invalid_input.
        """
        try:
            place = cls(**{**value, "port": int(value.get("port", 22))})
        except (TypeError, ValueError):
            raise MobiusError("invalid_input", f"A copy has settings that cannot be understood: {value!r}.") from None
        if not _PATH.fullmatch(place.folder):
            raise MobiusError("invalid_input", f"The folder of the copy {place.name!r} is no plain absolute path.")
        if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9\[][A-Za-z0-9_.:\]-]*", place.destination):
            raise MobiusError("invalid_input", f"The copy {place.name!r} has {place.destination!r} for a destination.")
        if not re.fullmatch(r"(age1[0-9a-z]+)?", place.recipient):
            raise MobiusError("invalid_input", f"The copy {place.name!r} has a recipient that is no age public key.")
        return place


def push(host: Host, place: Place, name: str) -> list[str]:
    """Copy the newest whole backup of each scope that is not there yet; the ids of those that were copied.

    Args:
        name: this host's own name.

    Raises:
        MobiusError: unreachable, backup_damaged (here or there), missing_dependency without `age`, disk_full.
    """
    # what this host wrote when it had another name lies under that name
    newest = {item.scope: item for item in backup.existing(host) if item.damaged is None and item.host in (name, None)}
    there = _listed(place, host, name)
    pushed = []
    for item in sorted(newest.values(), key=lambda found: found.id):
        if not {f"{item.path.name}.age", item.path.name} & there:
            _push_one(place, name, item)
            pushed.append(item.id)
    _note(host, place)
    return pushed


def listed(host: Host, place: Place, name: str) -> list[str]:
    """The ids of the copies of a host that lie there, oldest first."""
    pattern = re.compile(rf"{re.escape(host.service)}-({backup.ID})\.tar(\.age)?")
    return sorted({match[1] for entry in _listed(place, host, name) if (match := pattern.fullmatch(entry))})


def pull(
    host: Host, place: Place, wanted: str, *, name: str, of_host: str | None = None, identity: str | None = None
) -> Path:
    """Bring a copy into this host's backup folder, proven by both digests; `latest` is the newest full one.

    Another host's goes to a folder of that host's name in it, apart from this host's own: timers run at the same second
    on all hosts, so their ids are the same, and rotation must not count them.

    Args:
        name: this host's own name.
        of_host: the name of the host whose copy it is; this one's when left out.
        identity: file with the age key that opens an encrypted one.

    Raises:
        MobiusError: unreachable, backup_missing, backup_damaged, missing_dependency, invalid_input.
    """
    whose = of_host or name
    names = _listed(place, host, whose)
    ids = listed(host, place, whose)
    fitting = [found for found in ids if found == wanted or (wanted == "latest" and found.endswith("-full"))]
    if not fitting:
        raise MobiusError("backup_missing", f"There is no copy {wanted} of {whose} at {place.name}.")
    final = backup.folder(host, None if whose == name else whose) / f"{host.service}-{fitting[-1]}.tar"
    stored = final.name if final.name in names else f"{final.name}.age"
    if stored != final.name and not identity:
        raise MobiusError(
            "invalid_input",
            f"The copy {fitting[-1]} is encrypted.",
            do_next="Give the file with the age key that opens it: --identity FILE.",
        )
    with backup.exclusive(host, check_mode=False):
        promised = _digest_there(place, whose, final.name)
        if final.exists():
            if archive.file_sha256(final) == promised:
                return final
            raise MobiusError(
                "invalid_input",
                f"This host has another backup {fitting[-1]} already, so the copy was not pulled.",
                do_next="Move that one elsewhere first, with its .sha256, or pull another copy.",
            )
        sent = promised if stored == final.name else _digest_there(place, whose, stored)
        descriptor, temporary = tempfile.mkstemp(
            prefix=f"{durable.TEMPORARY_PREFIX}{host.service}-", dir=host.backup_dir
        )
        try:
            with os.fdopen(descriptor, "wb") as target:
                got = _fetch(
                    place, f"{place.folder}/{whose}/{stored}", target, identity if stored != final.name else None
                )
                target.flush()
                os.fsync(target.fileno())
            found = archive.file_sha256(Path(temporary))
            if got != sent or found != promised:
                raise MobiusError("backup_damaged", f"The copy {fitting[-1]} at {place.name} is not what was written.")
            final.parent.mkdir(mode=0o700, exist_ok=True)
            durable.fsync_dir(host.backup_dir)
            durable.write_bytes(Path(f"{final}.sha256"), f"{promised}  {final.name}\n".encode(), mode=0o600)
            os.rename(temporary, final)
            durable.fsync_dir(final.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            if not final.exists():
                Path(f"{final}.sha256").unlink(missing_ok=True)
    return final


def copied(host: Host) -> dict[str, str]:
    """By name of the place, when it was last seen to hold the newest backups."""
    try:
        found = json.loads(_records_path(host).read_bytes())["copies"]
        return {str(name): str(at) for name, at in found.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-copies.json"


def _note(host: Host, place: Place) -> None:
    known = {**copied(host), place.name: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    durable.write_json(_records_path(host), {"schema": 1, "copies": known}, mode=0o600)


def _folder_there(place: Place, name: str) -> str:
    backup.require_plain(name)
    return f"{place.folder}/{name}"


def _ssh(place: Place, script: str) -> list[str]:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": place.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    # -F none: neither the administrator's nor the user's configuration changes where it goes
    return [
        "ssh",
        "-F",
        "none",
        "-T",
        "-p",
        str(place.port),
        "-i",
        place.identity_file,
        *given,
        place.destination,
        script,
    ]


def _failed(place: Place, what: str, code: int, said: bytes) -> MobiusError:
    words = " ".join(said.decode(errors="replace").split())[-300:]
    if code == 255:
        return MobiusError("unreachable", f"{place.name} ({place.destination}) cannot be reached over SSH: {words}")
    if "No space left" in words or "quota" in words:
        return MobiusError("disk_full", f"{place.name} ran full: {words}")
    return MobiusError("environment_failed", f"{what} at {place.name} failed: {words or f'exit code {code}'}")


def _there(place: Place, what: str, script: str) -> bytes:
    try:
        done = subprocess.run(_ssh(place, script), capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise MobiusError("missing_dependency", "ssh is not installed on this host.") from None
    if done.returncode != 0:
        raise _failed(place, what, done.returncode, done.stderr)
    return done.stdout


def _listed(place: Place, host: Host, name: str) -> set[str]:
    folder = shlex.quote(_folder_there(place, name))
    said = _there(place, "Listing", f"if test -d {folder}; then ls -1 {folder}; fi")
    prefix = f"{host.service}-"
    return {line for line in said.decode(errors="replace").splitlines() if line.startswith(prefix)}


def _digest_there(place: Place, name: str, stored: str) -> str:
    path = f"{_folder_there(place, name)}/{stored}.sha256"
    said = _there(place, "Reading a digest", f"cat {shlex.quote(path)}")
    match = re.fullmatch(rb"([0-9a-f]{64})  ([^\n]+)\n", said)
    if not match or match[2] != stored.encode():
        raise MobiusError("backup_damaged", f"The digest of {stored} at {place.name} is no line of sha256sum.")
    return match[1].decode()


def _push_one(place: Place, name: str, item: backup.Backup) -> None:
    """Send it under a temporary name, have it read again there, and only then give it its name."""
    if item.sha256 is None:
        raise MobiusError("backup_damaged", f"The backup {item.id} has no .sha256, so it is not copied.")
    folder = _folder_there(place, name)
    stored = f"{item.path.name}.age" if place.recipient else item.path.name
    part = shlex.quote(f"{folder}/.{stored}.part")
    begin = f"umask 077 && mkdir -p {shlex.quote(folder)} && cat > {part}"
    sent, plain = _send(place, begin, item.path)
    if plain != item.sha256:
        raise MobiusError("backup_damaged", f"The backup {item.id} is not what was written, so no copy of it was kept.")
    digests = {stored: sent, item.path.name: item.sha256}
    lines = " && ".join(
        f"printf '%s  %s\\n' {value} {shlex.quote(key)} > {shlex.quote(f'{folder}/{key}.sha256')}"
        for key, value in digests.items()
    )
    final = shlex.quote(f"{folder}/{stored}")
    check = f'test "$(sha256sum < {part})" = "{sent}  -" || {{ echo "it reads back wrong" >&2; exit 1; }}'
    _there(
        place,
        "Keeping a copy",
        f"umask 077 && sync {part} && {check} && {lines} && mv -n {part} {final} && sync {final}",
    )


def _send(place: Place, script: str, path: Path) -> tuple[str, str]:
    """Stream a file through age, when asked for, to a command there; SHA-256 of what was sent and of the file."""
    with open(path, "rb") as source, contextlib.ExitStack() as held:
        remote = held.enter_context(_process(_ssh(place, script), stdin=subprocess.PIPE))
        assert remote.stdin is not None
        if place.recipient:
            age = held.enter_context(_process(["age", "--encrypt", "--recipient", place.recipient], stdin=source))
            assert age.stdout is not None
            sent = _pump(age.stdout, remote.stdin)
            _end(age, "age")
            plain = archive.file_sha256(path)
        else:
            sent = plain = _pump(source, remote.stdin)
        said = remote.communicate()[1]
        if remote.returncode != 0:
            raise _failed(place, "Writing a copy", remote.returncode, said)
        return sent, plain


def _fetch(place: Place, path: str, target: BinaryIO, identity: str | None) -> str:
    """Stream a file from there into `target`, opened by age when it is encrypted; SHA-256 of what came."""
    with contextlib.ExitStack() as held:
        remote = held.enter_context(_process(_ssh(place, f"cat {shlex.quote(path)}")))
        assert remote.stdout is not None
        if identity:
            command = ["age", "--decrypt", "--identity", identity]
            age = held.enter_context(_process(command, stdin=subprocess.PIPE, stdout=target))
            assert age.stdin is not None
            got = _pump(remote.stdout, age.stdin)
            _end(age, "age")
        else:
            got = _pump(remote.stdout, target)
        said = remote.communicate()[1]
        if remote.returncode != 0:
            raise _failed(place, "Reading a copy", remote.returncode, said)
        return got


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


def _pump(source: Any, target: Any) -> str:
    """Copy a stream; its SHA-256. A reader that has gone says why in its own words, later."""
    digest = hashlib.sha256()
    with contextlib.suppress(BrokenPipeError):
        while chunk := source.read(archive.CHUNK):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _end(process: subprocess.Popen[bytes], name: str) -> None:
    said = process.communicate()[1]
    if process.returncode != 0:
        words = " ".join(said.decode(errors="replace").split())[-300:]
        raise MobiusError("environment_failed", f"{name} failed: {words or process.returncode}")
