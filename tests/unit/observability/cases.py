# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""For each alert: series from which it fires, from which it is silent, that are missing, and that are at its limit.

promtool's clock begins at 0 with the first sample, so a time such as a deadline is in seconds from there.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.unit.observability.promtool import HOST_LABELS, Case

_HOST = HOST_LABELS
_R2 = f'{_HOST}, release="2.0.0-b"'


def fires(series: Mapping[str, str], at: str, labels: str, summary: str, interval: str = "1m") -> Case:
    return Case("fires", series, at, {labels: summary}, interval)


def quiet(series: Mapping[str, str], at: str, interval: str = "1m") -> Case:
    return Case("quiet", series, at, interval=interval)


def missing(series: Mapping[str, str], at: str, interval: str = "1m") -> Case:
    return Case("missing", series, at, interval=interval)


def limit(series: Mapping[str, str], at: str, interval: str = "1m") -> Case:
    return Case("limit", series, at, interval=interval)


def traffic(
    failed: str, good: str, aborted: str = "0x9999", release: str = "2.0.0-b", source: str = "public"
) -> dict[str, str]:
    """Counters of requests that the instance answered with 5xx, with 2xx, or ended early."""
    labels = f'release="{release}", source="{source}"'
    return {
        f'mobius_front_requests_total{{{labels}, code="5xx"}}': failed,
        f'mobius_front_requests_total{{{labels}, code="2xx"}}': good,
        f'mobius_front_aborted_total{{{labels}, by="server"}}': aborted,
    }


def latency(release: str, fast: str, slow: str, until: float = 0.2) -> dict[str, str]:
    """A histogram of responses within 100 ms (`fast`), and of all of them, within `until` seconds (`slow`)."""
    labels = f'release="{release}", source="public"'
    name = "mobius_front_response_seconds"
    return {
        f'{name}_bucket{{{labels}, le="0.1"}}': fast,
        f'{name}_bucket{{{labels}, le="{until}"}}': slow,
        f'{name}_bucket{{{labels}, le="+Inf"}}': slow,
        f"{name}_count{{{labels}}}": slow,
    }


_INSTANCE = 'release="2.0.0-b"'
_INFO = 'mobius_release_info{release="2.0.0-b", version="2.0.0", state="%s"}'
_CONFIRMED = 'mobius_release_confirmed_timestamp_seconds{release="2.0.0-b", version="2.0.0"}'
# the release before has served for two hours, and the confirmed one from then on
_BEFORE = latency("1.0.0-a", "0+60x120 7200x60", "0+60x120 7200x60")
_SLOW = latency("2.0.0-b", "0x120 0x60", "0x120 0+60x60")
_SLOW_STEP, _DRILL_STEP = "30m", "4h"

