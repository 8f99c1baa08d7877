# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The run id and the actor, the same for every host and play of one run."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime

from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError

ENVIRONMENT_NAME = "MOBIUS_RUN_ID"
ACTOR_NAME = "MOBIUS_ACTOR"
PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


def new_run_id(now: datetime | None = None) -> str:
    """A sortable run id: the second it started in UTC, then 32 random bits, as `20260131T230501Z-9f3a61c2`."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def current_run_id(environment: Mapping[str, str], workspace: RunWorkspace) -> str:
    """The id of the run that this process belongs to.

    `mobius` hands it down as MOBIUS_RUN_ID. A plain ansible-playbook run has none: its workers are forked and share no
    memory, so the first of them makes the id and keeps it in the workspace, which all of them share.

    Raises:
        MobiusError: invalid_input, when MOBIUS_RUN_ID is not a run id.
    """
    inherited = environment.get(ENVIRONMENT_NAME)
    return _check_run_id(inherited or workspace.claim_run_id(new_run_id()))


def find_actor(environment: Mapping[str, str]) -> str:
    """Who started the run: MOBIUS_ACTOR, else the user who logged in (before sudo), at this machine."""
    named = environment.get(ACTOR_NAME, "").strip()
    if named:
        return named
    user = environment.get("SUDO_USER")
    try:
        user = user or getpass.getuser()
    except (KeyError, OSError):  # no entry in the passwd database, as in some containers
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _check_run_id(value: str) -> str:
    if not PATTERN.fullmatch(value):
        raise MobiusError(
            "invalid_input",
            f"The run id {value!r} does not have the form 20260131T230501Z-9f3a61c2.",
            do_next=f"Unset {ENVIRONMENT_NAME}; every run makes an id of its own.",
        )
    return value
