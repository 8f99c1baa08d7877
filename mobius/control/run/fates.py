# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What became of every host in a run: what it served before, what it serves now, and its fate in one word.

Made from results of modules, never from the names of tasks or from messages.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mobius.control.modules import module_entry, module_name


class Fate(enum.StrEnum):
    """What a run did to a host, as far as the service is concerned."""

    SERVES = "serves"
    """It serves another release than before, for good, or it was confirmed again."""
    PROVISIONAL = "provisional"
    """The run ended while a promotion was not confirmed; the host reverts it by itself."""
    REVERTED = "reverted"
    """A promotion had begun on the host, and was reverted."""
    KEPT = "kept"
    """The run changed something on the host; what it serves is what it was."""
    UNTOUCHED = "untouched"
    """The run changed nothing on the host."""
    UNREACHABLE = "unreachable"
    """It did not answer. What it serves is what it last reported."""


@dataclass(frozen=True)
class HostFate:
    """One host at the end of a run.

    Attributes:
        serves: the releases that serve there now, as last reported: none, one, or those of a failed rollback; None when
            the host never reported it.
        before: the same, when the run began.
        pending: the release of a promotion that is not confirmed.
        provisioned: whether the host is prepared for the service; None when that was not asked.
    """

    host: str
    fate: Fate
    serves: tuple[str, ...] | None = None
    before: tuple[str, ...] | None = None
    pending: str | None = None
    provisioned: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """`{fate, serves, before, pending}`; `serves` and `before` are null where they are not known."""
        known = {"serves": self.serves, "before": self.before}
        lists = {name: None if value is None else list(value) for name, value in known.items()}
        return {"fate": self.fate.value, **lists, "pending": self.pending}


@dataclass(frozen=True)
class _HostState:
    serves: tuple[str, ...] | None = None
    before: tuple[str, ...] | None = None
    pending: str | None = None
    provisioned: bool | None = None
    is_touched: bool = False
    is_confirmed: bool = False
    is_reverted: bool = False
    is_lost: bool = False

    def serving(self, releases: tuple[str, ...]) -> _HostState:
        return replace(self, serves=releases, before=releases if self.before is None else self.before)


class FateObserver:
    """Follows the results of a run."""

    def __init__(self) -> None:
        self._hosts: dict[str, _HostState] = {}
        self.release: str | None = None
        """The release that the run is about, once a result has named it."""
        self.reasons: dict[str, str] = {}
        """Of a decision to revert: the reason of each host that did not pass."""

    def result(self, host: str, action: str, result: Mapping[str, Any], *, check: bool) -> None:
        """A task ended on a host, well or not."""
        state = replace(self._hosts.get(host, _HostState()), is_lost=False)
        name, entry = module_name(action), module_entry(action)
        if not check and result.get("changed") is True:
            state = replace(state, is_touched=True)
        failure = result.get("mobius_failure")
        if isinstance(failure, Mapping) and isinstance(failure.get("serves"), list | tuple):
            state = state.serving(_releases(failure["serves"]))
        if name and not result.get("failed") and not result.get("skipped"):
            if entry.release_field and result.get(entry.release_field):
                self.release = str(result[entry.release_field])
            if entry.before_field and entry.before_field in result and state.before is None:
                state = state.serving(_releases(result[entry.before_field]))
            if not check and entry.after_field and entry.after_field in result:
                state = self._moved(state, name, result, _releases(result[entry.after_field]))
            elif name == "release_info" and "confirmed" in result:
                pending = result.get("pending")
                state = replace(
                    state.serving(_releases(result["confirmed"])),
                    pending=str(pending.get("release")) if isinstance(pending, Mapping) else None,
                    provisioned=result.get("provisioned") is not False,
                )
            elif name == "decide" and result.get("decision") == "revert":
                reasons = result.get("reasons")
                self.reasons = dict(reasons) if isinstance(reasons, Mapping) else {}
        self._hosts[host] = state

    def _moved(
        self, state: _HostState, module: str, result: Mapping[str, Any], confirmed: tuple[str, ...]
    ) -> _HostState:
        """After a switch of the host: a rollback, or a step of a promotion."""
        step = str(result.get("state") or "") if module == "promotion" else "confirmed"
        if step == "confirmed":
            return replace(state.serving(confirmed), pending=None, is_confirmed=True)
        if step == "reverted":
            return replace(state.serving(confirmed), pending=None, is_reverted=state.pending is not None)
        return replace(state.serving(confirmed), pending=str(result.get("release") or "") or state.pending)

    def unreachable(self, host: str) -> None:
        """A host did not answer in a task."""
        self._hosts[host] = replace(self._hosts.get(host, _HostState()), is_lost=True)

    def fates(self) -> tuple[HostFate, ...]:
        """Of every host that took part, by name. The control node itself is no host."""
        return tuple(
            HostFate(host, _fate(state), state.serves, state.before, state.pending, state.provisioned)
            for host, state in sorted(self._hosts.items())
            if host != "localhost"
        )


def _fate(state: _HostState) -> Fate:
    if state.is_lost:
        return Fate.UNREACHABLE
    if state.pending is not None:
        return Fate.PROVISIONAL
    if state.is_confirmed:
        return Fate.SERVES
    if state.is_reverted:
        return Fate.REVERTED
    return Fate.KEPT if state.is_touched else Fate.UNTOUCHED


def _releases(value: Any) -> tuple[str, ...]:
    """The releases that a field of a result names: one, several, or none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(item) for item in value)
    return (str(value),) if value else ()
