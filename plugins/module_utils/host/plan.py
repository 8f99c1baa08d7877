# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of a host (Observation), what a command will do to it (HostPlan), and how a plan is built.

A plan is computed from an observation alone, so check mode and `--diff` show what the real run performs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .front.settings import HTTP, WORKER
from .maintenance import Maintenance
from .state import Activation, Lease, MonitoringWindow, Pending, is_live, is_open, role_of

REASON_MAX_CHARS = 500  # characters of a reason that are kept


@dataclass(frozen=True)
class ObservedInstance:
    """An instance: the state of its unit, its state in the front (None: not known), and whether it is known to hang."""

    unit: str
    state: str | None = None
    is_silent: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is something to stop: it runs, or systemd is about to run it again."""
        return self.unit in ("active", "activating", "reloading")

    @property
    def runs(self) -> bool:
        """Whether it may still have a process."""
        return self.exists or self.unit == "deactivating"

    @property
    def word(self) -> str:
        """One word for people: standby, serving, draining, starting, silent, stopping, failed, stopped."""
        if self.unit == "active":
            return "silent" if self.is_silent or self.state is None else self.state
        return {"activating": "starting", "deactivating": "stopping", "failed": "failed"}.get(self.unit, "stopped")


@dataclass(frozen=True)
class Observation:
    """The state of a host at one time.

    `is_live`: the pending promotion still counts. `unjournaled`: the lines of `activation` that the journal lacks;
    all of them when it cannot be read (`is_journal_readable`).
    `record_problem`: why `activation` was not read from `activation.json`, and `is_copied`: whether the copy of that
    file holds the same. `is_record_lost`: there is neither, and `activation` is what is known without them.
    `overlaps`: two instances may run at once. `kind`: what the service speaks.
    `is_page_served`: whether HAProxy gives clients the page of maintenance now; None when it does not say.
    `pending_problem`: why `pending.json` counts as none. `unknown_units`: instances that run and are of no release.
    """

    activation: Activation
    pending: Pending | None
    is_live: bool
    at: float  # seconds of CLOCK_MONOTONIC
    boot: str
    staged: frozenset[str]
    instances: Mapping[str, ObservedInstance]
    is_listening: bool
    is_enabled: bool
    is_guarded: bool
    current: str | None
    unjournaled: tuple[Mapping[str, Any], ...] = ()
    is_journal_readable: bool = True
    window: MonitoringWindow | None = None
    is_watched: bool = False
    window_seconds: float = 0.0
    lease: Lease | None = None
    record_problem: str | None = None
    is_copied: bool = True
    is_record_lost: bool = False
    pending_problem: str | None = None
    unknown_units: tuple[str, ...] = ()
    overlaps: bool = True
    kind: str = HTTP
    maintenance: Maintenance | None = None
    is_page_served: bool | None = None

    @property
    def is_held_open(self) -> bool:
        """Whether the monitoring window is over, but kept open because a run holds the host.

        The warm release would be stopped at the end of the window, and that run may be about to use it.
        """
        window, lease = self.open_window, self.lease
        is_leased = lease is not None and lease.is_live(self.at, self.boot)
        return window is not None and self.at >= window.until and is_leased

    @property
    def open_window(self) -> MonitoringWindow | None:
        """The monitoring window when it belongs to the confirmed release."""
        window = self.window
        return window if window is not None and window.is_of(self.activation, self.boot) else None

    @property
    def live_promotion(self) -> Pending | None:
        """The pending promotion when it is live."""
        return self.pending if self.is_live else None

    @property
    def open_promotion(self) -> Pending | None:
        """The pending promotion when it is neither confirmed nor reverted, overdue or not."""
        return self.pending if is_open(self.activation, self.pending, self.boot) else None

    def instance(self, release: str) -> ObservedInstance:
        """The instance of a release, a stopped one when there is none."""
        return self.instances.get(release, ObservedInstance("inactive"))

    def role(self, release: str) -> str:
        """The role that the release must have."""
        return role_of(self.activation, self.live_promotion, release)

    def view(self) -> dict[str, Any]:
        """What a plan can change: `--diff` shows it before and after."""
        words = {release: item.word for release, item in self.instances.items() if item.exists}
        return {
            "confirmed": self.activation.confirmed,
            "pending": {"release": self.pending.release, "stage": self.pending.stage} if self.pending else None,
            "instances": {name: "standby" if word == "draining" else word for name, word in sorted(words.items())},
            "bad": sorted({item.release for item in self.activation.history if self.activation.is_bad(item.release)}),
            "current": self.current,
            "listening": self.is_listening,
            "enabled": self.is_enabled,
            "token": self.activation.token,
            "watched": self.open_window.release if self.open_window else None,
            "maintenance": self.maintenance is not None,
        }


@dataclass(frozen=True)
class Action:
    """One step. `value` is the state to write, or the journal line."""

    verb: str
    release: str | None = None
    value: Any = None

    def __str__(self) -> str:
        return _SENTENCES[self.verb].format(release=self.release)


_SENTENCES = {
    "pause": "let requests wait",
    "start": "start {release}",
    "serve": "let {release} serve",
    "stand_by": "let {release} stand by",
    "stop": "stop {release}",
    "write_activation": "write activation.json and its copy",
    "heal_activation": "write activation.json again from its copy",
    "write_copy": "write the copy of activation.json",
    "write_pending": "write pending.json for {release}",
    "remove_pending": "remove pending.json",
    "set_pending_aside": "set the damaged pending.json aside",
    "start_guard": "start the guard",
    "write_window": "write watch.json for {release}",
    "start_watch": "start the watch",
    "remove_window": "remove watch.json",
    "link_current": "point current at {release}",
    "stop_listening": "stop listening",
    "enable_units": "enable the socket and boot units",
    "append_journal": "write the journal",
    "begin_maintenance": "give clients the page of maintenance",
    "end_maintenance": "let clients reach the service again",
    "obey_maintenance": "let the front obey the state of maintenance",
}


def apply_to_model(observed: Observation, action: Action) -> Observation:
    """The state of the host after an action: the prediction that check mode shows."""

    def instances(release: str | None, instance: ObservedInstance | None) -> Mapping[str, ObservedInstance]:
        others = {name: item for name, item in observed.instances.items() if name != release}
        return {**others, str(release): instance} if instance else others

    replace = dataclasses.replace
    match action.verb:
        case "start":
            running = ObservedInstance("active", observed.role(str(action.release)))
            return replace(observed, instances=instances(action.release, running), is_listening=observed.kind != WORKER)
        case "serve":
            return replace(observed, instances=instances(action.release, ObservedInstance("active", "serving")))
        case "stand_by":
            return replace(observed, instances=instances(action.release, ObservedInstance("active", "standby")))
        case "stop":
            return replace(observed, instances=instances(action.release, None))
        case "write_activation":
            live = is_live(action.value, observed.pending, observed.at, observed.boot)
            last = action.value.last
            is_new = last is not None and last != observed.activation.last
            return replace(
                observed,
                activation=action.value,
                is_live=live,
                unjournaled=(*observed.unjournaled, *([last] if is_new else [])),
                record_problem=None,
                is_copied=True,
                is_record_lost=False,
            )
        case "heal_activation" | "write_copy":
            return replace(observed, record_problem=None, is_copied=True)
        case "write_pending":
            live = is_live(observed.activation, action.value, observed.at, observed.boot)
            return replace(observed, pending=action.value, is_live=live)
        case "remove_pending":
            return replace(observed, pending=None, is_live=False)
        case "set_pending_aside":
            return replace(observed, pending_problem=None)
        case "start_guard":
            return replace(observed, is_guarded=True)
        case "write_window":
            return replace(observed, window=action.value, is_watched=False)
        case "start_watch":
            return replace(observed, is_watched=True)
        case "remove_window":
            return replace(observed, window=None)
        case "link_current":
            return replace(observed, current=action.release)
        case "stop_listening":
            return replace(observed, is_listening=False)
        case "enable_units":
            return replace(observed, is_enabled=True)
        case "begin_maintenance":
            return replace(observed, maintenance=action.value, is_page_served=True)
        case "end_maintenance":
            return replace(observed, maintenance=None, is_page_served=False)
        case "obey_maintenance":
            return replace(observed, is_page_served=action.value)
        case "append_journal":
            return replace(observed, unjournaled=tuple(x for x in observed.unjournaled if x != action.value))
    return observed


@dataclass(frozen=True)
class HostPlan:
    """What a command will do. `note` is one sentence for people."""

    before: Observation
    after: Observation
    actions: tuple[Action, ...]
    note: str
    journal_problem: str | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.actions)

    def starts(self) -> list[str]:
        """The releases that the plan starts."""
        return [str(action.release) for action in self.actions if action.verb == "start"]

    @property
    def warnings(self) -> list[str]:
        """The state files that were damaged before, and why the journal lacks a line."""
        problems = (self.before.record_problem, self.before.pending_problem, self.journal_problem)
        return [problem for problem in problems if problem]

    def result(self) -> dict[str, Any]:
        """The part of a module's result that describes the plan."""
        return {
            **({"warnings": self.warnings} if self.warnings else {}),
            "changed": self.changed,
            "diff": {"before": self.before.view(), "after": self.after.view()},
            "actions": [str(action) for action in self.actions],
            "note": self.note,
            "confirmed": self.after.activation.confirmed,
            "token": self.after.activation.token,
        }


