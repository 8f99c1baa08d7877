# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A bundle as text."""

from __future__ import annotations

from collections.abc import Mapping

from mobius.control.bundle.folder import IGNORE_FILE
from mobius.manifest import Bundle, Manifest


def bundle_lines(bundle: Bundle, signed_by: str | None = None) -> list[str]:
    """Which release it holds, what it was built from and for, and who signed it."""
    manifest = bundle.manifest
    source = f"commit {manifest.commit[:12]}" if manifest.commit else f"tree {manifest.tree_sha256[:12]}"
    links = f", {len(manifest.links)} links" if manifest.links else ""
    lines = [
        f"{bundle.release_id}  {bundle.path}",
        f"{source}{f' of {manifest.built_at}' if manifest.built_at else ''}, {_target(manifest)}, "
        f"{len(manifest.files)} files{links}, {bundle.size / 1e6:.1f} MB",
    ]
    return [*lines, f"signed by {signed_by}"] if signed_by else lines


def excluded_line(excluded: Mapping[str, int]) -> str:
    """What was left out, by rule; empty for nothing."""
    counts = ", ".join(f"{excluded[rule]} {'by ' if rule == IGNORE_FILE else ''}{rule}" for rule in sorted(excluded))
    return f"left out: {counts}" if counts else ""


def _target(manifest: Manifest) -> str:
    return f"Python {manifest.python} on {manifest.platform}" if manifest.python else "for any host"
