# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a run has come: a pure model, made from ansible-runner's events. It knows no clock and no terminal;
 `mobius.cli.render.progress` shows it.

A phase follows from the file that a task stands in, never from what the task is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

from mobius.control.modules import COLLECTION

PHASES: Mapping[str, str] = MappingProxyType(
    {
        "playbooks/lock": "lock",
        "playbooks/agree_to_loss": "preflight",
        "host/preflight": "preflight",
        "host/install": "install",
        "host/configure": "configure",
        "host/stop": "stop",
        "host/remove": "remove",
        "backup/create": "backup",
        "backup/list": "list",
        "backup/verify": "verify",
        "backup/prune": "prune",
        "backup/restore": "restore",
        "backup/drill": "drill",
        "backup/schedule": "schedule",
        "backup/unschedule": "unschedule",
        "deploy/preflight": "preflight",
        "deploy/stage": "stage",
        "deploy/standby": "standby",
        "promote/canary": "canary",
        "promote/gate": "gate",
        "promote/provisional": "switch",
        "promote/decide": "decide",
        "promote/confirm": "confirm",
        "promote/revert": "revert",
        "promote/retention": "clean up",
        "rollback/main": "rollback",
    }
)
"""The phase by `<role, or playbooks>/<file of tasks>`.

A file that is not here, such as a hook, leaves a run in the phase in which it is.
"""

_IN_BATCHES = ("promote/canary", "promote/gate", "promote/provisional")

_DEPLOY = ("lock", "preflight", "backup", "stage", "standby")
_PROMOTE = ("canary", "gate", "switch", "decide", "confirm", "clean up")

EXPECTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "release": (*_DEPLOY, *_PROMOTE),
        "deploy": _DEPLOY,
        "promote": ("lock", *_PROMOTE),
        "rollback": ("rollback",),
        "provision": ("preflight", "install", "configure", "schedule"),
    }
)
"""The phases of these playbooks when all goes well; of other playbooks the phases show as they begin."""

_NAME_LIMIT = 80  # characters of a signal's name that are shown
_NUMBER_LIMIT = 1e9  # no figure and no time is larger
_TASK_FILE = re.compile(r"/(?:roles/(?P<role>[^/]+)|playbooks)/tasks/(?P<file>[^/]+)\.ya?ml(?::\d+)?$")


@dataclass(frozen=True)
class ProgressNote:
    """One thing that happened, for people: `kind` is play, task, phase, gate, sample, or the state of a host's result
    (ok, changed, skipped, ignored, failed, unreachable); `host` is empty where it concerns all of them."""

    at: datetime
    kind: str
    host: str
    text: str


@dataclass(frozen=True)
class GateSignal:
    """A figure of the gate: of the new release, and of the one before; None when it was not measured.

    `over`: it may be worse; `proven`: it is.
    """

    name: str
    new: float | None
    old: float | None
    over: bool = False
    proven: bool = False

    def __str__(self) -> str:
        old = "" if self.old is None else f" (before: {self.old:.3g})"
        new = "not measured" if self.new is None else f"{self.new:.3g}"
        over = ", too high" if self.proven else ", may be too high" if self.over else ""
        return f"{self.name} {new}{old}{over}"


@dataclass(frozen=True)
class GateProgress:
    """What is known of the gate on one host. Times in seconds; `deadline` is None until the gate has reported it.

    `healthy` of `required` seconds in a row were good so far; `verdict` is empty while it observes.
    """

    began: datetime
    deadline: float | None = None
    required: float | None = None
    healthy: float | None = None
    samples: int = 0
    signals: tuple[GateSignal, ...] = ()
    verdict: str = ""
    reason: str = ""

    def left(self, now: datetime) -> float | None:
        """Seconds until there is a verdict in any case; None when that is not known."""
        return None if self.deadline is None else max(0.0, self.deadline - (now - self.began).total_seconds())

    def describe(self, now: datetime) -> str:
        """In one line."""
        if self.verdict:
            parts = [f"{self.verdict}: {self.reason.rstrip('.')}"]
        else:
            left = self.left(now)
            parts = ["observing" if left is None else f"{left:.0f} s left at most"]
            if self.healthy is not None and self.required is not None:
                parts.append(f"good for {min(self.healthy, self.required):.0f} of {self.required:.0f} s")
        if self.samples and not self.verdict:
            parts.append(f"{self.samples} samples")
        return "; ".join([*parts, *(str(signal) for signal in self.signals)])


