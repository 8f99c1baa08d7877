# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Revisions: a release with the configuration that it runs with.

The role host describes the configuration that new revisions get. Staging keeps it beside the tree of the release, in a
folder of the revision, so that a rollback gives back the tree and the configuration. What belongs to the host (the
front, folders, limits, the sandbox, time-outs) is in no revision. A release id without a digest is a revision of an
earlier version of MOBIUS: it runs with the configuration that the host describes at the time.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable, staged_tree
from ..errors import MobiusError
from ..manifest import release_of
from .config import SCHEMA, Host, corrupt_state, instance_name, read_state_file

CONFIGURATION_NAME = "configuration.json"
DIGEST_DIGITS = 8
SCRIPT_NAME = "start"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# what a word of a command may name: where the instance listens, a variable, its unit, and the characters themselves
_COMMAND_PART = re.compile(
    r"\{(?P<place>address|host|port)\}|\$\{(?P<inside>[A-Za-z_]\w*)\}|\A\$(?P<alone>[A-Za-z_]\w*)\Z"
    r"|(?P<dollar>\$\$)|%(?P<specifier>[i%])|(?P<character>.)",
    re.DOTALL | re.ASCII,
)
_ADDRESS_VARIABLES = {"address": "MOBIUS_ADDRESS", "host": "HOST", "port": "PORT"}


