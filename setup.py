# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts the Ansible collection into the wheel. Everything else about the build stands in pyproject.toml.

The collection lies in `mobius/_collection/ansible_collections/mobius/dhash`, so that `mobius` runs its playbooks
without a checkout. Symbolic links (the files that hosts and the control node share) become files there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COLLECTION = Path("mobius/_collection/ansible_collections/mobius/dhash")
# MANIFEST.in and `build_ignore` in galaxy.yml follow this list; tests/contract/test_packaging.py compares them.
COLLECTION_SOURCES = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "ansible.cfg",
    "docs",
    "galaxy.yml",
    "inventories/local",
    "meta",
    "playbooks",
    "plugins",
    "roles",
)


def collection_files(root: Path) -> list[str]:
    """The paths of the collection's files below `root`: of a checkout what git does not ignore, else everything."""
    names = _listed_by_git(root) if (root / ".git").exists() else None
    if names is None:
        names = {path.relative_to(root).as_posix() for path in _walk(root)}
    return sorted(name for name in names if (root / name).is_file())


def _listed_by_git(root: Path) -> set[str] | None:
    """The files that git does not ignore; None without git, or where it refuses another user's checkout."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    try:
        listed = subprocess.run([*command, *COLLECTION_SOURCES], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {name for name in listed.stdout.split("\0") if name}


def _walk(root: Path) -> Iterator[Path]:
    for name in COLLECTION_SOURCES:
        source = root / name
        for path in [source] if source.is_file() else source.rglob("*"):
            if "__pycache__" not in path.parts:
                yield path


class BuildWithCollection(build_py):
    """Builds the Python package, and beside its modules the collection."""

    def run(self) -> None:
        if self.editable_mode:
            # a checkout is its own collection
            super().run()
            return
        # setuptools keeps this folder: a file that the tree no longer has would stay in the wheel
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        root = Path(__file__).resolve().parent
        for name in collection_files(root):
            target = Path(self.build_lib) / COLLECTION / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        root = Path(__file__).resolve().parent
        return outputs + [str(Path(self.build_lib) / COLLECTION / name) for name in collection_files(root)]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithCollection})
