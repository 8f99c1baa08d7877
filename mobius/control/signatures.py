# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""SSH signatures (`ssh-keygen -Y`) of heads, plans and bundles, and who made them by an `allowed_signers` file.

Each purpose has a namespace of its own, which is part of what is signed: a signature made for one is none for another.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import subprocess
from pathlib import Path

from mobius.errors import MobiusError
from mobius.signer import NotSigned, who_signed

_MAGIC = b"SSHSIG"


def sign(key: Path, namespace: str, message: bytes, *, ask: bool = False) -> str:
    """An SSH signature of the message, as text.

    Args:
        key: a private key; or a public one, whose private half an SSH agent holds.
        ask: whether a person may be asked for the key's pass phrase.

    Raises:
        MobiusError: invalid_input, when the key cannot sign; missing_dependency, without ssh-keygen.
    """
    silent = {} if ask else {"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-q", "-n", namespace, "-f", str(key)],
            input=message,
            capture_output=True,
            timeout=300 if ask else 30,
            check=False,
            start_new_session=not ask,
            env={**os.environ, **silent},
        )
    except FileNotFoundError as error:
        raise MobiusError("missing_dependency", "ssh-keygen is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise MobiusError("invalid_input", f"{key} did not sign in time.") from error
    if done.returncode != 0:
        why = " ".join(done.stderr.decode(errors="replace").split())
        raise MobiusError(
            "invalid_input", f"{key} cannot sign: {why}.", do_next="Give the private SSH key of a person."
        )
    return done.stdout.decode("ascii")


def signer(signature: str, namespace: str, message: bytes, signers: Path) -> str | None:
    """Who signed, by the first entry of `signers` that has the key; None when it is no valid signature of any of them.

    Raises:
        MobiusError: invalid_input, when `signers` cannot be trusted or read; missing_dependency, without ssh-keygen.
    """
    check_signers(signers)
    try:
        return who_signed(signature, namespace, message, signers)
    except NotSigned:
        return None
    except FileNotFoundError as error:
        raise MobiusError("missing_dependency", "ssh-keygen is not installed.") from error


def check_signers(signers: Path) -> None:
    """Refuse a list of signers that lets a key sign for every purpose: whoever releases could then also approve.

    Raises:
        MobiusError: invalid_input, when it cannot be read, or an entry has no `namespaces`.
    """
    try:
        lines = signers.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise MobiusError(
            "invalid_input",
            f"The list of allowed signers {signers} cannot be read.",
            do_next="Put the allowed_signers file there, or correct its path in the inventory.",
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        options = _words(line)[1:-2]
        if not any(option.lower().startswith("namespaces=") for word in options for option in word.split(",")):
            raise MobiusError(
                "invalid_input",
                f"Line {number} of {signers} has no namespaces, so its key could sign for every purpose.",
                do_next='Add namespaces="…" to the entry; docs/releasing.md lists them.',
            )


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    # a comment may follow the key: the key's kind tells where the options end
    kinds = [index for index, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))]
    return [*words[: kinds[0] + 2]] if kinds else []


def key_of(signature: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the public key in a signature, to tell keys apart.

    Raises:
        MobiusError: invalid_input, when it is no SSH signature.
    """
    body = "".join(line for line in signature.splitlines() if not line.startswith("-----"))
    try:
        blob = base64.b64decode(body, validate=True)
    except ValueError:
        blob = b""
    length = int.from_bytes(blob[10:14], "big")
    key = blob[14 : 14 + length]
    if not blob.startswith(_MAGIC) or len(key) != length or not key:
        raise MobiusError("invalid_input", "This is not an SSH signature.")
    return hashlib.sha256(key).hexdigest()[:16]
