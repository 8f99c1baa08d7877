# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a bundle on the control node, digest by digest, before any host is asked for anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius import manifest
from mobius.control.bundle.reading import read_once
from mobius.control.run.action import ControlNodeAction, current_workspace


class ActionModule(ControlNodeAction):
    """The release that a bundle holds; it changes nothing and works in check mode."""

    arguments: ClassVar = {"path": {"type": "str", "required": True}, "sha256": {"type": "str"}}

    def answer(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        bundle = read_once(arguments["path"], arguments["sha256"], current_workspace())
        described = bundle.manifest
        return {
            "path": str(bundle.path),
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
