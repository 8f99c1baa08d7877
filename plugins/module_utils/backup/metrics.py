# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Metrics of a host's backups for Prometheus: a file for the textfile collector of its node exporter.

Whoever backs up, verifies, restores or drills writes it again, a timer as well as a playbook, also when that fails.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from ..host.config import Host
from ..host.failures import to_failure
from ..metric_table import Sample, make_page
from . import copies, drill
from .settings import BackupSettings, copy_targets, read_settings
from .store import SCOPES, list_backups


def metrics_text(host: Host, target_names: Sequence[str] = (), now: float | None = None) -> str:
    """The metrics in Prometheus's text format; `now` in seconds since the epoch."""
    backups, samples = list_backups(host), list[Sample]()
    of_service = {"service": host.service}
    for scope in SCOPES:
        of_scope = [backup for backup in backups if backup.scope == scope]
        newest = next((backup for backup in reversed(of_scope) if backup.is_good), None)
        values = {
            "mobius_backups": len(of_scope),
            "mobius_backup_damaged": sum(backup.damaged is not None for backup in of_scope),
            "mobius_backup_source_damaged": sum(backup.source_damage is not None for backup in of_scope),
            # 0 without a good one: a series that is missing would raise no alert
            "mobius_backup_created_timestamp_seconds": newest.begun.timestamp() if newest else 0,
            "mobius_backup_verified_timestamp_seconds": _to_seconds(newest.verified) if newest else 0,
            "mobius_backup_bytes": newest.bytes if newest else 0,
        }
        samples += [(name, {**of_service, "scope": scope}, value) for name, value in values.items()]
    drills, copied = drill.read_records(host), copies.read_copy_times(host)
    for name, key in (
        ("mobius_backup_drill_timestamp_seconds", "last"),
        ("mobius_backup_drill_success_timestamp_seconds", "success"),
    ):
        samples.append((name, of_service, _to_seconds(drills.get(key, {}).get("at"))))
    for target in target_names:
        labels = {**of_service, "target": target}
        samples.append(("mobius_backup_copied_timestamp_seconds", labels, _to_seconds(copied.get(target))))
    samples.append(("mobius_backup_metrics_timestamp_seconds", of_service, time.time() if now is None else now))
    return make_page(samples)


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
