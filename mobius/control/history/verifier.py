#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verifies a history of runs. One file to hand to an auditor: it needs Python 3.11 and, for signatures, ssh-keygen.

    python3 verifier.py FOLDER [--witnesses FILE] [--signers FILE] [--format json]

FOLDER holds `history.jsonl` and `head.json`. A record is one line of canonical JSON (RFC 8785); records hold strings,
integers, booleans, null, lists and objects with ASCII keys only, for which that form is: keys sorted, no spaces, only
what must be escaped is escaped. `hash` is the SHA-256 of the record's canonical form without `hash`; `prev` is the
`hash` of the record before.

It is longer than our other files on purpose: an auditor gets, reads and hashes exactly one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "history.jsonl"
HEAD_NAME = "head.json"
NAMESPACE = "mobius-history"
FIRST = "0" * 64
_LARGEST = 2**53 - 1  # what every JSON reader keeps exactly


class NotCanonical(ValueError):  # noqa: N818 - it says what the value is
    """A value that a record cannot hold."""


def canonical(value: Any) -> bytes:
    """The canonical JSON (RFC 8785) of a value without floats.

    Raises:
        NotCanonical: a float, a huge integer, a key that is not ASCII text, text that is not Unicode, or another type.
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotCanonical("a text is not Unicode") from error


def _check(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise NotCanonical(f"the key {key!r} is not ASCII text")
            _check(item)
        return
    raise NotCanonical(f"{value!r} is neither text, integer, boolean, null, list nor object")


def record_hash(record: Mapping[str, Any]) -> str:
    """The SHA-256 that a record's `hash` must be."""
    return digest({key: value for key, value in record.items() if key != "hash"})


def digest(value: Any) -> str:
    """The SHA-256 of a value's canonical form, as a `decision` has it of each host's evidence."""
    return hashlib.sha256(canonical(value)).hexdigest()


def head_message(head: Mapping[str, Any]) -> bytes:
    """What a head's signature is made over."""
    return canonical({key: head.get(key) for key in ("chain", "hash", "seq")})


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


