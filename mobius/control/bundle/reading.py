# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a bundle whole once in a run, however many hosts it is for: Ansible has a process for each of them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobius import manifest
from mobius.errors import MobiusError

_State = list[list[int] | None]


def read_once(path: str, sha256: str | None, folder: Path) -> manifest.Bundle:
    """The bundle at `path`, after every digest in it was compared, by this process or another one of the run.

    Args:
        path: relative to the current folder, or to a home.
        sha256: what its digest must be, in hex; None or empty for whatever its `.sha256` says.
        folder: the run's own; what was read is noted there.

    Raises:
        MobiusError: bundle_invalid, when it is missing or unreadable, or a digest is another than expected.
    """
    place = Path(path).expanduser().absolute()
    expected = (sha256 or "").lower() or None
    note = folder / f"bundle-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.json"
    try:
        with _alone(note.with_suffix(".lock")):
            state = _state(place)
            bundle = _noted(note, place, state)
            if bundle is None:
                bundle = _read(place, expected, note, state)
        manifest.expect_digest(place.name, bundle.sha256, expected)
        return bundle
    except manifest.ManifestError as error:
        raise MobiusError("bundle_invalid", str(error)) from None
    except OSError as error:
        raise MobiusError(
            "bundle_invalid",
            f"The bundle {place} cannot be read: {error.strerror}.",
            do_next="Build one with `mobius bundle build`, or give the path of one.",
        ) from None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of the run at a time; where that cannot be had, each reads for itself."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield


def _read(place: Path, expected: str | None, note: Path, state: _State) -> manifest.Bundle:
    try:
        bundle = manifest.read_bundle(place, expected_sha256=expected)
    except manifest.ManifestError as error:
        if expected is None:
            _note(note, {"state": state, "refused": str(error)})
        raise
    # as it was before it was read: what has changed meanwhile is read again by the next
    known = {
        "state": state,
        "sha256": bundle.sha256,
        "release_id": bundle.release_id,
        "manifest": manifest.json_bytes(bundle.manifest.as_dict()).decode(),
        "size": bundle.size,
        "signature": bundle.signature,
    }
    _note(note, known)
    return bundle


def _state(place: Path) -> _State:
    """What tells that the bundle and the files beside it are still those that were read: no ctime can be set back."""
    found: _State = []
    for path in (place, manifest.sidecar(place), manifest.signature_path(place)):
        try:
            seen = path.stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append([seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns])
    return found


def _noted(note: Path, place: Path, state: _State) -> manifest.Bundle | None:
    try:
        known: dict[str, Any] = json.loads(note.read_bytes())
    except (OSError, ValueError):  # a process that was killed leaves half a note
        return None
    if known["state"] != state:
        return None
    if "refused" in known:
        raise manifest.ManifestError(known["refused"])
    described = manifest.parse_manifest(known["manifest"].encode())
    return manifest.Bundle(place, known["sha256"], known["release_id"], described, known["size"], known["signature"])


def _note(note: Path, known: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # then every host's process reads it for itself
        note.write_text(json.dumps(known), encoding="utf-8")
