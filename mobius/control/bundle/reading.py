# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a bundle whole once in a run, for however many hosts: Ansible has a process for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobius import durable, manifest
from mobius.control.run.workspace import RunWorkspace
from mobius.errors import MobiusError

_State = list[list[int] | None]


def read_once(name: str, sha256: str | None, workspace: RunWorkspace) -> manifest.Bundle:
    """The bundle in the file `name`, after every digest in it was compared, by this process or another one of the run.

    Args:
        name: absolute, or relative to the current folder, or to a home.
        sha256: what its digest must be, in hex; None or empty for whatever its `.sha256` says.
        workspace: the run's own, which keeps what was read.

    Raises:
        MobiusError: bundle_invalid, when it is missing or unreadable, or a digest is another than expected.
    """
    path = Path(name).expanduser().absolute()
    expected = (sha256 or "").lower() or None
    try:
        with workspace.bundle_lock(path):
            state = _state(path)
            bundle = _known_bundle(workspace, path, state)
            if bundle is None:
                bundle = _read(path, expected, workspace, state)
        manifest.require_digest(path.name, bundle.sha256, expected)
        return bundle
    except manifest.ManifestError as error:
        raise MobiusError("bundle_invalid", str(error)) from None
    except OSError as error:
        raise MobiusError(
            "bundle_invalid",
            f"The bundle {path} cannot be read: {error.strerror}.",
            do_next="Make one with `mobius bundle pack` or `mobius bundle build`, or give the path of one.",
        ) from None


def _read(path: Path, expected: str | None, workspace: RunWorkspace, state: _State) -> manifest.Bundle:
    try:
        bundle = manifest.read_bundle(path, expected_sha256=expected)
    except manifest.ManifestError as error:
        if expected is None:
            workspace.write_bundle_facts(path, {"state": state, "refused": str(error)})
        raise
    # as it was before it was read: what has changed meanwhile is read again by the next
    known: dict[str, Any] = {
        "state": state,
        "sha256": bundle.sha256,
        "release_id": bundle.release_id,
        "manifest": durable.json_bytes(bundle.manifest.as_dict()).decode(),
        "size": bundle.size,
        "signature": bundle.signature,
    }
    workspace.write_bundle_facts(path, known)
    return bundle


def _state(path: Path) -> _State:
    """What tells that the bundle and the files beside it are still those that were read: no ctime can be set back."""
    state: _State = []
    for part in (path, manifest.sidecar(path), manifest.signature_path(path)):
        try:
            status = part.stat()
        except FileNotFoundError:
            state.append(None)
        else:
            state.append([status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return state


def _known_bundle(workspace: RunWorkspace, path: Path, state: _State) -> manifest.Bundle | None:
    known = workspace.read_bundle_facts(path)
    if known is None or known["state"] != state:
        return None
    if "refused" in known:
        raise manifest.ManifestError(known["refused"])
    described = manifest.parse_manifest(known["manifest"].encode())
    return manifest.Bundle(path, known["sha256"], known["release_id"], described, known["size"], known["signature"])
