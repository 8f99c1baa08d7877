# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run changes on each host, as its modules report it: collected from a check run for a plan, and from a run to
be compared with the plan.

A check run predicts each task from the host's present state, a run from what the tasks before have left. So what the
modules report about the same thing (the releases of a host) is compared as a whole, from its first `before` to its last
`after`, and everything else task by task, by what differs and not by what stays.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mobius.control.modules import module_entry, module_name
from mobius.control.run.outcome import Ending, ending

_WATCHED = "watched"  # the release whose monitoring window is open, in what those modules show
_LONGEST = 20_000  # characters of a text that are kept; of a longer one its digest
_RECORDED_DIFFERENCES = 20  # all are counted


@dataclass(frozen=True)
class Delta:
    """One thing that is another afterwards. `before` and `after` are JSON values without floats; None is nothing."""

    path: str
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        """`{path, before, after}`."""
        return {"path": self.path, "before": self.before, "after": self.after}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Delta:
        """The delta that `as_dict` wrote."""
        return cls(str(data["path"]), data["before"], data["after"])


@dataclass(frozen=True)
class Change:
    """A task that changes something. `unknown` says why that cannot be known beforehand; empty when it can."""

    task: str
    module: str
    diff: tuple[Delta, ...] = ()
    unknown: str = ""

    def as_dict(self) -> dict[str, Any]:
        """`{task, module, predicted, why, diff}`; `predicted` is `unknown` or `change`."""
        return {
            "task": self.task,
            "module": self.module,
            "predicted": "unknown" if self.unknown else "change",
            "why": self.unknown,
            "diff": [delta.as_dict() for delta in self.diff],
        }

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Change:
        """The change that `as_dict` wrote."""
        deltas = tuple(Delta.read(delta) for delta in data["diff"])
        return cls(str(data["task"]), str(data["module"]), deltas, str(data["why"]))


