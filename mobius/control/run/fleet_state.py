# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether all hosts are as the fleet should be: one confirmed release, which serves, and nothing under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mobius.control.run.outcome import Ending, HostFailure, ending
from mobius.errors import OUTCOMES
from mobius.manifest import release_of

_TASK = "Read the releases of the host"
PASSING = frozenset(("locked", "diverged", "nothing_serves", "host_inconsistent", "unreachable"))
"""Outcomes that may end by themselves: what `--wait` waits for."""


def fleet_ending(end: Ending, facts: Mapping[str, Mapping[str, Any]]) -> Ending:
    """The ending of a status: that of the run, unless it is a success and some host is not as it should be.

    Args:
        facts: the result of `release_info` on each host.
    """
    if end.outcome != "success" or not facts:
        return end
    failures = sorted(_failures(facts), key=lambda failure: (failure.rank, failure.host))
    if not failures:
        return end
    worst = failures[0]
    state = ending(worst.outcome, worst.reason, do_next=worst.do_next, failures=failures)
    return replace(state, hosts=end.hosts)


def _failures(facts: Mapping[str, Mapping[str, Any]]) -> list[HostFailure]:
    """The first thing that is wrong with each host, hosts whose release differs from that of most others included.

    The configuration of a host may be its own, and so its revision.
    """
    confirmed = Counter(release_of(fact["confirmed"]) for fact in facts.values() if fact.get("confirmed"))
    common = confirmed.most_common(1)[0][0] if confirmed else None
    failures = []
    for host, fact in facts.items():
        outcome, reason = _first_problem(fact, common)
        if outcome:
            do_next = OUTCOMES[outcome].do_next
            failures.append(HostFailure(host, _TASK, outcome, reason, do_next, carried=True))
    return failures


def _first_problem(fact: Mapping[str, Any], common: str | None) -> tuple[str, str]:
    """Outcome and reason; both empty for a host that is as it should be."""
    if not fact.get("provisioned", True):
        return "not_provisioned", "It is not provisioned for the service."
    if fact.get("pending"):
        return "locked", f"A promotion of {fact['pending'].get('release')} is not confirmed yet."
    if fact.get("at_work"):
        return "locked", "A command is at work."
    if fact.get("problems"):
        return "host_inconsistent", str(fact["problems"][0].get("problem"))
    if not fact.get("confirmed") or not fact.get("serving"):
        return "nothing_serves", "No release serves."
    if fact["confirmed"] not in fact["serving"]:
        serves = " and ".join(fact["serving"])
        return "host_inconsistent", f"{serves} serves, and not {fact['confirmed']}, which was confirmed."
    if release_of(fact["confirmed"]) != common:
        return "diverged", f"It serves {fact['confirmed']}, and most hosts {common}."
    return "", ""
