#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often the gate errs, simulated with its own code and the role's own signals.

The durations are real: two processes of the same build answered the same requests in turns, while clients posted to
both (`--record` does it again). A gate draws blocks of so many pairs in a row, so that a busy moment of the machine
stays one. Which requests fail is drawn for each by itself.

A simulated gate reads the counters after each `STEP` pairs, from the required samples on it may pass, and its deadline
is at `DEADLINE` times these.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy
import yaml
from dhash_service import run_service

from mobius.service import metrics

CHECKOUT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / ".ansible" / "collections"))  # as ansible.cfg says

from ansible_collections.mobius.dhash.plugins.module_utils.comparison import (  # noqa: E402
    MetricSignal,
    Tally,
    compare,
    tally,
)
from ansible_collections.mobius.dhash.plugins.module_utils.gate.checks import SignalChecks  # noqa: E402

GOLDEN: Final = CHECKOUT / "playbooks/files/golden"
RECORDED: Final = CHECKOUT / "tests/unit/plugins/releases/recorded/same_build_durations.txt"
UNIT_SECONDS: Final = 1e-5  # of a recorded duration
BLOCK: Final = 50  # pairs
STEP: Final = 75  # pairs
DEADLINE: Final = 4  # times the required samples
_SIGNAL_DEFAULTS: Final = {"quantile": 0.95, "times": 1.0, "floor": 0.0}
_BOUNDS: Final = {
    "mobius_hash_duration_seconds_bucket": numpy.array(metrics.HASH_BOUNDS_SECONDS),
    "mobius_http_request_duration_seconds_bucket": numpy.array(metrics.REQUEST_BOUNDS_SECONDS),
}


@dataclass(frozen=True)
class Case:
    """A build beside the one before, or alone.

    Attributes:
        errors, errors_before: the share of requests that fail.
        slower, slower_from: the factor of the durations above this quantile; `later` seconds are added to all.
        required: the samples that the gate requires; None for the role's.
    """

    name: str
    errors: float = 0.0
    errors_before: float = 0.0
    slower: float = 1.0
    slower_from: float = 0.0
    later: float = 0.0
    alone: bool = False
    required: int | None = None


CASES: Final = (
    Case("same build"),
    Case("same build, 0.1 % fail", 0.001, 0.001),
    Case("same build, 0.5 % fail", 0.005, 0.005),
    Case("same build, 1 % fail", 0.01, 0.01),
    Case("same build, 1 % fail, 6000 samples", 0.01, 0.01, required=6000),
    Case("one in twenty fails", 0.05),
    Case("one in twenty fails, 0.5 % before", 0.05, 0.005),
    Case("one in twenty fails, 1 % before", 0.05, 0.01),
    Case("all 1.5 times as slow", slower=1.5),
    Case("slowest tenth 1.5 times as slow", slower=1.5, slower_from=0.9),
    Case("all 1.2 times as slow", slower=1.2),
    Case("0.4 s later", later=0.4),
    Case("first install", alone=True),
    Case("first install, 0.1 % fail", 0.001, alone=True),
    Case("first install, one in twenty fails", 0.05, alone=True),
    Case("first install, 1 s later", later=1.0, alone=True),
)


# -- simulating --------------------------------------------------------------------------------------------------------


