# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The chained journal of switches: each line names the SHA-256 of the line before it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import durable
from .config import Host, set_aside

FIRST_PREVIOUS_SHA256 = "0" * 64


def read_last_lines(path: Path, size: int | None = 1 << 16) -> list[bytes]:
    """The last lines of a file, without their ends; the first of them may be cut. None as `size` reads all of it."""
    try:
        # the user of the service may write in its log folder: never follow a link or open a pipe there
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return []
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return []
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            stream.seek(0 if size is None else max(0, status.st_size - size))
            return stream.read(size).splitlines()
    finally:
        os.close(descriptor)


def read_tail(host: Host) -> list[dict[str, Any]]:
    """The last lines of the journal that can be read, oldest first."""
    return [line for raw in read_last_lines(host.journal_path) if (line := _parse(raw)) is not None]


def read_journal(host: Host) -> tuple[list[dict[str, Any]], int]:
    """The lines of the journal that can be read, oldest first, and how many cannot."""
    raw = read_last_lines(host.journal_path, None)
    lines = [line for item in raw if (line := _parse(item)) is not None]
    return lines, len(raw) - len(lines)


def without_digest(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as the activation record holds it."""
    return {name: value for name, value in line.items() if name != "prev_sha256"}


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def missing_lines(host: Host, lines: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Those of these lines that are not at the end of the journal, whatever lines they follow."""
    if not lines:
        return ()
    journaled = [without_digest(content) for content in read_tail(host)]
    return tuple(line for line in lines if without_digest(line) not in journaled)


def append_journal(host: Host, line: Mapping[str, Any]) -> None:
    """Append a line that carries the SHA-256 of the line before it; what is no file in its place is kept beside it."""
    if host.journal_path.exists() and not host.journal_path.is_file():
        set_aside(host.journal_path)
    before = read_last_lines(host.journal_path)
    previous = hashlib.sha256(before[-1]).hexdigest() if before else FIRST_PREVIOUS_SHA256
    chained = {**line, "prev_sha256": previous}
    text = json.dumps(chained, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    durable.append_line(host.journal_path, text)


def journal_head(host: Host, kept: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """`{lines, sha256}`: how many lines the journal has, and the SHA-256 of the last of them.

    Args:
        kept: the head in the present activation record. It stays when the journal no longer has that line: what was cut
            from it then remains visible to `mobius history verify`. It also stays when the journal cannot be read.
    """
    try:
        lines = read_last_lines(host.journal_path, None)
    except OSError:
        return kept
    if kept is not None:
        number = int(kept["lines"])
        if len(lines) < number or (number and hashlib.sha256(lines[number - 1]).hexdigest() != kept["sha256"]):
            return kept
    return {"lines": len(lines), "sha256": hashlib.sha256(lines[-1]).hexdigest()} if lines else None


def journal_problems(host: Host) -> list[str]:
    """The problems of the journal, one sentence each; empty when the chain is intact."""
    problems = []
    previous = FIRST_PREVIOUS_SHA256
    for number, raw in enumerate(read_last_lines(host.journal_path, None), 1):
        content = _parse(raw)
        if content is None:
            problems.append(f"line {number} of {host.journal_path} is not a JSON object")
        elif content.get("prev_sha256") != previous:
            problems.append(f"line {number} of {host.journal_path} does not follow the line before it")
        previous = hashlib.sha256(raw).hexdigest()
    return problems
