# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The signals of the front: a service's error share and its latency, as HAProxy and the receiver count them.

Users' requests and probes are two strata of each signal. They are not added up: a release to which a few users and
many probes were sent would have the probes' figures. Each stratum is tested for itself, with half of the signal's
alpha, so that by Bonferroni's inequality both together err as rarely as one signal. Only the samples that a signal
needs are counted of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .comparison import SUSPICION, Comparison, MetricSignal, Tally, compare
from .errors import MobiusError

FRONT_SIGNAL_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "quantile": {"type": "float"},
    "times": {"type": "float", "default": 1.0},
    "floor": {"type": "float", "default": 0.0},
    "limit": {"type": "float"},
    "limit_alone": {"type": "float"},
    "samples": {"type": "int", "default": 600},
}
# While there are fewer users' requests than a signal needs, each that fails weighs more: with up to this p-value, the
# error share does not pass. One failure of 17 beside none of 153 has 0.1, and two of 150 beside none have 0.17.
FEW_USERS_SUSPICION_OF_ERRORS = 0.2
# Three quantiles of few samples would keep back one good build in twenty; and a difference that users notice, such as a
# second, has a much smaller p-value.
FEW_USERS_SUSPICION_OF_LATENCY = 0.01


def parse_front_signal(value: Mapping[str, Any]) -> MetricSignal:
    """A signal of the front: with a `quantile` that of the seconds until a response began, otherwise the error share.

    Args:
        value: what `FRONT_SIGNAL_SPEC` has checked.

    Raises:
        MobiusError: `invalid_input` for a number that is out of range, or a key that is none of the specification's.
    """
    if unknown := sorted(set(value) - set(FRONT_SIGNAL_SPEC)):
        raise MobiusError("invalid_input", f"A signal of the front has {unknown[0]!r}, which it cannot have.")
    # the front counts the requests of one release by itself, so there are no series to choose
    counted = [{"metric": "front", "where": {}}]
    selectors = {"part": counted, "whole": counted} if value.get("quantile") is None else {"histogram": counted}
    quantile = {"quantile": 0.95 if value.get("quantile") is None else value["quantile"]}
    return MetricSignal.parse({**value, **selectors, **quantile})


def of_source(signal: MetricSignal, source: str) -> MetricSignal:
    """The signal of users or probes alone, which its name says."""
    return dataclasses.replace(signal, name=f"{source}' {signal.name}")


@dataclass(frozen=True)
class Stratum:
    """What was counted of one source for a signal; `old` is None without a release to compare with."""

    new: Tally
    old: Tally | None


def compare_strata(signal: MetricSignal, users: Stratum, probes: Stratum) -> tuple[Comparison, Comparison]:
    """Compare users' requests and probes, each by themselves.

    Returns:
        the comparison of users' requests, and that of probes.
    """
    joint = users.new.samples + probes.new.samples
    if users.old is not None and probes.old is not None:
        joint = min(joint, users.old.samples + probes.old.samples)
    few = FEW_USERS_SUSPICION_OF_LATENCY if signal.may_recover else FEW_USERS_SUSPICION_OF_ERRORS
    suspicion = {"users": few if users.new.samples < signal.samples else SUSPICION, "probes": SUSPICION}
    compared = {
        source: dataclasses.replace(
            compare(of_source(signal, source), stratum.new, stratum.old),
            source=source,
            suspicion=suspicion[source],
            joint_samples=joint,
        )
        for source, stratum in (("users", users), ("probes", probes))
    }
    return compared["users"], compared["probes"]
