# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host's backups are, for Prometheus: a file for the textfile collector of its node exporter.

Whoever backs up, verifies, restores or drills renews it, a timer as well as a playbook, also when that fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import copies, drill
from ansible_collections.mobius.dhash.plugins.module_utils.backup import service as backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup import settings as backup_settings
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import Settings
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import to_failure

_HELP = {
    "mobius_backup_count": "Backups in the backup folder.",
    "mobius_backup_damaged": "Backups that were not what was written when they were last read.",
    "mobius_backup_created_timestamp_seconds": "When the newest whole backup was begun.",
    "mobius_backup_verified_timestamp_seconds": "When the newest whole backup was last read whole; 0: never.",
    "mobius_backup_bytes": "Size of the newest whole backup.",
    "mobius_backup_drill_timestamp_seconds": "When the last drill ended; 0: never.",
    "mobius_backup_drill_success_timestamp_seconds": "When the last successful drill ended; 0: never.",
    "mobius_backup_copied_timestamp_seconds": "When this place was last seen to hold the newest backups; 0: never.",
}


def text(host: Host, places: Sequence[str] = ()) -> str:
    """What there is, in Prometheus' text format."""
    found = backup.existing(host)
    values: dict[str, dict[str, float]] = {name: {} for name in _HELP}
    for scope in backup.SCOPES:
        mine = [item for item in found if item.scope == scope]
        whole = [item for item in mine if item.damaged is None]
        labels = f'service="{host.service}",scope="{scope}"'
        values["mobius_backup_count"][labels] = len(mine)
        values["mobius_backup_damaged"][labels] = len(mine) - len(whole)
        if whole:
            values["mobius_backup_created_timestamp_seconds"][labels] = whole[-1].moment.timestamp()
            values["mobius_backup_verified_timestamp_seconds"][labels] = _seconds(whole[-1].verified)
            values["mobius_backup_bytes"][labels] = whole[-1].bytes
    label, drills, copied = f'service="{host.service}"', drill.records(host), copies.copied(host)
    values["mobius_backup_drill_timestamp_seconds"][label] = _seconds(drills.get("last", {}).get("at"))
    values["mobius_backup_drill_success_timestamp_seconds"][label] = _seconds(drills.get("success", {}).get("at"))
    for place in places:
        values["mobius_backup_copied_timestamp_seconds"][f'{label},place="{place}"'] = _seconds(copied.get(place))
    lines = []
    for name, by_labels in values.items():
        if by_labels:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{labels}}} {value:.0f}" for labels, value in by_labels.items()]
    return "\n".join(lines) + "\n"


def _seconds(moment: Any) -> float:
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).timestamp()
    except (TypeError, ValueError):
        return 0.0


def write(host: Host, settings: Settings) -> None:
    """Renew the file, in one step; where the settings name no folder for it, nothing."""
    if folder := settings.get("metrics_dir"):
        content = text(host, [place.name for place in backup_settings.places(settings)])
        durable.write_bytes(Path(folder) / f"{host.service}-backup.prom", content.encode(), mode=0o644)


@contextlib.contextmanager
def renewed(host: Host, config_dir: str, warn: Callable[[str], None], *, only_read: bool) -> Iterator[None]:
    """Renew the file after what is done, however it ends, unless it `only_read`s; metrics never fail a backup."""
    try:
        yield
    finally:
        if not only_read:
            try:
                write(host, backup_settings.read(host.service, config_dir))
            except (MobiusError, OSError) as error:
                warn(f"The metrics of the backups were not renewed: {to_failure(error).reason}")
