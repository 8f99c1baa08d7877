# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an open index is still the file of its name.

SQLite keeps its descriptors when somebody renames, removes or replaces a file: what it writes then goes into a file
without a name, and is lost when the process ends. The log of writes (`-wal`) and the shared memory (`-shm`) matter as
much: a commit is in the log alone until the next checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mobius.errors import MobiusError

_SUFFIXES: Final = ("-wal", "-shm")
_MIN_BYTES: Final = 512
"""The smallest page of SQLite: a file that is shorter was truncated."""


class IndexFile:
    """The files of an open index, as they were when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identities: dict[str, tuple[int, int]] = {}
        # SQLite names the others after the file that a link leads to
        for name in (str(path), *(f"{os.path.realpath(path)}{suffix}" for suffix in _SUFFIXES)):
            try:
                self._identities[name] = _identity(os.stat(name))
            except OSError:
                continue  # a log that the platform names otherwise; a missing index is what `check` reports

    def check(self) -> None:
        """Compare the files with those that were opened.

        Raises:
            MobiusError: `environment_failed` when one is missing, another or truncated; the reason says which.
        """
        if str(self._path) not in self._identities:
            raise _changed(str(self._path), "is not there", "Put it back, or restart the service.")
        for name, identity in self._identities.items():
            try:
                status = os.stat(name)
            except FileNotFoundError:
                raise _changed(name, "was removed or renamed", "Rename it back; or restore a backup.") from None
            except OSError as error:
                raise _changed(name, f"cannot be read ({error.strerror})", "Repair its disk or its modes.") from error
            if _identity(status) != identity:
                raise _changed(name, "was exchanged for another file", "Restart what uses it.")
            if name == str(self._path) and status.st_size < _MIN_BYTES:
                raise _changed(name, f"was truncated to {status.st_size} bytes", "Restore it from a backup.")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _changed(name: str, what: str, do_next: str) -> MobiusError:
    return MobiusError("environment_failed", f"The index file {name} {what} while it was in use.", do_next=do_next)