@dataclass
class HostChanges:
    """What becomes of one host: `changes` in their order, and `net`, what becomes of its releases in all."""

    state: dict[str, Any] | None = None
    changes: list[Change] = field(default_factory=list)
    net: tuple[Delta, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """`{state, changes, net}`; `state` is the host's fingerprint when the run began, null when it was not read."""
        return {
            "state": self.state,
            "changes": [change.as_dict() for change in self.changes],
            "net": [delta.as_dict() for delta in self.net],
        }

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> HostChanges:
        """What `as_dict` wrote."""
        changes = [Change.read(change) for change in data["changes"]]
        return cls(data["state"], changes, tuple(Delta.read(delta) for delta in data["net"]))


class Collector:
    """Keeps what changes, from every result of a run. One object a run."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostChanges] = {}
        self._first: dict[str, Mapping[str, Any]] = {}

    def result(self, host: str, module: str, task: str, result: Mapping[str, Any], *, skipped: bool = False) -> None:
        """One result that did not fail; of a loop, each item's.

        Args:
            module: the task's module, by its full name.
            task: the task's name before templates are filled in.
            skipped: whether Ansible has skipped it, by its condition or because its module has no check mode.
        """
        changes = self.hosts.setdefault(host, HostChanges())
        if module_name(module) == "run" and changes.state is None:
            changes.state = result.get("state")
        items = result.get("results")
        loop = isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items)
        for part in items if loop and isinstance(items, list) else [result]:
            why = _unknown(part, bool(part.get("skipped", skipped)))
            if why:
                changes.changes.append(Change(task, module, (), why))
            elif part.get("changed"):
                changes.changes.append(
                    Change(task, module, tuple(_deltas(part.get("diff"))), module_entry(module).unpredictable)
                )
                if module_entry(module).shares_state:
                    self._add_to_net(host, changes, part.get("diff"))

    def _add_to_net(self, host: str, changes: HostChanges, diff: Any) -> None:
        if isinstance(diff, Mapping) and isinstance(diff.get("before"), Mapping):
            first = self._first.setdefault(host, diff["before"])
            changes.net = tuple(_deltas({"before": first, "after": diff.get("after")}))


def _unknown(result: Mapping[str, Any], skipped: bool) -> str:
    """Why check mode could not say what a task would do; empty when it could."""
    if result.get("predicted") == "unknown":
        return "it is known only when it is done"
    by_condition = "skip_reason" in result or "false_condition" in result
    silent = skipped and not by_condition and result.get("msg")
    return "its module does not say in check mode what it would do" if silent else ""


def _deltas(diff: Any) -> Iterable[Delta]:
    """What differs, from what a module gives as `diff`: one object with before and after, or a list of them."""
    if isinstance(diff, list):
        for part in diff:
            yield from _deltas(part)
        return
    if not isinstance(diff, Mapping):
        return
    before, after = diff.get("before"), diff.get("after")
    name = str(diff.get("before_header") or "")
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        old = dict(_leaves(before if isinstance(before, Mapping) else {}, name))
        new = dict(_leaves(after if isinstance(after, Mapping) else {}, name))
        for path in sorted(old.keys() | new.keys()):
            if old.get(path) != new.get(path):
                yield Delta(path, old.get(path), new.get(path))
    elif before != after:
        yield Delta(name, _plain(before), _plain(after))
    elif diff.get("prepared"):
        yield Delta(name, None, _plain(diff["prepared"]))


def _leaves(value: Mapping[str, Any], path: str) -> Iterable[tuple[str, Any]]:
    """Every value of nested objects by its path; of a list of words each as `present`, so that order says nothing."""
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            yield from _leaves(item, name)
        elif isinstance(item, list) and all(isinstance(word, str) for word in item):
            yield from ((f"{name}[{word}]", "present") for word in item)
        else:
            yield name, _plain(item)


def _plain(value: Any) -> Any:
    """A value as a plan holds it: of a long text its digest, floats as text."""
    value = canonical_value(value)
    if value is None or isinstance(value, bool | int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) <= _LONGEST:
        return text
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()} ({len(text)} characters)"


def canonical_value(value: Any) -> Any:
    """A JSON value as the canonical form allows it: no floats, no huge integers, ASCII keys, Unicode."""
    if isinstance(value, Mapping):
        return {_text(key).encode("ascii", "backslashreplace").decode(): canonical_value(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [canonical_value(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    return repr(value) if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# --- Predicted against actual -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A change that was predicted and did not happen, or the reverse."""

    host: str
    resource: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None and self.after is None:
            return f"{self.host}: {self.resource}"
        return f"{self.host}: {self.resource}: {_word(self.before)} -> {_word(self.after)}"

    def as_dict(self) -> dict[str, Any]:
        """`{host, resource, before, after}`."""
        return {"host": self.host, "resource": self.resource, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Fidelity:
    """How well a run kept to its plan: `missing` was predicted and did not happen, `extra` happened unpredicted."""

    missing: tuple[Difference, ...]
    extra: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Counts, and the differences with their values."""
        return {
            "missing": len(self.missing),
            "extra": len(self.extra),
            "missing_changes": [difference.as_dict() for difference in self.missing],
            "extra_changes": [difference.as_dict() for difference in self.extra],
        }

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Fidelity:
        """What `as_dict` wrote."""
        missing, extra = (
            tuple(Difference(**item) for item in data[f"{word}_changes"]) for word in ("missing", "extra")
        )
        return cls(missing, extra)

    def record(self) -> dict[str, Any]:
        """For the history: the counts, and where they differ, without values that hosts have made."""
        return {
            "missing": len(self.missing),
            "extra": len(self.extra),
            "missing_at": [f"{item.host}: {item.resource}" for item in self.missing[:_RECORDED_DIFFERENCES]],
            "extra_at": [f"{item.host}: {item.resource}" for item in self.extra[:_RECORDED_DIFFERENCES]],
        }

    def applied_to(self, end: Ending) -> Ending:
        """The run's ending: a success that did not keep to its plan is none."""
        return check_fidelity(end, len(self.missing), len(self.extra))


def check_fidelity(end: Ending, missing: int, extra: int) -> Ending:
    """`end`, or `plan_mismatch` when it is a success with missing or extra changes."""
    if end.code != 0 or not (missing or extra):
        return end
    reason = f"The run left out {missing} planned changes, and made {extra} that are not in the plan."
    return replace(ending("plan_mismatch", reason), hosts=end.hosts, release=end.release)


def compare(predicted: Mapping[str, HostChanges], actual: Mapping[str, HostChanges], *, diffs: bool = True) -> Fidelity:
    """Hold what a run did against its plan.

    Args:
        diffs: whether the run was one with `--diff`: without it only the collection's modules report what differs.
    """
    missing: list[Difference] = []
    extra: list[Difference] = []
    for host in sorted(predicted.keys() | actual.keys()):
        plan, run = predicted.get(host, HostChanges()), actual.get(host, HostChanges())
        open_tasks = {change.task for change in plan.changes if change.unknown}
        planned, made = (_resources(item, open_tasks, diffs=diffs) for item in (plan, run))
        missing += [Difference(host, *_values(key)) for key in sorted((planned - made).elements())]
        extra += [Difference(host, *_values(key)) for key in sorted((made - planned).elements())]
    return Fidelity(tuple(missing), tuple(extra))


def _resources(host: HostChanges, open_tasks: set[str], *, diffs: bool) -> Counter[tuple[str, str, str]]:
    """Everything comparable: each task that changes something, and what it makes of what."""
    resources: Counter[tuple[str, str, str]] = Counter()
    for change in host.changes:
        if change.unknown or change.task in open_tasks:
            continue
        resources[change.task, "null", "null"] += 1
        if not module_entry(change.module).shares_state and (diffs or module_name(change.module)):
            for delta in change.diff:
                name = f"{change.task}: {delta.path}" if delta.path else change.task
                resources[name, json.dumps(delta.before), json.dumps(delta.after)] += 1
    for delta in host.net:
        if delta.after is not None or not _ends_by_itself(delta):
            before = None if delta.path == _WATCHED else delta.before
            resources[f"releases: {delta.path}", json.dumps(before), json.dumps(delta.after)] += 1
    return resources


def _ends_by_itself(delta: Delta) -> bool:
    """Whether a host's monitoring window ends it: it may be over between the check run and the run."""
    return delta.path == _WATCHED or (delta.path.startswith("instances.") and delta.before == "standby")


def _values(key: tuple[str, str, str]) -> tuple[str, Any, Any]:
    return key[0], json.loads(key[1]), json.loads(key[2])


def _word(value: Any) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 80 and "\n" not in text else f"a text of {len(text)} characters"
