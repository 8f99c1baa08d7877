# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks a history with itself and with its head file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .records import FIRST, HEAD_NAME, as_object, chain_id, closes_torn, digest, parse, record_hash
from .verdict import HistoryVerdict, Problem


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
    return compare_with_head(records, head, HEAD_NAME)


def compare_with_head(records: Sequence[Mapping[str, Any]], head: Mapping[str, Any], witness: str) -> list[Problem]:
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
    data = as_object(decision.get("data"))
    hosts = as_object(data.get("hosts"))
    digests = {host: as_object(entry).get("evidence_sha256") for host, entry in hosts.items()}
    if data.get("evidence_sha256") != digest(digests):
        return "the fleet"
    gates: dict[str, set[str]] = {}
    for record in before:
        result = as_object(record.get("data"))
        evidence = as_object(result.get("fields")).get("evidence")
        if record.get("event") == "result" and record.get("run") == decision.get("run") and evidence is not None:
            gates.setdefault(str(result.get("host")), set()).add(digest(evidence))
    return next((host for host, sha in sorted(digests.items()) if sha and sha not in gates.get(host, {sha})), None)
