# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reconciles a history with what hosts keep: heads, journal of switches, activation record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .chain import compare_with_head
from .records import FIRST, as_object, chain_id, parse_object
from .verdict import HistoryVerdict, Problem


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
        return [line for line in map(parse_object, self.journal) if line is not None]

    def runs(self) -> set[str]:
        """Every run that the journal or the activation record names."""
        record = self.activation or {}
        entries = record.get("history") if isinstance(record.get("history"), list) else []
        named = [*self.lines(), *(entries or []), record.get("last")]
        return {str(entry["run"]) for entry in named if isinstance(entry, dict) and entry.get("run")}


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
        differing = [problem for head in known for problem in compare_with_head(verdict.records, head, answer.host)]
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
        event, run, data = record.get("event"), record.get("run"), as_object(record.get("data"))
        chains: Any = None
        if event == "intent" and data.get("new_chain"):
            reasons[run] = data["new_chain"]
        elif event == "begin":
            replaces = as_object(data.get("replaces"))
            chains, reasons[run] = replaces.get("chains"), replaces.get("reason")
        elif event == "replaced":
            chains, reasons[run] = [data], data.get("reason")
        elif event == "result" and run in reasons:
            chains = as_object(data.get("fields")).get("other_chains")
        for item in map(as_object, chains if isinstance(chains, list) else []):
            last = f"its last known head is record {item['seq']}" if "seq" in item else f"since run {item.get('run')}"
            replaced.setdefault(str(item.get("chain")), f"{reasons[run]} (record {record['seq']}; {last})")
    return replaced


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
        run, data = str(record.get("run")), as_object(record.get("data"))
        if record.get("event") == "intent" and not data.get("check"):
            opened[run] = record
        elif record.get("event") == "end" and run in opened and _removes_service(opened[run], data, host):
            claims = [claim for claim in claims if claim.keeps_head]
        elif record.get("event") == "result" and data.get("host") == host and run in opened:
            fields = as_object(data.get("fields"))
            intent, token = int(opened[run]["seq"]), fields.get("token")
            inventory = as_object(opened[run].get("data")).get("inventory")
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
    data = as_object(intent.get("data"))
    is_decommission = str(data.get("playbook")).rpartition("/")[2] == "decommission.yml"
    return is_decommission and as_object(as_object(end.get("hosts")).get(host)).get("outcome") == "success"


def _contradictions(verdict: HistoryVerdict, answer: HostAnswer, records: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """The first of what a host lacks although its own files, or the history's records of it, name it."""
    host, chain = answer.host, chain_id(records)
    known = answer.heads_of(chain)
    if problem := find_record_problem(answer):
        return [problem]
    intents = {
        str(record.get("run")): record
        for record in records
        if record.get("event") == "intent" and not as_object(record.get("data")).get("check")
    }
    runs = {*answer.runs(), *(str(head.get("run")) for head in known)} & intents.keys()
    evidence = {int(intents[run]["seq"]): run for run in runs}
    # a host of the same name in another inventory with this history is another one
    inventories = [as_object(intents[run].get("data")).get("inventory") for run in runs]
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


def find_record_problem(answer: HostAnswer) -> Problem | None:
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
        if line_sha256(answer.journal[number - 1]) != head.get("sha256"):
            return Problem(
                "journal", f"{journal} was rewritten: line {number} is not the one in its activation record."
            )
    return None


def line_sha256(text: str) -> str:
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
        run, event, data = str(record.get("run")), record.get("event"), as_object(record.get("data"))
        if event == "intent" and data.get("check"):
            checks.add(run)
        elif event == "end" and data.get("outcome") != "interrupted":
            if not data.get("closed_by") and not data.get("incomplete"):
                ended.add(run)
        elif event == "result":
            tokens.setdefault(run, set())
            if data.get("host") != answer.host or data.get("module") not in _SWITCHING:
                continue
            fields = as_object(data.get("fields"))
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
        line = parse_object(text)
        if line is None or line.get("prev_sha256") != previous:
            text = f"Line {number} of {answer.host}'s journal of switches does not follow the one before."
            return [Problem("journal", text)]
        previous = line_sha256(text)
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
