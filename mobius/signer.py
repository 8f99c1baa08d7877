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
"""The namespace of a bundle's signature: it is part of what is signed, so one made for another purpose is none."""
_NOISE = "invalid key"  # what ssh-keygen says of each entry of the list that it passes over
_SECONDS = 30


class NotSigned(ValueError):  # noqa: N818 - it says what the signature is
    """The signature is none of an allowed signer; the message is ssh-keygen's word on it, without a full stop."""


def bundle_message(sha256: str) -> bytes:
    """What is signed of a bundle: the SHA-256 of its file in hex, and a newline."""
    return f"{sha256}\n".encode()


def who_signed(signature: str, namespace: str, message: bytes, signers: Path | str) -> str:
    """The principal of the first entry of `signers` that has the key.

    Raises:
        NotSigned: the signature is none, is of something else or for another purpose, or its key is none that may
            sign for this purpose now.
        FileNotFoundError: there is no ssh-keygen.
    """
    with tempfile.NamedTemporaryFile(suffix=".sig") as stream:
        stream.write(signature.encode(errors="replace"))
        stream.flush()
        given = ["-f", str(signers), "-s", stream.name]
        who = _ask(["find-principals", *given], b"", str(signers)).split("\n")[0].strip()
        _ask(["verify", *given, "-I", who, "-n", namespace], message, str(signers))
    return who


def _ask(arguments: list[str], message: bytes, signers: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", *arguments], input=message, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotSigned("ssh-keygen did not answer in time") from None
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if not line.endswith(_NOISE)]
    # an entry is called `<file>:<line>: …`, and of one that is too old or too new the time of asking is told
    first = (said or ["ssh-keygen gave no reason"])[0].replace(f"{signers}:", "entry ").split(": verify time")[0]
    raise NotSigned(first.rstrip("."))
