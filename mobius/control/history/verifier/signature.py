# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks who signed the head of a history."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .records import NAMESPACE, head_message
from .verdict import HistoryVerdict, Problem


def check_signature(verdict: HistoryVerdict, head: Mapping[str, Any] | None, signers: Path) -> None:
    """Check the head's signature against an `allowed_signers` file."""
    signature = (head or {}).get("signature")
    if not isinstance(signature, str) or head is None:
        verdict.problems.append(Problem("signature", "The head is not signed."))
        return
    if head.get("seq") != len(verdict.records) - 1 and not verdict.problems:
        seq = int(head["seq"]) + 1
        verdict.problems.append(
            Problem("signature", f"Record {seq} came after the signed head; no run has signed it.", seq)
        )
    verdict.signed_by = signer(signature, NAMESPACE, head_message(head), signers)
    if verdict.signed_by is None:
        verdict.problems.append(Problem("signature", "The head's signature is not one of the allowed signers'."))


def signer(signature: str, namespace: str, message: bytes, signers: Path) -> str | None:
    """Who signed a message, by the first entry of an `allowed_signers` file that has the key; None when nobody did."""
    # as mobius/signer.py, which is not at hand where this file is handed out alone
    with tempfile.NamedTemporaryFile("w", suffix=".sig") as stream:
        stream.write(signature)
        stream.flush()
        base = ["ssh-keygen", "-Y"]
        principals = subprocess.run(
            [*base, "find-principals", "-s", stream.name, "-f", str(signers)],
            capture_output=True,
            text=True,
            check=False,
        )
        principal = principals.stdout.split("\n")[0].strip()
        if principals.returncode != 0 or not principal:
            return None
        done = subprocess.run(
            [*base, "verify", "-f", str(signers), "-I", principal, "-n", namespace, "-s", stream.name],
            input=message,
            capture_output=True,
            check=False,
        )
    return principal if done.returncode == 0 else None
