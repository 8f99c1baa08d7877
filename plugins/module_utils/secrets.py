# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service's secrets on its host: a file that only root may read, whose values systemd gives to each instance."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

MODE = 0o600

_ESCAPED = re.compile(r'([\\"`$])')
_ASSIGNMENT = re.compile(r'^([A-Z_][A-Z0-9_]*)="((?:[^\\"]|\\.)*)"$', re.MULTILINE | re.DOTALL)


def environment_file(values: Mapping[str, str]) -> str:
    """The text of systemd's `EnvironmentFile=` (systemd.exec(5)): values with line breaks are whole in it."""
    escaped = {name: _ESCAPED.sub(r"\\\1", value) for name, value in values.items()}
    return "".join(f'{name}="{value}"\n' for name, value in sorted(escaped.items()))


def read_values(text: str) -> dict[str, str]:
    """The values of a text that `environment_file` made; of another text what looks like them."""
    return {match[1]: re.sub(r'\\([\\"`$])', r"\1", match[2]) for match in _ASSIGNMENT.finditer(text)}


def read_file(path: Path) -> str | None:
    """The text of the file; None when there is none, or it is not one of these.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_private(path: Path) -> bool:
    """Whether a file is root's alone."""
    state = os.lstat(path)
    return (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (0, 0, MODE)


def describe_change(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What differs, by name and without a value: `before` and `after` of a diff."""
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return {
        "before": dict.fromkeys(sorted(before), "set"),
        "after": {name: "set to another value" if name in changed else "set" for name in sorted(after)},
    }
