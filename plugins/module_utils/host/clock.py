# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The time by the clock of this machine, and for how long a process has run."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path


def utc_now(seconds: float = 0.0) -> str:
    """The time, or so many seconds later, in RFC 3339."""
    return utc_at(time.time() + seconds)


def utc_at(seconds: float) -> str:
    """The time so many seconds after 1970, in RFC 3339."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def process_age(pid: int) -> float:
    """For how many seconds a process has run; 0 when that is not known here, as on macOS."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
