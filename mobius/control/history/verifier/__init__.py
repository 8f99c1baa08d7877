# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verifies a history of runs. The folder is what an auditor gets: it needs Python 3.11 and, for signatures, ssh-keygen.

    python3 -m verifier FOLDER [--witnesses FILE] [--signers FILE] [--format json]

FOLDER holds `history.jsonl` and `head.json`. Nothing here imports anything else of MOBIUS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .chain import verify_chain
from .hosts import HostAnswer, check_witnesses
from .records import (
    FILE_NAME,
    FIRST,
    HEAD_NAME,
    NAMESPACE,
    NotCanonical,
    canonical,
    chain_id,
    closes_torn,
    digest,
    head_message,
    parse,
    read_head,
    record_hash,
)
from .signature import check_signature, signer
from .verdict import HistoryVerdict, Problem

__all__ = [
    "FILE_NAME",
    "FIRST",
    "HEAD_NAME",
    "NAMESPACE",
    "HistoryVerdict",
    "HostAnswer",
    "NotCanonical",
    "Problem",
    "canonical",
    "chain_id",
    "check_signature",
    "check_witnesses",
    "closes_torn",
    "digest",
    "head_message",
    "parse",
    "read_head",
    "record_hash",
    "signer",
    "verify",
    "verify_chain",
]


def verify(
    folder: Path,
    *,
    witnesses: Mapping[str, Any] | None = None,
    signers: Path | None = None,
    others: Iterable[str] = (),
) -> HistoryVerdict:
    """Everything at once."""
    content, head = (folder / FILE_NAME).read_bytes(), read_head(folder)
    verdict = verify_chain(content, head)
    if not content:
        verdict.problems.insert(0, Problem("cut_off", "The history is empty.", 0))
    if witnesses:
        check_witnesses(verdict, witnesses, others)
    if signers is not None:
        check_signature(verdict, head, signers)
    return verdict
