# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan: a check run kept as a file, with all that it was made from, so that exactly this can be approved and run.

The file is JSON: `digest` and `plan`. The digest is the SHA-256 of the canonical form (RFC 8785, as the history's) of
`plan`, and it is what people sign. Values of extra variables are not in it, but digests keyed by the history's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobius import durable
from mobius.control.history.verifier import canonical
from mobius.control.modules import module_entry
from mobius.control.plan.changes import HostChanges, canonical_value
from mobius.errors import MobiusError

SCHEMA = 1
SUFFIX = ".plan.json"
MADE_FROM = (
    *("playbook", "playbook_sha256", "inventory", "inventory_sha256", "code_sha256", "bundle", "bundle_sha256"),
    *("commit", "clean", "limit", "tags", "skip_tags", "variables"),
)
"""What of a run's intent a plan keeps."""
_MUST_EQUAL = {
    "playbook_sha256": "the playbook",
    "inventory_sha256": "the inventory",
    "inventory": "the inventory's name",
    "code_sha256": "the playbooks, roles or plugins",
    "bundle_sha256": "the bundle",
    "limit": "--limit",
    "tags": "--tags",
    "skip_tags": "--skip-tags",
}
# of the run and not of the plan; the bundle is known by its digest, wherever its file is
_NOT_PLANNED = frozenset({"mobius_plan", "mobius_break_glass", "mobius_bundle", "mobius_new_chain"})
_WORDS = ("provisioned", "confirmed", "token", "pending", "releases")


@dataclass(frozen=True)
class ChangePlan:
    """What a check run predicts.

    `run` is the check run's id, `created` a moment in UTC (ISO 8601), `made_from` has the keys of `MADE_FROM`,
    `variables` and `files` are passed to the run again (`files` as `@PATH`), `hosts` each host's changes.
    """

    run: str
    created: str
    author: str
    made_from: Mapping[str, Any]
    variables: Mapping[str, Any]
    files: tuple[str, ...]
    hosts: Mapping[str, HostChanges]

    def as_dict(self) -> dict[str, Any]:
        """The object that the digest is made of."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "created": self.created,
            "author": self.author,
            "made_from": dict(self.made_from),
            "variables": dict(self.variables),
            "files": list(self.files),
            "hosts": {host: changes.as_dict() for host, changes in self.hosts.items()},
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hexadecimal digits."""
        return hashlib.sha256(canonical(canonical_value(self.as_dict()))).hexdigest()

    def write(self, path: Path) -> None:
        """Keep it as a new file.

        Raises:
            MobiusError: invalid_input, when something is there; the approvals beside it would be of another plan.
        """
        if path.exists():
            raise MobiusError("invalid_input", f"{path} exists already.", do_next="Give another file with --out.")
        try:
            durable.write_json(path, {"digest": self.digest, "plan": canonical_value(self.as_dict())}, mode=0o640)
        except FileNotFoundError as error:
            raise MobiusError("invalid_input", f"There is no folder {path.parent}.") from error

    @classmethod
    def read(cls, path: Path) -> ChangePlan:
        """The plan in a file.

        Raises:
            MobiusError: plan_invalid, when there is none, or it is not what was written.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            data = value["plan"]
            if data["schema"] != SCHEMA:
                raise MobiusError("plan_invalid", f"{path} has the schema {data['schema']}, and not {SCHEMA}.")
            plan = cls(
                run=str(data["run"]),
                created=str(data["created"]),
                author=str(data["author"]),
                made_from={name: data["made_from"][name] for name in MADE_FROM},
                variables=dict(data["variables"]),
                files=tuple(data["files"]),
                hosts={host: HostChanges.read(changes) for host, changes in data["hosts"].items()},
            )
            whole = plan.digest == value["digest"] and plan.as_dict() == data
        except OSError as error:
            raise MobiusError("plan_invalid", f"The plan {path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MobiusError("plan_invalid", f"{path} is not a plan.") from error
        if not whole:
            raise MobiusError("plan_invalid", f"The plan {path} was changed after it was made.")
        return plan

    @property
    def count(self) -> int:
        """Tasks that change something, on all hosts."""
        return sum(not change.unknown for host in self.hosts.values() for change in host.changes)

    @property
    def touches_releases(self) -> bool:
        """Whether it brings a release to a host, or switches to one."""
        changes = (change for host in self.hosts.values() for change in host.changes)
        return any(module_entry(change.module).brings_release for change in changes)

    def age(self, now: datetime) -> float:
        """Seconds since it was made.

        Raises:
            MobiusError: plan_invalid, when it does not say when it was made.
        """
        try:
            return (now - datetime.fromisoformat(self.created).astimezone(UTC)).total_seconds()
        except ValueError as error:
            raise MobiusError("plan_invalid", f"{self.created!r} is not a moment in ISO 8601.") from error


def make(
    collected: Mapping[str, Any], variables: Mapping[str, Any], extra: Sequence[str], run: str, created: str
) -> ChangePlan:
    """The plan of a check run.

    Args:
        collected: what the run's callback has left: `intent` and `hosts`.
        variables: what the command itself gives to the playbook.
        extra: Ansible's own `-e` arguments; only those that name a file are kept.

    Raises:
        MobiusError: invalid_input, when the playbook opens no run, and so could not be held to a plan.
    """
    if not collected.get("intent"):
        raise MobiusError(
            "invalid_input",
            "This playbook changes no host: it has no task mobius.dhash.run, so there is nothing to plan.",
        )
    intent = collected["intent"]
    return ChangePlan(
        run=run,
        created=created,
        author=str(intent["actor"]),
        made_from=canonical_value({name: made_from(intent)[name] for name in MADE_FROM}),
        variables=dict(variables),
        files=tuple(text for text in extra if text.startswith("@")),
        hosts={host: HostChanges.read(canonical_value(changes)) for host, changes in collected["hosts"].items()},
    )


def made_from(intent: Mapping[str, Any]) -> dict[str, Any]:
    """What a run stands on, from its intent as the history has it; keys as `MADE_FROM`."""
    kept = {name: intent.get(name) for name in MADE_FROM}
    variables = intent.get("variables") or {}
    return {**kept, "variables": {name: variables[name] for name in sorted(variables) if name not in _NOT_PLANNED}}


def fingerprint(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a host's releases must still hold when the plan is run, from the result of `release_info`."""
    pending = facts.get("pending")
    kept = [item for item in facts.get("releases", []) if item["staged"]]
    return {
        "provisioned": bool(facts.get("provisioned")),
        "confirmed": facts.get("confirmed"),
        "token": facts.get("token"),
        "pending": pending["release"] if pending else None,
        "releases": {str(item["release"]): "bad" if item["bad"] else "kept" for item in kept},
    }


def differences(plan: ChangePlan, intent: Mapping[str, Any]) -> list[str]:
    """What is another now than when the plan was made, in words; empty when nothing is."""
    now = made_from(intent)
    changed = [word for name, word in _MUST_EQUAL.items() if now[name] != plan.made_from[name]]
    planned, actual = plan.made_from["variables"], now["variables"]
    changed += [f"the variable {name} (give it again with -e)" for name in sorted(planned.keys() - actual.keys())]
    changed += [f"the variable {name} (it is not in the plan)" for name in sorted(actual.keys() - planned.keys())]
    changed += [
        f"the variable {name}" for name in sorted(planned.keys() & actual.keys()) if planned[name] != actual[name]
    ]
    return changed


def host_differences(planned: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """What of a host is another than its fingerprint, in words."""
    before, after = planned or {}, now or {}
    return [
        f"{name} was {value_text(before.get(name))} and is {value_text(after.get(name))}"
        for name in _WORDS
        if before.get(name) != after.get(name)
    ]


def value_text(value: Any) -> str:
    """A value in a sentence."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
