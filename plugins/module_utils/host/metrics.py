# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The metrics of a service on this host, for the textfile collector of Prometheus's node exporter.

A timer runs `mobius-host metrics` each minute. It takes no lock and starts nothing, and what cannot be read is left
out: a page with less on it is better than the last one, which would look as if all were as it was then.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import MobiusError
from ..manifest import release_of
from ..metric_table import Sample, make_page
from .config import Host, read_regular_file
from .executor import Executor
from .front.certificate import read_expiry
from .fronted import Front
from .instance import STATE_TIMEOUT_SECONDS, is_answering, read_slots
from .journal import read_journal
from .plan import Observation
from .status import status

SWITCH_EVENTS = ("confirmed", "reverted", "rollback")
SWITCHED_BY = ("run", "console", "watch", "guard", "boot")
PAGE_SUFFIX, TRAFFIC_SUFFIX = "-host.prom", "-front.prom"


def metrics_page(executor: Executor, now: Callable[[], float] = time.time) -> str:
    """The page in Prometheus's text format.

    Args:
        executor: with `may_rebuild`, so that a damaged record shows as a problem.
        now: seconds since the epoch.
    """
    samples = list(_samples(executor, now()))
    return make_page(samples)


def write_metrics(executor: Executor, now: Callable[[], float] = time.time) -> Path:
    """Write the page in one step, and link the page of the traffic receiver beside it. Gives the path of the page.

    Raises:
        MobiusError: `invalid_input` when the host has no folder for it.
        OSError: it cannot be written.
    """
    host = executor.host
    if host.metrics_dir is None:
        raise MobiusError(
            "invalid_input",
            f"The host has no folder for the metrics of {host.service}.",
            do_next="Set host_metrics_dir, and run playbooks/provision.yml (or `mobius provision`).",
        )
    path = host.metrics_dir / f"{host.service}{PAGE_SUFFIX}"
    durable.write_bytes(path, metrics_page(executor, now).encode(), mode=0o644)
    _link_traffic_page(host, host.metrics_dir / f"{host.service}{TRAFFIC_SUFFIX}")
    return path


def _link_traffic_page(host: Host, link: Path) -> None:
    """The receiver writes its page each second, as a user that may not write here; a link shows it with no delay.

    A link to nothing would be an error of the collector, so there is none then.
    """
    if host.traffic_page.exists():
        if not link.is_symlink() or os.readlink(link) != str(host.traffic_page):
            durable.replace_symlink(link, str(host.traffic_page))
    else:
        link.unlink(missing_ok=True)


def _samples(executor: Executor, now: float) -> Iterator[Sample]:
    host = executor.host
    service = {"service": host.service}
    yield "mobius_host_metrics_timestamp_seconds", service, now
    yield from _disk_samples(host)
    yield from _certificate_samples(host)
    try:
        observed = executor.observe()
        facts = status(executor)
    except (MobiusError, OSError):
        yield "mobius_host_readable", service, 0
        return
    is_readable = not observed.is_record_lost and observed.record_problem is None and observed.is_journal_readable
    yield "mobius_host_readable", service, float(is_readable)
    yield from _release_samples(executor, facts)
    yield from _window_samples(executor, observed, now)
    yield from _switch_samples(host)
    if not facts["at_work"]:
        yield "mobius_host_problems", service, len(facts["problems"])
    yield "mobius_maintenance_active", service, float(facts["maintenance"] is not None)
    yield "mobius_lease_held", service, float(facts["lease"] is not None)
    yield from _front_samples(executor)


def _release_samples(executor: Executor, facts: Mapping[str, Any]) -> Iterator[Sample]:
    host, service = executor.host, {"service": executor.host.service}
    units = {}
    with contextlib.suppress(MobiusError, OSError):
        units = executor.systemd.units(host.unit("*"))
    running = 0
    for item in facts["releases"]:
        release, version = item["release"], item["version"]
        labels = {**service, "release": release}
        if item["state"] not in ("kept", "bad", "removed"):
            yield "mobius_release_info", {**labels, "version": version, "state": item["state"]}, 1
            unit = units.get(host.unit(release))
            running += unit is not None and unit.active in ("active", "activating", "reloading", "deactivating")
            yield "mobius_instance_restarts_total", labels, unit.restarts if unit is not None else 0
            yield "mobius_instance_healthy", labels, float(_is_healthy(host, release))
        if release == facts["confirmed"]:
            confirmed = _to_seconds(item["confirmed"])
            yield "mobius_release_confirmed_timestamp_seconds", {**labels, "version": version}, confirmed
            size = _tree_size(host, release)
            if size is not None:
                yield "mobius_release_size_bytes", labels, size
    yield "mobius_releases_running", service, running
    yield "mobius_releases_bad", service, sum(item["bad"] for item in facts["releases"])


