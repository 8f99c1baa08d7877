# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The history as one HTML page that needs nothing else: no script from elsewhere, no font, no picture."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mobius.control.history.report import CHANGES, dora, gate_figures, moment_of, playbook_name
from mobius.control.history.verifier import HistoryVerdict

_STYLE = """
:root{color-scheme:light dark;--line:#8886;--good:#1a7f37;--bad:#c62828;--dim:#777}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.6rem 0 .4rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.6rem}
.figures div{border:1px solid var(--line);border-radius:.5rem;padding:.6rem}.figures b{display:block;font-size:1.4rem}
form{display:flex;flex-wrap:wrap;gap:.6rem;margin:.6rem 0}select,input{font:inherit;max-width:100%;min-height:2.5rem}
svg{width:100%;height:auto;display:block}.wide{overflow-x:auto}
details{border:1px solid var(--line);border-radius:.5rem;margin:.4rem 0;padding:.4rem .7rem;break-inside:avoid}
summary{cursor:pointer;overflow-wrap:anywhere}.good{color:var(--good)}.bad{color:var(--bad)}.dim{color:var(--dim)}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{border-bottom:1px solid var(--line);padding:.25rem .4rem;
text-align:left;vertical-align:top;overflow-wrap:anywhere}[hidden]{display:none}
.wide td,th{overflow-wrap:normal}.wide svg{min-width:34rem}.gate svg{height:.7rem}.gate td{white-space:nowrap}
.gate td:first-child{width:3.5rem}.gate td:last-child{width:5rem}
@media print{form,#seen{display:none}body{max-width:none;padding:0}}
"""
_SCRIPT = """
const form=document.forms[0],all=[...document.querySelectorAll('details[data-run]')];
function filter(){let seen=0;for(const run of all){
 const wanted=[...new FormData(form)].every(([name,value])=>!value||(name==='text'
  ?run.textContent.toLowerCase().includes(value.toLowerCase()):run.dataset[name].split(' ').includes(value)));
 run.hidden=!wanted;seen+=wanted;}
document.getElementById('seen').textContent=seen+' of '+all.length+' runs';}
form.addEventListener('input',filter);form.addEventListener('submit',event=>event.preventDefault());filter();
function open_named(){const run=document.getElementById(location.hash.slice(1));if(run)run.open=true;}
addEventListener('hashchange',open_named);open_named();
addEventListener('beforeprint',()=>all.forEach(run=>run.open=true));
"""


def report_page(runs: Sequence[Mapping[str, Any]], verdict: HistoryVerdict) -> str:
    """The page, as one HTML text."""
    figures = dora(runs)
    hosts = sorted({host for run in runs for host in run["hosts"]})
    cards = (
        ("deployments a day", _number(figures.deployments_a_day)),
        ("lead time, start to confirmed", _duration(figures.lead_time)),
        ("changes that failed", "no data" if figures.failure_rate is None else f"{figures.failure_rate:.0%}"),
        ("time to restore", _duration(figures.time_to_restore)),
    )
    word = "bad" if verdict.problems else "good" if verdict.status == "whole" else "dim"
    body = [
        f"<h1>History of releases</h1><p>Record: <b class={word} id=verdict>{_text(verdict.lines()[0])}</b></p>",
        *(f"<p class=bad>{_text(problem.text)}</p>" for problem in verdict.problems),
        f"<p class=dim>{_text(verdict.open_tail())}</p>" if verdict.open_tail() else "",
        "<div class=figures id=dora>",
        *(f"<div><b>{_text(value)}</b>{_text(name)}</div>" for name, value in cards),
        "</div><h2>What each host served</h2>",
        f"<div class=wide>{_timeline(runs, hosts)}</div><h2>Runs</h2>",
        _form(runs, hosts),
        *(_run(run) for run in reversed(runs)),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none';style-src 'unsafe-inline';script-src "
        f"'unsafe-inline'\"><title>History of releases</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}<script>{_SCRIPT}</script></body></html>\n"
    )


