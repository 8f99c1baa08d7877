# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From records to runs: what `mobius history list|show|export` and the report show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mobius.control.history import verifier as form
from mobius.control.modules import module_entry, module_name
from mobius.errors import MobiusError

_VERSION_OF_BUNDLE = re.compile(r"-(\d[0-9a-z.]*)\.tar\.[a-z]+$")

COLUMNS = (
    *("run", "started", "finished", "actor", "playbook", "inventory", "outcome", "exit_code"),
    *("from_release", "to_release", "plan", "backups"),
)
"""The keys of a run in `mobius history list --format json`, in the order of the CSV's columns."""


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Every run of a history, oldest first, as far as its records can be read.

    Beside `COLUMNS` a run has `check`, `hosts` (by host, from its end), `intent` (the data of its first record),
    `results`, `decisions`, `end` and `unwitnessed` (the hosts that do not keep the head of its end).

    Raises:
        MobiusError: invalid_input, when the folder holds no history.
    """
    path = folder / form.FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise MobiusError(
            "invalid_input",
            f"There is no history in {folder}.",
            do_next="Run a playbook first, or name the folder with --dir or the inventory with -i.",
        ) from error
    return runs_of(record for record in map(form.parse, lines) if record is not None)


def runs_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs that these records tell of."""
    runs: dict[str, dict[str, Any]] = {}
    for record in records:
        event, name, data = record.get("event"), str(record.get("run")), record.get("data")
        if not isinstance(data, dict) or "at" not in record:
            continue
        if event == "intent":
            begun = {"run": name, "started": record["at"], "intent": data}
            runs[name] = {**begun, "results": [], "decisions": [], "end": None, "unwitnessed": []}
        elif name in runs and event == "result":
            runs[name]["results"].append({"at": record["at"], **data})
        elif name in runs and event == "decision":
            runs[name]["decisions"].append({"at": record["at"], "seq": record["seq"], **data})
        elif name in runs and event == "end":
            runs[name]["end"] = {"at": record["at"], **data}
            runs[name]["unwitnessed"] += data.get("unwitnessed") or []
        elif name in runs and event == "unwitnessed":
            runs[name]["unwitnessed"] += data.get("hosts") or []
    return [_run(run) for run in runs.values()]


def _run(run: dict[str, Any]) -> dict[str, Any]:
    intent, end = run["intent"], run["end"] or {}
    hosts = end.get("hosts") or _hosts_so_far(run["results"])
    return {
        **run,
        "finished": end.get("at"),
        "actor": intent.get("actor"),
        "playbook": intent.get("playbook"),
        "inventory": intent.get("inventory"),
        "outcome": end.get("outcome"),
        "exit_code": end.get("exit_code"),
        "from_release": _one_or_by_host({host: facts.get("from_release") for host, facts in hosts.items()}),
        "to_release": _one_or_by_host({host: facts.get("to_release") for host, facts in hosts.items()}),
        "plan": intent.get("plan"),
        "backups": {host: facts["backup"] for host, facts in hosts.items() if facts.get("backup")},
        "check": bool(intent.get("check")),
        "hosts": hosts,
    }


def _hosts_so_far(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is known of the hosts of a run that died before it could sum up."""
    hosts: dict[str, dict[str, Any]] = {}
    for result in results:
        sum_up(hosts, result)
    return hosts


def is_opening(module: str) -> bool:
    """Whether this is the module that opens a run."""
    return module_name(module) == "run"


def sum_up(hosts: dict[str, dict[str, Any]], result: Mapping[str, Any]) -> None:
    """Bring `hosts` up to date with one result: each host's from_release, to_release, backup and gate."""
    host = hosts.setdefault(str(result.get("host")), {})
    module, fields = str(result.get("module")), result.get("fields") or {}
    name, entry = module_name(module), module_entry(module)
    if entry.before_field in fields:
        host.setdefault("from_release", fields[entry.before_field])
        host.setdefault("to_release", fields[entry.before_field])
    if result.get("status") not in ("ok", "changed"):
        return
    if entry.after_field in fields:
        host["to_release"] = fields[entry.after_field]
    elif name == "backup" and fields.get("id"):
        host["backup"] = {"id": fields["id"], "sha256": fields.get("sha256")}
    elif name == "gate" and "verdict" in fields:
        host["gate"] = fields["verdict"]


def _one_or_by_host(releases: Mapping[str, Any]) -> Any:
    """The one release of all hosts, else an object by host."""
    values = set(releases.values())
    return (values.pop() if values else None) if len(values) < 2 else dict(releases)


def listed(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as `mobius history list` shows it."""
    return {name: run[name] for name in COLUMNS}


def tried_release(run: Mapping[str, Any]) -> str | None:
    """The release that a run was about: of its bundle, its promotion or its rollback; None when it was about none.

    Of a release that was refused before its bundle was read, it is the version in the bundle's name.
    """
    for result in run["results"]:
        field = module_entry(str(result.get("module"))).release_field
        if field and (release := (result.get("fields") or {}).get(field)):
            return str(release)
    decisions = [decision["release"] for decision in run["decisions"] if decision.get("release")]
    if decisions:
        return str(decisions[0])
    is_release = PurePosixPath(str(run["playbook"])).stem in ("release", "deploy")
    named = _VERSION_OF_BUNDLE.search(str(run["intent"].get("bundle") or "")) if is_release else None
    return named[1] if named else None


def took_seconds(run: Mapping[str, Any]) -> float | None:
    """How long a run took; None for one that has not ended by itself."""
    milliseconds = (run["end"] or {}).get("duration_ms")
    return None if milliseconds is None else float(milliseconds) / 1000


def matching(
    runs: Iterable[dict[str, Any]],
    *,
    host: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    release: str | None = None,
) -> list[dict[str, Any]]:
    """The runs on a host, with an outcome (`running` where there is none yet), since a moment, or about a release.

    A release is named by its id or by the beginning of it, such as its version.

    Raises:
        MobiusError: invalid_input, when `since` is no moment.
    """

    def fits(run: Mapping[str, Any]) -> bool:
        named = {tried_release(run), *_each_release(run["from_release"]), *_each_release(run["to_release"])}
        return (
            (host is None or host in run["hosts"] or host in (run["intent"].get("hosts") or ()))
            and (outcome is None or outcome == (run["outcome"] or "running"))
            and (release is None or any(name and name.startswith(release) for name in named))
        )

    return [run for run in in_period(runs, since, None) if fits(run)]


def _each_release(releases: Any) -> tuple[str | None, ...]:
    return tuple(releases.values()) if isinstance(releases, dict) else (releases,)


def in_period(runs: Iterable[dict[str, Any]], begin: str | None, end: str | None) -> list[dict[str, Any]]:
    """The runs that started from `begin` on and before `end`, each a day or a moment as ISO 8601 writes it; in UTC.

    Raises:
        MobiusError: invalid_input, when one of them is neither.
    """
    first, last = _moment(begin), _moment(end)
    return [
        run
        for run in runs
        if (first is None or _moment(run["started"]) >= first) and (last is None or _moment(run["started"]) < last)  # type: ignore[operator]
    ]


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise MobiusError("invalid_input", f"{text!r} is not a day like 2026-01-31 or a moment in ISO 8601.") from error
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
