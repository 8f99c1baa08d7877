# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The space that a step needs on the disks of a host: measured and required before the step begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import MobiusError


@dataclass(frozen=True)
class SpaceNeed:
    """Space that `what` needs below a folder: `size` in bytes, and so many `files`.

    `freed`: bytes of what killed runs left there, which the step removes first.
    """

    what: str
    folder: Path
    size: int
    files: int = 0
    freed: int = 0


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder.

    Raises:
        MobiusError: not_provisioned, when the folder is missing.
    """
    disk = _disk_of(folder)
    return disk.f_bavail * disk.f_frsize


def require_space(*needs: SpaceNeed) -> None:
    """Refuse when a disk has not enough for all that goes to it.

    Raises:
        MobiusError: disk_full, with what is needed for what, and what is free; not_provisioned for a missing folder.
    """
    by_disk: dict[int, list[SpaceNeed]] = {}
    for need in needs:
        disk = _disk_of(need.folder)
        if need.files and disk.f_files and disk.f_favail < need.files:
            raise MobiusError(
                "disk_full",
                f"{need.folder} has {disk.f_favail} inodes free; {need.what} needs {need.files}.",
                do_next=f"Remove files from the disk of {need.folder}, then run again; nothing was changed.",
            )
        by_disk.setdefault(os.stat(need.folder).st_dev, []).append(need)
    for together in by_disk.values():
        folder = together[0].folder
        needed = sum(need.size for need in together)
        free = free_bytes(folder) + sum(need.freed for need in together)
        if free < needed:
            parts = " and ".join(f"{need.what} ({_megabytes(need.size)})" for need in together)
            raise MobiusError(
                "disk_full",
                f"The disk of {folder} has {_megabytes(free)} free; {_megabytes(needed)} are needed for {parts}.",
                do_next=f"Free or add {_megabytes(needed - free)} on the disk of {folder}, then run again; "
                "nothing was changed.",
            )


def _disk_of(folder: Path) -> os.statvfs_result:
    try:
        return os.statvfs(folder)
    except FileNotFoundError:
        raise MobiusError("not_provisioned", f"{folder} is missing on this host.") from None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
