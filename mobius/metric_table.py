# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every metric of MOBIUS, and how a page of them is written.

One table (`METRICS`) makes the pages of hosts and of the control node, `docs/metrics.md`, and what rules and dashboards
may ask for. Hosts use this same file (`plugins/module_utils/metric_table.py` is a link to it), so it imports the
standard library only. Source of the format: "Exposition formats" of prometheus.io, version 0.0.4; of the names:
"Metric and label naming" there, which `promtool check metrics` checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
HOST, FRONT, BACKUP, SERVICE = "host", "front", "backup", "service"


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its type, who writes it, its labels, and its meaning in one sentence."""

    name: str
    kind: str
    source: str
    labels: tuple[str, ...]
    meaning: str

    def head(self) -> list[str]:
        """The lines before its series on a page."""
        return [f"# HELP {self.name} {self.meaning}", f"# TYPE {self.name} {self.kind}"]


Sample = tuple[str, Mapping[str, str], float]
"""The name of a metric, the labels of a series, and its value."""


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


_S = ("service",)
_RELEASE = ("service", "release")
_TRAFFIC = ("service", "release", "source")

METRICS: dict[str, Metric] = _table(
    # a host: `mobius-host metrics`, each minute
    Metric(
        "mobius_release_info",
        GAUGE,
        HOST,
        ("service", "release", "version", "state"),
        "1 for each release that has an instance: serving, standby, draining, starting, silent, stopping or failed.",
    ),
    Metric("mobius_releases_running", GAUGE, HOST, _S, "Releases that have a running instance."),
    Metric(
        "mobius_release_confirmed_timestamp_seconds",
        GAUGE,
        HOST,
        ("service", "release", "version"),
        "When the confirmed release was confirmed; it serves after any reboot.",
    ),
    Metric("mobius_releases_bad", GAUGE, HOST, _S, "Releases that are marked bad."),
    Metric("mobius_promotion_pending", GAUGE, HOST, _S, "1 while a promotion is neither confirmed nor reverted."),
    Metric(
        "mobius_promotion_deadline_timestamp_seconds",
        GAUGE,
        HOST,
        ("service", "release", "stage"),
        "When the pending promotion is reverted unless it is confirmed.",
    ),
    Metric("mobius_watch_open", GAUGE, HOST, _S, "1 while the monitoring window of the confirmed release is open."),
    Metric("mobius_watch_running", GAUGE, HOST, _S, "1 while the unit of the watch runs."),
    Metric(
        "mobius_watch_end_timestamp_seconds",
        GAUGE,
        HOST,
        _RELEASE,
        "When the open monitoring window ends.",
    ),
    Metric(
        "mobius_switches_total",
        COUNTER,
        HOST,
        ("service", "event", "by"),
        "Switches in the journal: confirmed, reverted or rollback, by run, console, watch, guard or boot.",
    ),
    Metric(
        "mobius_switch_timestamp_seconds",
        GAUGE,
        HOST,
        ("service", "event"),
        "When the journal has the last such switch; 0: never.",
    ),
    Metric(
        "mobius_instance_healthy", GAUGE, HOST, _RELEASE, "1 when the health path of an instance answered with 2xx."
    ),
    Metric(
        "mobius_instance_restarts_total",
        COUNTER,
        HOST,
        _RELEASE,
        "How often systemd has started the process of an instance again by itself.",
    ),
    Metric(
        "mobius_host_problems",
        GAUGE,
        HOST,
        _S,
        "Where the host differs from its activation record and its units; left out while a command is at work.",
    ),
    Metric("mobius_host_readable", GAUGE, HOST, _S, "1 when the state files of the host could be read."),
    Metric("mobius_maintenance_active", GAUGE, HOST, _S, "1 while clients get the page of maintenance."),
    Metric("mobius_lease_held", GAUGE, HOST, _S, "1 while a run holds the lock of the host."),
    Metric(
        "mobius_release_size_bytes",
        GAUGE,
        HOST,
        _RELEASE,
        "Size of the tree of the confirmed release.",
    ),
    Metric(
        "mobius_disk_free_bytes",
        GAUGE,
        HOST,
        ("service", "folder"),
        "Free space on the disk of a folder: releases, state, backups or logs.",
    ),
    Metric(
        "mobius_certificate_expiry_timestamp_seconds",
        GAUGE,
        HOST,
        _S,
        "When the certificate of the front expires.",
    ),
    Metric("mobius_front_up", GAUGE, HOST, _S, "1 when HAProxy answers; left out for a worker."),
    Metric("mobius_front_connections", GAUGE, HOST, _S, "Connections of clients and probes to HAProxy."),
    Metric("mobius_front_connections_limit", GAUGE, HOST, _S, "The limit of connections that HAProxy accepts."),
    Metric("mobius_front_active_requests", GAUGE, HOST, _RELEASE, "Requests in progress in the slot of a release."),
    Metric("mobius_front_waiting_requests", GAUGE, HOST, _RELEASE, "Requests that wait for the slot of a release."),
    Metric(
        "mobius_front_dropped_log_lines_total",
        COUNTER,
        HOST,
        _S,
        "Lines that the traffic receiver did not get from HAProxy; while they grow, latency is not known.",
    ),
    Metric("mobius_host_metrics_timestamp_seconds", GAUGE, HOST, _S, "When this page was written."),
    # the traffic receiver, each second
    Metric(
        "mobius_front_requests_total",
        COUNTER,
        FRONT,
        (*_TRAFFIC, "code"),
        "Requests by release and class of status; none: no response.",
    ),
    Metric(
        "mobius_front_aborted_total",
        COUNTER,
        FRONT,
        (*_TRAFFIC, "by"),
        "Requests that the client or the instance ended early.",
    ),
    Metric("mobius_front_retries_total", COUNTER, FRONT, _TRAFFIC, "Connections to an instance that were tried again."),
    Metric(
        "mobius_front_response_seconds",
        HISTOGRAM,
        FRONT,
        _TRAFFIC,
        "Time until the response began, with the wait for an instance.",
    ),
    Metric(
        "mobius_front_whole_seconds",
        HISTOGRAM,
        FRONT,
        _TRAFFIC,
        "Time until the response ended; tunnels are left out.",
    ),
    Metric(
        "mobius_front_log_lines_total",
        COUNTER,
        FRONT,
        ("service", "result"),
        "Datagrams to the traffic receiver, by what became of them.",
    ),
    Metric(
        "mobius_front_forgotten_releases_total",
        COUNTER,
        FRONT,
        _S,
        "Releases whose counters made way for others.",
    ),
    Metric(
        "mobius_front_access_log_lines_total",
        COUNTER,
        FRONT,
        ("service", "result"),
        "Lines of the access log, by what became of them.",
    ),
    Metric("mobius_front_start_time_seconds", GAUGE, FRONT, _S, "When these counters were zero."),
    # the backups: each command of `mobius-backup` that may change something
    Metric("mobius_backups", GAUGE, BACKUP, ("service", "scope"), "Backups in the backup folder."),
    Metric(
        "mobius_backup_damaged",
        GAUGE,
        BACKUP,
        ("service", "scope"),
        "Backups that are known not to be what was written.",
    ),
    Metric(
        "mobius_backup_source_damaged",
        GAUGE,
        BACKUP,
        ("service", "scope"),
        "Backups that were made of damaged data.",
    ),
    Metric(
        "mobius_backup_created_timestamp_seconds",
        GAUGE,
        BACKUP,
        ("service", "scope"),
        "When the newest good backup was begun; 0: there is none.",
    ),
    Metric(
        "mobius_backup_verified_timestamp_seconds",
        GAUGE,
        BACKUP,
        ("service", "scope"),
        "When the newest good backup was last verified; 0: never.",
    ),
    Metric("mobius_backup_bytes", GAUGE, BACKUP, ("service", "scope"), "Size of the newest good backup."),
    Metric("mobius_backup_drill_timestamp_seconds", GAUGE, BACKUP, _S, "When the last drill ended; 0: never."),
    Metric(
        "mobius_backup_drill_success_timestamp_seconds",
        GAUGE,
        BACKUP,
        _S,
        "When the last successful drill ended; 0: never.",
    ),
    Metric(
        "mobius_backup_copied_timestamp_seconds",
        GAUGE,
        BACKUP,
        ("service", "target"),
        "When this copy target last held the newest backups; 0: never.",
    ),
    Metric("mobius_backup_metrics_timestamp_seconds", GAUGE, BACKUP, _S, "When this page was written."),
    # an instance of dhash; each series has the label release beside these
    Metric(
        "mobius_http_requests_total", COUNTER, SERVICE, ("release", "route", "method", "status"), "Requests answered."
    ),
    Metric(
        "mobius_http_request_duration_seconds",
        HISTOGRAM,
        SERVICE,
        ("release", "route"),
        "From the request's head to the answer, without the wait for its body.",
    ),
    Metric(
        "mobius_hash_duration_seconds",
        HISTOGRAM,
        SERVICE,
        ("release", "algorithm"),
        "Decoding and hashing one picture.",
    ),
    Metric(
        "mobius_extraction_failures_total",
        COUNTER,
        SERVICE,
        ("release", "reason"),
        "Pictures that could not be hashed.",
    ),
    Metric("mobius_requests_in_flight", GAUGE, SERVICE, ("release",), "Requests under /v1 being worked on."),
    Metric("mobius_bodies_held_bytes", GAUGE, SERVICE, ("release",), "Request bodies in memory."),
    Metric("mobius_index_pictures", GAUGE, SERVICE, ("release",), "Pictures in the index."),
    Metric("mobius_review_queue_pairs", GAUGE, SERVICE, ("release",), "Doubtful matches waiting for a person."),
    Metric(
        "mobius_log_lines_lost_total", COUNTER, SERVICE, ("release",), "Lines of the log that could not be written."
    ),
    Metric("mobius_connections", GAUGE, SERVICE, ("release",), "Open connections."),
    Metric("mobius_serving", GAUGE, SERVICE, ("release",), "1 while its state is serving."),
    Metric("mobius_build_info", GAUGE, SERVICE, ("release", "version", "service"), "What runs here."),
)


def make_page(samples: Iterable[Sample]) -> str:
    """The page of these series, in the order of the table.

    Raises:
        ValueError: a series that the table does not have, one with other labels, or one that is there twice.
    """
    lines: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        metric = METRICS.get(name)
        if metric is None or metric.kind == HISTOGRAM or set(labels) != set(metric.labels):
            raise ValueError(f"{name} with the labels {', '.join(labels) or 'none'} is not in the table of metrics")
        series = name + make_labels({label: labels[label] for label in metric.labels})
        if series in lines.setdefault(name, {}):
            raise ValueError(f"{series} is there twice")
        lines[name][series] = value
    page = []
    for name, metric in METRICS.items():
        if name in lines:
            page += metric.head()
            page += [f"{series} {format_value(value)}" for series, value in lines[name].items()]
    return "\n".join([*page, ""])


def make_labels(labels: Mapping[str, str]) -> str:
    """Labels as a page has them, in braces; nothing without any."""
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def format_value(value: float) -> str:
    """A value as a page has it: to a millisecond for a time of this century."""
    if math.isnan(value) or math.isinf(value):
        return {True: "+Inf", False: "-Inf"}[value > 0] if math.isinf(value) else "NaN"
    return f"{value:.13g}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
