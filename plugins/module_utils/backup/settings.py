# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role backup has told a host of its backups: `/etc/mobius-backup/<service>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils.backup import copies
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError

CONFIG_DIR = "/etc/mobius-backup"
Settings = Mapping[str, Any]


def read(service: str, config_dir: str | Path = CONFIG_DIR) -> Settings:
    """The service's settings; empty on a host that the role was never run on.

    Raises:
        MobiusError: they cannot be understood.
    """
    path = Path(config_dir) / f"{service}.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise MobiusError("state_damaged", f"{path} cannot be understood: {error}.") from None
    if not isinstance(content, dict):
        raise MobiusError("state_damaged", f"{path} cannot be understood: it holds no object.")
    return content


def places(settings: Settings) -> list[copies.Place]:
    """Where copies go."""
    return [copies.Place.parse(value) for value in settings.get("copies", [])]
