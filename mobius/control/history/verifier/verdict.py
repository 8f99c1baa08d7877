# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .records import chain_id


@dataclass(frozen=True)
class Problem:
    """What is wrong, and with which record.

    `kind`: edited, deleted, reordered, duplicated, cut_off, never_written, signature of the records; journal, witness
    (lost heads), activation of what a host keeps. `seq`: the first record concerned; None when it is not one record.
    `line`: its line in the file, from 1.
    """

    kind: str
    text: str
    seq: int | None = None
    line: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """`{kind, text, seq, line}`."""
        return {"kind": self.kind, "text": self.text, "seq": self.seq, "line": self.line}


@dataclass
class HistoryVerdict:
    """What was found.

    `status`: damaged; unwitnessed, when it is whole in itself but no host and no signature stands for its newest
    records, or no host was asked; else whole. `witnessed_seq`: the newest record whose head a host keeps, -1 for none.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    witnesses: list[str] = field(default_factory=list)
    witnessed_seq: int = -1
    signed_by: str | None = None

    @property
    def status(self) -> str:
        if self.problems:
            return "damaged"
        return "whole" if self.witnesses and not self.unwitnessed else "unwitnessed"

    @property
    def unwitnessed(self) -> int:
        """The number of the newest records that no host has witnessed, and that are not in a signed head."""
        return 0 if self.signed_by else len(self.records) - 1 - self.witnessed_seq

    def as_dict(self) -> dict[str, Any]:
        """The object that `--format json` prints."""
        head = self.records[-1] if self.records else {}
        return {
            "status": self.status,
            "records": len(self.records),
            "runs": sum(record.get("event") == "intent" for record in self.records),
            "head": {"seq": head.get("seq"), "hash": head.get("hash"), "chain": chain_id(self.records)},
            "first": self.problems[0].as_dict() if self.problems else None,
            "problems": [problem.as_dict() for problem in self.problems],
            "notes": self.notes,
            "witnesses": self.witnesses,
            "unwitnessed": self.unwitnessed,
            "signed_by": self.signed_by,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        facts = self.as_dict()
        by = f"witnessed by {', '.join(self.witnesses)}" if self.witnesses else "no host was asked"
        signed = f"head signed by {self.signed_by}" if self.signed_by else "signature not checked"
        lines = [f"{self.status}  {facts['records']} records, {facts['runs']} runs; {by}; {signed}"]
        lines += [self.open_tail()] if self.open_tail() else []
        lines += [f"{problem.kind}: {problem.text}" for problem in self.problems]
        return lines + [f"note: {note}" for note in self.notes]

    def open_tail(self) -> str:
        """How many of the newest records could still be cut or rewritten; empty when none, or when no host answered."""
        if self.problems or not self.unwitnessed or self.witnessed_seq < 0:
            return ""
        record = self.records[self.witnessed_seq]
        since = f"record {record['seq']} ({record.get('event')} of run {record.get('run')}, {record.get('at')})"
        return f"{self.unwitnessed} records since {since} are unwitnessed"
