# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host at one moment (Observation), what a command will do to it (HostPlan), and how a plan is built.

A plan is computed from an observation alone, so check mode and `--diff` show what the real run performs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .state import Activation, Lease, MonitoringWindow, Pending, is_live, is_open, role_of

REASON_MAX_CHARS = 500  # characters of a reason that are kept


@dataclass(frozen=True)
class ObservedInstance:
    """An instance as seen: its unit's state, and what it says itself (None: it does not answer)."""

    unit: str
    state: str | None = None

    @property
    def exists(self) -> bool:
        """Whether there is something to stop: it runs, or systemd is about to run it again."""
        return self.unit in ("active", "activating", "reloading")

    @property
    def word(self) -> str:
        """One word for people: standby, serving, draining, starting, silent, stopping, failed, stopped."""
        if self.unit == "active":
            return self.state or "silent"
        return {"activating": "starting", "deactivating": "stopping", "failed": "failed"}.get(self.unit, "stopped")


@dataclass(frozen=True)
class Observation:
    """A host at one moment. `live`: the pending promotion counts. `written`: the journal has the truth's last line."""

    activation: Activation
    pending: Pending | None
    live: bool
    at: float  # seconds of CLOCK_MONOTONIC
    boot: str
    staged: frozenset[str]
    instances: Mapping[str, ObservedInstance]
    listening: bool
    enabled: bool
    guarded: bool
    current: str | None
    written: bool
    window: MonitoringWindow | None = None
    watched: bool = False
    window_seconds: float = 0.0
    lease: Lease | None = None

    @property
    def overtime(self) -> bool:
        """Whether the monitoring window is over, and is kept open because a run holds the host.

        What is warm, and would be stopped at its end, may be just what that run has found ready and is about to ask.
        """
        window, lease = self.open_window, self.lease
        held = lease is not None and lease.live(self.at, self.boot)
        return window is not None and self.at >= window.until and held

    @property
    def open_window(self) -> MonitoringWindow | None:
        """The monitoring window when it is about the confirmed release."""
        window = self.window
        return window if window is not None and window.is_of(self.activation, self.boot) else None

    @property
    def promoting(self) -> Pending | None:
        """The pending promotion when it is live."""
        return self.pending if self.live else None

    @property
    def open(self) -> Pending | None:
        """The pending promotion when it awaits its end, overdue or not."""
        return self.pending if is_open(self.activation, self.pending, self.boot) else None

    def instance(self, release: str) -> ObservedInstance:
        """The instance of a release, a stopped one when there is none."""
        return self.instances.get(release, ObservedInstance("inactive"))

    def role(self, release: str) -> str:
        """What the release is to be."""
        return role_of(self.activation, self.promoting, release)

    def view(self) -> dict[str, Any]:
        """What of it is a plan's business: what `--diff` shows before and after."""
        words = {release: item.word for release, item in self.instances.items() if item.exists}
        return {
            "confirmed": self.activation.confirmed,
            "pending": {"release": self.pending.release, "stage": self.pending.stage} if self.pending else None,
            "instances": {name: "standby" if word == "draining" else word for name, word in sorted(words.items())},
            "bad": sorted({item.release for item in self.activation.history if self.activation.is_bad(item.release)}),
            "current": self.current,
            "listening": self.listening,
            "enabled": self.enabled,
            "token": self.activation.token,
            "watched": self.open_window.release if self.open_window else None,
        }


@dataclass(frozen=True)
class Action:
    """One step. `value` is the state to write, or the line to log."""

    verb: str
    release: str | None = None
    value: Any = None

    def __str__(self) -> str:
        sentence = _SENTENCES[self.verb]
        return sentence.format(release=self.release, value=self.value)


_SENTENCES = {
    "start": "start {release}",
    "serve": "let {release} serve",
    "stand_by": "let {release} stand by",
    "stop": "stop {release}",
    "write_activation": "write activation.json",
    "write_pending": "write pending.json for {release}",
    "remove_pending": "remove pending.json",
    "start_guard": "start the guard",
    "write_window": "write watch.json for {release}",
    "start_watch": "start the watch",
    "remove_window": "remove watch.json",
    "link_current": "point current at {release}",
    "stop_listening": "stop listening",
    "enable_units": "enable the socket and boot units",
    "append_journal": "write the journal",
}