def chain_id(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The random name that the first record gave to the chain."""
    data = records[0].get("data") if records else None
    return str(data.get("chain")) if isinstance(data, dict) and data.get("chain") else None


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of one line (without its end), None when it is not one in canonical form."""
    try:
        record = json.loads(line.decode("utf-8"))
        if isinstance(record, dict) and isinstance(record.get("seq"), int) and canonical(record) == line:
            return record
    except (ValueError, RecursionError):
        pass
    return None


def closes_torn(record: Mapping[str, Any] | None, line: bytes) -> bool:
    """Whether this record tells of what stands before it and was cut short by a kill."""
    if record is None or record.get("event") != "torn" or not isinstance(record.get("data"), dict):
        return False
    data = record["data"]
    return bool(data.get("bytes") == len(line)) and bool(data.get("sha256") == hashlib.sha256(line).hexdigest())


def verify_chain(content: bytes, head: Mapping[str, Any] | None) -> HistoryVerdict:
    """Check a history with itself and with its head file. It ends with the first problem of the chain."""
    verdict = HistoryVerdict()
    lines = content.split(b"\n")
    cut = lines.pop() != b""
    if cut:
        lines = content.split(b"\n")
    parsed = [parse(line) for line in lines]
    previous = FIRST
    places: list[int] = []
    torn: list[bytes] = []
    for number, (line, record) in enumerate(zip(lines, parsed, strict=True), 1):
        following = parsed[number] if number < len(parsed) else None
        expected = len(verdict.records)
        last = number == len(lines)
        if last and cut and not torn:
            verdict.problems.append(
                Problem("cut_off", f"Record {expected} (line {number}) is cut off in its middle.", expected, number)
            )
            break
        if record is None:
            torn.append(line)
            if following is None and not last:
                continue
            if closes_torn(following, b"\n".join(torn)):
                verdict.notes.append(f"Line {number} was cut short by a kill; record {expected} says so.")
                torn.clear()
                continue
            verdict.problems.append(
                Problem("edited", f"Record {expected} (line {number}) is not a record.", expected, number)
            )
            break
        problem = _wrong_sequence(record, expected, parsed, number, verdict.records)
        if problem is None and record_hash(record) != record.get("hash"):
            problem = Problem("edited", f"Record {expected} (line {number}) was edited.", expected, number)
        if problem is None and record.get("prev") != previous:
            problem = _wrong_link(record, following, head, expected, number, places)
        if problem is not None:
            verdict.problems.append(problem)
            break
        verdict.records.append(record)
        places.append(number)
        previous = str(record["hash"])
    if not verdict.problems:
        verdict.problems += _head_problems(verdict.records, head)
    if not verdict.problems:
        verdict.problems += _rule_problems(verdict.records)
    return verdict


def _wrong_sequence(
    record: Mapping[str, Any],
    expected: int,
    parsed: Sequence[Mapping[str, Any] | None],
    number: int,
    before: Sequence[Mapping[str, Any]],
) -> Problem | None:
    actual = record["seq"]
    if actual == expected:
        return None
    if 0 <= actual < len(before) and before[actual].get("hash") == record.get("hash"):
        return Problem("duplicated", f"Record {actual} stands a second time on line {number}.", actual, number)
    if any(other is not None and other["seq"] == expected for other in parsed[number:]):
        return Problem(
            "reordered", f"Record {expected} stands after record {actual} (line {number}).", expected, number
        )
    if actual > expected and record_hash(record) == record.get("hash"):
        missing = f"Record {expected}" if actual == expected + 1 else f"Records {expected} to {actual - 1}"
        return Problem("deleted", f"{missing} deleted before line {number}.", expected, number)
    return Problem("edited", f"Record {expected} (line {number}) was edited.", expected, number)


def _wrong_link(
    record: Mapping[str, Any],
    following: Mapping[str, Any] | None,
    head: Mapping[str, Any] | None,
    expected: int,
    number: int,
    places: Sequence[int],
) -> Problem:
    """A record that does not follow the one before it: whichever of the two its other neighbour does not know."""
    known = following.get("prev") if following else None
    if known is None and head is not None and head.get("seq") == expected:
        known = head.get("hash")
    if expected == 0 or (known is not None and known != record.get("hash")):
        return Problem(
            "edited", f"Record {expected} (line {number}) was edited, and its hash made again.", expected, number
        )
    text = f"Record {expected - 1} (line {places[-1]}) was edited, and its hash made again."
    return Problem("edited", text, expected - 1, places[-1])


def _head_problems(records: Sequence[Mapping[str, Any]], head: Mapping[str, Any] | None) -> list[Problem]:
    if head is None:
        return [Problem("cut_off", f"{HEAD_NAME} is missing, so a cut tail would not show.", len(records))]
    return _head_differs(records, head, HEAD_NAME)


def _head_differs(records: Sequence[Mapping[str, Any]], head: Mapping[str, Any], witness: str) -> list[Problem]:
    """What of the records contradicts a head that a witness keeps."""
    seq = head.get("seq")
    if not isinstance(seq, int) or seq < 0:
        return [Problem("signature", f"{witness} holds no head that can be read.")]
    if seq >= len(records):
        text = f"Record {len(records)} and what followed is cut off: {witness} has seen record {seq}."
        return [Problem("cut_off", text, len(records))]
    if records[seq].get("hash") != head.get("hash"):
        return [Problem("edited", f"Record {seq} or one before it was rewritten: {witness} has seen another.", seq)]
    if head.get("chain") != chain_id(records):
        return [Problem("edited", f"{witness} has seen another chain, {head.get('chain')}.", 0)]
    return []


def _rule_problems(records: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """What no recorder writes, whatever its hashes: a run's events without its intent or after its end, and a decision
    on other evidence than the run's gates reported."""
    opened: set[Any] = set()
    ended: set[Any] = set()
    for record in records:
        seq, run, event = record["seq"], record.get("run"), record.get("event")
        if (seq == 0) != (event == "begin"):
            return [Problem("edited", f"Record {seq} is {event}, which cannot stand there.", seq)]
        if event == "intent":
            if run in opened:
                return [Problem("duplicated", f"Record {seq} opens run {run} a second time.", seq)]
            opened.add(run)
        elif event in ("result", "decision", "end"):
            if run not in opened:
                return [Problem("never_written", f"Run {run} of record {seq} has no intent.", seq)]
            if run in ended:
                return [Problem("edited", f"Record {seq} adds to run {run}, which had ended.", seq)]
            if event == "end":
                ended.add(run)
            if event == "decision" and (host := _other_evidence(record, records[:seq])):
                text = f"Record {seq} is a decision on evidence of {host} that the run's gate did not report."
                return [Problem("edited", text, seq)]
    return []


def _other_evidence(decision: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str | None:
    """The first host whose evidence in a decision is not what its gate was recorded with, or `the fleet`.

    A gate whose result was not recorded (the callback was off) says nothing.
    """
    data = _dict(decision.get("data"))
    hosts = _dict(data.get("hosts"))
    digests = {host: _dict(entry).get("evidence_sha256") for host, entry in hosts.items()}
    if data.get("evidence_sha256") != digest(digests):
        return "the fleet"
    gates: dict[str, set[str]] = {}
    for record in before:
        result = _dict(record.get("data"))
        evidence = _dict(result.get("fields")).get("evidence")
        if record.get("event") == "result" and record.get("run") == decision.get("run") and evidence is not None:
            gates.setdefault(str(result.get("host")), set()).add(digest(evidence))
    return next((host for host, sha in sorted(digests.items()) if sha and sha not in gates.get(host, {sha})), None)


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


@dataclass(frozen=True)
class HostAnswer:
    """What one host keeps, as the module `witness_info` reports it; a part of another shape counts as missing.

    `activation` is None where the host has no activation record, and `knows_activation` is false in a file of an
    earlier version, which has none of any host. `asked_at` is the number of the newest record when the host was read.
    """

    host: str
    heads: list[dict[str, Any]]
    journal: list[str]
    activation: dict[str, Any] | None
    knows_activation: bool
    service: str | None
    asked_at: int | None

    @classmethod
    def read(cls, host: str, answer: Mapping[str, Any]) -> HostAnswer:
        """The answer of one host."""
        heads, journal = (value if isinstance(value := answer.get(name), list) else [] for name in ("heads", "journal"))
        activation, service, asked_at = (answer.get(name) for name in ("activation", "service", "asked_at"))
        return cls(
            host,
            [head for head in heads if isinstance(head, dict) and type(head.get("seq")) is int],
            [line for line in journal if isinstance(line, str)],
            activation if isinstance(activation, dict) else None,
            "activation" in answer,
            service if isinstance(service, str) else None,
            asked_at if type(asked_at) is int else None,
        )

    def heads_of(self, chain: str | None) -> list[dict[str, Any]]:
        """The heads of one chain, in its order."""
        return sorted((head for head in self.heads if head.get("chain") == chain), key=lambda head: int(head["seq"]))

    def lines(self) -> list[dict[str, Any]]:
        """The journal's lines that can be read."""
        return [line for line in map(_object, self.journal) if line is not None]

    def runs(self) -> set[str]:
        """Every run that the journal or the activation record names."""
        record = self.activation or {}
        entries = record.get("history") if isinstance(record.get("history"), list) else []
        named = [*self.lines(), *(entries or []), record.get("last")]
        return {str(entry["run"]) for entry in named if isinstance(entry, dict) and entry.get("run")}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def check_witnesses(verdict: HistoryVerdict, witnesses: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Reconcile the history with what each host keeps.

    Args:
        witnesses: by host, `{heads: [{chain, seq, hash, run}], journal: [line], activation, service, asked_at}`; None
            for a host that did not answer.
        others: chains of other histories that these hosts may also have witnessed.
    """
    chain = chain_id(verdict.records)
    replaced = _replaced_chains(verdict.records)
    verdict.notes += [f"Chain {name} was replaced, or has replaced this one: {why}" for name, why in replaced.items()]
    accepted = {*others, *replaced}
    runs = {str(record.get("run")) for record in verdict.records if record.get("event") == "intent"}
    chain_is_whole = not verdict.problems
    answers = [HostAnswer.read(host, answer) for host, answer in sorted(witnesses.items()) if isinstance(answer, dict)]
    verdict.notes += [f"{host} did not answer." for host, answer in sorted(witnesses.items()) if answer is None]
    newest_head = max((head["seq"] for answer in answers for head in answer.heads_of(chain)), default=-1)
    problems: list[Problem] = []
    for answer in answers:
        known = answer.heads_of(chain)
        foreign = sorted({str(head.get("chain")) for head in answer.heads} - accepted - {str(chain)})
        if known or foreign:
            verdict.witnesses.append(answer.host)
        problems += [
            Problem("never_written", f"{answer.host} has seen the chain {name}, of which there is nothing here.", 0)
            for name in foreign
        ]
        differing = [problem for head in known for problem in _head_differs(verdict.records, head, answer.host)]
        if chain_is_whole:
            problems += differing[:1]
            if known and not differing:
                verdict.witnessed_seq = max(verdict.witnessed_seq, int(known[-1]["seq"]))
            until = newest_head if answer.asked_at is None else answer.asked_at
            problems += _contradictions(
                verdict, answer, [record for record in verdict.records if record["seq"] <= until]
            )
        recorded = runs | {str(head.get("run")) for head in answer.heads if head.get("chain") in accepted}
        switches = _switches_of_runs(verdict.records, answer) if chain_is_whole else {}
        problems += _journal_problems(verdict, answer, recorded, switches)
    verdict.problems += sorted(problems, key=lambda problem: -1 if problem.seq is None else problem.seq)


def _replaced_chains(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The chains that this one has replaced or that have replaced it, each with the recorded reason."""
    replaced: dict[str, str] = {}
    reasons: dict[Any, Any] = {}
    for record in records:
        event, run, data = record.get("event"), record.get("run"), _dict(record.get("data"))
        chains: Any = None
        if event == "intent" and data.get("new_chain"):
            reasons[run] = data["new_chain"]
        elif event == "begin":
            chains, reasons[run] = _dict(data.get("replaces")).get("chains"), _dict(data.get("replaces")).get("reason")
        elif event == "replaced":
            chains, reasons[run] = [data], data.get("reason")
        elif event == "result" and run in reasons:
            chains = _dict(data.get("fields")).get("other_chains")
        for item in map(_dict, chains if isinstance(chains, list) else []):
            last = f"its last known head is record {item['seq']}" if "seq" in item else f"since run {item.get('run')}"
            replaced.setdefault(str(item.get("chain")), f"{reasons[run]} (record {record['seq']}; {last})")
    return replaced


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class _Claim:
    """What a record reports of a host: that it kept the head of a run, or which token and release it had then."""

    seq: int
    run: str
    opened: int
    inventory: Any
    keeps_head: bool = False
    token: int | None = None
    confirmed: str | None = None
    is_switch: bool = False


def _claims(records: Sequence[Mapping[str, Any]], host: str, service: str | None) -> list[_Claim]:
    """What the records report of a host, since the service was last removed from it; check runs only predict."""
    claims: list[_Claim] = []
    opened: dict[str, Mapping[str, Any]] = {}
    for record in records:
        run, data = str(record.get("run")), _dict(record.get("data"))
        if record.get("event") == "intent" and not data.get("check"):
            opened[run] = record
        elif record.get("event") == "end" and run in opened and _removes_service(opened[run], data, host):
            claims = [claim for claim in claims if claim.keeps_head]
        elif record.get("event") == "result" and data.get("host") == host and run in opened:
            fields = _dict(data.get("fields"))
            intent, token = int(opened[run]["seq"]), fields.get("token")
            inventory = _dict(opened[run].get("data")).get("inventory")
            if fields.get("witnessed") is True:
                claims.append(_Claim(record["seq"], run, intent, inventory, keeps_head=True))
            is_ours = service is not None and fields.get("service") == service
            if is_ours and type(token) is int and data.get("status") in ("ok", "changed"):
                is_switch = data["status"] == "changed" and fields.get("state", "confirmed") == "confirmed"
                claims.append(
                    _Claim(record["seq"], run, intent, inventory, False, token, fields.get("confirmed"), is_switch)
                )
    return claims


def _removes_service(intent: Mapping[str, Any], end: Mapping[str, Any], host: str) -> bool:
    data = _dict(intent.get("data"))
    is_decommission = str(data.get("playbook")).rpartition("/")[2] == "decommission.yml"
    return is_decommission and _dict(_dict(end.get("hosts")).get(host)).get("outcome") == "success"


def _contradictions(verdict: HistoryVerdict, answer: HostAnswer, records: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """The first of what a host lacks although its own files, or the history's records of it, name it."""
    host, chain = answer.host, chain_id(records)
    known = answer.heads_of(chain)
    if problem := _record_problem(answer):
        return [problem]
    intents = {
        str(record.get("run")): record
        for record in records
        if record.get("event") == "intent" and not _dict(record.get("data")).get("check")
    }
    runs = {*answer.runs(), *(str(head.get("run")) for head in known)} & intents.keys()
    evidence = {int(intents[run]["seq"]): run for run in runs}
    # a host of the same name in another inventory with this history is another one
    inventories = [_dict(intents[run].get("data")).get("inventory") for run in runs]
    claims = _claims(records, host, answer.service)
    claims = [claim for claim in claims if not runs or claim.inventory in inventories]
    if not evidence:
        verdict.notes.append(
            f"{host} keeps nothing of this history, although record {claims[0].seq} has run {claims[0].run} there: "
            "it was built again, or emptied."
            if claims
            else f"{host} has witnessed nothing of this history yet."
        )
        return []
    # a host that was built again knows nothing of what came before: that shows as a note
    first = min(evidence)
    if earlier := [claim for claim in claims if claim.opened < first]:
        verdict.notes.append(
            f"{host} keeps nothing of before run {evidence[first]}, although record {earlier[0].seq} has run "
            f"{earlier[0].run} there: it was built again then, or emptied."
        )
    claims = [claim for claim in claims if claim.opened >= first]
    if not known and not any(claim.keeps_head for claim in claims):
        return [
            Problem("witness", f"{host} keeps no head of this history, although its journal has run {evidence[first]}.")
        ]
    return next(([problem] for claim in claims if (problem := _claim_problem(claim, answer, known))), [])


def _claim_problem(claim: _Claim, answer: HostAnswer, known: Sequence[Mapping[str, Any]]) -> Problem | None:
    host, record = answer.host, answer.activation or {}
    if claim.keeps_head:
        if any(head.get("run") == claim.run for head in known):
            return None
        return Problem(
            "witness", f"{host} has lost the head of run {claim.run}, which record {claim.seq} has there.", claim.seq
        )
    if not answer.knows_activation:
        return None
    token, at = record.get("token"), f"record {claim.seq} has token {claim.token} with {claim.confirmed or 'nothing'}"
    if type(token) is not int or token < (claim.token or 0):
        return Problem(
            "activation", f"{host}'s activation record has token {token}: it was set back, since {at}.", claim.seq
        )
    if token == claim.token and record.get("confirmed") != claim.confirmed:
        other = record.get("confirmed") or "nothing"
        return Problem("activation", f"{host}'s activation record has token {token} with {other}, but {at}.", claim.seq)
    # of any run: one that completes what a killed one began has changed the host, and not the journal
    lines = [line for line in answer.lines() if line.get("event") in ("confirmed", "rollback")]
    if claim.is_switch and not any(
        (line.get("token"), line.get("to")) == (claim.token, claim.confirmed) for line in lines
    ):
        return Problem("journal", f"{host}'s journal lacks the switch of run {claim.run}, of which {at}.", claim.seq)
    return None


def _record_problem(answer: HostAnswer) -> Problem | None:
    """Whether the journal of switches ends before the activation record, which was written with its newest switch."""
    record = answer.activation or {}
    last, head = record.get("last"), record.get("journal")
    journal = f"{answer.host}'s journal of switches"
    if isinstance(last, dict) and all(
        {**last, "prev_sha256": line.get("prev_sha256")} != line for line in answer.lines()
    ):
        what = f"{last.get('event')} to {last.get('to')} at {last.get('at')}"
        return Problem(
            "journal",
            f"{journal} lacks the newest switch that its activation record names: {what}. It was cut, or could not be "
            "written, or a command was killed: `mobius-host repair` on the host writes it, as does the next switch.",
        )
    if isinstance(head, dict) and type(head.get("lines")) is int and head["lines"] > 0:
        number = head["lines"]
        if len(answer.journal) < number:
            text = f"{journal} was cut: it has {len(answer.journal)} lines, and its activation record counts {number}."
            return Problem("journal", text)
        if _line_sha256(answer.journal[number - 1]) != head.get("sha256"):
            return Problem(
                "journal", f"{journal} was rewritten: line {number} is not the one in its activation record."
            )
    return None


def _line_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


_SWITCHING = ("mobius.dhash.promotion", "mobius.dhash.rollback")


def _switches_of_runs(records: Sequence[Mapping[str, Any]], answer: HostAnswer) -> dict[str, set[int]]:
    """By run, the tokens of the switches that its results have of a host.

    Left out is a run of which not every result is known: it has not ended, it died, it recorded none at all, or one of
    this host's switches failed, or is of version 0.1.0, which did not record the service.
    """
    tokens: dict[str, set[int]] = {}
    checks: set[str] = set()
    ended: set[str] = set()
    unclear: set[str] = set()
    for record in records if answer.service is not None else ():
        run, event, data = str(record.get("run")), record.get("event"), _dict(record.get("data"))
        if event == "intent" and data.get("check"):
            checks.add(run)
        elif event == "end" and data.get("outcome") != "interrupted":
            if not data.get("closed_by") and not data.get("incomplete"):
                ended.add(run)
        elif event == "result":
            tokens.setdefault(run, set())
            if data.get("host") != answer.host or data.get("module") not in _SWITCHING:
                continue
            fields = _dict(data.get("fields"))
            token = fields.get("token")
            if data.get("status") not in ("ok", "changed") or type(token) is not int or "service" not in fields:
                unclear.add(run)
            elif fields["service"] == answer.service and run not in checks:
                tokens[run].add(token)
    return {run: known for run, known in tokens.items() if run in ended - unclear}


def _journal_problems(
    verdict: HistoryVerdict, answer: HostAnswer, recorded: set[str], switches: Mapping[str, set[int]]
) -> list[Problem]:
    """Check a host's journal of switches: its chain, and that every run in it since the first head is recorded.

    What roles did without a run, before the first switch of a recorded run, was before the history counted there.

    Args:
        switches: by run whose results are known, the tokens of its switches on this host; no other line is that run's.
    """
    since = min((str(head.get("at", "")) for head in answer.heads), default=None)
    previous = FIRST
    unopened = 0
    has_recorded_switch = False
    for number, text in enumerate(answer.journal, 1):
        line = _object(text)
        if line is None or line.get("prev_sha256") != previous:
            text = f"Line {number} of {answer.host}'s journal of switches does not follow the one before."
            return [Problem("journal", text)]
        previous = _line_sha256(text)
        run = line.get("run")
        what = f"{line.get('event')} to {line.get('to')} at {line.get('at')}"
        if run is not None and str(run) in recorded:
            has_recorded_switch = True
            is_switch = line.get("event") in ("confirmed", "rollback")
            if is_switch and str(run) in switches and line.get("token") not in switches[str(run)]:
                text = f"{answer.host} has a {what} in the name of run {run}, which has no result of it."
                return [Problem("never_written", text)]
        elif since is not None and str(line.get("at", "")) >= since and (run or line.get("actor") == "ansible"):
            if run is None and not has_recorded_switch:
                unopened += 1
                continue
            return [Problem("never_written", f"Run {run} was never recorded: {answer.host} has its {what}.")]
    if unopened:
        verdict.notes.append(
            f"{unopened} lines of {answer.host}'s journal are of roles without a run, before its first recorded switch."
        )
    return []


def read_head(folder: Path) -> dict[str, Any] | None:
    """The object of the head file, None when there is none that can be read."""
    try:
        head = json.loads((folder / HEAD_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return head if isinstance(head, dict) else None


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Verify a history of runs.")
    parser.add_argument("folder", type=Path, help="holds history.jsonl and head.json")
    parser.add_argument(
        "--witnesses", type=Path, metavar="FILE", help="what `mobius history verify --save-witnesses FILE` wrote"
    )
    parser.add_argument("--signers", type=Path, metavar="FILE", help="allowed_signers, as ssh-keygen reads it")
    parser.add_argument(
        "--other-chain", action="append", default=[], metavar="ID", help="another history of these hosts"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: exit code 0 when the history is whole, 2 when it is not, 1 when it cannot be read."""
    options = _parser().parse_args(arguments)
    try:
        witnesses = json.loads(options.witnesses.read_text(encoding="utf-8")) if options.witnesses else None
        verdict = verify(options.folder, witnesses=witnesses, signers=options.signers, others=options.other_chain)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = (
        json.dumps(verdict.as_dict(), indent=2, sort_keys=True)
        if options.format == "json"
        else "\n".join(verdict.lines())
    )
    sys.stdout.write(f"{text}\n")
    return 2 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
