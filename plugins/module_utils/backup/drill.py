# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drills: the newest backup is restored beside the live state, a release runs on it until it answers correctly.

All of that is removed afterwards. `.<service>-drills.json` in the backup folder records the last drill and the last one
that succeeded.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from .. import durable
from ..disk_space import require_space
from ..errors import MobiusError
from ..host.config import Host, make_room, read_regular_file
from ..host.failures import to_failure
from ..host.state import read_activation, staged_releases
from ..host.systemd import Systemd
from .archive import ArchiveManifest, DamagedError, describe_damage
from .clock import Clock, timestamp, utc_now
from .database import DamagedDatabaseError, require_sound_database
from .drill_instance import UNCHANGED, CountCheck, DrillChecks, DrillInstance
from .extraction import unpack_archive
from .restore import allowed_owners, require_restorable, restore_need
from .store import Backup, find_backup, lock_backups, update_record


@dataclass(frozen=True)
class DrillResult:
    """A drill that succeeded, or in check mode what it would begin with.

    `release` is None on a host that has none: then the data alone was verified. `counted` is the number that the
    restored database holds and the instance reported, `seconds` how long all of it took.
    """

    backup: Backup
    release: str | None
    files: int = 0
    counted: int | None = None
    seconds: float = 0.0


def run_drill(
    host: Host,
    checks: DrillChecks,
    *,
    host_name: str | None = None,
    systemd: Systemd | None = None,
    check_mode: bool = False,
    clock: Clock = utc_now,
) -> DrillResult:
    """Restore the newest full backup aside, run a release on it until it answers, remove all of it, record the outcome.

    Args:
        host_name: this host's name, which the backup must be of; the kernel's when left out.
        check_mode: verify the backup and report which release would be started; nothing is extracted or recorded.

    Raises:
        MobiusError: backup_missing, backup_damaged, source_damaged, disk_full; drill_failed or instance_not_ready, when
            the release does not run on it or does not answer from it. All are recorded, but a missing backup.
    """
    instance = DrillInstance(host, systemd or Systemd())
    begun = time.monotonic()
    with lock_backups(host, check_mode):
        if not check_mode:
            instance.remove()
            for folder in host.state_dir.parent.glob(f"{folder_prefix(host)}*"):
                shutil.rmtree(folder)
        backup = find_backup(host, "latest")
        release = _release_of(host, backup)
        try:
            manifest = require_restorable(
                host, backup, host_name or os.uname().nodename, record=not check_mode, clock=clock
            )
            require_space(restore_need(host, manifest))
            if check_mode:
                return DrillResult(backup, release)
            with _restored_aside(host, backup, manifest) as (folder, files):
                counted = _count_rows(host, backup, folder, checks.count)
                if release is not None:
                    with instance.running(release, folder, checks.environment) as aside:
                        instance.require_answers(aside, release, checks, counted)
            result = DrillResult(backup, release, files, counted, round(time.monotonic() - begun, 1))
        except (MobiusError, OSError) as error:
            if not check_mode:
                record_drill(host, backup, release, clock, failure=to_failure(error))
            raise
        record_drill(host, backup, release, clock, result=result)
        return result


def require_recent(host: Host, days: float, clock: Clock = utc_now) -> str | None:
    """When the last successful drill was; refuses one that is older than `days`, and none on a host that serves.

    Raises:
        MobiusError: drill_outdated.
    """
    success = read_records(host).get("success")
    moment = _time_of(success)
    if moment is None and read_activation(host).confirmed is None:
        return None  # a first install has nothing that could be lost
    if moment is None:
        raise MobiusError("drill_outdated", f"No drill of {host.service} on this host has ever succeeded.")
    age = clock() - moment
    if age > timedelta(days=days):
        raise MobiusError(
            "drill_outdated",
            f"The last successful drill of {host.service} was {age / timedelta(days=1):.1f} days ago, "
            f"and {days:g} are allowed.",
        )
    return str(success["at"]) if success else None


