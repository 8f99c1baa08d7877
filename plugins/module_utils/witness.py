# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The heads of the history of runs that a host keeps, out of reach of the control node."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from . import durable
from .errors import MobiusError
from .host.config import Host
from .host.state import read_activation

DIR: Final = "/var/lib/mobius-witness"
FIELDS: Final = ("chain", "seq", "hash", "run")


def heads_path(folder: str | Path) -> Path:
    """The list of heads, one JSON object a line."""
    return Path(folder) / "heads.jsonl"


def read_heads(folder: str | Path) -> list[dict[str, Any]]:
    """Every head of the list that can be read, oldest first."""
    heads = []
    try:
        lines = heads_path(folder).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            heads.append(json.loads(line))
    return [head for head in heads if isinstance(head, dict)]


def keep(folder: str | Path, head: Mapping[str, Any]) -> str | None:
    """Append a head to the list, unless it is the last one there; returns the problem, None when the host has the head.

    It never raises: a host that cannot keep a head must not fail a run or delay a rollback.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    entry = {**{name: head.get(name) for name in FIELDS}, "at": now}
    path = heads_path(folder)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with durable.locked(path.parent / "lock"):
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except FileNotFoundError:
                lines = []
            try:
                last = json.loads(lines[-1]) if lines else {}
            except ValueError:
                last = {}
            if any(last.get(name) != entry[name] for name in FIELDS):
                durable.append_line(path, json.dumps(entry, sort_keys=True))
    except (OSError, TimeoutError) as error:
        return f"This host cannot keep the head of the history: {error}."
    return None


def confirmed(params: Mapping[str, Any]) -> str | None:
    """The release that the host has confirmed; None when it has none or is not prepared.

    Args:
        params: `service`, which may be None, and `config_dir`.
    """
    if not params["service"]:
        return None
    try:
        return read_activation(Host.load(params["service"], params["config_dir"])).confirmed
    except (MobiusError, OSError):
        return None
