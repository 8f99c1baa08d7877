# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab's hosts as a table."""

from __future__ import annotations

from mobius.control.lab import LabStatus


def lab_lines(status: LabStatus) -> list[str]:
    """A row for each host, and what a person should know about the lab."""
    if not status.hosts:
        return ["The lab is down; `mobius lab up` starts it."]
    head = ("NAME", "STATE", "SSH", "HTTP", "DEBIAN", "CONTAINER")
    rows = [
        (host.name, host.state, str(host.ssh_port), str(host.http_port), host.debian, host.container)
        for host in status.hosts
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return [*table, *status.notes]
