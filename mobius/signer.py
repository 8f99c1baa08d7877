# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who made an SSH signature (`ssh-keygen -Y`), by an `allowed_signers` file.

Hosts use this same file (`plugins/module_utils/signer.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

BUNDLE = "mobius-bundle"
"""The namespace of a bundle's signature. It is signed as well, so a signature for another purpose is not valid."""
_SKIPPED_ENTRY = "invalid key"  # the end of ssh-keygen's line about an entry of the list that it skips
_TIMEOUT_SECONDS = 30


class NotSigned(ValueError):  # noqa: N818 - the state of a signature
    """No allowed signer made the signature; the message is the reason of ssh-keygen, without a full stop."""


def bundle_message(sha256: str) -> bytes:
    """The signed message of a bundle: the SHA-256 of its file in hex, and a newline."""
    return f"{sha256}\n".encode()


def who_signed(signature: str, namespace: str, message: bytes, signers: Path | str) -> str:
    """The principal of the first entry of `signers` that has the key.

    Raises:
        NotSigned: the signature is malformed, of another message or for another purpose, or its key may not sign for
            this purpose now.
        FileNotFoundError: ssh-keygen is not installed.
    """
    with tempfile.NamedTemporaryFile(suffix=".sig") as stream:
        stream.write(signature.encode(errors="replace"))
        stream.flush()
        files = ["-f", str(signers), "-s", stream.name]
        principal = _run_ssh_keygen(["find-principals", *files], b"", str(signers)).split("\n")[0].strip()
        _run_ssh_keygen(["verify", *files, "-I", principal, "-n", namespace], message, str(signers))
    return principal


def _run_ssh_keygen(arguments: list[str], message: bytes, signers: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", *arguments], input=message, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotSigned("ssh-keygen did not answer in time") from None
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    lines = done.stderr.decode(errors="replace").splitlines()
    reasons = [line.strip() for line in lines if not line.endswith(_SKIPPED_ENTRY)]
    # an entry is named `<file>:<line>: …`; the line about one that is not valid now ends with the present time
    first = (reasons or ["ssh-keygen gave no reason"])[0].replace(f"{signers}:", "entry ").split(": verify time")[0]
    raise NotSigned(first.rstrip("."))
