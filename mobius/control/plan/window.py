# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The change window: the time of day, in UTC, in which a release may begin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from mobius.errors import MobiusError


@dataclass(frozen=True)
class ChangeWindow:
    """From `start` up to, and not including, `end`; over midnight when `end` is not later than `start`."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> ChangeWindow:
        """Read `23:00-00:00`.

        Raises:
            MobiusError: invalid_input, when it is no such pair of times, or both are the same.
        """
        match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text)
        if match is None or match[1] + match[2] == match[3] + match[4]:
            raise MobiusError(
                "invalid_input",
                f"The change window {text!r} is not a pair of times like 23:00-00:00.",
                do_next="Correct mobius_change_window in the inventory; empty means that any time is right.",
            )
        return cls(time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4])))

    def has(self, moment: datetime) -> bool:
        """Whether a moment (with its zone) lies within."""
        now = moment.astimezone(UTC).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def opens(self, moment: datetime) -> datetime:
        """When it opens next after a moment outside of it, in UTC."""
        now = moment.astimezone(UTC)
        today = datetime.combine(now.date(), self.start, tzinfo=UTC)
        return today if today > now else today + timedelta(days=1)


def refusal(window: str, break_glass: str, moment: datetime) -> MobiusError | None:
    """Why a change may not begin now; None when it may.

    Args:
        window: as `ChangeWindow.parse` reads it; empty allows any time.
        break_glass: a reason to change all the same; empty for none.
    """
    if not window.strip():
        return None
    allowed = ChangeWindow.parse(window.strip())
    if allowed.has(moment) or break_glass.strip():
        return None
    return MobiusError(
        "outside_window",
        f"It is {moment.astimezone(UTC):%H:%M} UTC, outside of the change window {window.strip()} UTC.",
        do_next=(
            f"Run again at {allowed.opens(moment):%Y-%m-%d %H:%M} UTC; "
            "in an emergency give -e mobius_break_glass=REASON, which is recorded. A rollback needs no window."
        ),
    )
