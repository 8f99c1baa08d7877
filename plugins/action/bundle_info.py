# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a bundle on the control node, digest by digest, before any host is asked for anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mobius import manifest
from mobius.control.action import ControlNodeAction
from mobius.errors import MobiusError


class ActionModule(ControlNodeAction):
    """The release that a bundle holds; it changes nothing and works in check mode."""

    arguments: ClassVar = {"path": {"type": "str", "required": True}, "sha256": {"type": "str"}}

    def answer(self, given: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return bundle_info(given["path"], given["sha256"])


def bundle_info(path: str, sha256: str | None) -> dict[str, Any]:
    """What the bundle at `path` (relative to the current folder) holds, after every digest in it was compared.

    Raises:
        MobiusError: bundle_invalid, when it is missing or unreadable, or a digest is another than expected.
    """
    place = Path(path).expanduser().absolute()
    try:
        bundle = manifest.read_bundle(place, expected_sha256=(sha256 or "").lower() or None)
    except manifest.ManifestError as error:
        raise MobiusError("bundle_invalid", str(error)) from error
    except OSError as error:
        raise MobiusError(
            "bundle_invalid",
            f"The bundle {place} cannot be read: {error.strerror}.",
            do_next="Build one with `mobius bundle build`, or give the path of one.",
        ) from error
    described = bundle.manifest
    return {
        "path": str(place),
        "release": bundle.release_id,
        "sha256": bundle.sha256,
        "size": bundle.size,
        "service": described.service,
        "version": described.version,
        "commit": described.commit,
        "python": described.python,
        "platform": described.platform,
        "tree_sha256": described.tree_sha256,
        "expect": manifest.expectation(bundle),
    }
