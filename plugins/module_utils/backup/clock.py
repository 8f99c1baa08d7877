# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The time, as backups use it: a parameter wherever a backup, a record or a file's age depends on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present time, aware of its zone."""


def utc_now() -> datetime:
    """The present time by this host's clock, in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """A time in RFC 3339 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