class Simulation:
    """Gates of one case.

    Args:
        durations: seconds, shape (pairs, 2): of the new and of the old process.
    """

    def __init__(
        self, case: Case, signals: Sequence[MetricSignal], durations: numpy.ndarray, random: numpy.random.Generator
    ) -> None:
        self.case, self.signals, self.random = case, signals, random
        self.required = case.required or max(signal.samples for signal in signals)
        new, old = durations.T
        scaled = numpy.where(new >= numpy.quantile(new, case.slower_from), new * case.slower, new) + case.later
        # the bucket of each recorded duration, by metric and side
        self.buckets = {
            metric: [numpy.searchsorted(bounds, side) for side in (scaled, old)] for metric, bounds in _BOUNDS.items()
        }
        self.pairs = len(durations)

    def run(self) -> tuple[str, int]:
        """The verdict of one gate, and its samples."""
        case, checks = self.case, SignalChecks(self.signals)
        count = self.required * DEADLINE
        begins = self.random.integers(0, self.pairs - BLOCK, -(-count // BLOCK))
        drawn = (begins[:, None] + numpy.arange(BLOCK)).ravel()[:count]
        failed = [self.random.random(count) < share for share in (case.errors, case.errors_before)]
        for samples in range(STEP, count + 1, STEP):
            compared = [
                compare(
                    signal,
                    self._tally(signal, 0, drawn[:samples], failed[0][:samples]),
                    None if case.alone else self._tally(signal, 1, drawn[:samples], failed[1][:samples]),
                )
                for signal in self.signals
                # a quantile decides nothing before there are enough samples
                if samples >= self.required or not signal.may_recover
            ]
            checked = (
                checks.check(compared) if len(compared) == len(self.signals) else self._check_early(checks, compared)
            )
            if any(one.is_proven for one in checked):
                return "fail", samples
            if samples >= self.required and not any(one.is_over for one in checked):
                return "pass", samples
        return ("fail" if any(one.is_proven for one in checks.check_last(checked)) else "inconclusive"), count

    def _check_early(self, checks: SignalChecks, compared: Sequence[Any]) -> Sequence[Any]:
        rest = [compare(signal, Tally(), Tally()) for signal in self.signals if signal.may_recover]
        return checks.check([*compared, *rest])

    def _tally(self, signal: MetricSignal, side: int, drawn: numpy.ndarray, failed: numpy.ndarray) -> Tally:
        if not signal.may_recover:
            events = int(failed.sum()) if signal.name == "error rate" else 0
            return tally(signal, {"part": events, "whole": len(drawn)})
        metric = signal.histogram[0].metric
        bounds = _BOUNDS[metric]
        buckets = self.buckets[metric][side][drawn]
        cumulated = numpy.bincount(buckets, minlength=len(bounds) + 1).cumsum()
        return tally(signal, dict(zip((*bounds.tolist(), float("inf")), cumulated.tolist(), strict=True)))


def read_signals(required: int | None) -> list[MetricSignal]:
    """The signals of the role promote."""
    defaults = yaml.safe_load((CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8"))

    def with_defaults(item: Mapping[str, Any]) -> dict[str, Any]:
        selectors = {
            key: [{"where": {}, **entry} for entry in item[key]]
            for key in ("part", "whole", "histogram")
            if key in item
        }
        return {**_SIGNAL_DEFAULTS, **item, **selectors, "samples": required or defaults["promote_samples"]}

    signals = [MetricSignal.parse(with_defaults(item)) for item in defaults["promote_signals"]]
    # those of times last: before the required samples, the others check alone
    return sorted(signals, key=lambda signal: signal.may_recover)


def simulate(case: Case, gates: int, seed: int, durations: numpy.ndarray) -> dict[str, Any]:
    """Shares of the verdicts of so many gates, and the mean of their samples."""
    simulation = Simulation(case, read_signals(case.required), durations, numpy.random.default_rng(seed))
    results = [simulation.run() for _ in range(gates)]
    verdicts = Counter(verdict for verdict, _ in results)
    return {
        **asdict(case),
        "gates": gates,
        **{verdict: verdicts[verdict] for verdict in ("pass", "inconclusive", "fail")},
        "samples": round(sum(samples for _, samples in results) / gates),
    }


# -- recording ---------------------------------------------------------------------------------------------------------


def record(path: Path, pairs: int) -> None:
    """Send the golden probes to two processes of the same build in turns, while a client posts to both, and write each
    pair of durations as a line."""
    probes = [
        (item["path"], item["content_type"], (GOLDEN / item["body_file"]).read_bytes())
        for item in json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    ]
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="mobius-bench-") as folder, contextlib.ExitStack() as stack:
        services = [run_service(Path(folder) / f"{name}.sqlite") for name in ("new", "old")]
        ports = [stack.enter_context(one)[0] for one in services]
        client = threading.Thread(target=_post, args=(ports, probes, ended), daemon=True)
        client.start()
        with path.open("w", encoding="ascii") as file:
            for number in range(pairs):
                durations = [_time_request(port, *probes[number % len(probes)]) for port in ports]
                file.write(" ".join(f"{seconds / UNIT_SECONDS:.0f}" for seconds in durations) + "\n")
        ended.set()
        client.join()


def _time_request(port: int, path: str, content_type: str, body: bytes) -> float:
    """Seconds of one request, on a connection of its own, as the gate sends its probes."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise click.ClickException(f"The service answered {response.status}.")
    return time.perf_counter() - began


def _post(ports: Sequence[int], probes: Sequence[tuple[str, str, bytes]], ended: threading.Event) -> None:
    number = 0
    while not ended.wait(0.01):
        _time_request(ports[number % 2], *probes[(number * 7) % len(probes)])
        number += 1


# -- the command -------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--gates", type=click.IntRange(1), default=10_000, show_default=True, help="Of each case.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--case", "names", multiple=True, help="The name of a case, instead of all; may be repeated.")
@click.option("--record", "pairs", type=click.IntRange(1), help="Record so many pairs of requests first.")
@click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), default=RECORDED, help="The recorded durations."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(gates: int, seed: int, names: Sequence[str], pairs: int | None, path: Path, form: str) -> None:
    """Simulate gates on builds that are good, and on builds that are not.

    \b
    python bench/gate.py
    python bench/gate.py --gates 1000 --case "same build"
    python bench/gate.py --record 4000 --file durations.txt
    """
    if pairs is not None:
        record(path, pairs)
    durations = numpy.loadtxt(path) * UNIT_SECONDS
    cases = [case for case in CASES if not names or case.name in names]
    rows = []
    if form == "text":
        click.echo(f"{'build':<38}{'pass':>8}{'inconclusive':>14}{'fail':>8}{'samples':>9}")
    for case in cases:
        row = simulate(case, gates, seed, durations)
        rows.append(row)
        if form == "text":
            click.echo(f"{case.name:<38}{row['pass']:8}{row['inconclusive']:14}{row['fail']:8}{row['samples']:9}")
    if form == "json":
        click.echo(json.dumps(rows))


if __name__ == "__main__":
    main()
