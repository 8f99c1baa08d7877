# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From what happened on every host to the one outcome of a run, and to the one decision of a fleet.

The callback plugin (plain ansible-playbook) and `mobius` (ansible-runner's events) feed the same functions. No
message is read to find out what happened: failures are data (`mobius_failure`), everything else is Ansible's states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mobius.control.run.fates import FateObserver, HostFate
from mobius.errors import OUTCOMES, ExitCode, MobiusError, Outcome

# First what a person must know: a fleet that is not as it should be. Then the higher code, because the higher codes are
# causes (no space, too slow, a host gone) and the lower ones their consequences. Then the table's order.
_FIRST = ("rollback_failed", "diverged")
_ORDER = (*_FIRST, *(name for name in sorted(OUTCOMES, key=lambda name: -OUTCOMES[name].code) if name not in _FIRST))

VERDICTS = ("pass", "unknown", "inconclusive", "error", "fail")
"""The verdicts of a gate on a host, from best to worst. `unknown` exists in check mode only."""

_REASON_LIMIT = 600


@dataclass(frozen=True)
class HostFailure:
    """One result that was not rescued: where, in which task, and what it means."""

    host: str
    task: str
    outcome: str
    reason: str
    do_next: str
    carried: bool
    """Whether the result carried its outcome; Ansible's bare states mean less."""
    serves: tuple[str, ...] | None = None
    """The releases that serve on the host, where the failure says so."""

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Sorts the worst first: what carries its outcome, then the stated order; who only waited for others last."""
        return (self.outcome == "held_back", not self.carried, _ORDER.index(self.outcome))

    def as_dict(self) -> dict[str, Any]:
        """`{host, task, outcome, code, reason, do_next}`, and `serves` where the failure has it."""
        serves = {} if self.serves is None else {"serves": list(self.serves)}
        return {
            "host": self.host,
            "task": self.task,
            "outcome": self.outcome,
            "code": int(OUTCOMES[self.outcome].code),
            "reason": self.reason,
            "do_next": self.do_next,
            **serves,
        }


@dataclass(frozen=True)
class Ending:
    """How a run ended: one outcome, why, what to do, and each host that failed with its worst failure.

    `hosts` says what became of every host that took part, `release` which release the run was about, as far as results
    have named it, and `reasons` why a promotion was reverted, by host.
    """

    outcome: str
    reason: str
    do_next: str
    failures: tuple[HostFailure, ...] = ()
    hosts: tuple[HostFate, ...] = ()
    release: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> ExitCode:
        """The exit code of the outcome."""
        return OUTCOMES[self.outcome].code


SUCCESS = Ending("success", OUTCOMES["success"].meaning, OUTCOMES["success"].do_next)


def ending(outcome: str, reason: str, *, do_next: str | None = None, failures: Sequence[HostFailure] = ()) -> Ending:
    """An ending, with the table's advice unless there is a better one."""
    return Ending(outcome, reason, do_next or OUTCOMES[outcome].do_next, tuple(failures))


def failed_result(host: str, task: str, result: Mapping[str, Any]) -> HostFailure:
    """What a failed task result means: its `mobius_failure` (a loop's worst one), else Ansible's `timedout` or a role's
    refused arguments, else `task_failed` with the task's message."""
    carried = [_complete(failure) for failure in _carried(result)]
    if carried:
        worst = min(carried, key=lambda failure: _ORDER.index(failure["outcome"]))
        serves = tuple(worst["serves"]) if "serves" in worst else None
        return HostFailure(host, task, worst["outcome"], worst["reason"], worst["do_next"], carried=True, serves=serves)
    if isinstance(refused := result.get("argument_errors"), list) and refused:
        outcome = OUTCOMES["invalid_input"]
        reason = " ".join(str(error) for error in refused)[:_REASON_LIMIT]
        return HostFailure(host, task, outcome.name, reason, outcome.do_next, carried=False)
    outcome = OUTCOMES["timeout" if result.get("timedout") else "task_failed"]
    return HostFailure(host, task, outcome.name, _message(result), outcome.do_next, carried=False)


def unreachable_result(host: str, task: str, result: Mapping[str, Any]) -> HostFailure:
    """A host that did not answer in a task."""
    outcome = OUTCOMES["unreachable"]
    return HostFailure(host, task, outcome.name, _message(result), outcome.do_next, carried=False)


class Observer:
    """Collects what a run reports, for the ending of the run. One object a run.

    Args:
        check: whether it is a check run, whose results are predictions.
    """

    def __init__(self, *, check: bool = False) -> None:
        self.run: str | None = None
        self._check = check
        self._fates = FateObserver()
        self._failed: list[HostFailure] = []
        self._unreachable: list[HostFailure] = []
        self._unmatched: list[str] = []

    def ended(self, host: str, action: str, result: Mapping[str, Any]) -> None:
        """A task ended on a host, well or not: what became of the host is read from it."""
        self._fates.result(host, action, result, check=self._check)

    def failed(self, host: str, task: str, result: Mapping[str, Any]) -> None:
        """A task failed, rescued or not (that shows in the counts at the end); ignored ones are not reported here."""
        self._failed.append(failed_result(host, task, result))

    def unreachable(self, host: str, task: str, result: Mapping[str, Any]) -> None:
        """A host did not answer."""
        self._unreachable.append(unreachable_result(host, task, result))
        self._fates.unreachable(host)

    def no_hosts_matched(self, play: str) -> None:
        """A play found no host in the inventory."""
        self._unmatched.append(play)

    def with_hosts(self, ending: Ending) -> Ending:
        """An ending with what became of the hosts: also of a run that was stopped, and has no counts."""
        about = self._fates
        reasons = about.reasons if ending.outcome != "success" else {}
        return replace(ending, hosts=about.fates(), release=about.release, reasons=reasons)

    def end(self, failures: Mapping[str, int], dark: Mapping[str, int], processed: Iterable[str]) -> Ending:
        """The ending, by Ansible's closing counts.

        Args:
            failures: failed tasks of each host that nothing rescued. A host leaves the play with the first of them, so
                they are the last ones it reported; those before were rescued.
            dark: times each host was unreachable and this was not ignored.
            processed: all hosts that had at least one task.
        """
        return self.with_hosts(self._outcome(failures, dark, processed))

    def _outcome(self, failures: Mapping[str, int], dark: Mapping[str, int], processed: Iterable[str]) -> Ending:
        failures_left = []
        for host, count in failures.items():
            of_host = [failure for failure in self._failed if failure.host == host]
            failures_left += of_host[-count:] if count else []
        failures_left += [failure for failure in self._unreachable if dark.get(failure.host)]
        if failures_left:
            worst = min(failures_left, key=lambda failure: failure.rank)
            by_host = [
                min((f for f in failures_left if f.host == host), key=lambda failure: failure.rank)
                for host in sorted({failure.host for failure in failures_left})
            ]
            return ending(worst.outcome, worst.reason, do_next=worst.do_next, failures=by_host)
        broken = sorted({host for counts in (failures, dark) for host, count in counts.items() if count})
        if broken:  # a failure whose result was never shown, as with no callback on an include
            return ending("task_failed", f"A task failed on {', '.join(broken)}.")
        if self._unmatched:
            return ending("unknown_inventory", f"The inventory has no host for the play {self._unmatched[0]!r}.")
        if not list(processed):
            return ending("unknown_inventory", "No host had anything to do.")
        return SUCCESS


def failure_from(
    outcome: str | None = None,
    reason: str | None = None,
    do_next: str | None = None,
    failure: Mapping[str, Any] | None = None,
    host: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The `mobius_failure` that a play asks for: an earlier one passed on, else one from the table.

    Args:
        host: the result of `release_info` on the host, or of a failed one: the reason then says what serves there.

    Raises:
        MobiusError: invalid_input, when neither is complete.
    """
    if failure and failure.get("outcome") in OUTCOMES and failure.get("reason"):
        return _complete(failure)
    if not outcome or not reason:
        raise MobiusError("invalid_input", "mobius.dhash.failure needs an outcome and a reason, or a mobius_failure.")
    if outcome not in OUTCOMES or OUTCOMES[outcome].code == ExitCode.SUCCESS:
        raise MobiusError("invalid_input", f"{outcome!r} is not the name of a failure in mobius/errors.py.")
    if host is None:
        return MobiusError(outcome, reason, do_next=do_next or None).as_dict()
    serving = host.get("serving")
    if not isinstance(serving, Sequence) or isinstance(serving, str):
        return MobiusError(outcome, f"{reason} What serves there now is not known.", do_next=do_next or None).as_dict()
    serves = [str(release) for release in serving]
    reason = f"{reason} What serves there now: {', '.join(serves) or 'nothing'}."
    return MobiusError(outcome, reason, do_next=do_next or None, serves=serves).as_dict()


@dataclass(frozen=True)
class HostReport:
    """What is known of a host: whether it is still in the play, and the result it registered, if any."""

    host: str
    alive: bool
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class FleetDecision:
    """Confirm or revert, for the whole fleet; see the action plugin's documentation for the fields."""

    decision: str
    verdict: str
    reasons: dict[str, str]
    mark_bad: bool
    failure: dict[str, Any]
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """All reasons in one sentence, for a journal; empty for a decision to confirm."""
        return str(self.failure.get("reason", ""))

    def reverted_for(self, error: MobiusError) -> FleetDecision:
        """The decision to revert that replaces this one when it could not be recorded."""
        if self.decision == "revert":
            return self
        return FleetDecision("revert", "error", {}, mark_bad=False, failure=error.as_dict(), verdicts=self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """The result of the action plugin."""
        return {
            "decision": self.decision,
            "verdict": self.verdict,
            "verdicts": self.verdicts,
            "reason": self.reason,
            "reasons": self.reasons,
            "mark_bad": self.mark_bad,
            "failure": self.failure,
        }


def noted_failure(result: Mapping[str, Any], meaning: str | None = None) -> dict[str, Any]:
    """The verdict `error` on a host whose task failed with this result.

    Args:
        meaning: what the failure means, if its own outcome is not to be passed on.
    """
    carried = result.get("mobius_failure")
    failure = dict(carried) if isinstance(carried, Mapping) else {}
    reason = str(failure.get("reason") or result.get("msg") or "A task failed.")
    if meaning:
        return {"verdict": "error", "reason": f"{meaning}: {reason}"}
    return {"verdict": "error", "reason": reason, "failure": failure}


def decide(reports: Sequence[HostReport], *, check_mode: bool) -> FleetDecision:
    """Confirm only when every host is in the play and passed; whatever else, and silence, reverts all of them."""
    by_host = {report.host: _assess(report) for report in reports}
    good = {"pass", "unknown"} if check_mode else {"pass"}
    against = {host: assessed for host, assessed in by_host.items() if assessed[0] not in good}
    if not reports:
        failure = MobiusError("unknown_inventory", "There is no host to decide for.").as_dict()
        return FleetDecision("revert", "error", {}, mark_bad=False, failure=failure)
    verdicts = {host: assessed[0] for host, assessed in by_host.items()}
    verdict = max((assessed[0] for assessed in by_host.values()), key=VERDICTS.index)
    # a host that was only held back adds nothing to what the host that it waited for reports
    informative = {
        host: assessed for host, assessed in against.items() if assessed[1]["outcome"] != "held_back"
    } or against
    reasons = {host: assessed[1]["reason"] for host, assessed in informative.items()}
    if not against:
        return FleetDecision("confirm", verdict, reasons, mark_bad=False, failure={}, verdicts=verdicts)
    worst = min(
        (assessed[1] for assessed in informative.values()), key=lambda failure: _ORDER.index(failure["outcome"])
    )
    return FleetDecision(
        "revert",
        verdict,
        reasons,
        mark_bad=any(assessed[0] == "fail" for assessed in against.values()),
        failure={**worst, "reason": "; ".join(f"{host}: {reason}" for host, reason in reasons.items())},
        verdicts=verdicts,
    )


def _assess(report: HostReport) -> tuple[str, dict[str, Any]]:
    """The verdict on one host, and the failure that it means unless the verdict is pass."""
    result = report.result or {}
    carried = result.get("mobius_failure") or result.get("failure")
    if isinstance(carried, Mapping) and carried.get("outcome") in OUTCOMES:
        failure = _complete(carried)
        return ("fail" if OUTCOMES[failure["outcome"]].proves_bad else "error"), failure
    if result.get("unreachable"):
        return "error", MobiusError("unreachable", _message(result)).as_dict()
    if result.get("failed"):
        return "error", MobiusError("task_failed", _message(result)).as_dict()
    verdict = result.get("verdict")
    reason = _one_line(result.get("reason")) or f"The verdict is {verdict}."
    if verdict == "fail":
        return "fail", MobiusError("rolled_back", reason).as_dict()
    if not report.alive:
        gone = "The host left the play before the decision: it failed or cannot be reached."
        return "error", MobiusError("unreachable", gone).as_dict()
    if verdict in ("pass", "unknown"):
        return verdict, MobiusError("gate_inconclusive", reason).as_dict()
    if verdict == "inconclusive":
        return "inconclusive", MobiusError("gate_inconclusive", reason).as_dict()
    if verdict == "error":
        return "error", MobiusError("environment_failed", reason).as_dict()
    return "error", MobiusError("environment_failed", "The host reported no verdict.").as_dict()


def _carried(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every usable `mobius_failure` in a result: its own, or those of a loop's failed items."""
    items = result.get("results")
    parts = [result, *(items if isinstance(items, Sequence) and not isinstance(items, str) else ())]
    failures = [part.get("mobius_failure") for part in parts if isinstance(part, Mapping)]
    return [
        failure
        for failure in failures
        if isinstance(failure, Mapping) and failure.get("outcome") in OUTCOMES and failure.get("outcome") != "success"
    ]


def _complete(failure: Mapping[str, Any]) -> dict[str, Any]:
    """A `mobius_failure` with its code by the table, whatever the code that it came with."""
    entry: Outcome = OUTCOMES[str(failure["outcome"])]
    reason = _one_line(failure.get("reason")) or entry.meaning
    serving = failure.get("serves")
    serves = [str(release) for release in serving] if isinstance(serving, list | tuple) else None
    return MobiusError(entry.name, reason, do_next=str(failure.get("do_next") or "") or None, serves=serves).as_dict()


def _message(result: Mapping[str, Any]) -> str:
    """The sentence that a result without an outcome of its own shows to people."""
    items = result.get("results")
    failed = [item for item in items if isinstance(item, Mapping) and item.get("failed")] if items else []
    for part in (*failed, result):
        for name in ("msg", "stderr", "module_stderr", "censored"):
            text = _one_line(part.get(name))
            if text:
                return text
    return "The task gave no message."


def _one_line(value: Any) -> str:
    text = " ".join(str(value).split()) if value else ""
    return text if len(text) <= _REASON_LIMIT else text[: _REASON_LIMIT - 1] + "…"
