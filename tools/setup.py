#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `make setup` runs: bring this machine to where every other target works.

Run as a plain script by the system's own Python, before anything is installed, so it imports the standard library only
and nothing of mobius, and an old Python can still read it far enough to report that it is too old.

Each step checks what is there, does what is missing, and reports it. A run that is killed is finished by the next one.
The configuration of pip and apt on this machine is used as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST_PYTHON = (3, 11)
EXIT_INPUT = 1
EXIT_ENVIRONMENT = 3
CHECKOUT = Path(__file__).resolve().parents[1]
LOCK = Path("tools/locks/development.txt")
# one of the links to a file that hosts share
SHARED_FILE = Path("plugins/module_utils/errors.py")
STAMP = "mobius-setup.json"
# pip writes this file of a distribution's record when all others are there.
LAST_WRITTEN = "RECORD"
# Seconds to wait for another program that is using apt.
APT_WAITS = 300


class SetupError(Exception):
    """Something is missing that may not, or could not, be installed; the text says what to do."""


@dataclass(frozen=True)
class Package:
    """A Debian package, and the files one of which shows that it is there, however it was installed."""

    name: str
    shown_by: tuple[str, ...]
    # its services, which must not run on a developer's machine
    services: tuple[str, ...] = ()


def needed_packages(cgroups: Path = Path("/sys/fs/cgroup")) -> list[Package]:
    """What the lab and the tests need on this machine."""
    # crun, podman's first choice, refuses to work where the controllers belong to cgroup v1.
    unified = (cgroups / "cgroup.controllers").exists()
    helpers = ("/usr/lib/podman/{}", "/usr/libexec/podman/{}", "/usr/local/libexec/podman/{}")
    packages = [
        Package("podman", ("podman",)),
        Package("crun", ("crun", "runc")) if unified else Package("runc", ("runc",)),
        Package("conmon", ("conmon",)),
        Package("netavark", tuple(path.format("netavark") for path in helpers)),
        Package("aardvark-dns", tuple(path.format("aardvark-dns") for path in helpers)),
        # without it netavark cannot publish a port
        Package("iptables", ("iptables",)),
        Package("mmdebstrap", ("mmdebstrap",)),
        Package("debian-archive-keyring", ("/usr/share/keyrings/debian-archive-keyring.gpg",)),
        Package("openssh-client", ("ssh",)),
        Package("git", ("git",)),
        Package("curl", ("curl",)),
        # what copies of backups are encrypted with
        Package("age", ("age", "age-keygen")),
        # before the services that the tests of the front release
        Package("haproxy", ("haproxy",)),
        # one of the services that nobody here wrote
        Package("nodejs", ("/usr/bin/node", "/usr/local/bin/node")),
        # promtool and the server itself, which tests start by themselves
        Package("prometheus", ("prometheus", "promtool"), ("prometheus.service",)),
        # the browser that the tests of pages use
        Package("chromium", ("chromium", "chromium-browser", "google-chrome")),
    ]
    try:
        import ensurepip  # noqa: F401  (Debian leaves it out of python3)
    except ImportError:
        packages.append(Package("python3-venv", ()))
    return packages


def is_there(path: str) -> bool:
    """Whether a file exists, or a program is found, also in the sbin folders that a user's PATH leaves out."""
    if path.startswith("/"):
        return Path(path).exists()
    folders = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(path, path=folders) is not None


def installed_by_dpkg(names: list[str]) -> dict[str, bool]:
    """For each package that dpkg knows: whether it is wholly installed (a killed apt leaves half-installed ones)."""
    if shutil.which("dpkg-query") is None:
        return {}
    # It ends with 1 when it does not know one of the names, and still answers for the others.
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    states = dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())
    return {
        name: state == "installed" for name, state in states.items() if state not in ("not-installed", "config-files")
    }


def missing_packages(needed: list[Package]) -> list[str]:
    """The names of the packages that are not there, or only half."""
    known = installed_by_dpkg([package.name for package in needed])
    return [
        package.name
        for package in needed
        if not known.get(package.name, any(is_there(path) for path in package.shown_by))
    ]


