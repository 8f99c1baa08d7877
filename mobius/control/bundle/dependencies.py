# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The locked Python dependencies of a bundle, installed for the hosts' Python and kept from one build to the next."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from mobius import manifest
from mobius.control.bundle.folder import make_exclusion, read_folder
from mobius.errors import MobiusError

# What pip writes about the installation rather than about the package: its own name, digests with local paths.
_INSTALLER_RECORDS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
_MACHINES = ("x86_64", "aarch64")
_OLDEST_GLIBC = (5, 28)  # wheels for glibc 2.5 up to 2.28, which Debian 10 and everything younger has

Tell = Callable[[str], None]


def check_target(python: str, platform: str) -> None:
    """Refuse a Python or a platform for which no bundle is made.

    Raises:
        MobiusError: `invalid_input`.
    """
    if not re.fullmatch(r"3\.\d{1,2}", python) or int(python[2:]) < 11:
        raise MobiusError("invalid_input", f"Python {python!r} is not a version from 3.11 on, such as 3.11.")
    if platform not in {f"linux_{machine}" for machine in _MACHINES}:
        known = " and ".join(f"linux_{machine}" for machine in _MACHINES)
        raise MobiusError("invalid_input", f"The platform {platform!r} is not known; {known} are.")


def install_dependencies(lock: str, python: str, platform: str, cache: Path, tell: Tell) -> Path:
    """The folder with everything the lock names for that Python and platform, installed once and kept.

    What is kept is compared with the digests taken when it was made, and made again when it differs.
    """
    wanted = locked_for(lock, python, platform)
    key = hashlib.sha256(f"{python} {platform} {_OLDEST_GLIBC}\n{wanted}".encode()).hexdigest()[:24]
    kept, tree = cache / key / "digests.json", cache / key / "tree"
    if kept.exists() and tree.is_dir() and kept.read_text() == _digests(tree):
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    tell(f"Installing the {wanted.count('==')} dependencies for Python {python} on {platform} (kept in {cache}).")
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=cache) as folder:
        fresh = Path(folder) / key
        fresh.mkdir()
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(wanted)
        _pip_install(requirements, fresh / "tree", python, platform)
        _only_packages(fresh / "tree")
        (fresh / "digests.json").write_text(_digests(fresh / "tree"))
        shutil.rmtree(cache / key, ignore_errors=True)
        try:
            fresh.rename(cache / key)
        except OSError:
            if not kept.exists():  # else another build was faster: both made the same
                raise
    return tree


def require_locked(lock: str, name: str) -> None:
    """Refuse requirements that do not determine each file that is installed.

    Args:
        lock: lines as pip reads them.
        name: the file's, for messages.

    Raises:
        MobiusError: `invalid_input`, for an option, a URL, a version that is not pinned, or a missing digest.
    """
    for line in _requirement_lines(lock):
        requirement, *hashes = line.split("--hash=")
        try:
            parsed = Requirement(requirement.strip())
        except InvalidRequirement:
            problem = "is not a requirement of a package"
        else:
            is_pinned = [each.operator for each in parsed.specifier] == ["=="] and "*" not in str(parsed.specifier)
            if is_pinned and hashes and parsed.url is None:
                continue
            problem = "is not locked to one version with its digests"
        raise MobiusError(
            "invalid_input",
            f"The line {requirement.strip()!r} of {name} {problem}.",
            do_next="Lock the requirements: `uv pip compile --universal --generate-hashes requirements.in -o FILE`.",
        )


def locked_for(lock: str, python: str, platform: str) -> str:
    """The lines of a universal lock that hold for one target, without their markers.

    pip evaluates markers by the Python it runs under, not by the one it installs for, so they are evaluated here.
    """
    machine = platform.removeprefix("linux_")
    target = {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    lines = []
    for line in _requirement_lines(lock):
        requirement, *hashes = line.split("--hash=")
        parsed = Requirement(requirement.strip())
        if parsed.marker is None or parsed.marker.evaluate(target):
            lines.append(
                " ".join([f"{parsed.name}{parsed.specifier}", *(f"--hash={value.strip()}" for value in hashes)])
            )
    return "\n".join(lines) + "\n"


def _requirement_lines(lock: str) -> list[str]:
    """The lines of a lock, each with its digests, without comments."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n?", "", lock))
    return [line for line in re.sub(r"(?m)[ \t]#.*$", "", joined).splitlines() if line.strip()]


def _pip_install(requirements: Path, target: Path, python: str, platform: str) -> None:
    machine = platform.removeprefix("linux_")
    oldest, newest = _OLDEST_GLIBC
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, oldest - 1, -1)]
    tags += [f"manylinux{legacy}_{machine}" for legacy in ("2014", "2010", "1")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "--no-warn-conflicts", "--no-compile", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--abi=cp{python.replace('.', '')}", *(f"--platform={tag}" for tag in tags)]
    command += [f"--target={target}", f"--requirement={requirements}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PIP_USER": "0"})
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MobiusError("missing_dependency", f"{sys.executable} has no pip, which installs what the lock names.")
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR: it gave no reason"]
    raise MobiusError(
        "environment_failed",
        f"pip could not install the locked dependencies: {said[-1].removeprefix('ERROR:').strip().rstrip('.')}.",
    )


def _only_packages(tree: Path) -> None:
    """Leave out scripts (they carry this machine's paths) and what pip noted about the installation."""
    shutil.rmtree(tree / "bin", ignore_errors=True)
    for record in tree.glob("*.dist-info/*"):
        if record.name in _INSTALLER_RECORDS:
            record.unlink()


def _digests(tree: Path) -> str:
    kept = read_folder(tree, make_exclusion())
    digests = {path: manifest.sha256_file(file.path) for path, file in kept.files.items()}
    return json.dumps({**digests, **kept.links}, indent=0, sort_keys=True)
