# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is reported of every ending: of a run, of a refusal before one, of wrong arguments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobius.control.run.outcome import Ending

_RELEASE_DIGESTS = re.compile(r"-[0-9a-f]{12}(\+[0-9a-f]{8})?$")


@dataclass(frozen=True)
class Why:
    """One reason, and the hosts that it is about: none when it is about none of them in particular."""

    reason: str
    hosts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"reason": self.reason, "hosts": list(self.hosts)}


@dataclass(frozen=True)
class RunAccount:
    """An ending with what surrounds it.

    Attributes:
        command: the playbook without its suffix, or the command that was refused.
        run: the run's id; empty when none began.
        seconds: how long it took; None when that is of no interest.
        changed: changed tasks by host; in a check run those that would change it.
    """

    command: str
    ending: Ending
    check: bool = False
    run: str = ""
    seconds: float | None = None
    changed: Mapping[str, int] = field(default_factory=dict)

    @property
    def why(self) -> tuple[Why, ...]:
        """Each reason once, the worst host's first."""
        return reasons_of(self.ending)

    def as_dict(self) -> dict[str, Any]:
        """The fields that every `--format json` has at its end, whatever the ending is."""
        ending = self.ending
        return {
            "run": self.run,
            "command": self.command,
            "check": self.check,
            "outcome": ending.outcome,
            "exit_code": int(ending.code),
            "release": ending.release,
            "hosts": {item.host: item.as_dict() for item in ending.hosts},
            "reason": ending.reason,
            "why": [why.as_dict() for why in self.why],
            "do_next": ending.do_next,
            "failures": [failure.as_dict() for failure in ending.failures],
            "changed": dict(self.changed),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def reasons_of(ending: Ending) -> tuple[Why, ...]:
    """Why a run did not end well: what hosts found, each reason once with its hosts; nothing after a success."""
    if ending.outcome == "success":
        return ()
    by_host = dict(ending.reasons)
    for failure in sorted(ending.failures, key=lambda failure: failure.rank):
        # a reverted host ends with the reasons of all; a host that only waited has none of its own
        is_own = failure.host not in by_host and not (ending.reasons and failure.outcome == ending.outcome)
        if is_own and (failure.outcome != "held_back" or ending.outcome == "held_back"):
            task = "" if failure.carried or failure.outcome == "unreachable" else f"The task {failure.task!r} failed: "
            by_host[failure.host] = f"{task}{failure.reason}"
    hosts_by_reason: dict[str, list[str]] = {}
    as_written = Counter(by_host.values())
    for host, reason in by_host.items():
        common = reason if as_written[reason] > 1 else _without_name(reason, host)
        hosts_by_reason.setdefault(common, []).append(host)
    found = [
        Why(by_host[hosts[0]] if len(hosts) == 1 else reason, tuple(sorted(hosts)))
        for reason, hosts in hosts_by_reason.items()
    ]
    return tuple(found) or (Why(ending.reason),)


def _without_name(reason: str, host: str) -> str:
    """The reason as it is for any host: equal ones are shown once."""
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", "the host", reason)


def version_of(release: str) -> str:
    """The version of a release's id, or of a revision's."""
    return _RELEASE_DIGESTS.sub("", release)


def release_labels(releases: Sequence[str]) -> dict[str, str]:
    """The name of each release for people: its version alone where that names only one of them."""
    short = {release: version_of(release) for release in releases}
    return {
        release: label if sum(other == label for other in short.values()) == 1 else release
        for release, label in short.items()
    }