# --- Records ----------------------------------------------------------------------------------------------------------


def read_records(host: Host) -> dict[str, Any]:
    """The last drill (`last`) and the last that succeeded (`success`); either is missing when there was none."""
    try:
        records = json.loads(read_regular_file(_records_path(host)))
        return {key: records[key] for key in ("last", "success") if isinstance(records.get(key), dict)}
    except PermissionError:
        raise
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def record_drill(
    host: Host,
    backup: Backup,
    release: str | None,
    clock: Clock = utc_now,
    *,
    result: DrillResult | None = None,
    failure: MobiusError | None = None,
) -> None:
    """Record a drill that succeeded with a result, or failed."""
    record: dict[str, Any] = {
        "at": timestamp(clock()),
        "backup": backup.id,
        "release": release,
        "outcome": failure.outcome if failure else "success",
        "reason": failure.reason if failure else "",
    }
    if result:
        record |= {"files": result.files, "counted": result.counted, "seconds": result.seconds}
    records = {**read_records(host), "last": record, **({"success": record} if result else {})}
    make_room(_records_path(host))
    durable.write_json(_records_path(host), {"schema": 1, **records}, mode=0o600)


def _records_path(host: Host) -> Path:
    return host.backup_dir / f".{host.service}-drills.json"


def _time_of(record: Mapping[str, Any] | None) -> datetime | None:
    try:
        return datetime.fromisoformat(str(record["at"])) if record else None
    except (KeyError, ValueError):
        return None


# --- The restored data ------------------------------------------------------------------------------------------------


def folder_prefix(host: Host) -> str:
    """How the names of a drill's folders begin."""
    return f"{durable.TEMPORARY_PREFIX}{host.service}-drill-"


def _release_of(host: Host, backup: Backup) -> str | None:
    """The release that wrote what is in the backup, while it is kept; else the one that a restore would start."""
    activation = read_activation(host)
    staged = staged_releases(host)
    if backup.release in staged and not activation.is_bad(backup.release):
        return backup.release
    return activation.confirmed if activation.confirmed in staged else None


@contextlib.contextmanager
def _restored_aside(host: Host, backup: Backup, manifest: ArchiveManifest) -> Iterator[tuple[Path, int]]:
    """A folder with the backup in `data`, extracted and verified as a restore does, and how many files there are."""
    folder = Path(tempfile.mkdtemp(prefix=folder_prefix(host), dir=host.state_dir.parent))
    try:
        owner_of, _ = allowed_owners(host)
        (folder / "data").mkdir()
        try:
            files = unpack_archive(backup.path, manifest, folder / "data", owner_of)
        except DamagedError as error:
            reason = f"The backup {backup.id} could not be restored: {error}. {UNCHANGED}"
            raise MobiusError("backup_damaged", reason) from error
        yield folder, files
    finally:
        shutil.rmtree(folder)


def _count_rows(host: Host, backup: Backup, folder: Path, count: CountCheck | None) -> int | None:
    """The number that the restored database holds; None when none is compared. A backup of a damaged one is marked."""
    if count is None:
        return None
    database = folder / "data/state" / count.database
    if not database.is_file():
        return 0
    try:
        require_sound_database(database)
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return int(connection.execute(count.query).fetchone()[0])
    except DamagedDatabaseError as error:
        damage = describe_damage({f"state/{count.database}": str(error)})
        update_record(host, backup.id, {"source_damage": damage})
        reason = f"The backup {backup.id} was made of damaged data, so it is not the latest: {damage}. {UNCHANGED}"
        raise MobiusError("source_damaged", reason) from error
    except (sqlite3.Error, TypeError, ValueError) as error:
        reason = f"The query on the restored database {count.database} failed: {error}. {UNCHANGED}"
        raise MobiusError("backup_damaged", reason) from error
