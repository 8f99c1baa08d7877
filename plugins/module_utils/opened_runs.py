# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which runs were opened for this host: the control node leaves their ids here; modules change nothing for others.

The folder is in memory, so that it can be written when the disks are full. After a reboot the control node leaves the
id of its open run again.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Final

from . import durable
from .errors import MobiusError

DIR: Final = "/run/mobius-host/runs"
KEEP_SECONDS: Final = 86_400.0  # longer than any run
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


def leave(folder: str | Path, run: str, now: float | None = None) -> str | None:
    """Keep that a run was opened for this host, and forget those of yesterday; returns the problem, None without one.

    It never raises: a rollback needs no such note, and every other change is refused without one.
    """
    if not _ID.fullmatch(run):
        return f"{run!r} is not the id of a run."
    now = time.time() if now is None else now
    try:
        path = Path(folder)
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        durable.write_bytes(path / run, b"", mode=0o600)
        for other in path.iterdir():
            if other.name != run and now - other.lstat().st_mtime > KEEP_SECONDS:
                other.unlink(missing_ok=True)
    except OSError as error:
        return f"This host cannot keep that the run {run} was opened: {error}."
    return None


def require(folder: str | Path, run: str | None) -> None:
    """Require that a run was opened for this host.

    Raises:
        MobiusError: `run_not_opened`.
    """
    if not run:
        raise MobiusError("run_not_opened", "No run was opened for this host, so nothing may change it.")
    if not _ID.fullmatch(run) or not (Path(folder) / run).is_file():
        if problem := _find_problem(Path(folder)):
            raise MobiusError(
                "run_not_opened",
                f"This host cannot keep that the run {run} was opened, so it may not change it: {problem}.",
                do_next=f"Make {folder} on the host writable, or free space and inodes there, and run again.",
            )
        raise MobiusError("run_not_opened", f"The run {run} was not opened for this host, so it may not change it.")


def _find_problem(folder: Path) -> str | None:
    """Why nothing can be kept in the folder, or where it would be made; None when it can."""
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return f"{existing}: {error.strerror}"
    return None
