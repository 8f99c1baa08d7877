# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The history of runs as text: a table of runs, one run for people, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from mobius.cli.render.text import TextStyle, duration
from mobius.control.history.query import COLUMNS, took_seconds, tried_release
from mobius.control.run.account import version_of

_HEADER = ("STARTED", "TOOK", "PLAYBOOK", "TRIED", "FROM", "TO", "OUTCOME", "WHO", "RUN")
_FACT_NAMES = {"ticket": "ticket", "release_owner": "owner", "deploy_operator": "operator", "window": "window"}


def list_lines(runs: Sequence[Mapping[str, Any]], *, local: bool = False) -> list[str]:
    """The runs as a table with a header: one line each, as wide as its longest cells.

    Args:
        local: whether times are those of this machine's zone and not UTC.
    """
    if not runs:
        return ["There is no such run."]
    zone = datetime.now().astimezone().strftime("%Z") if local else "UTC"
    rows = [(f"{_HEADER[0]} ({zone})", *_HEADER[1:]), *(_row(run, local=local) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: Mapping[str, Any], *, local: bool) -> tuple[str, ...]:
    took, tried = took_seconds(run), tried_release(run)
    check = " (check)" if run["check"] else ""
    return (
        time_text(run["started"], local=local),
        "" if took is None else duration(took),
        f"{_playbook(run)}{check}",
        version_of(tried) if tried else "-",
        _releases_text(run["from_release"]),
        _releases_text(run["to_release"]),
        run["outcome"] or "running",
        str(run["actor"]),
        run["run"],
    )


def time_text(moment: str, *, local: bool = False) -> str:
    """`2026-01-31 23:05`, in UTC or in this machine's zone."""
    value = datetime.fromisoformat(moment)
    return f"{value.astimezone() if local else value.astimezone(UTC):%Y-%m-%d %H:%M}"


def _playbook(run: Mapping[str, Any]) -> str:
    return PurePosixPath(str(run["playbook"])).stem


def _releases_text(value: Any) -> str:
    """The version that all hosts have, or how many have which."""
    if not isinstance(value, dict):
        return version_of(value) if value else "-"
    counts = Counter(version_of(release) if release else "-" for release in value.values())
    return ", ".join(f"{version} ({count})" for version, count in sorted(counts.items()))


def show_lines(run: Mapping[str, Any], style: TextStyle, *, local: bool = False) -> list[str]:
    """A run for people: how it ended, what it was about, who approved it, the gate's figures, and each step."""
    outcome, took, tried = run["outcome"] or "running", took_seconds(run), tried_release(run)
    intent, end = run["intent"], run["end"] or {}
    change = intent.get("change") or {}
    about = f" {tried}" if tried else ""
    lines = style.wrapped(f"{_playbook(run)}{about}: {outcome}", indent=2, first=0)
    zone = "" if local else " UTC"
    closing = f", exit {run['exit_code']}" if run["exit_code"] is not None else ""
    for label, values in (
        ("run", [f"{run['run']}{', a check run' if run['check'] else ''}"]),
        ("started", [f"{time_text(run['started'], local=local)}{zone} by {run['actor']}"]),
        ("took", [f"{'not ended' if took is None else duration(took)}{closing}"]),
        ("inventory", [str(run["inventory"])]),
        ("bundle", [_bundle(intent)] if tried and intent.get("bundle") else []),
        ("plan", [str(run["plan"])] if run["plan"] else []),
        *((word, [str(change[name])]) for name, word in _FACT_NAMES.items() if change.get(name)),
        ("approved", _approvals(intent)),
        ("waived", _waived(intent)),
        ("reason", [str(intent["reason"])] if intent.get("reason") else []),
        ("decision", [_decision(item) for item in run["decisions"]]),
        ("hosts", [_host_text(host, facts) for host, facts in sorted(run["hosts"].items())]),
        ("gate", [line for result in run["results"] for line in gate_lines(result)]),
        ("failed", _failed(run["results"])),
        ("backups", [f"{host}: {backup['id']}" for host, backup in sorted(run["backups"].items())]),
        ("no head", [", ".join(sorted(set(run["unwitnessed"])))] if run["unwitnessed"] else []),
        ("plan kept", [_fidelity(end["fidelity"])] if end.get("fidelity") else []),
        ("steps", [_step(result) for result in run["results"] if result.get("status") == "changed"]),
    ):
        lines += style.field(label, values)
    return [*lines, *style.field("more", [f"`mobius history show {run['run']} --format json` has all of it"])]


def _bundle(intent: Mapping[str, Any]) -> str:
    commit = f", commit {str(intent['commit'])[:12]}" if intent.get("commit") else ""
    digest = f", SHA-256 {intent['bundle_sha256']}" if intent.get("bundle_sha256") else ""
    return f"{intent['bundle']}{digest}{commit}"


def _approvals(intent: Mapping[str, Any]) -> list[str]:
    """Whose signatures of the plan were counted, then who has approved by the variable mobius_change."""
    signed = [f"{item['who']} as {item['role']}" for item in (intent.get("approval") or {}).get("approvals") or ()]
    named = (intent.get("change") or {}).get("approvals") or []
    names = named if isinstance(named, list) else [named]
    return [*signed, *(f"{name} (mobius_change, without a signature)" for name in names)]


def _waived(intent: Mapping[str, Any]) -> list[str]:
    """What was in the way of the run, and why it went on all the same."""
    approval = intent.get("approval") or {}
    return [f"{', '.join(approval['waived'])}: {approval['break_glass']}"] if approval.get("waived") else []


def _decision(decision: Mapping[str, Any]) -> str:
    bad = "; the release was marked bad" if decision.get("mark_bad") else ""
    why = f": {decision['outcome']}" if decision.get("outcome") else ""
    verdicts = Counter(str((entry or {}).get("verdict")) for entry in (decision.get("hosts") or {}).values())
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return f"{decision.get('decision')} for all hosts{why} ({counted}{bad}), record {decision['seq']}"


def _host_text(host: str, facts: Mapping[str, Any]) -> str:
    before, after = facts.get("from_release"), facts.get("to_release")
    moved = f"{before or 'nothing'} to {after or 'nothing'}" if before != after else f"kept {after or 'nothing'}"
    outcome = facts.get("outcome", "success")
    return f"{host}: {moved}{'' if outcome == 'success' else f', {outcome}'}"


def gate_lines(result: Mapping[str, Any]) -> list[str]:
    """The verdict of a gate on a host, and each figure of the new release against that of the old one."""
    fields = result.get("fields") or {}
    if "verdict" not in fields or "evidence" not in fields:
        return []
    values = (fields["evidence"] or {}).get("values") or {}
    figures = [_figure(signal) for signal in values.get("signals") or ()]
    return [f"{result['host']}: {fields['verdict']}: {fields.get('reason') or ''}", *(f"  {one}" for one in figures)]


def _figure(signal: Mapping[str, Any]) -> str:
    limit = f", limit {signal['limit']}" if signal.get("limit") is not None else ""
    old = "" if signal.get("old") is None else f", old {signal['old']}"
    return f"{signal['name']}: new {signal['new']}{old}{limit}"


def _failed(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each failed task once, with its outcome and its hosts."""
    hosts: dict[str, list[str]] = {}
    for result in results:
        if "outcome" in result:
            hosts.setdefault(f"{result['task']}: {result['outcome']}", []).append(str(result["host"]))
    return [f"{what} ({', '.join(names)})" for what, names in hosts.items()]


def _step(result: Mapping[str, Any]) -> str:
    moment = datetime.fromisoformat(result["at"]).astimezone(UTC)
    return f"{moment:%H:%M:%S} {result['host']}: {result['task']}"


def _fidelity(fidelity: Mapping[str, Any]) -> str:
    return f"missing {fidelity.get('missing')}, extra {fidelity.get('extra')}"


def csv_text(runs: Iterable[Mapping[str, Any]]) -> str:
    """The runs as CSV; lists and objects as JSON, and no cell that a spreadsheet would take for a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow((*COLUMNS, "check", "ticket", "commit", "clean"))
    for run in runs:
        change = run["intent"].get("change") or {}
        more = (run["check"], change.get("ticket"), run["intent"].get("commit"), run["intent"].get("clean"))
        writer.writerow([_cell(value) for value in (*(run[name] for name in COLUMNS), *more)])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, sort_keys=True) if isinstance(value, bool | dict | list) else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