def root_prefix() -> list[str] | None:
    """What to put before a command that needs root: nothing, sudo, or None when this user may not."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    quiet = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo"] if quiet or sys.stdin.isatty() else None


def say(text: str) -> None:
    """One line to the person, at once."""
    print(f"setup: {text}", flush=True)


def run(command: list[str], advice: str, *, holds_lock: bool = False) -> None:
    """Run a command with its output shown.

    Args:
        holds_lock: let the command hold the lock too, so that when this run is killed and the command lives on, the
            next run waits for it. Not for what may leave a daemon behind.

    Raises:
        SetupError: it failed; with `advice`.
    """
    stdin = None if sys.stdin.isatty() else subprocess.DEVNULL
    # the lock is the only descriptor that may be inherited
    done = subprocess.run(command, stdin=stdin, close_fds=not holds_lock, check=False)
    if done.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` ended with code {done.returncode}. {advice}")


def install_packages() -> bool:
    """Install the Debian packages that are missing; True when there were any.

    Raises:
        SetupError: this user may not install, apt is not here, or it failed.
    """
    missing = missing_packages(needed_packages())
    if not missing:
        return False
    names = " ".join(missing)
    by_hand = f"apt-get install --no-install-recommends {names}"
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"This machine has no apt-get, so install these by its own means (Debian's names): {names}. "
            "Then run `make setup` again."
        )
    prefix = root_prefix()
    if prefix is None:
        raise SetupError(
            f"These Debian packages are missing, and installing needs root or sudo: {names}. "
            f"Have an administrator run `{by_hand}`, then run `make setup` again."
        )
    say(f"installing Debian packages: {names}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", f"-oDPkg::Lock::Timeout={APT_WAITS}"]
    advice = f"Repair apt, or run `{by_hand}` by hand, then run `make setup` again."
    audit = subprocess.run(["dpkg", "--audit"], capture_output=True, text=True, check=False)
    if audit.stdout.strip():
        say("finishing what an interrupted dpkg left half done")
        run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a"], advice)
    for service in (
        service for package in needed_packages() if package.name in missing for service in package.services
    ):
        unit = Path("/etc/systemd/system", service)
        if not (unit.exists() or unit.is_symlink()):
            say(f"keeping {service} from starting (`systemctl unmask {service}` undoes that)")
            run([*prefix, "mkdir", "-p", str(unit.parent)], advice)
            run([*prefix, "ln", "-s", "/dev/null", str(unit)], advice)
    run([*apt, "update"], advice)
    run([*apt, "install", "--yes", "--no-install-recommends", *missing], advice)
    left = missing_packages(needed_packages())
    if left:
        raise SetupError(f"apt-get ended well and yet these are missing: {' '.join(left)}. {advice}")
    return True


def python_version() -> str:
    """This Python's, as it counts for a virtual environment."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def wanted_stamp(checkout: Path) -> dict[str, str]:
    """What the virtual environment is made from; kept in it when it is complete."""
    digest = {
        name: hashlib.sha256((checkout / name).read_bytes()).hexdigest() for name in (str(LOCK), "pyproject.toml")
    }
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "place": str(checkout), **digest}


def locked_distributions(text: str) -> set[tuple[str, str]]:
    """(name, version) of each pinned line of a lock that holds on every machine (those with a marker may not)."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+) *(;?)", text, flags=re.MULTILINE)
    return {(normal(name), version) for name, version, marker in pins if not marker}


def normal(name: str) -> str:
    """A distribution's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_distributions(venv: Path) -> set[tuple[str, str]]:
    """(name, version) of each distribution in a virtual environment, read from the folders' names."""
    found = set()
    for folder in venv.glob("lib/python*/site-packages/*.dist-info"):
        name, _, version = folder.name[: -len(".dist-info")].rpartition("-")
        if (folder / LAST_WRITTEN).exists():
            found.add((normal(name), version))
    return found


def forget_half_installed(venv: Path) -> None:
    """Remove the records of what a killed pip was installing, which the next pip would take for installed."""
    for folder in venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / LAST_WRITTEN).exists():
            shutil.rmtree(folder)


def can_be_mended(venv: Path) -> bool:
    """Whether the virtual environment has this Python, was made in this place and has its pip."""
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    return (
        (venv / "bin" / "python").exists()
        and settings.get("version", "").startswith(python_version() + ".")
        # its scripts name the folder in their first line, so a checkout that was moved or copied needs a new one
        and settings.get("command", "").endswith(f" {venv}")
        and any(name == "pip" for name, _ in installed_distributions(venv))
    )


