# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checks before a bundle is staged on a host: its signature, Python and platform if it needs any, and the space.

The preflight of a deploy makes them before anything changes, and staging makes them again.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from . import signer, staged_tree
from .disk_space import SpaceNeed
from .errors import MobiusError
from .host.config import Host

EXPECT: dict[str, Any] = {
    "type": "dict",
    "options": {
        "release": {"type": "str", "required": True},
        "sha256": {"type": "str", "required": True},
        "signature": {"type": "str"},
        "service": {"type": "str", "required": True},
        "python": {"type": "str"},
        "platform": {"type": "str"},
        "needs_bytes": {"type": "int", "required": True},
        "bundle_bytes": {"type": "int", "required": True},
        "files": {"type": "int", "required": True},
    },
}
"""The module option `expect`: what a bundle holds, as `manifest.expectation` makes it."""

_RESERVE_BYTES = 16 << 20  # that stay free, for the journal and the state files
_PRINT_PLATFORM = "import os, sys; print('%d.%d' % sys.version_info[:2], sys.platform + '_' + os.uname().machine)"


def require_signer(host: Host, expect: Mapping[str, Any]) -> str | None:
    """The signer of the bundle, by the list of signers of the host; None on a host without such a list.

    Raises:
        MobiusError: bundle_unsigned, unless one of them signed it; missing_dependency, without ssh-keygen.
    """
    if not host.bundle_signers:
        return None
    release, signature = expect["release"], expect["signature"]
    if not signature:
        raise MobiusError("bundle_unsigned", f"{release} is not signed, and this host stages signed bundles only.")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="allowed-signers-") as signers:
        signers.writelines(f"{line}\n" for line in host.bundle_signers)
        signers.flush()
        try:
            return signer.who_signed(signature, signer.BUNDLE, signer.bundle_message(expect["sha256"]), signers.name)
        except signer.NotSigned as e:
            raise MobiusError(
                "bundle_unsigned", f"The signature of {release} is not valid for any signer of this host ({e})."
            ) from None
        except FileNotFoundError:
            raise MobiusError(
                "missing_dependency",
                "ssh-keygen is not installed on this host, so the signature of the bundle cannot be verified.",
                do_next="Install it on the host (Debian: the package openssh-client), and run again.",
            ) from None


def tree_need(host: Host, expect: Mapping[str, Any]) -> SpaceNeed:
    """The space and the inodes for the tree and for the bundle, whose folder is mostly on the same disk."""
    folder = host.releases_dir
    leftovers = sum(
        path.lstat().st_size
        for top in (folder.glob(f"{staged_tree.STAGING_PREFIX}*") if folder.is_dir() else ())
        for path in top.rglob("*")
    )
    size = expect["needs_bytes"] + expect["bundle_bytes"] + _RESERVE_BYTES
    return SpaceNeed(f"the release {expect['release']}", folder, size, expect["files"] * 2, leftovers)


def require_python(python: str, expect: Mapping[str, Any]) -> None:
    """Refuse a host whose Python or platform is not that of the bundle. A bundle without Python is for any host.

    Raises:
        MobiusError: bundle_platform.
    """
    if not expect["python"]:
        return
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PRINT_PLATFORM], capture_output=True, text=True, check=False, timeout=30
        )
        actual = done.stdout.split() if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        actual = []
    expected = [expect["python"], expect["platform"]]
    if actual != expected:
        present = f"Python {actual[0]} on {actual[1]}" if len(actual) == 2 else "no working Python"
        raise MobiusError(
            "bundle_platform",
            f"The bundle is for Python {expected[0]} on {expected[1]}; this host has {present} ({python}).",
        )
