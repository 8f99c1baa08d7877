# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pack any folder, of any language, into a bundle.

It is for any host, unless Python dependencies are installed into it. Nothing in it says where or when it was packed:
the same folder is the same file, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mobius import manifest
from mobius.control.bundle.builder import default_cache, from_oserror
from mobius.control.bundle.dependencies import Tell, check_target, install_dependencies, require_locked
from mobius.control.bundle.folder import (
    Exclusion,
    SourceTree,
    make_exclusion,
    merge_trees,
    read_folder,
    read_ignore_file,
)
from mobius.control.bundle.writer import write_bundle
from mobius.errors import MobiusError

EARLIER_BUNDLES = "earlier bundles"
SECRETS = "environment_file of mobius.yml"
PLATFORM = "linux_x86_64"


@dataclass(frozen=True)
class Packed:
    """A bundle, and how many files and folders each rule left out of it."""

    bundle: manifest.Bundle
    excluded: Mapping[str, int]


def pack_folder(
    folder: Path,
    out: Path,
    *,
    service: str,
    version: str,
    requirements: Path | None = None,
    python: str | None = None,
    platform: str | None = None,
    cache: Path | None = None,
    secrets: Collection[Path] = (),
    tell: Tell = lambda _: None,
) -> Packed:
    """Pack a folder into `<out>/<service>-<version>.tar.gz`, with its `.sha256` beside it.

    Args:
        folder: what goes in, but for what its `.mobiusignore` names, `__pycache__` and `.git`.
        out: made when missing; the service's bundles in it stay out of this one when it lies in the folder.
        requirements: locked Python dependencies, with digests, which are installed into the bundle.
        python: the Python that the bundle needs on hosts, `3.<minor>`; None for any host.
        platform: the platform that it needs with that Python, `linux_<machine>`; x86_64 when left out.
        cache: where installed dependencies are kept.
        secrets: files that stay out, whatever the ignore file has.
        tell: called with one line for a person at each step that takes time.

    Raises:
        MobiusError: `invalid_input` (arguments, or what a bundle does not carry), `missing_dependency` (pip),
            `environment_failed` (the wheels could not be had), `disk_full`.
    """
    _check_names(service, version)
    target = _check_needs(requirements, python, platform)
    root = folder.resolve()
    if not root.is_dir():
        raise MobiusError("invalid_input", f"{folder} is not a folder.")
    exclusion = _exclude_secrets(make_exclusion(read_ignore_file(root)), root, secrets)
    exclusion = _exclude_bundles(exclusion, root, out.resolve(), service)
    try:
        roots = [(root, exclusion)]
        if requirements is not None and target is not None:
            locked = _read_requirements(requirements)
            installed = install_dependencies(locked, *target, cache or default_cache(), tell)
            roots.append((installed, make_exclusion()))
        read: list[SourceTree] = []

        def read_tree() -> SourceTree:
            read.append(merge_trees(read_folder(*each) for each in roots))
            return read[-1]

        fields = dict(zip(("python", "platform"), target, strict=True)) if target else {}
        bundle = write_bundle(read_tree, out, service=service, version=version, **fields)
    except OSError as e:
        raise from_oserror(e) from None
    return Packed(bundle, dict(read[0].excluded))


def _check_names(service: str, version: str) -> None:
    if not manifest.SERVICE_NAME.fullmatch(service):
        raise MobiusError(
            "invalid_input", f"The service {service!r} is not a name of small letters, digits and hyphens."
        )
    if not manifest.VERSION.fullmatch(version):
        raise MobiusError(
            "invalid_input", f"The version {version!r} is not made of digits, small letters and single dots."
        )


def _check_needs(requirements: Path | None, python: str | None, platform: str | None) -> tuple[str, str] | None:
    """Python and platform that the bundle needs; None for one that is for any host."""
    if python is None:
        if requirements is not None:
            raise MobiusError("invalid_input", "--requirements needs --python, the Python of the hosts, such as 3.13.")
        if platform is not None:
            raise MobiusError("invalid_input", "--platform needs --python; a bundle without Python is for any host.")
        return None
    check_target(python, platform or PLATFORM)
    return python, platform or PLATFORM


def _read_requirements(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise MobiusError("invalid_input", f"{path} is not UTF-8.") from None
    except OSError as e:
        raise MobiusError("invalid_input", f"{path} cannot be read: {e.strerror}.") from None
    require_locked(text, path.name)
    return text


def _exclude_secrets(exclusion: Exclusion, root: Path, secrets: Collection[Path]) -> Exclusion:
    """The same exclusion, which also leaves out these files, and links in their place."""
    there = {path.absolute() for path in secrets} | {path.resolve() for path in secrets}
    inside = {path.relative_to(root).as_posix() for path in there if path.is_relative_to(root)}

    def exclude_secrets(path: str, is_folder: bool) -> str | None:
        return SECRETS if path in inside else exclusion(path, is_folder)

    return exclude_secrets


def _exclude_bundles(exclusion: Exclusion, root: Path, out: Path, service: str) -> Exclusion:
    """The same exclusion, which also leaves out the service's bundles when they are written into the folder itself.

    Otherwise each bundle would hold the one before.
    """
    if not out.is_relative_to(root):
        return exclusion
    prefix = "" if out == root else f"{out.relative_to(root).as_posix()}/"
    name = rf"{re.escape(service)}(-{manifest.VERSION.pattern})?\.tar\.gz(\.sha256|\.sig)?|\.mobius-tmp-.*"
    bundles = re.compile(rf"{re.escape(prefix)}({name})")

    def exclude_bundles(path: str, is_folder: bool) -> str | None:
        if not is_folder and bundles.fullmatch(path):
            return EARLIER_BUNDLES
        return exclusion(path, is_folder)

    return exclude_bundles
