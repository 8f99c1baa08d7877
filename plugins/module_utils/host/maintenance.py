# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Maintenance: clients get 503 and a page, while instances, probes and releases go on.

A file beside the activation record is the state, so a front that is started again and a reboot obey it. What the file
holds is for people only: a damaged one counts as maintenance all the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from .config import SCHEMA, Host, make_room, read_state_file, require_field, set_aside


@dataclass(frozen=True)
class Maintenance:
    """Who began a maintenance, when (RFC 3339), why, and in which run."""

    since: str
    actor: str
    reason: str | None = None
    run: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The content of `maintenance.json`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


def maintenance_path(host: Host) -> Path:
    """The file that is there during a maintenance."""
    return host.root / "maintenance.json"


def read_maintenance(host: Host) -> Maintenance | None:
    """The maintenance of a host; None when there is none."""
    path = maintenance_path(host)
    try:
        content = read_state_file(path)
        if content is None:
            return None
        return Maintenance(
            since=require_field(path, content, "since", str),
            actor=require_field(path, content, "actor", str),
            reason=require_field(path, content, "reason", str, None),
            run=require_field(path, content, "run", str, None),
        )
    except MobiusError:
        return Maintenance("an unknown time", "somebody", f"{path} is damaged")


def write_maintenance(host: Host, maintenance: Maintenance) -> None:
    """Begin a maintenance, durably. Raises OSError."""
    path = maintenance_path(host)
    make_room(path)
    durable.write_json(path, maintenance.as_dict())


def remove_maintenance(host: Host) -> None:
    """End a maintenance, durably; what is no file in its place is kept beside it. Raises OSError."""
    path = maintenance_path(host)
    if path.is_dir() and not path.is_symlink():
        set_aside(path)
    path.unlink(missing_ok=True)
    durable.fsync_dir(path.parent)
