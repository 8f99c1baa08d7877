# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of an instance as the host has it behind a front: one word in the file that `MOBIUS_STATE_FILE` names."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, cast, get_args

State = Literal["standby", "serving", "draining"]
_SHOWN_CHARS: Final = 40


def read_state(path: Path | None) -> tuple[State, str]:
    """The state in the file, and why there is none ("" when there is): such an instance is in standby.

    Args:
        path: None for an instance without such a file: it serves.
    """
    if path is None:
        return "serving", ""
    try:
        text = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        return "standby", f"The state file {path} is not text."
    except OSError as error:
        return "standby", f"The state file {path} cannot be read: {error.strerror}."
    if text not in get_args(State):
        return "standby", f"The state file {path} has {text[:_SHOWN_CHARS]!r}, which is no state."
    return cast("State", text), ""