CASES: dict[str, list[Case]] = {
    "MobiusErrorBudgetBurnsFast": [
        fires(
            traffic("0+2x120", "0+98x120"),
            "70m",
            'service="shop"',
            "shop fails 2% of its requests, which uses up the error budget of 30 days within days.",
        ),
        # 1 % for six hours is six times the budget and more
        fires(
            traffic("0+1x400", "0+99x400"),
            "380m",
            'service="shop"',
            "shop fails 1% of its requests, which uses up the error budget of 30 days within days.",
        ),
        # what the instance ended early has failed, too
        fires(
            traffic("0x120", "0+100x120", "0+2x120"),
            "70m",
            'service="shop"',
            "shop fails 2% of its requests, which uses up the error budget of 30 days within days.",
        ),
        quiet(traffic("0x120", "0+100x120"), "70m"),
        # it ended more than half an hour ago
        quiet(traffic("0+3x60 180x60", "0+97x60 5820+100x60"), "95m"),
        # what MOBIUS requests itself is no failure of clients
        quiet(traffic("0+50x120", "0+50x120", source="probe"), "70m"),
        missing({}, "70m"),
        missing(traffic("0x120", "0x120"), "70m"),
        limit(traffic("0+59x400", "0+9941x400"), "380m"),
        # 1.43 % for one hour after five good ones, and more than the limit in the next case
        limit(traffic("0x300 0+143x70", "0+10000x300 3000000+9857x70"), "368m"),
        fires(
            traffic("0x300 0+160x70", "0+10000x300 3000000+9840x70"),
            "368m",
            'service="shop"',
            "shop fails 1.6% of its requests, which uses up the error budget of 30 days within days.",
        ),
    ],
    "MobiusErrorBudgetBurnsSlowly": [
        fires(
            traffic("0+40x200", "0+9960x200"),
            "27h",
            'service="shop"',
            "shop fails 0.4% of its requests, so it will miss its objective of 30 days.",
            _SLOW_STEP,
        ),
        fires(
            traffic("0+15x200", "0+9985x200"),
            "80h",
            'service="shop"',
            "shop fails 0.15% of its requests, so it will miss its objective of 30 days.",
            _SLOW_STEP,
        ),
        quiet(traffic("0+5x200", "0+9995x200"), "80h", _SLOW_STEP),
        missing({}, "80h", _SLOW_STEP),
        limit(traffic("0+99x200", "0+99901x200"), "80h", _SLOW_STEP),
    ],
    "MobiusReleaseFailsRequests": [
        fires(
            traffic("0+6x20", "0+94x20"),
            "12m",
            'service="shop", release="2.0.0-b"',
            "Release 2.0.0-b of shop fails 6% of its requests.",
        ),
        fires(
            traffic("0x20", "0+100x20", "0+6x20"),
            "12m",
            'service="shop", release="2.0.0-b"',
            "Release 2.0.0-b of shop fails 6% of its requests.",
        ),
        # one release of two: the other has most requests and no failure
        fires(
            {**traffic("0+6x20", "0+94x20"), **traffic("0x20", "0+9900x20", release="1.0.0-a")},
            "12m",
            'service="shop", release="2.0.0-b"',
            "Release 2.0.0-b of shop fails 6% of its requests.",
        ),
        quiet(traffic("0+1x20", "0+99x20"), "12m"),
        # fewer than 20 requests in five minutes prove nothing
        quiet(traffic("0+3x20", "0x20"), "12m"),
        missing({}, "12m"),
        limit(traffic("0+5x20", "0+95x20"), "12m"),
    ],
    "MobiusSlowerThanBefore": [
        fires(
            {**_BEFORE, **_SLOW, _CONFIRMED: "0x200"},
            "160m",
            'service="shop", release="2.0.0-b"',
            "95 % of the responses of release 2.0.0-b of shop begin within 195ms, which is half as much again as with the "
            "release before.",
        ),
        # as fast as before
        quiet({**_BEFORE, **latency("2.0.0-b", "0x120 0+60x60", "0x120 0+60x60"), _CONFIRMED: "0x200"}, "160m"),
        # too few requests
        quiet({**_BEFORE, **latency("2.0.0-b", "0x200", "0x120 0+6x60"), _CONFIRMED: "0x200"}, "160m"),
        # the slow release is confirmed nowhere: the gate decides about it
        quiet({**_BEFORE, **_SLOW}, "160m"),
        # there is no release before
        missing({**_SLOW, _CONFIRMED: "0x200"}, "160m"),
        missing({_CONFIRMED: "0x200"}, "160m"),
        # 95 ms before, 152.5 ms at the limit: 0.1 + 0.055 * 0.95
        limit({**_BEFORE, **latency("2.0.0-b", "0x200", "0x120 0+60x60", 0.155), _CONFIRMED: "0x200"}, "160m"),
    ],
    "MobiusFrontDown": [
        fires({"mobius_front_up": "0x10"}, "2m", _HOST, "HAProxy of shop on web1 does not answer."),
        quiet({"mobius_front_up": "1x10"}, "5m"),
        missing({}, "5m"),
        limit({"mobius_front_up": "0x10"}, "1m"),
    ],
    "MobiusConnectionsSaturated": [
        fires(
            {"mobius_front_connections": "81x20", "mobius_front_connections_limit": "100x20"},
            "6m",
            _HOST,
            "The front of shop on web1 uses 81% of its connections.",
        ),
        quiet({"mobius_front_connections": "10x20", "mobius_front_connections_limit": "100x20"}, "6m"),
        missing({"mobius_front_connections": "81x20"}, "6m"),
        limit({"mobius_front_connections": "80x20", "mobius_front_connections_limit": "100x20"}, "6m"),
    ],
    "MobiusCertificateExpiresSoon": [
        fires(
            {"mobius_certificate_expiry_timestamp_seconds": f"{13 * 86400}x10"},
            "0m",
            _HOST,
            "The certificate of shop on web1 expires in 13d 0h 0m 0s.",
        ),
        quiet({"mobius_certificate_expiry_timestamp_seconds": f"{90 * 86400}x10"}, "5m"),
        # expired: that is another alert
        quiet({"mobius_certificate_expiry_timestamp_seconds": "60x10"}, "5m"),
        missing({}, "5m"),
        limit({"mobius_certificate_expiry_timestamp_seconds": f"{14 * 86400}x10"}, "0m"),
    ],
    "MobiusCertificateExpired": [
        fires(
            {"mobius_certificate_expiry_timestamp_seconds": "0x10"},
            "0m",
            _HOST,
            "The certificate of shop on web1 has expired or cannot be read.",
        ),
        quiet({"mobius_certificate_expiry_timestamp_seconds": f"{13 * 86400}x10"}, "5m"),
        missing({}, "5m"),
        limit({"mobius_certificate_expiry_timestamp_seconds": "301x10"}, "5m"),
        Case(
            "limit",
            {"mobius_certificate_expiry_timestamp_seconds": "300x10"},
            "5m",
            {_HOST: "The certificate of shop on web1 has expired or cannot be read."},
        ),
    ],
    "MobiusTrafficLinesLost": [
        fires(
            {"mobius_front_dropped_log_lines_total": "0x10 1x10"},
            "12m",
            _HOST,
            "The traffic receiver of shop on web1 lost log lines, so the latency of its releases is not known.",
        ),
        quiet({"mobius_front_dropped_log_lines_total": "0x20"}, "12m"),
        missing({}, "12m"),
        # the loss is more than ten minutes old
        limit({"mobius_front_dropped_log_lines_total": "0x10 1x30"}, "21m"),
    ],
    "MobiusInstanceUnhealthy": [
        fires(
            {f"mobius_instance_healthy{{{_INSTANCE}}}": "0x10", _INFO % "silent": "1x10"},
            "3m",
            _R2,
            "The instance of release 2.0.0-b of shop on web1 is not healthy.",
        ),
        quiet({f"mobius_instance_healthy{{{_INSTANCE}}}": "1x10", _INFO % "serving": "1x10"}, "5m"),
        quiet({f"mobius_instance_healthy{{{_INSTANCE}}}": "0x10", _INFO % "starting": "1x10"}, "5m"),
        missing({_INFO % "serving": "1x10"}, "5m"),
        limit({f"mobius_instance_healthy{{{_INSTANCE}}}": "0x10", _INFO % "silent": "1x10"}, "2m"),
    ],
    "MobiusNothingServes": [
        fires(
            {_CONFIRMED: "0x10", _INFO % "failed": "1x10"},
            "2m",
            f'{_R2}, version="2.0.0"',
            "No release of shop serves on web1, though 2.0.0-b is confirmed there.",
        ),
        quiet({_CONFIRMED: "0x10", _INFO % "serving": "1x10"}, "5m"),
        # a host without a confirmed release
        missing({"mobius_host_readable": "1x10"}, "5m"),
        limit({_CONFIRMED: "0x10", _INFO % "failed": "1x10"}, "1m"),
    ],
    "MobiusInstanceRestarts": [
        fires(
            {f"mobius_instance_restarts_total{{{_INSTANCE}}}": "0x10 1 2 3x10"},
            "14m",
            _R2,
            "systemd has restarted release 2.0.0-b of shop on web1 more than twice in 15 minutes.",
        ),
        quiet({f"mobius_instance_restarts_total{{{_INSTANCE}}}": "7x30"}, "14m"),
        missing({}, "14m"),
        limit({f"mobius_instance_restarts_total{{{_INSTANCE}}}": "5x10 6 7x10"}, "14m"),
    ],
    "MobiusServiceLogLinesLost": [
        fires(
            {f"mobius_log_lines_lost_total{{{_INSTANCE}}}": "0x10 3x10"},
            "12m",
            _R2,
            "Release 2.0.0-b on web1 could not write lines of its log.",
        ),
        quiet({f"mobius_log_lines_lost_total{{{_INSTANCE}}}": "3x30"}, "20m"),
        missing({}, "20m"),
        limit({f"mobius_log_lines_lost_total{{{_INSTANCE}}}": "0x10 3x30"}, "26m"),
    ],
    "MobiusPromotionOverdue": [
        fires(
            {f'mobius_promotion_deadline_timestamp_seconds{{{_INSTANCE}, stage="live"}}': "60x20"},
            "4m",
            f'{_R2}, stage="live"',
            "The promotion of 2.0.0-b of shop on web1 is past its deadline, and nothing has reverted it.",
        ),
        quiet({f'mobius_promotion_deadline_timestamp_seconds{{{_INSTANCE}, stage="live"}}': "600x20"}, "9m"),
        missing({"mobius_promotion_pending": "1x20"}, "9m"),
        # 60 s past its deadline from 2m to 3m, with a deadline that moves
        limit({f'mobius_promotion_deadline_timestamp_seconds{{{_INSTANCE}, stage="live"}}': "-60+60x20"}, "9m"),
    ],
    "MobiusRolledBack": [
        fires(
            {'mobius_switches_total{event="rollback", by="watch"}': "0x10 1x10"},
            "12m",
            f'{_HOST}, event="rollback", by="watch"',
            "shop on web1 was switched to an earlier release (rollback by watch).",
        ),
        fires(
            {'mobius_switches_total{event="reverted", by="guard"}': "0x10 1x10"},
            "12m",
            f'{_HOST}, event="reverted", by="guard"',
            "shop on web1 was switched to an earlier release (reverted by guard).",
        ),
        quiet({'mobius_switches_total{event="confirmed", by="run"}': "0x10 1x10"}, "12m"),
        missing({}, "12m"),
        limit({'mobius_switches_total{event="rollback", by="watch"}': "0x10 1x30"}, "26m"),
    ],
    "MobiusTwoReleasesRunning": [
        fires(
            {"mobius_releases_running": "2x90"},
            "60m",
            _HOST,
            "2 releases of shop run on web1, and no release is under way.",
        ),
        quiet({"mobius_releases_running": "1x90"}, "80m"),
        *(
            quiet({"mobius_releases_running": "2x90", metric: "1x90"}, "80m")
            for metric in ("mobius_promotion_pending", "mobius_watch_open", "mobius_lease_held")
        ),
        missing({"mobius_watch_open": "0x90"}, "80m"),
        limit({"mobius_releases_running": "2x90"}, "59m"),
    ],
    "MobiusWatchNotRunning": [
        fires(
            {"mobius_watch_open": "1x10", "mobius_watch_running": "0x10"},
            "5m",
            _HOST,
            "The monitoring window of shop on web1 is open, and nothing watches the release.",
        ),
        quiet({"mobius_watch_open": "1x10", "mobius_watch_running": "1x10"}, "8m"),
        quiet({"mobius_watch_open": "0x10", "mobius_watch_running": "0x10"}, "8m"),
        missing({"mobius_watch_open": "1x10"}, "8m"),
        limit({"mobius_watch_open": "1x10", "mobius_watch_running": "0x10"}, "4m"),
    ],
    "MobiusHostProblems": [
        fires(
            {"mobius_host_problems": "1x20"},
            "10m",
            _HOST,
            "shop on web1 differs from its activation record or its units in 1 points.",
        ),
        quiet({"mobius_host_problems": "0x20"}, "15m"),
        missing({}, "15m"),
        limit({"mobius_host_problems": "1x20"}, "9m"),
    ],
    "MobiusHostUnreadable": [
        fires({"mobius_host_readable": "0x20"}, "5m", _HOST, "The state of shop on web1 cannot be read."),
        quiet({"mobius_host_readable": "1x20"}, "8m"),
        missing({}, "8m"),
        limit({"mobius_host_readable": "0x20"}, "4m"),
    ],
    "MobiusDiskLow": [
        fires(
            {'mobius_disk_free_bytes{folder="backups"}': f"{512 * 1024**2}x20"},
            "5m",
            f'{_HOST}, folder="backups"',
            "The disk of the backups of shop on web1 has only 512MiB left.",
        ),
        quiet({'mobius_disk_free_bytes{folder="backups"}': "5e9x20"}, "8m"),
        missing({}, "8m"),
        limit({'mobius_disk_free_bytes{folder="backups"}': "1000000000x20"}, "8m"),
    ],
    "MobiusNoSpaceForRelease": [
        fires(
            {
                'mobius_disk_free_bytes{folder="releases"}': "399x20",
                f"mobius_release_size_bytes{{{_INSTANCE}}}": "200x20",
            },
            "5m",
            f'{_HOST}, folder="releases"',
            "The disk of shop on web1 has no space for another two releases.",
        ),
        quiet(
            {
                'mobius_disk_free_bytes{folder="releases"}': "999x20",
                f"mobius_release_size_bytes{{{_INSTANCE}}}": "200x20",
            },
            "8m",
        ),
        missing({'mobius_disk_free_bytes{folder="releases"}': "399x20"}, "8m"),
        limit(
            {
                'mobius_disk_free_bytes{folder="releases"}': "400x20",
                f"mobius_release_size_bytes{{{_INSTANCE}}}": "200x20",
            },
            "8m",
        ),
    ],
    "MobiusMetricsStale": [
        fires(
            {"mobius_host_metrics_timestamp_seconds": "0x20"},
            "6m",
            _HOST,
            "The metrics of shop on web1 were written 6m 0s ago, so no alert from them counts.",
        ),
        quiet({"mobius_host_metrics_timestamp_seconds": "0+60x20"}, "15m"),
        missing({}, "6m"),
        limit({"mobius_host_metrics_timestamp_seconds": "0x20"}, "5m"),
    ],
    "MobiusMetricsMissing": [
        fires(
            {"mobius_host_metrics_timestamp_seconds": "0+60x60 stale"},
            "66m",
            _HOST,
            "Prometheus gets no metrics of shop from web1 any more.",
        ),
        quiet({"mobius_host_metrics_timestamp_seconds": "0+60x90"}, "80m"),
        missing({}, "80m"),
        # gone for longer than an hour: the host was taken away
        limit({"mobius_host_metrics_timestamp_seconds": "0+60x60 stale"}, "130m"),
    ],
    "MobiusBackupNotVerified": [
        fires(
            {'mobius_backup_verified_timestamp_seconds{scope="full"}': "0x100"},
            "27h",
            f'{_HOST}, scope="full"',
            "No backup (full) of shop on web1 was verified in the last 26 hours.",
            _SLOW_STEP,
        ),
        quiet({'mobius_backup_verified_timestamp_seconds{scope="full"}': "0+1800x100"}, "27h", _SLOW_STEP),
        missing({}, "27h", _SLOW_STEP),
        limit({'mobius_backup_verified_timestamp_seconds{scope="full"}': "0x100"}, "26h", _SLOW_STEP),
    ],
    "MobiusBackupMetricsMissing": [
        fires(
            {"mobius_host_metrics_timestamp_seconds": "0x100"},
            "24h",
            _HOST,
            "No backup command has run for shop on web1, so nothing is known of its backups.",
            _SLOW_STEP,
        ),
        quiet(
            {"mobius_host_metrics_timestamp_seconds": "0x100", "mobius_backup_metrics_timestamp_seconds": "0x100"},
            "30h",
            _SLOW_STEP,
        ),
        missing({}, "30h", _SLOW_STEP),
        limit({"mobius_host_metrics_timestamp_seconds": "0x100"}, "23h30m", _SLOW_STEP),
    ],
    "MobiusBackupDamaged": [
        fires(
            {'mobius_backup_damaged{scope="full"}': "1x10"},
            "0m",
            f'{_HOST}, scope="full"',
            "1 backups (full) of shop on web1 are damaged.",
        ),
        quiet(
            {'mobius_backup_damaged{scope="full"}': "0 0 0", 'mobius_backup_source_damaged{scope="full"}': "1x10"}, "1m"
        ),
        missing({}, "1m"),
        limit({'mobius_backup_damaged{scope="full"}': "0x10"}, "1m"),
    ],
    "MobiusBackupSourceDamaged": [
        fires(
            {'mobius_backup_source_damaged{scope="full"}': "1x10"},
            "0m",
            f'{_HOST}, scope="full"',
            "The data of shop on web1 was damaged when it was backed up (full).",
        ),
        quiet(
            {'mobius_backup_source_damaged{scope="full"}': "0x10", 'mobius_backup_damaged{scope="full"}': "1x10"}, "1m"
        ),
        missing({}, "1m"),
        limit({'mobius_backup_source_damaged{scope="full"}': "0x10"}, "1m"),
    ],
    "MobiusBackupCopyOld": [
        fires(
            {'mobius_backup_copied_timestamp_seconds{target="vault"}': "0x100"},
            "27h",
            f'{_HOST}, target="vault"',
            "The copy target vault has not held the newest backups of shop on web1 for 26 hours.",
            _SLOW_STEP,
        ),
        quiet({'mobius_backup_copied_timestamp_seconds{target="vault"}': "0+1800x100"}, "27h", _SLOW_STEP),
        missing({}, "27h", _SLOW_STEP),
        limit({'mobius_backup_copied_timestamp_seconds{target="vault"}': "0x100"}, "26h", _SLOW_STEP),
    ],
    "MobiusDrillFailed": [
        fires(
            {
                "mobius_backup_drill_timestamp_seconds": "20x10",
                "mobius_backup_drill_success_timestamp_seconds": "10x10",
            },
            "1m",
            _HOST,
            "The last restore drill of shop on web1 failed.",
        ),
        quiet(
            {"mobius_backup_drill_timestamp_seconds": "0x10", "mobius_backup_drill_success_timestamp_seconds": "0x10"},
            "1m",
        ),
        missing({"mobius_backup_drill_timestamp_seconds": "20x10"}, "1m"),
        limit(
            {
                "mobius_backup_drill_timestamp_seconds": "20x10",
                "mobius_backup_drill_success_timestamp_seconds": "20x10",
            },
            "1m",
        ),
    ],
    "MobiusDrillOld": [
        fires(
            {"mobius_backup_drill_success_timestamp_seconds": "0x200"},
            "748h",
            _HOST,
            "No restore drill of shop on web1 has succeeded in the last 31 days.",
            _DRILL_STEP,
        ),
        quiet({"mobius_backup_drill_success_timestamp_seconds": "86400x200"}, "748h", _DRILL_STEP),
        missing({}, "748h", _DRILL_STEP),
        limit({"mobius_backup_drill_success_timestamp_seconds": "0x200"}, "744h", _DRILL_STEP),
    ],
}