@dataclass(frozen=True)
class Configuration:
    """What an instance runs with. `health_command` is of a worker."""

    command: str
    environment: Mapping[str, str]
    health_path: str
    health_command: tuple[str, ...] = ()

    @classmethod
    def parse(cls, path: Path, content: Mapping[str, Any]) -> Configuration:
        """From the content of a file.

        Raises:
            MobiusError: `state_damaged`.
        """
        if problem := find_configuration_problem(content):
            raise corrupt_state(path, problem)
        return cls(
            command=content["command"],
            environment={name: str(value) for name, value in content["environment"].items()},
            health_path=content["health_path"],
            health_command=tuple(content["health_command"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """The content of the file beside the tree."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "environment": dict(self.environment),
            "health_path": self.health_path,
            "health_command": list(self.health_command),
        }

    @property
    def digest(self) -> str:
        """The first 8 hex digits of a SHA-256 over it, whatever the order of its variables."""
        return hashlib.sha256(durable.json_bytes(self.as_dict())).hexdigest()[:DIGEST_DIGITS]

    def script(self, instance: str, overrides: Mapping[str, str] | None = None) -> str:
        """The script that becomes the instance. Its unit has set its address and the variables of the role host.

        Args:
            instance: the name of the instance in its unit.
            overrides: variables in place of, or beside, those of the configuration.
        """
        environment = {**self.environment, **(overrides or {})}
        program, *arguments = shlex.split(self.command)
        if "/" in program and not program.startswith("/"):
            program = f"${{PWD}}/{program}"  # one of the tree, where the unit starts it
        words = " ".join(_as_shell_word(word, instance) for word in (program, *arguments))
        return "".join(
            (
                "#!/bin/sh\n# Written by mobius-host each time the instance starts.\n",
                *(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items())),
                f"exec {words}\n",
            )
        )


def find_configuration_problem(content: Mapping[str, Any]) -> str | None:
    """Why no instance can run with this configuration; None when one can."""
    environment, words = content.get("environment"), content.get("health_command")
    if not isinstance(environment, dict):
        return "environment is no object"
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name) or isinstance(value, dict | list) or value is None or "\0" in str(value):
            return f"no environment has {name!r}"
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "health_command is not a list of words"
    if not isinstance(content.get("health_path"), str):
        return "health_path is no text"
    command = content.get("command")
    try:
        is_command = isinstance(command, str) and "\0" not in command and bool(shlex.split(command))
    except ValueError as error:
        return f"command is {command!r} ({error})"
    return None if is_command else f"command is {command!r}"


def expand_word(
    word: str, instance: str, variable: Callable[[str], str], text: Callable[[str], str] = lambda text: text
) -> str:
    """One word of a command with what it names: `{address}`, `{host}`, `{port}`, `${NAME}`, a word that is `$NAME`,
    `%i`, `%%` and `$$`. A word stays one, unlike systemd's `$NAME`, and other specifiers of systemd are text.

    Args:
        instance: what `%i` is.
        variable: gives what stands for a variable.
        text: gives what stands for a piece of text.
    """

    def replace(match: re.Match[str]) -> str:
        part = match.groupdict()
        if part["place"]:
            return variable(_ADDRESS_VARIABLES[part["place"]])
        if name := part["inside"] or part["alone"]:
            return variable(name)
        if part["specifier"]:
            return text("%" if part["specifier"] == "%" else instance)
        return text("$" if part["dollar"] else part["character"])

    return _COMMAND_PART.sub(replace, word)


def _as_shell_word(word: str, instance: str) -> str:
    def text(piece: str) -> str:
        return f"\\{piece}" if piece in '\\"$`' else piece

    return f'"{expand_word(word, instance, lambda name: f"${{{name}}}", text)}"'


def read_present(host: Host) -> Configuration | None:
    """The configuration that a new revision gets; None on a host that an earlier version has prepared.

    Raises:
        MobiusError: `state_damaged`.
    """
    content = read_state_file(host.configuration_path)
    return None if content is None else Configuration.parse(host.configuration_path, content)


def read_configuration(host: Host, revision: str) -> Configuration | None:
    """What a revision runs with; None for a release id on a host that an earlier version has prepared.

    Raises:
        MobiusError: `state_damaged`, when it is missing as well.
    """
    if release_of(revision) == revision:
        return read_present(host)
    path = host.revision_dir(revision) / CONFIGURATION_NAME
    content = read_state_file(path)
    if content is None:
        raise corrupt_state(path, "it is missing")
    return Configuration.parse(path, content)


def _read_readable(host: Host, revision: str) -> Configuration | None:
    """As `read_configuration`; None as well when it cannot be read: what watches an instance goes on."""
    try:
        return read_configuration(host, revision)
    except (MobiusError, OSError):
        return None


def health_path_of(host: Host, revision: str) -> str:
    """The health path of an instance; that of the host where none is kept."""
    configuration = None if release_of(revision) == revision else _read_readable(host, revision)
    return host.health_path if configuration is None else configuration.health_path


def health_command_of(host: Host, revision: str) -> tuple[str, ...]:
    """The health command of a worker; that of the host where none is kept."""
    configuration = None if release_of(revision) == revision else _read_readable(host, revision)
    return host.health_command if configuration is None else configuration.health_command


def revision_of(host: Host, release: str) -> str:
    """The revision of a release with the present configuration; the release on a host that describes none.

    Raises:
        MobiusError: `state_damaged`.
    """
    present = read_present(host)
    return release if present is None else f"{release}+{present.digest}"


def keep_configuration(host: Host, revision: str, *, check: bool) -> bool:
    """Keep the present configuration beside the tree of the release, if it is not kept yet; whether it was not.

    The folder of the revision appears whole or not at all. A damaged one is replaced: its name says what it holds.

    Raises:
        MobiusError: `state_damaged`; `environment_failed` when the host describes another configuration by now.
    """
    if release_of(revision) == revision or (
        host.release_dir(revision).is_dir() and not revision_problems(host, revision)
    ):
        return False
    if check:
        return True
    present = read_present(host)
    if present is None or not revision.endswith(f"+{present.digest}"):
        raise MobiusError(
            "environment_failed",
            f"The configuration of {host.service} on this host has changed, so {revision} is not staged.",
            do_next="Run the deploy again, and no provisioning beside it.",
        )
    folder = host.revision_dir(revision)
    with staged_tree.hidden_folder(host.releases_dir) as hidden:
        made = hidden / "revision"
        made.mkdir()
        made.chmod(0o755)
        (made / "tree").symlink_to(f"../{release_of(revision)}/tree")
        durable.write_json(made / CONFIGURATION_NAME, present.as_dict(), mode=0o600)
        durable.fsync_dir(made)
        if folder.is_symlink() or folder.exists():
            os.rename(folder, hidden / "damaged")
        os.rename(made, folder)
        durable.fsync_dir(host.releases_dir)
    return True


def remove_revision(host: Host, revision: str) -> None:
    """Remove the folder of a revision; it disappears in one step. The caller checks that nothing needs it."""
    with staged_tree.hidden_folder(host.releases_dir) as hidden:
        os.rename(host.revision_dir(revision), hidden / "removed")
        durable.fsync_dir(host.releases_dir)


def revision_problems(host: Host, revision: str) -> list[str]:
    """Where what is kept of a revision is not what its name says, one line each."""
    folder = host.revision_dir(revision)
    problems = []
    try:
        target = os.readlink(folder / "tree")
    except OSError:
        problems.append("missing tree")
    else:
        if target != f"../{release_of(revision)}/tree":
            problems.append(f"changed tree: it leads to {target!r}")
    try:
        configuration = read_configuration(host, revision)
    except MobiusError as error:
        return [*problems, error.reason]
    if configuration is None or not revision.endswith(f"+{configuration.digest}"):
        problems.append(f"changed {CONFIGURATION_NAME}")
    return problems


def write_script(host: Host, revision: str, overrides: Mapping[str, str] | None = None) -> None:
    """Write the script that starts an instance, for its user to read; `overrides` as `Configuration.script` has them.

    Raises:
        MobiusError: `state_damaged`.
        OSError: it could not be written.
    """
    configuration = read_configuration(host, revision)
    if configuration is None:
        return  # the unit has the command
    path = host.instance_run_dir(revision) / SCRIPT_NAME
    path.parent.mkdir(exist_ok=True)  # of an instance aside; that of the unit is there
    owner = None
    with contextlib.suppress(KeyError):
        owner = (os.geteuid(), grp.getgrnam(host.user).gr_gid)
    durable.write_bytes(
        path,
        configuration.script(instance_name(revision), overrides).encode(),
        mode=0o640,
        owner=owner,
    )
