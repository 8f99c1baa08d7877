# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The heads of the history of runs that a host keeps, out of reach of the control node."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


def other_chains(heads: Iterable[Mapping[str, Any]], chain: Any) -> list[dict[str, Any]]:
    """The last known head of each other chain, in the order of their first heads."""
    last: dict[str, Mapping[str, Any]] = {}
    for head in heads:
        if head.get("chain") != chain:
            last[str(head.get("chain"))] = head
    return [{name: head.get(name) for name in (*FIELDS, "at")} for head in last.values()]


@dataclass(frozen=True)
class Kept:
    """Whether a host keeps a head.

    `problem` is None when it does. `other_chains` has the last known head of each other chain that it has witnessed;
    `is_refused` means that it has witnessed only those, and was not to begin another.
    """

    problem: str | None
    other_chains: list[dict[str, Any]] = field(default_factory=list)
    is_refused: bool = False


def keep(folder: str | Path, head: Mapping[str, Any], *, new_chain: bool = True, check: bool = False) -> Kept:
    """Append a head to the list, unless it is the last one there.

    It never raises: a host that cannot keep a head must not fail a run or delay a rollback.

    Args:
        new_chain: whether the host keeps a head of a chain that it does not know, although it knows another.
        check: write nothing.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    entry = {**{name: head.get(name) for name in FIELDS}, "at": now}
    path = heads_path(folder)
    try:
        if check:
            return _refusal(read_heads(folder), entry, new_chain) or Kept("Nothing is kept in check mode.")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with durable.locked(path.parent / "lock"):
            heads = read_heads(folder)
            if refusal := _refusal(heads, entry, new_chain):
                return refusal
            if not heads or any(heads[-1].get(name) != entry[name] for name in FIELDS):
                durable.append_line(path, json.dumps(entry, sort_keys=True))
            return Kept(None, other_chains(heads, entry["chain"]))
    except (OSError, TimeoutError) as error:
        return Kept(f"This host cannot keep the head of the history: {error}.")


def _refusal(heads: list[dict[str, Any]], entry: Mapping[str, Any], new_chain: bool) -> Kept | None:
    others = other_chains(heads, entry["chain"])
    if new_chain or not others or any(head.get("chain") == entry["chain"] for head in heads):
        return None
    return Kept("This host has witnessed another history, and nothing of this one.", others, is_refused=True)


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
