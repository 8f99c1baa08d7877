#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often the gate errs, simulated with its own code and the role's own signals.

The durations are real: two processes of the same build answered the same requests in turns, while clients posted to
both (`--record` does it again). A gate draws blocks of so many pairs in a row, so that a busy moment of the machine
stays one. Which requests fail is drawn for each by itself.

A simulated gate reads the counters after each `STEP` pairs, from the required samples on it may pass, and its deadline
is at `DEADLINE` times these.

A service behind a front has few users' requests among many probes: the present release gets nine in ten of the users',
and each of both gets the probes that the samples lack.
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
from ansible_collections.mobius.dhash.plugins.module_utils.front_signals import (  # noqa: E402
    Stratum,
    compare_strata,
    parse_front_signal,
)
from ansible_collections.mobius.dhash.plugins.module_utils.gate.checks import SignalChecks  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.gate.settings import GateSettings  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.gate.verdict import are_users_awaited  # noqa: E402
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.traffic import BOUNDS_MS  # noqa: E402

GOLDEN: Final = CHECKOUT / "playbooks/files/golden"
RECORDED: Final = CHECKOUT / "tests/unit/plugins/releases/recorded/same_build_durations.txt"
UNIT_SECONDS: Final = 1e-5  # of a recorded duration
BLOCK: Final = 50  # pairs
STEP: Final = 75  # pairs
FRONT_STEP: Final = 150  # probes that could have been sent
DEADLINE: Final = 4  # times the required samples
_SIGNAL_DEFAULTS: Final = {"quantile": 0.95, "times": 1.0, "floor": 0.0}
_FRONT_SIGNAL_DEFAULTS: Final = {"times": 1.0, "floor": 0.0}
_BOUNDS: Final = {
    "mobius_hash_duration_seconds_bucket": numpy.array(metrics.HASH_BOUNDS_SECONDS),
    "mobius_http_request_duration_seconds_bucket": numpy.array(metrics.REQUEST_BOUNDS_SECONDS),
}
_BOUNDS_OF_FRONT: Final = (*(bound / 1000 for bound in BOUNDS_MS), float("inf"))


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


@dataclass(frozen=True)
class FrontCase:
    """A build behind a front.

    Attributes:
        users: the users' requests that the new release gets until the deadline; the one before gets nine times as many.
        user_errors: the share of users' requests to the new release that fail.
        errors: the share that fails of all, whoever sends them, to both.
        user_later: seconds added to each response to users; `slower`, the factor of all durations of the new release.
    """

    name: str
    users: int
    user_errors: float = 0.0
    errors: float = 0.0
    user_later: float = 0.0
    slower: float = 1.0
    alone: bool = False


CANARY_EACH: Final = 10  # of so many users' requests, one is the new release's
FRONT_CASES: Final = (
    *(FrontCase(f"same build, {users} users", users) for users in (0, 64, 160, 1600)),
    *(FrontCase(f"same build, 0.1 % fail, {users} users", users, errors=0.001) for users in (64, 160, 1600)),
    *(FrontCase(f"same build, 0.5 % fail, {users} users", users, errors=0.005) for users in (64, 160, 1600)),
    *(FrontCase(f"one in twenty users' fails, {users} users", users, 0.05) for users in (16, 64, 160, 240, 1600)),
    *(FrontCase(f"users 1 s later, {users} users", users, user_later=1.0) for users in (16, 64, 1600)),
    FrontCase("all 1.5 times as slow, 64 users", 64, slower=1.5),
    FrontCase("all 1.5 times as slow, 1600 users", 1600, slower=1.5),
    FrontCase("first install, 64 users", 64, alone=True),
    FrontCase("first install, one in twenty users' fails, 1600 users", 1600, 0.05, alone=True),
    FrontCase("first install, users 1 s later, 64 users", 64, user_later=1.0, alone=True),
)


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


