# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Metrics of a host's backups for Prometheus: a file for the textfile collector of its node exporter.

Whoever backs up, verifies, restores or drills writes it again, a timer as well as a playbook, also when that fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from ..host.config import Host
from ..host.failures import to_failure
from . import copies, drill
from .settings import BackupSettings, copy_targets, read_settings
from .store import SCOPES, list_backups

_HELP = {
    "mobius_backup_count": "Backups in the backup folder.",
    "mobius_backup_damaged": "Backups that are known not to be what was written.",
    "mobius_backup_source_damaged": "Backups that were made of damaged data.",
    "mobius_backup_created_timestamp_seconds": "When the newest good backup was begun.",
    "mobius_backup_verified_timestamp_seconds": "When the newest good backup was last verified; 0: never.",
    "mobius_backup_bytes": "Size of the newest good backup.",
    "mobius_backup_drill_timestamp_seconds": "When the last drill ended; 0: never.",
    "mobius_backup_drill_success_timestamp_seconds": "When the last successful drill ended; 0: never.",
    "mobius_backup_copied_timestamp_seconds": "When this copy target last held the newest backups; 0: never.",
}


def metrics_text(host: Host, target_names: Sequence[str] = ()) -> str:
    """The metrics in Prometheus' text format."""
    backups = list_backups(host)
    values: dict[str, dict[str, float]] = {name: {} for name in _HELP}
    for scope in SCOPES:
        of_scope = [backup for backup in backups if backup.scope == scope]
        good = [backup for backup in of_scope if backup.is_good]
        labels = f'service="{host.service}",scope="{scope}"'
        values["mobius_backup_count"][labels] = len(of_scope)
        values["mobius_backup_damaged"][labels] = sum(backup.damaged is not None for backup in of_scope)
        values["mobius_backup_source_damaged"][labels] = sum(backup.source_damage is not None for backup in of_scope)
        if good:
            values["mobius_backup_created_timestamp_seconds"][labels] = good[-1].begun.timestamp()
            values["mobius_backup_verified_timestamp_seconds"][labels] = _to_seconds(good[-1].verified)
            values["mobius_backup_bytes"][labels] = good[-1].bytes
    label, drills, copied = f'service="{host.service}"', drill.read_records(host), copies.read_copy_times(host)
    values["mobius_backup_drill_timestamp_seconds"][label] = _to_seconds(drills.get("last", {}).get("at"))
    values["mobius_backup_drill_success_timestamp_seconds"][label] = _to_seconds(drills.get("success", {}).get("at"))
    for name in target_names:
        values["mobius_backup_copied_timestamp_seconds"][f'{label},place="{name}"'] = _to_seconds(copied.get(name))
    lines = []
    for name, by_labels in values.items():
        if by_labels:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{labels}}} {value:.0f}" for labels, value in by_labels.items()]
    return "\n".join(lines) + "\n"


def _to_seconds(moment: Any) -> float:
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).timestamp()
    except (TypeError, ValueError):
        return 0.0


def write_metrics(host: Host, settings: BackupSettings) -> None:
    """Write the file in one step; nothing, where the settings name no folder for it."""
    if folder := settings.get("metrics_dir"):
        content = metrics_text(host, [target.name for target in copy_targets(settings)])
        durable.write_bytes(Path(folder) / f"{host.service}-backup.prom", content.encode(), mode=0o644)


@contextlib.contextmanager
def update_metrics(host: Host, config_dir: str, warn: Callable[[str], None], *, read_only: bool) -> Iterator[None]:
    """Write the file after what is done, however that ends, unless it is `read_only`.

    A failure to write it is a warning: metrics never fail a backup.
    """
    try:
        yield
    finally:
        if not read_only:
            try:
                write_metrics(host, read_settings(host.service, config_dir))
            except (MobiusError, OSError) as error:
                warn(f"The metrics of the backups were not written: {to_failure(error).reason}")
