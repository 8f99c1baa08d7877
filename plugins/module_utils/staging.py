# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must hold before a bundle is staged on a host: who signed it, its Python, and the space.

The preflight of a deploy asks for it before anything changes, and the module that stages asks again.
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
        "python": {"type": "str", "required": True},
        "platform": {"type": "str", "required": True},
        "needs_bytes": {"type": "int", "required": True},
        "bundle_bytes": {"type": "int", "required": True},
        "files": {"type": "int", "required": True},
    },
}
"""The option of a module that says what a bundle holds, in the form of `mobius.manifest.expectation`."""

_RESERVE = 16 << 20  # bytes that stay free, for the journal and the state files
_ASK_PYTHON = "import os, sys; print('%d.%d' % sys.version_info[:2], sys.platform + '_' + os.uname().machine)"


def require_signer(host: Host, expect: Mapping[str, Any]) -> str | None:
    """Who signed the bundle, by the host's own list of signers; None on a host that has no such list.

    Raises:
        MobiusError: bundle_unsigned, when it is none of them; missing_dependency, without ssh-keygen.
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
                "bundle_unsigned", f"The signature of {release} is not a valid one of this host's signers ({e})."
            ) from None
        except FileNotFoundError:
            raise MobiusError(
                "missing_dependency",
                "ssh-keygen is not installed on this host, so nobody can tell who signed the bundle.",
                do_next="Install it on the host (Debian: the package openssh-client), and run again.",
            ) from None


def tree_need(host: Host, expect: Mapping[str, Any]) -> SpaceNeed:
    """The tree and the bundle beside it (the transfer's folder is most often on the same disk), and as many inodes."""
    folder = host.releases_dir
    left = sum(
        path.lstat().st_size
        for top in (folder.glob(f"{staged_tree.STAGING_PREFIX}*") if folder.is_dir() else ())
        for path in top.rglob("*")
    )
    size = expect["needs_bytes"] + expect["bundle_bytes"] + _RESERVE
    return SpaceNeed(f"the release {expect['release']}", folder, size, expect["files"] * 2, left)


def check_python(python: str, expect: Mapping[str, Any]) -> None:
    """Refuse a host whose Python or platform is another than the bundle's.

    Raises:
        MobiusError: bundle_platform.
    """
    try:
        asked = subprocess.run(
            [python, "-I", "-c", _ASK_PYTHON], capture_output=True, text=True, check=False, timeout=30
        )
        said = asked.stdout.split() if asked.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        said = []
    wanted = [expect["python"], expect["platform"]]
    if said != wanted:
        has = f"Python {said[0]} on {said[1]}" if len(said) == 2 else "no Python there that answers"
        raise MobiusError(
            "bundle_platform",
            f"The bundle is for Python {wanted[0]} on {wanted[1]}; this host has {has} ({python}).",
        )
