# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often the gate calls a good build worse, and how seldom it overlooks a bad one, on durations that were recorded.

`bench/gate.py` simulates the same with 10,000 gates a case; docs/gate.md has its table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.comparison import Comparison, MetricSignal, Tally
from ansible_collections.mobius.dhash.plugins.module_utils.gate.checks import FALSE_FAILURES, SignalChecks

CHECKOUT = Path(__file__).parents[4]
BLANK = {"part": None, "whole": None, "histogram": None, "quantile": 0.95, "times": 1.0, "floor": 0.0, "samples": 600}
RATE = MetricSignal.parse(
    {**BLANK, "name": "rate", "part": [{"metric": "a", "where": {}}], "whole": [{"metric": "b", "where": {}}]}
)
QUANTILE = MetricSignal.parse({**BLANK, "name": "quantile", "histogram": [{"metric": "c", "where": {}}]})


def compared(samples: int, p_value: float) -> list[Comparison]:
    tally = Tally(0.5, samples, samples // 2)
    return [Comparison(signal, tally, tally, p_value) for signal in (RATE, QUANTILE)]


def test_a_rate_is_proven_at_its_looks_and_a_quantile_at_the_last_one_only() -> None:
    checks = SignalChecks([RATE, QUANTILE])
    proven = {
        samples: [one.is_proven for one in checks.check(compared(samples, 1e-9))] for samples in (74, 75, 76, 599, 600)
    }
    assert proven == {74: [False] * 2, 75: [True, False], 76: [False] * 2, 599: [True, False], 600: [True, False]}
    assert [one.is_proven for one in checks.check_last(compared(600, 1e-9))] == [True, True]


def test_all_looks_of_all_signals_share_one_probability_to_err() -> None:
    checks = SignalChecks([RATE, QUANTILE])
    spent = sum(one.alpha for samples in range(5000) for one in checks.check(compared(samples, 0.5)))
    left = sum(one.alpha for one in checks.check_last(compared(5000, 0.5)))
    assert spent + left == pytest.approx(FALSE_FAILURES)
    assert left > FALSE_FAILURES / 2


def simulate(*options: str, gates: int = 300) -> dict[str, dict[str, Any]]:
    """The results of bench/gate.py by the name of the case."""
    command = [sys.executable, CHECKOUT / "bench/gate.py", "--gates", str(gates), "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
def test_simulated_gates_refuse_what_is_bad_and_nothing_else() -> None:
    cases = ("same build, 0.5 % fail", "one in twenty fails", "first install, one in twenty fails")
    rows = simulate(*(option for name in cases for option in ("--case", name)))
    assert rows["same build, 0.5 % fail"]["fail"] == 0
    assert rows["same build, 0.5 % fail"]["pass"] >= 298
    for name in cases[1:]:
        assert rows[name]["pass"] <= 2, rows[name]


@pytest.mark.slow
def test_simulated_gates_behind_a_front_refuse_what_is_bad_for_few_users_among_many_probes() -> None:
    good, bad = "same build, 64 users", "one in twenty users' fails, 240 users"
    rows = simulate("--front", "--case", good, "--case", bad)
    assert (rows[good]["fail"] <= 1, rows[good]["pass"] >= 290) == (True, True), rows[good]
    assert rows[bad]["pass"] <= 3, rows[bad]
