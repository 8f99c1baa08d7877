# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A bundle as text."""

from __future__ import annotations

from mobius.manifest import Bundle


def bundle_lines(bundle: Bundle, signed_by: str | None = None) -> list[str]:
    """Which release it holds, what it was built from and for, and who signed it."""
    manifest = bundle.manifest
    lines = [
        f"{bundle.release_id}  {bundle.path}",
        f"commit {manifest.commit[:12]} of {manifest.built_at}, Python {manifest.python} on {manifest.platform}, "
        f"{len(manifest.files)} files, {bundle.size / 1e6:.1f} MB",
    ]
    return [*lines, f"signed by {signed_by}"] if signed_by else lines
