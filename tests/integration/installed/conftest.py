# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The wheel and the collection's tarball, built from this tree, and a virtual environment that has only the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mobius import manifest
from mobius.control.bundle import builder

CHECKOUT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent


def call(
    command: list[object], folder: Path, *, code: int = 0, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing of this checkout in its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE", "MOBIUS", "PYTHON"))}
    environment = {**kept, "PATH": os.defpath + ":/usr/sbin:/sbin", "ANSIBLE_HOME": str(folder.parent / "ansible-home")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@dataclass(frozen=True)
class Artifacts:
    """What a release of MOBIUS consists of."""

    wheel: Path
    tarball: Path


@pytest.fixture(scope="package")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Built from a copy of what git knows, so that nothing is left in this tree."""
    folder = tmp_path_factory.mktemp("artifacts")
    tree = folder / "tree"
    listed = call(["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], folder)
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, tree / name, follow_symlinks=False)
    call([BIN / "ansible-galaxy", "collection", "build", tree, "--output-path", folder], folder)
    call([BIN / "python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, tree], folder)
    return Artifacts(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="package")
def installed(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `bin` of a virtual environment with `mobius-dhash[control]` from the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    call([sys.executable, "-m", "venv", folder / "venv"], folder)
    bin_folder = folder / "venv/bin"
    call([bin_folder / "python", "-m", "pip", "install", "-q", f"{artifacts.wheel}[control]"], folder)
    return bin_folder


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[manifest.Bundle]:
    """Two releases of the present commit, built before and elsewhere."""
    folder = tmp_path_factory.mktemp("bundles")
    return [builder.build(CHECKOUT, folder, version=version) for version in ("1.0.0", "2.0.0")]


@pytest.fixture(scope="package")
def project(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder; the lab that a test starts in it is removed in the end."""
    folder = tmp_path_factory.mktemp("project") / "empty"
    folder.mkdir()
    try:
        yield folder
    finally:
        call([installed / "mobius", "lab", "down"], folder)