def apply_to_model(observed: Observation, action: Action) -> Observation:
    """What a host looks like after an action. This is the prediction that check mode shows."""

    def instances(release: str | None, instance: ObservedInstance | None) -> Mapping[str, ObservedInstance]:
        others = {name: item for name, item in observed.instances.items() if name != release}
        return {**others, str(release): instance} if instance else others

    replace = dataclasses.replace
    match action.verb:
        case "start":
            running = ObservedInstance("active", observed.role(str(action.release)))
            return replace(observed, instances=instances(action.release, running), listening=True)
        case "serve":
            return replace(observed, instances=instances(action.release, ObservedInstance("active", "serving")))
        case "stand_by":
            return replace(observed, instances=instances(action.release, ObservedInstance("active", "standby")))
        case "stop":
            return replace(observed, instances=instances(action.release, None))
        case "write_activation":
            live = is_live(action.value, observed.pending, observed.at, observed.boot)
            return replace(observed, activation=action.value, live=live, written=False)
        case "write_pending":
            live = is_live(observed.activation, action.value, observed.at, observed.boot)
            return replace(observed, pending=action.value, live=live)
        case "remove_pending":
            return replace(observed, pending=None, live=False)
        case "start_guard":
            return replace(observed, guarded=True)
        case "write_window":
            return replace(observed, window=action.value, watched=False)
        case "start_watch":
            return replace(observed, watched=True)
        case "remove_window":
            return replace(observed, window=None)
        case "link_current":
            return replace(observed, current=action.release)
        case "stop_listening":
            return replace(observed, listening=False)
        case "enable_units":
            return replace(observed, enabled=True)
        case "append_journal":
            return replace(observed, written=True)
    return observed


@dataclass(frozen=True)
class HostPlan:
    """What a command will do. `note` is one sentence for people."""

    before: Observation
    after: Observation
    actions: tuple[Action, ...]
    note: str

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.actions)

    def starts(self) -> list[str]:
        """The releases that the plan starts."""
        return [str(action.release) for action in self.actions if action.verb == "start"]

    def result(self) -> dict[str, Any]:
        """What a module returns of it."""
        return {
            "changed": self.changed,
            "diff": {"before": self.before.view(), "after": self.after.view()},
            "actions": [str(action) for action in self.actions],
            "note": self.note,
            "confirmed": self.after.activation.confirmed,
            "token": self.after.activation.token,
        }


class PlanBuilder:
    """A plan in the making: it collects actions and knows what the host looks like after them."""

    def __init__(self, observed: Observation) -> None:
        self.before = observed
        self.model = observed
        self.actions: list[Action] = []

    def do(self, verb: str, release: str | None = None, value: Any = None) -> None:
        action = Action(verb, release, value)
        self.actions.append(action)
        self.model = apply_to_model(self.model, action)

    def serve(self, release: str) -> None:
        """Have a release serve, started first if need be."""
        if self.model.instance(release).unit != "active":
            self.do("start", release)
        if self.model.instance(release).state != "serving":
            self.do("serve", release)

    def stand_by(self, release: str) -> None:
        """Have a release stand by; one that loops through restarts is stopped."""
        instance = self.model.instance(release)
        if instance.unit == "active" and instance.state not in ("standby", "draining"):
            self.do("stand_by", release)
        elif instance.exists and instance.unit != "active":
            self.do("stop", release)

    def stop(self, release: str) -> None:
        """Have no instance of a release."""
        if self.model.instance(release).exists:
            self.stand_by(release)
        if self.model.instance(release).exists:
            self.do("stop", release)

    def stop_listening_if_unused(self) -> None:
        """On a host that has served nothing yet, an instance's socket unit goes with the last instance."""
        bare = self.model.activation.confirmed is None and not self.model.live
        if bare and self.model.listening and not any(item.exists for item in self.model.instances.values()):
            self.do("stop_listening")

    def finish(self) -> None:
        """What follows from the truth."""
        confirmed = self.model.activation.confirmed
        if confirmed is not None and self.model.current != confirmed:
            self.do("link_current", confirmed)
        if confirmed is not None and not self.model.enabled:
            self.do("enable_units")

    def plan(self, note: str) -> HostPlan:
        return HostPlan(self.before, self.model, tuple(self.actions), note)


@dataclass(frozen=True)
class Actor:
    """Who asks, and why: what the journal keeps, as one line that can be written whatever was typed."""

    name: str
    run: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            readable = self.reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            object.__setattr__(self, "reason", " ".join(readable.split())[:REASON_MAX_CHARS])
