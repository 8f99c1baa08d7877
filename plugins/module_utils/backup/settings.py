# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of a host's backups, as the role backup wrote them: `/etc/mobius-backup/<service>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MobiusError
from ..host.config import read_regular_file
from .copies import CopyTarget

CONFIG_DIR = "/etc/mobius-backup"
BackupSettings = Mapping[str, Any]


def read_settings(service: str, config_dir: str | Path = CONFIG_DIR) -> BackupSettings:
    """The service's settings; empty on a host on which the role never ran.

    Raises:
        MobiusError: state_damaged, when the file is invalid.
    """
    path = Path(config_dir) / f"{service}.json"
    try:
        content = json.loads(read_regular_file(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise MobiusError("state_damaged", f"{path} is invalid: {error}.") from None
    if not isinstance(content, dict):
        raise MobiusError("state_damaged", f"{path} is invalid: it holds no object.")
    return content


def copy_targets(settings: BackupSettings) -> list[CopyTarget]:
    """Where copies go.

    Raises:
        MobiusError: invalid_input.
    """
    return [CopyTarget.parse(value) for value in settings.get("copies", [])]
