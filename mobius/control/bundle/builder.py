# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build a bundle from a commit: the service's own packages and its locked dependencies in one file.

Everything that goes in comes from the commit (the sources, the lock, the version) or from wheels whose SHA-256 the lock
names, and every time stamp is the commit's: two builds of one commit are the same file, byte for byte, wherever and
whenever they are made. (A Python that is linked to another zlib may compress the same content to other bytes.)
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import tarfile
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from mobius import durable, manifest, signer
from mobius.control import signatures
from mobius.control.bundle.dependencies import Tell, check_target, install_dependencies
from mobius.control.bundle.writer import pack
from mobius.errors import MobiusError

SERVICE = "mobius-dhash"
LOCK = "tools/locks/service.txt"
# where commits up to version 0.1.0 have it
_EARLIER_LOCK = "mobius/control/locks/service.txt"
CHECKOUT = Path(__file__).resolve().parents[3]

# What a host gets: the shared files, dhash, its service, and of the command what `mobius dhash` needs. What runs on the
# control node stays there.
_SOURCES = re.compile(
    r"mobius/([a-z_]+\.py|py\.typed|(dhash|service)/.+"
    r"|cli/((__init__|__main__|dhash|groups|migrate|options|output|service)\.py|render/(__init__|block|dhash|migrate|page|text)\.py))"
)
_ENTRY_POINT = "mobius/service/__main__.py"


def default_source(current: Path | None = None) -> Path:
    """The checkout that this package lies in; for an installed package, the current folder.

    Raises:
        MobiusError: `invalid_input`, when the current folder is no checkout of MOBIUS.
    """
    if (CHECKOUT / LOCK).is_file():
        return CHECKOUT
    folder = current or Path.cwd()
    if not (folder / LOCK).is_file():
        raise MobiusError(
            "invalid_input",
            f"A bundle is built in a checkout of MOBIUS, and {folder} is none.",
            do_next="Change into a checkout, or name it with --source.",
        )
    return folder


def default_cache() -> Path:
    if (CHECKOUT / LOCK).is_file():
        return CHECKOUT / ".cache" / "bundle"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mobius" / "bundle"