class PlanBuilder:
    """Collects actions, and keeps a model of the host after them."""

    def __init__(self, observed: Observation) -> None:
        self.before = observed
        self.model = observed
        self.actions: list[Action] = []

    def do(self, verb: str, release: str | None = None, value: Any = None) -> None:
        action = Action(verb, release, value)
        self.actions.append(action)
        self.model = apply_to_model(self.model, action)

    def serve(self, release: str) -> None:
        """Let a release serve; start it first when it does not run. Where two cannot run, the other one is stopped."""
        if not self.model.overlaps:
            self._stop_others(release)
        if self.model.instance(release).unit != "active":
            self.do("start", release)
        if self.model.instance(release).state != "serving":
            self.do("serve", release)

    def _stop_others(self, release: str) -> None:
        others = [name for name, item in self.model.instances.items() if name != release and item.runs]
        if others and self.model.instance(release).unit != "active":
            self.do("pause")
        for other in others:
            self.do("stop", other)

    def stand_by(self, release: str) -> None:
        """Let a release stand by; one that systemd keeps restarting is stopped."""
        instance = self.model.instance(release)
        if instance.unit == "active" and instance.state not in ("standby", "draining"):
            self.do("stand_by", release)
        elif instance.exists and instance.unit != "active":
            self.do("stop", release)

    def stop(self, release: str) -> None:
        """Stop the instance of a release, if there is one."""
        if self.model.instance(release).exists:
            self.stand_by(release)
        if self.model.instance(release).exists:
            self.do("stop", release)

    def stop_listening_if_unused(self) -> None:
        """Stop the public socket with the last instance on a host that has confirmed nothing yet."""
        is_unused = self.model.activation.confirmed is None and not self.model.is_live
        if is_unused and self.model.is_listening and not any(item.exists for item in self.model.instances.values()):
            self.do("stop_listening")

    def finish(self) -> None:
        """Link `current` to the confirmed release, and enable the units that start it at boot."""
        confirmed = self.model.activation.confirmed
        if confirmed is not None and self.model.current != confirmed:
            self.do("link_current", confirmed)
        if confirmed is not None and not self.model.is_enabled:
            self.do("enable_units")

    def plan(self, note: str) -> HostPlan:
        return HostPlan(self.before, self.model, tuple(self.actions), note)


@dataclass(frozen=True)
class Actor:
    """Who acts, for which run and why, for the journal; the reason is made one line of valid text."""

    name: str
    run: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            readable = self.reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            object.__setattr__(self, "reason", " ".join(readable.split())[:REASON_MAX_CHARS])