def _is_healthy(host: Host, release: str) -> bool:
    try:
        return is_answering(host, release, STATE_TIMEOUT_SECONDS)
    except MobiusError:
        return False


def _tree_size(host: Host, release: str) -> int | None:
    """The bytes of the files of a release, from its manifest; None without one that can be read."""
    try:
        content = json.loads(read_regular_file(host.release_dir(release_of(release)) / "manifest.json"))
        return sum(int(entry["size"]) for entry in content["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _window_samples(executor: Executor, observed: Observation, now: float) -> Iterator[Sample]:
    service = {"service": executor.host.service}
    promotion, window = observed.open_promotion, observed.open_window
    yield "mobius_promotion_pending", service, float(promotion is not None)
    if promotion is not None:
        labels = {**service, "release": promotion.release, "stage": promotion.stage}
        yield "mobius_promotion_deadline_timestamp_seconds", labels, now + promotion.deadline - observed.at
    is_open = window is not None and window.until > observed.at
    yield "mobius_watch_open", service, float(is_open)
    yield "mobius_watch_running", service, float(observed.is_watched)
    if window is not None and is_open:
        labels = {**service, "release": window.release}
        yield "mobius_watch_end_timestamp_seconds", labels, now + window.until - observed.at


def _switch_samples(host: Host) -> Iterator[Sample]:
    """Zeros too: the first switch of a series that begins with it would be no increase."""
    try:
        lines, _ = read_journal(host)
    except OSError:
        return
    counts = {(event, by): 0 for event in SWITCH_EVENTS for by in SWITCHED_BY}
    last = dict.fromkeys(SWITCH_EVENTS, 0.0)
    for line in lines:
        event = line.get("event")
        if event in SWITCH_EVENTS:
            counts[event, _switched_by(line)] += 1
            last[event] = max(last[event], _to_seconds(line.get("at")))
    for (event, by), count in counts.items():
        yield "mobius_switches_total", {"service": host.service, "event": event, "by": by}, count
    for event, at in last.items():
        yield "mobius_switch_timestamp_seconds", {"service": host.service, "event": event}, at


def _switched_by(line: Mapping[str, Any]) -> str:
    """Who has switched: a run has an id, the host's own units write their names, and the rest were people."""
    actor = line.get("actor")
    if actor in SWITCHED_BY:
        return str(actor)
    return "run" if line.get("run") else "console"


def _disk_samples(host: Host) -> Iterator[Sample]:
    folders = {"releases": host.releases_dir, "state": host.state_dir, "backups": host.backup_dir, "logs": host.log_dir}
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            disk = os.statvfs(folder)
            labels = {"service": host.service, "folder": name}
            yield "mobius_disk_free_bytes", labels, disk.f_bavail * disk.f_frsize


def _certificate_samples(host: Host) -> Iterator[Sample]:
    if host.front.certificate is not None:
        try:
            expiry = read_expiry(host.front.certificate)
        except MobiusError:
            expiry = 0.0  # one that cannot be read is as good as one that has expired
        yield "mobius_certificate_expiry_timestamp_seconds", {"service": host.service}, expiry


def _front_samples(executor: Executor) -> Iterator[Sample]:
    host, service = executor.host, {"service": executor.host.service}
    if not isinstance(executor.front, Front):
        return
    runtime = executor.front.runtime
    try:
        info = runtime.info()
        slots = [slot for slot in read_slots(host) if slot.release is not None]
        figures = {str(slot.release): runtime.figures(slot.number) for slot in slots}
    except (MobiusError, OSError):
        yield "mobius_front_up", service, 0
        return
    yield "mobius_front_up", service, 1
    yield "mobius_front_connections", service, info.connections
    yield "mobius_front_connections_limit", service, host.front.max_connections
    yield "mobius_front_dropped_log_lines_total", service, info.dropped_logs
    for release, of_slot in figures.items():
        yield "mobius_front_active_requests", {**service, "release": release}, of_slot.active
        yield "mobius_front_waiting_requests", {**service, "release": release}, of_slot.waiting


def _to_seconds(moment: Any) -> float:
    """Seconds since the epoch of a time of the journal or the record; 0 for none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0
