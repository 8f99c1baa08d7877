# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host keeps of the history of runs: its heads, which nobody on the control node can take back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import read_activation

DIR: Final = "/var/lib/mobius-witness"
FIELDS: Final = ("chain", "seq", "hash", "run")


def heads_path(folder: str | Path) -> Path:
    """The list of heads, one JSON object a line."""
    return Path(folder) / "heads.jsonl"


def keep(folder: str | Path, head: Mapping[str, Any]) -> str | None:
    """Add a head to the list, unless it is the last one there; gives what stood in the way, None when it is kept.

    It never raises: no run fails, and no rollback waits, because a host cannot keep a head.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    found = {**{name: head.get(name) for name in FIELDS}, "at": now}
    place = heads_path(folder)
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with durable.locked(place.parent / "lock"):
            try:
                lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
            except FileNotFoundError:
                lines = []
            try:
                last = json.loads(lines[-1]) if lines else {}
            except ValueError:
                last = {}
            if any(last.get(name) != found[name] for name in FIELDS):
                durable.append_line(place, json.dumps(found, sort_keys=True))
    except (OSError, TimeoutError) as error:
        return f"This host cannot keep the head of the history: {error}."
    return None


def confirmed(params: Mapping[str, Any]) -> str | None:
    """The release that the host serves after any reboot, None when it has none or is not prepared.

    Args:
        params: `service`, which may be None, and `config_dir`.
    """
    if not params["service"]:
        return None
    try:
        return read_activation(Host.load(params["service"], params["config_dir"])).confirmed
    except (MobiusError, OSError):
        return None