def build(
    source: Path = CHECKOUT,
    out: Path = Path("dist"),
    *,
    version: str | None = None,
    python: str = "3.11",
    platform: str = "linux_x86_64",
    cache: Path | None = None,
    tell: Tell = lambda _: None,
) -> manifest.Bundle:
    """Build the bundle of the commit that `source` has checked out.

    Args:
        source: a checkout of MOBIUS; changes that are not committed stay out, and `tell` says so.
        out: where the bundle and its `.sha256` are put; made when missing.
        version: what the release is called; the version in the commit's `pyproject.toml` when left out.
        python: the hosts' Python, `3.<minor>`.
        platform: the hosts' platform, `linux_<machine>`.
        cache: where installed dependencies are kept from one build to the next; `.cache/bundle` of this checkout, else
            `~/.cache/mobius/bundle`.
        tell: called with one line for a person at each step that takes time.

    Returns:
        the bundle, read back and verified.

    Raises:
        MobiusError: `invalid_input` (arguments, source), `missing_dependency` (git, pip), `environment_failed` (the
            wheels could not be had), `disk_full`.
    """
    check_target(python, platform)
    commit = _git(source, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    if _git(source, "status", "--porcelain"):
        tell(f"{source} has changes that are not committed: they are not in this bundle, which is of {commit[:12]}.")
    built_at = datetime.fromtimestamp(int(_git(source, "show", "-s", "--format=%ct", commit)), UTC)
    name = version or _version(_git(source, "show", f"{commit}:pyproject.toml"))
    if not manifest.VERSION.fullmatch(name):
        raise MobiusError(
            "invalid_input", f"The version {name!r} is not made of digits, small letters and single dots."
        )
    lock = _read_lock(source, commit)
    try:
        with tempfile.TemporaryDirectory(prefix="mobius-bundle-") as folder:
            _export(source, commit, Path(folder))
            dependencies = install_dependencies(lock, python, platform, cache or default_cache(), tell)
            return pack(
                [Path(folder), dependencies],
                out,
                service=SERVICE,
                version=name,
                commit=commit,
                built_at=built_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                python=python,
                platform=platform,
            )
    except OSError as e:
        raise from_oserror(e) from None


def verify(path: Path, sha256: str | None = None) -> manifest.Bundle:
    """Read a bundle whole; its `.sha256` beside it, or the expected digest, vouches for it.

    Raises:
        MobiusError: `bundle_invalid` with the first thing that is wrong, `invalid_input` when it cannot be read.
    """
    try:
        return manifest.read_bundle(path, expected_sha256=sha256, require_sidecar=sha256 is None)
    except manifest.ManifestError as e:
        raise MobiusError("bundle_invalid", str(e)) from None
    except OSError as e:
        raise MobiusError("invalid_input", f"{path} cannot be read: {e.strerror}.") from None


def sign(path: Path, key: Path, sha256: str | None = None) -> manifest.Bundle:
    """Read a bundle whole, and leave an SSH signature of its digest beside it, which replaces an earlier one.

    Args:
        key: a private SSH key; or a public one, whose private half an SSH agent holds.

    Raises:
        MobiusError: as `verify`; `invalid_input`, when the key cannot sign.
    """
    made = verify(path, sha256)
    text = signatures.sign(key, signer.BUNDLE, signer.bundle_message(made.sha256), ask=True)
    try:
        durable.write_bytes(manifest.signature_path(path), text.encode())
    except OSError as e:
        raise from_oserror(e) from None
    return dataclasses.replace(made, signature=text)


def signed_by(bundle: manifest.Bundle, signers: Path) -> str:
    """Who signed a bundle, by a list of signers.

    Raises:
        MobiusError: `bundle_unsigned`, when it is none of them; `invalid_input`, when the list cannot be read or
            trusted; `missing_dependency`, without ssh-keygen.
    """
    if not bundle.signature:
        raise MobiusError("bundle_unsigned", f"{manifest.signature_path(bundle.path)} is missing or empty.")
    signatures.check_signers(signers)
    try:
        return signer.who_signed(bundle.signature, signer.BUNDLE, signer.bundle_message(bundle.sha256), signers)
    except signer.NotSigned as e:
        raise MobiusError(
            "bundle_unsigned", f"The signature of {bundle.path} is not a valid one of {signers} ({e})."
        ) from None
    except FileNotFoundError:
        raise MobiusError("missing_dependency", "ssh-keygen is not installed.") from None


def from_oserror(error: OSError) -> MobiusError:
    """`disk_full` for a full disk or quota, `environment_failed` for everything else."""
    return MobiusError(
        "disk_full" if error.errno in durable.DISK_FULL_ERRNOS else "environment_failed",
        f"{error.filename or 'The bundle'} could not be written: {error.strerror or error}.",
    )


# --- What goes in -----------------------------------------------------------------------------------------------------


def _git(source: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise MobiusError("missing_dependency", "git is not installed; a bundle is built from a commit.") from None
    if done.returncode != 0:
        errors = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise MobiusError("invalid_input", f"git {arguments[0]} in {source} failed: {errors[-1].rstrip('.')}.")
    return done.stdout


def _read_lock(source: Path, commit: str) -> str:
    """The locked dependencies of the service in a commit."""
    listed = _git(source, "ls-tree", "--name-only", "--full-tree", commit, LOCK, _EARLIER_LOCK).decode().split()
    if not listed:
        raise MobiusError("invalid_input", f"The commit {commit[:12]} of {source} has no {LOCK}.")
    return _git(source, "show", f"{commit}:{LOCK if LOCK in listed else listed[0]}").decode()


def _version(pyproject: bytes) -> str:
    version = tomllib.loads(pyproject.decode()).get("project", {}).get("version")
    if not isinstance(version, str):
        raise MobiusError("invalid_input", "The commit's pyproject.toml has no version; give one with --version.")
    return version


def goes_into_a_bundle(name: str) -> bool:
    """Whether a bundle holds this file of the checkout, `mobius/…`."""
    return _SOURCES.fullmatch(name) is not None


def _export(source: Path, commit: str, folder: Path) -> None:
    """Write the committed sources of the service's storeys under `folder`."""
    listed = _git(source, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "mobius/").decode().split("\0")
    names = [name for name in listed if goes_into_a_bundle(name)]
    if _ENTRY_POINT not in names:
        raise MobiusError("invalid_input", f"The commit {commit[:12]} of {source} has no {_ENTRY_POINT}.")
    top = _git(source, "rev-parse", "--show-toplevel").decode().rstrip("\n")
    archive = _git(Path(top), "archive", "--format=tar", commit, "--", *names)
    # written member by member: the extraction filter that would keep this safe is newer than Debian 12's Python
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isdir():
                continue
            if member.name not in names or not member.isreg():
                raise MobiusError("invalid_input", f"{member.name} is no plain file, which is all a bundle carries.")
            content = tar.extractfile(member)
            assert content is not None  # a regular file has content
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