def read_stamp(venv: Path) -> dict[str, str]:
    """The stamp of a virtual environment; empty when it was never completed."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def environment_is_whole(checkout: Path) -> bool:
    """Whether `.venv` is complete, belongs here, and still holds what it was given. Milliseconds, no program run."""
    venv = checkout / ".venv"
    if read_stamp(venv) != wanted_stamp(checkout) or not all(
        (venv / "bin" / name).exists() for name in ("python", "mobius", "ansible-playbook")
    ):
        return False
    here = installed_distributions(venv)
    return locked_distributions((checkout / LOCK).read_text(encoding="utf-8")) <= here and any(
        name == "mobius-dhash" for name, _ in here
    )


def make_environment(checkout: Path) -> bool:
    """Bring `.venv` to what the lock says, with the checkout itself editable in it; True when there was work.

    Raises:
        SetupError: a step failed.
    """
    if environment_is_whole(checkout):
        return False
    venv = checkout / ".venv"
    python = venv / "bin" / "python"
    (venv / STAMP).unlink(missing_ok=True)
    if can_be_mended(venv):
        forget_half_installed(venv)
    else:
        say(f"making the virtual environment .venv with Python {python_version()}")
        advice = "Install Python's venv module (python3-venv), then run `make setup` again."
        run([sys.executable, "-m", "venv", "--clear", str(venv)], advice, holds_lock=True)
    # Errors only: pip warns of every index of the machine's own configuration that lacks a package.
    pip = [str(python), "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check"]
    say(f"installing the Python packages of {LOCK} (checked against their hashes)")
    advice = "Check that pip can reach its package index, then run `make setup` again."
    run([*pip, "--require-hashes", "--requirement", str(checkout / LOCK)], advice, holds_lock=True)
    say("installing mobius itself, editable")
    run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(checkout)], advice, holds_lock=True)
    # Last, so that a killed run is not taken for a finished one.
    temporary = venv / f"{STAMP}.new"
    temporary.write_text(json.dumps(wanted_stamp(checkout), indent=2) + "\n", encoding="utf-8")
    temporary.replace(venv / STAMP)
    if not environment_is_whole(checkout):
        raise SetupError("pip ended well and yet .venv is not whole. Remove .venv and run `make setup` again.")
    return True


def require_symbolic_links(checkout: Path) -> None:
    """Refuse a checkout in which git wrote the names of links in place of the links.

    Raises:
        SetupError: with the command that writes them again.
    """
    link = checkout / SHARED_FILE
    if link.exists() and not link.is_symlink():
        raise SetupError(
            f"This checkout has no symbolic links: {SHARED_FILE} is a plain file. "
            "Run `git config core.symlinks true && git checkout -f -- plugins inventories`, on a file system that has "
            "symbolic links, then run `make setup` again."
        )


def set_up(checkout: Path) -> None:
    """All steps, one run at a time.

    Raises:
        SetupError: with what to do.
    """
    require_symbolic_links(checkout)
    (checkout / ".cache").mkdir(exist_ok=True)
    with (checkout / ".cache" / "setup.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup of this checkout")
            fcntl.flock(stream, fcntl.LOCK_EX)
        os.set_inheritable(stream.fileno(), True)
        work = [install_packages(), make_environment(checkout)]
    say("done" if any(work) else "everything is there")


def main() -> int:
    """Run from the command line; the exit code is 0, 1 for arguments, 3 for what is missing and cannot be had."""
    if sys.version_info < OLDEST_PYTHON:
        asked, have = (".".join(str(part) for part in version[:2]) for version in (OLDEST_PYTHON, sys.version_info))
        print(f"setup: Python {asked} or newer is needed, and this is {have}.", file=sys.stderr)
        print("Do next: install it, then run `make setup PYTHON=python3.11`.", file=sys.stderr)
        return EXIT_ENVIRONMENT
    if sys.argv[1:]:
        print(f"setup: it takes no arguments, and {sys.argv[1]!r} is one. It sets up {CHECKOUT}.", file=sys.stderr)
        return EXIT_INPUT
    try:
        set_up(CHECKOUT)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    except OSError as error:
        print(f"setup: {error}. Repair that and run `make setup` again.", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
