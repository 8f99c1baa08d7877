# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who runs what: the run id and the actor, the same for every host and play of one run."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from mobius.errors import MobiusError

ENVIRONMENT_NAME = "MOBIUS_RUN_ID"
ACTOR_NAME = "MOBIUS_ACTOR"
PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


def new_run_id(now: datetime | None = None) -> str:
    """A sortable run id: the second it started in UTC, then 32 random bits, as `20260131T230501Z-9f3a61c2`."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def current_run_id(environment: Mapping[str, str], process_folder: Path) -> str:
    """The id of the run that this process belongs to.

    `mobius` hands it down as MOBIUS_RUN_ID. A plain ansible-playbook run has none: its workers are forked and share no
    memory, so the first of them writes the id to `process_folder`, which every worker of that one process shares and
    which ends with it.

    Raises:
        MobiusError: invalid_input, when MOBIUS_RUN_ID is not a run id.
    """
    given = environment.get(ENVIRONMENT_NAME)
    if given:
        return _checked(given)
    place = process_folder / "mobius-run-id"
    mine = process_folder / f".mobius-run-id-{secrets.token_hex(8)}"
    mine.write_text(new_run_id(), encoding="ascii")
    try:
        os.link(mine, place)  # the first one wins, and nobody ever reads half a name
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return _checked(place.read_text(encoding="ascii"))


def actor(environment: Mapping[str, str]) -> str:
    """The person or machine that asked: MOBIUS_ACTOR, else the user who logged in (before sudo), at this machine."""
    given = environment.get(ACTOR_NAME, "").strip()
    if given:
        return given
    return f"{environment.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


def _checked(value: str) -> str:
    if not PATTERN.fullmatch(value):
        raise MobiusError(
            "invalid_input",
            f"The run id {value!r} does not have the form 20260131T230501Z-9f3a61c2.",
            do_next=f"Unset {ENVIRONMENT_NAME}; every run makes an id of its own.",
        )
    return value