def _timeline(runs: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> str:
    """A row a host; a tick for each change of what it serves, coloured by how the run ended, named and linked."""
    moves = [
        (host, run)
        for run in runs
        if not run["check"]
        for host, facts in run["hosts"].items()
        if facts.get("from_release") != facts.get("to_release") or playbook_name(run) in CHANGES
    ]
    if not moves:
        return "<p class=dim>No release was changed yet.</p>"
    times = [moment_of(run["started"]).timestamp() for _, run in moves]
    first, span = min(times), (max(times) - min(times)) or 1
    parts = [f"<svg id=timeline viewBox='0 0 700 {30 * len(hosts) + 24}' role=img aria-label='Releases of each host'>"]
    for row, host in enumerate(hosts):
        y = 18 + 30 * row
        parts.append(f"<text x=0 y={y + 4} font-size=11 fill=currentColor>{_text(host[:16])}</text>")
        parts.append(f"<line x1=110 x2=690 y1={y} y2={y} stroke=currentColor opacity=.3 />")
    for (host, run), at in zip(moves, times, strict=True):
        x, y = 120 + 560 * (at - first) / span, 18 + 30 * hosts.index(host)
        facts = run["hosts"][host]
        colour = "var(--good)" if run["outcome"] == "success" else "var(--bad)"
        shape = (
            f"<path d='M{x + 7:.1f} {y - 7} l-12 7 l12 7z' fill='{colour}'>"
            if playbook_name(run) == "rollback.yml"
            else f"<circle cx={x:.1f} cy={y} r=6 fill='{colour}'>"
        )
        end = "</path>" if shape.startswith("<path") else "</circle>"
        moved = f"{facts.get('from_release')} to {facts.get('to_release')}"
        what = f"{run['started']} {playbook_name(run)} {run['outcome']}: {moved}"
        parts.append(f"<a href='#{_text(run['run'])}'>{shape}<title>{_text(what)}</title>{end}</a>")
    ends = (moment_of(run["started"]).strftime("%Y-%m-%d %H:%M") for run in (moves[0][1], moves[-1][1]))
    left, right = ends
    y = 30 * len(hosts) + 18
    parts.append(f"<text x=110 y={y} font-size=10 fill=currentColor>{left} UTC</text>")
    parts.append(f"<text x=690 y={y} font-size=10 fill=currentColor text-anchor=end>{right} UTC</text></svg>")
    return "".join(parts)


def _form(runs: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> str:
    def choice(name: str, values: Iterable[str]) -> str:
        options = "".join(f"<option>{_text(value)}</option>" for value in sorted(set(values)))
        return f"<select name={name} aria-label={name}><option value=''>any {name}</option>{options}</select>"

    return (
        f"<form>{choice('host', hosts)}{choice('playbook', (playbook_name(run) for run in runs))}"
        f"{choice('outcome', (_outcome(run) for run in runs))}{choice('kind', ('check', 'change'))}"
        "<input name=text type=search placeholder='any text' aria-label='any text'></form><p id=seen class=dim></p>"
    )


def _run(run: Mapping[str, Any]) -> str:
    outcome = _outcome(run)
    word = "good" if outcome == "success" else "bad"
    intent, end = run["intent"], run["end"] or {}
    facts = {
        "who": f"{run['actor']} from {intent.get('from', {}).get('machine')}",
        "started": run["started"],
        "finished": run["finished"],
        "took": _duration(end["duration_ms"] / 1000) if isinstance(end.get("duration_ms"), int) else None,
        "commit": f"{intent['commit']}{'' if intent.get('clean') else ', not clean'}" if intent.get("commit") else None,
        "inventory": run["inventory"],
        "bundle": f"{intent['bundle']} {intent.get('bundle_sha256')}" if intent.get("bundle") else None,
        "plan": run["plan"],
        "reason": intent.get("reason"),
        "decided": "; ".join(_decision(made) for made in run["decisions"]),
        **{name.replace("_", " "): value for name, value in (intent.get("change") or {}).items()},
    }
    rows = "".join(f"<tr><th>{_text(name)}<td>{_text(value)}" for name, value in facts.items() if value)
    hosts = "".join(
        f"<tr><td>{_text(host)}<td>{_text(value.get('from_release') or 'nothing')}<td>"
        f"{_text(value.get('to_release') or 'nothing')}<td>{_text((value.get('backup') or {}).get('id') or '')}"
        f"<td>{_text(value.get('gate') or '')}<td>{_text(value.get('outcome') or '')}"
        for host, value in sorted(run["hosts"].items())
    )
    results = "".join(
        f"<tr><td>{_text(result['at'][11:19])}<td>{_text(result['host'])}<td>{_text(result['task'])}<td>"
        f"{_text(result.get('outcome') or result['status'])}<td>{_text(_brief(result.get('fields') or {}))}"
        for result in run["results"]
    )
    named, playbook = " ".join(run["hosts"]), _text(playbook_name(run))
    return (
        f"<details data-run id='{_text(run['run'])}' data-host='{_text(named)}' data-playbook='{playbook}' "
        f"data-outcome='{_text(outcome)}' data-kind={'check' if run['check'] else 'change'}>"
        f"<summary><b class={word}>{_text(outcome)}</b> {playbook}{' (check)' if run['check'] else ''} "
        f"<span class=dim>{_text(run['run'])} by {_text(run['actor'])}</span></summary><table>{rows}</table>"
        "<h3>Hosts</h3><div class=wide><table><tr><th>host<th>from<th>to<th>backup<th>gate<th>outcome"
        f"{hosts}</table></div>"
        f"{_gates(run)}<h3>Results</h3><div class=wide><table>{results}</table></div></details>"
    )


def _decision(made: Mapping[str, Any]) -> str:
    """What was decided for all hosts, in one line."""
    return (
        f"{made.get('decision')} {made.get('release') or ''} at {made['at']} (record {made['seq']}, "
        f"evidence {str(made.get('evidence_sha256'))[:12]})"
    )


def _gates(run: Mapping[str, Any]) -> str:
    """Bars of each gate's numbers, new beside old where the gate measured both."""
    parts = []
    for result in run["results"]:
        evidence = (result.get("fields") or {}).get("evidence")
        if str(result.get("module", "")).rpartition(".")[2] != "gate" or not isinstance(evidence, dict):
            continue
        for name, pair in gate_figures(evidence).items():
            most = max(*pair.values(), 0) or 1
            bars = "".join(
                f"<tr><td>{side}<td><svg viewBox='0 0 300 12' preserveAspectRatio=none aria-hidden=true>"
                f"<rect height=12 width={300 * pair[side] / most:.1f} fill='{colour}' /></svg><td>{pair[side]:g}"
                for side, colour in (("old", "var(--dim)"), ("new", "var(--good)"))
                if side in pair
            )
            parts.append(f"<h4>{_text(result['host'])}: {_text(name)}</h4><table class=gate>{bars}</table>")
    return f"<h3>Gate</h3>{''.join(parts)}" if parts else ""


def _brief(fields: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in fields.items() if name != "evidence" and value not in (None, "", [], {})}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _outcome(run: Mapping[str, Any]) -> str:
    return str(run["outcome"] or "unfinished")


def _number(value: float | None) -> str:
    return "no data" if value is None else f"{value:.2g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "no data"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
