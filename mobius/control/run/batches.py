# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which hosts are promoted, which of them together, and when the next ones are held back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mobius.control.run.outcome import HostReport
from mobius.errors import MobiusError

_GOOD_VERDICTS = ("pass", "unknown")


def batches(hosts: Sequence[str], sizes: Sequence[Any]) -> list[list[str]]:
    """The hosts in their order, in groups of these sizes; the last size holds for all that are left.

    Args:
        sizes: whole numbers above 0, or shares of all hosts as "25%", rounded down and at least one host.

    Raises:
        MobiusError: invalid_input, for a size that is neither, or no size at all.
    """
    if not sizes:
        raise MobiusError("invalid_input", "promote_batches is empty; give sizes like [1, 25%, 100%].")
    counts = [_count(size, len(hosts)) for size in sizes]
    found: list[list[str]] = []
    left = list(hosts)
    while left:
        count = counts[min(len(found), len(counts) - 1)]
        found.append(left[:count])
        left = left[count:]
    return found


def host_reports(variable: str | None, task_vars: Mapping[str, Any]) -> list[HostReport]:
    """Each host of the play with the value of this variable, a mapping; without a name, no value is read."""
    alive = set(task_vars["ansible_play_hosts"])
    reports = []
    for host in task_vars["ansible_play_hosts_all"]:
        value = task_vars["hostvars"][host].get(variable) if variable else None
        reports.append(HostReport(str(host), host in alive, value if isinstance(value, Mapping) else None))
    return reports


def needs_promotion(report: HostReport, release: str) -> bool:
    """False for a host that serves the release as its confirmed one, with nothing pending.

    Args:
        report: with the result of `release_info` as its value. A host that has left the play counts as one in need, so
            that it keeps its place in the batches.
        release: for a host that names no `revision`, which depends on its own configuration.
    """
    found = report.result or {}
    release = found.get("revision") or release
    serves = found.get("confirmed") == release and release in (found.get("serving") or ())
    return not (report.alive and serves and found.get("pending") is None)


def failed_hosts(reports: Sequence[HostReport]) -> list[str]:
    """The hosts that have left the play, then those whose noted verdict speaks against the promotion."""
    lost = [report.host for report in reports if not report.alive]
    verdicts = {report.host: (report.result or {}).get("verdict") for report in reports if report.alive}
    return lost + [host for host, verdict in verdicts.items() if verdict is not None and verdict not in _GOOD_VERDICTS]


def _count(size: Any, hosts: int) -> int:
    text = "" if isinstance(size, bool) else str(size)
    match = re.fullmatch(r"([0-9]{1,6})(%?)", text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[1]) > 100):
        raise MobiusError(
            "invalid_input", f"{size!r} in promote_batches is neither a number of hosts nor a share like 25%."
        )
    return max(1, hosts * int(match[1]) // 100) if match[2] else int(match[1])
