# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules that are installed on a host, so that a run need not send them: one folder per version, in one step.

The control node makes the archive and names its digest (`mobius/control/run/installed_modules.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from . import durable, manifest
from .errors import MobiusError

LIB_DIR: Final = "/usr/local/lib/mobius-modules"
_VERSION: Final = re.compile(r"[0-9a-f]{64}")
_LAUNCHER: Final = "run"


def tree_digest(folder: Path) -> str | None:
    """The digest of what is installed, byte code left out; None when nothing is."""
    if not folder.is_dir():
        return None
    entries = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            mode = f"{path.stat().st_mode & 0o7777:04o}"
            entries[str(path.relative_to(folder))] = manifest.FileEntry(
                hashlib.sha256(content).hexdigest(), len(content), mode
            )
    return manifest.tree_sha256(entries)


def is_installed(digest: str, lib_dir: str = LIB_DIR) -> bool:
    """Whether the version is there, each byte of it."""
    return tree_digest(Path(lib_dir) / digest) == digest


def installed_versions(lib_dir: str = LIB_DIR) -> list[str]:
    """The versions that are there, whole or not."""
    return sorted(path.name for path in Path(lib_dir).glob("*") if _VERSION.fullmatch(path.name))


def install(archive: str, digest: str, lib_dir: str = LIB_DIR) -> None:
    """Install the version in the archive, in one step, and remove every other one.

    A run that uses another one sends its modules then.

    Raises:
        MobiusError: `environment_failed`, when the archive holds another version.
    """
    top = Path(lib_dir)
    top.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=durable.TEMPORARY_PREFIX, dir=top))
    try:
        _extract(archive, folder)
        if (actual := tree_digest(folder)) != digest:
            raise MobiusError("environment_failed", f"The modules to install are version {actual}, not {digest}.")
        if (top / digest).exists():
            shutil.rmtree(top / digest)
        folder.rename(top / digest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    durable.fsync_dir(top)
    for version in installed_versions(lib_dir):
        if version != digest:
            shutil.rmtree(top / version)
    for leftover in top.glob(f"{durable.TEMPORARY_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _extract(archive: str, folder: Path) -> None:
    folder.chmod(0o755)
    with zipfile.ZipFile(archive) as content:
        for item in content.infolist():
            path = folder / item.filename
            if not path.resolve().is_relative_to(folder.resolve()):
                raise MobiusError("environment_failed", f"The modules to install have a file outside: {item.filename}.")
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with path.open("wb") as stream:
                stream.write(content.read(item))
                stream.flush()
                os.fsync(stream.fileno())
            path.chmod(item.external_attr >> 16 & 0o777)