@dataclass(frozen=True)
class HostProgress:
    """Where one host is: `state` is working or the state of its last result, `changed` counts its changes."""

    task: str = ""
    state: str = "working"
    changed: int = 0
    gate: GateProgress | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run is. Each event makes another one.

    Attributes:
        playbook: its name without a suffix.
        phases: each phase that has begun, in the order in which it first did, with that time.
        batches: the hosts of each batch, once that is known; `batch` is the present one's number from 1, else 0.
    """

    playbook: str = ""
    began: datetime | None = None
    play: str = ""
    task: str = ""
    phase: str = ""
    phases: Mapping[str, datetime] = field(default_factory=dict)
    batches: tuple[tuple[str, ...], ...] = ()
    batch: int = 0
    hosts: Mapping[str, HostProgress] = field(default_factory=dict)
    decision: str = ""

    @property
    def where(self) -> str:
        """The phase and the batch, for people."""
        if not self.batch:
            return self.phase
        return f"{self.phase}, batch {self.batch} of {len(self.batches)}: {', '.join(self.batches[self.batch - 1])}"

    @property
    def ahead(self) -> tuple[str, ...]:
        """The phases that are still to come when all goes well."""
        expected = EXPECTED.get(self.playbook, ())
        last = max((expected.index(name) for name in self.phases if name in expected), default=-1)
        return expected[last + 1 :]

    def after(self, event: Mapping[str, Any]) -> tuple[Progress, tuple[ProgressNote, ...]]:
        """The progress after one event of ansible-runner (or of `gate_samples`), and the notes for people."""
        kind = str(event.get("event") or "")
        data = _mapping(event.get("event_data"))
        if "created" not in event:
            return self, ()
        at = _moment(event["created"])
        known = self if self.began else replace(self, began=at)
        host = str(data.get("host") or "")
        if kind == "playbook_on_play_start":
            name = str(data.get("play") or "")
            # a gate of one play says nothing about the next play
            hosts = {name: replace(item, gate=None) for name, item in known.hosts.items()}
            return replace(known, play=name, batch=0, hosts=hosts), (ProgressNote(at, "play", "", name),)
        if kind == "playbook_on_task_start":
            name = str(data.get("task") or "")
            note = ProgressNote(at, "task", "", name)
            task_file = _task_file(data)
            if task_file in PHASES and task_file not in _IN_BATCHES:  # else the batch depends on the host that starts
                known, phase = known._entered(PHASES[task_file], 0, at)
                return replace(known, task=name), (*phase, note)
            return replace(known, task=name), (note,)
        if kind == "runner_on_start":
            return known._started(host, data, at)
        if kind == "gate_sample":
            return known._sampled(host, data, at)
        if kind.startswith("runner_on_"):
            return known._result(kind.removeprefix("runner_on_"), host, data, at)
        return known, ()

    def _started(self, host: str, data: Mapping[str, Any], at: datetime) -> tuple[Progress, tuple[ProgressNote, ...]]:
        task_file = _task_file(data)
        phase, batch = PHASES.get(task_file, self.phase), self.batch
        if task_file in _IN_BATCHES:
            batch = next((number for number, names in enumerate(self.batches, 1) if host in names), 0)
        elif task_file in PHASES:
            batch = 0
        before = self.hosts.get(host, HostProgress())
        task = str(data.get("task") or "")
        gate = GateProgress(at) if _module(data) == "gate" else before.gate
        hosts = {**self.hosts, host: replace(before, task=task, state="working", gate=gate)}
        return replace(self, hosts=hosts)._entered(phase, batch, at)

    def _entered(self, phase: str, batch: int, at: datetime) -> tuple[Progress, tuple[ProgressNote, ...]]:
        if (phase, batch) == (self.phase, self.batch):
            return self, ()
        phases = self.phases if phase in self.phases or not phase else {**self.phases, phase: at}
        now = replace(self, phase=phase, phases=phases, batch=batch)
        return now, (ProgressNote(at, "phase", "", now.where),)

    def _sampled(self, host: str, data: Mapping[str, Any], at: datetime) -> tuple[Progress, tuple[ProgressNote, ...]]:
        before = self.hosts.get(host, HostProgress())
        if before.gate is None or before.gate.verdict:
            return self, ()
        gate = replace(
            before.gate,
            began=at - timedelta(seconds=_number(data.get("elapsed")) or 0.0),
            deadline=_number(data.get("deadline")),
            required=_number(data.get("wanted")),
            healthy=_number(data.get("healthy")),
            samples=int(_number(data.get("samples")) or 0),
            signals=_signals(data.get("signals")),
        )
        now = replace(self, hosts={**self.hosts, host: replace(before, gate=gate)})
        return now, (ProgressNote(at, "sample", host, gate.describe(at)),)

    def _result(
        self, state: str, host: str, data: Mapping[str, Any], at: datetime
    ) -> tuple[Progress, tuple[ProgressNote, ...]]:
        if state not in ("ok", "skipped", "failed", "unreachable"):
            return self, ()
        result = _mapping(data.get("res"))
        if state == "ok" and result.get("changed"):
            state = "changed"
        elif state == "failed" and data.get("ignore_errors"):
            state = "ignored"
        message = " ".join(str(result.get("msg") or "").split()) if state in ("failed", "unreachable") else ""
        before = self.hosts.get(host, HostProgress())
        now = replace(before, state=state, changed=before.changed + (state == "changed"))
        notes = [ProgressNote(at, state, host, message)]
        progress = self
        module = _module(data)
        if module == "batches" and isinstance(batches := result.get("batches"), list):
            progress = replace(self, batches=tuple(tuple(map(str, batch)) for batch in batches))
        elif module == "decide" and result.get("decision"):
            progress = replace(self, decision=str(result["decision"]))
        elif module == "gate" and before.gate is not None and result.get("verdict"):
            evidence = _mapping(result.get("evidence"))
            gate = replace(
                before.gate,
                verdict=str(result["verdict"]),
                reason=str(result.get("reason") or ""),
                samples=int(_number(evidence.get("samples")) or 0),
                signals=_signals(_mapping(evidence.get("values")).get("signals")),
            )
            now = replace(now, gate=gate)
            notes.append(ProgressNote(at, "gate", host, gate.describe(at)))
        return replace(progress, hosts={**progress.hosts, host: now}), tuple(notes)


class Show(Protocol):
    """What shows a run while it goes on."""

    def note(self, note: ProgressNote) -> None:
        """Something happened."""

    def text(self, line: str) -> None:
        """A line of Ansible's own: a warning, a difference, a message."""

    def now(self, progress: Progress) -> None:
        """Where the run is now; called again and again, also when nothing happens."""


def _task_file(data: Mapping[str, Any]) -> str:
    """The role and the file of a task as in `PHASES`; empty when it stands in neither a role of ours nor a playbook."""
    match = _TASK_FILE.search(str(data.get("task_path") or ""))
    return f"{match['role'] or 'playbooks'}/{match['file']}" if match else ""


def _module(data: Mapping[str, Any]) -> str:
    return str(data.get("task_action") or "").removeprefix(COLLECTION)


def _signals(value: Any) -> tuple[GateSignal, ...]:
    return tuple(
        GateSignal(
            str(item.get("name"))[:_NAME_LIMIT],
            _number(item.get("new")),
            _number(item.get("old")),
            item.get("over") is True,
            item.get("proven") is True,
        )
        for item in (value if isinstance(value, list) else [])
        if isinstance(item, Mapping)
    )


# A host may report anything, and that must not end the run that shows it.
def _number(value: Any) -> float | None:
    """A number that can be shown, also as seconds; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _NUMBER_LIMIT:
        return None
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _moment(text: Any) -> datetime:
    """The time of an event; ansible-runner writes UTC with or without an offset."""
    moment = datetime.fromisoformat(str(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