class FrontSimulation:
    """Gates of a case behind a front.

    Args:
        durations: seconds, shape (pairs, 2): of the new and of the old process.
    """

    def __init__(self, case: FrontCase, durations: numpy.ndarray, random: numpy.random.Generator) -> None:
        self.case, self.random = case, random
        defaults = read_defaults()
        self.required = int(defaults["promote_samples"])
        signals = [{**item, "samples": self.required} for item in defaults["promote_front_signals"]]
        self.signals = [parse_front_signal({**_FRONT_SIGNAL_DEFAULTS, **item}) for item in signals]
        nothing = Stratum(Tally(), Tally())
        self.uncounted = [compare_strata(signal, nothing, nothing) for signal in self.signals]
        # a time of the gate is one pair of probes that could have been sent
        self.settings = GateSettings(
            self.required, self.required * DEADLINE, FRONT_STEP, user_samples=int(defaults["promote_user_samples"])
        )
        new, old = durations.T
        self.pairs = len(durations)
        # HAProxy logs whole milliseconds
        self.milliseconds = {
            ("users", "new"): numpy.rint((new * case.slower + case.user_later) * 1000),
            ("users", "old"): numpy.rint(old * 1000),
            ("probes", "new"): numpy.rint(new * case.slower * 1000),
            ("probes", "old"): numpy.rint(old * 1000),
        }

    def run(self) -> tuple[str, int]:
        """The verdict of one gate, and the users' requests that the new release had by then."""
        case, deadline = self.case, self.required * DEADLINE
        checks = SignalChecks([], self.signals, self.settings.user_samples)
        # of users' requests in a row, each tenth is the new release's; both get each probe, in turns
        users_drawn, probes_drawn = self._draw(case.users * CANARY_EACH), self._draw(deadline)
        is_new = numpy.arange(len(users_drawn)) % CANARY_EACH == CANARY_EACH - 1
        drawn = {
            ("users", "new"): self._requests(("users", "new"), users_drawn[is_new], case.user_errors + case.errors),
            ("users", "old"): self._requests(("users", "old"), users_drawn[~is_new], case.errors),
            ("probes", "new"): self._requests(("probes", "new"), probes_drawn, case.errors),
            ("probes", "old"): self._requests(("probes", "old"), probes_drawn, case.errors),
        }
        probes = 0
        checked: list[Any] = []
        for at in range(FRONT_STEP, deadline + 1, FRONT_STEP):
            users = case.users * at // deadline
            # the probes that the samples lack by now, or more while they may be worse
            is_probed_on = any(one.is_over and one.source == "probes" for one in checked)
            lacking = max(0, min(at, self.required) - users - probes)
            probes += FRONT_STEP if is_probed_on and not lacking else lacking
            counts = {
                ("users", "new"): users,
                ("users", "old"): users * (CANARY_EACH - 1),
                ("probes", "new"): probes,
                ("probes", "old"): probes,
            }
            # before the required samples, latency can neither fail nor pass
            checked = checks.check(self._compare(drawn, counts, has_latency=at >= self.required))
            if any(one.is_proven for one in checked):
                return "fail", users
            is_good = not any(one.missing_samples or one.is_over for one in checked)
            if at >= self.required and is_good and not are_users_awaited(self.settings, users, at):
                return "pass", users
        if any(one.is_proven for one in checks.check_last(checked)):
            return "fail", case.users
        return ("pass" if is_good else "inconclusive"), case.users

    def _draw(self, count: int) -> numpy.ndarray:
        """So many recorded pairs, in blocks of pairs in a row."""
        begins = self.random.integers(0, self.pairs - BLOCK, -(-count // BLOCK))
        return (begins[:, None] + numpy.arange(BLOCK)).ravel()[:count]

    def _requests(
        self, key: tuple[str, str], drawn: numpy.ndarray, errors: float
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The buckets of requests, and which of them fail."""
        return numpy.searchsorted(BOUNDS_MS, self.milliseconds[key][drawn]), self.random.random(len(drawn)) < errors

    def _compare(self, drawn: Mapping[Any, Any], counts: Mapping[Any, int], *, has_latency: bool) -> list[Any]:
        compared: list[Any] = []
        for signal, uncounted in zip(self.signals, self.uncounted, strict=True):
            if signal.may_recover and not has_latency:
                compared += uncounted
                continue
            tallies = {key: _tally_front(signal, *drawn[key], count) for key, count in counts.items()}
            strata = [
                Stratum(tallies[source, "new"], None if self.case.alone else tallies[source, "old"])
                for source in ("users", "probes")
            ]
            compared += compare_strata(signal, *strata)
        return compared


def _tally_front(signal: MetricSignal, buckets: numpy.ndarray, failed: numpy.ndarray, count: int) -> Tally:
    if not signal.may_recover:
        return tally(signal, {"part": int(failed[:count].sum()), "whole": count})
    cumulated = numpy.bincount(buckets[:count], minlength=len(BOUNDS_MS) + 1).cumsum().tolist()
    return tally(signal, dict(zip(_BOUNDS_OF_FRONT, cumulated, strict=True)))


def simulate_front(case: FrontCase, gates: int, seed: int, durations: numpy.ndarray) -> dict[str, Any]:
    """Shares of the verdicts of so many gates, and the mean of the users' requests that the new release had."""
    simulation = FrontSimulation(case, durations, numpy.random.default_rng(seed))
    results = [simulation.run() for _ in range(gates)]
    verdicts = Counter(verdict for verdict, _ in results)
    return {
        **asdict(case),
        "gates": gates,
        **{verdict: verdicts[verdict] for verdict in ("pass", "inconclusive", "fail")},
        "samples": round(sum(users for _, users in results) / gates),
    }


def read_defaults() -> dict[str, Any]:
    """The defaults of the role promote."""
    text = (CHECKOUT / "roles/promote/defaults/main.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def read_signals(required: int | None) -> list[MetricSignal]:
    """The signals of the role promote."""
    defaults = read_defaults()

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
@click.option("--front", "is_front", is_flag=True, help="A service behind a front: users' requests among probes.")
@click.option("--record", "pairs", type=click.IntRange(1), help="Record so many pairs of requests first.")
@click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), default=RECORDED, help="The recorded durations."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(gates: int, seed: int, names: Sequence[str], is_front: bool, pairs: int | None, path: Path, form: str) -> None:
    """Simulate gates on builds that are good, and on builds that are not.

    \b
    python bench/gate.py
    python bench/gate.py --gates 1000 --case "same build"
    python bench/gate.py --front
    python bench/gate.py --record 4000 --file durations.txt
    """
    if pairs is not None:
        record(path, pairs)
    durations = numpy.loadtxt(path) * UNIT_SECONDS
    cases: Sequence[Case | FrontCase] = FRONT_CASES if is_front else CASES
    rows = []
    if form == "text":
        what = "users" if is_front else "samples"
        click.echo(f"{'build':<56}{'pass':>8}{'inconclusive':>14}{'fail':>8}{what:>9}")
    for case in cases:
        if names and case.name not in names:
            continue
        is_of_front = isinstance(case, FrontCase)
        row = simulate_front(case, gates, seed, durations) if is_of_front else simulate(case, gates, seed, durations)
        rows.append(row)
        if form == "text":
            click.echo(f"{case.name:<56}{row['pass']:8}{row['inconclusive']:14}{row['fail']:8}{row['samples']:9}")
    if form == "json":
        click.echo(json.dumps(rows))


if __name__ == "__main__":
    main()
