# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A series of faults: each seed is a case, which can be repeated alone, and a series that is killed goes on where it was.

python -m tests.faults.series                     the rest of the full size
python -m tests.faults.series --minutes 30        as many cases of it as begin within half an hour
python -m tests.faults.series --seed 12           one case again
python -m tests.faults.series --table             what is known so far
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import itertools
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.bench import Bench, Result
from tests.faults.cases import FULL_SIZE, draw
from tests.fleet import CHECKOUT

FOLDER = CHECKOUT / ".cache/faults"


class Progress:
    """One line of JSON for each case that has ended; the last one of a seed counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def results(self) -> dict[int, Result]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        results = []
        for line in lines:
            # a killed series leaves half a line
            with suppress(ValueError):
                results.append(Result(**json.loads(line)))
        return {result.seed: result for result in results}

    def add(self, result: Result) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(dataclasses.asdict(result))}\n")
            file.flush()
            os.fsync(file.fileno())


def described(result: Result) -> str:
    """How a case went, in lines."""
    lines = [f"struck at {result.struck_at or 'its end'}; {result.seconds} s", *result.outcomes]
    lines += [f"VIOLATED {violation.strip()}" for violation in result.violations]
    return "\n".join(f"  {line}" for line in lines)


def table(results: dict[int, Result]) -> str:
    """One row for each kind of fault, then what was violated."""
    counts: dict[str, Counter[str]] = {}
    for result in results.values():
        row = counts.setdefault(draw(result.seed).fault, Counter())
        row["cases"] += 1
        row["kept"] += not result.violations
        row["requests"] += result.requests
        row["failed"] += result.failed
        row["not struck"] += not result.struck_at
    names = ("cases", "kept", "not struck", "requests", "failed")
    lines = ["| fault | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {fault} | " + " | ".join(str(row[name]) for name in names) + " |" for fault, row in sorted(counts.items())
    ]
    broken = [result for _, result in sorted(results.items()) if result.violations]
    lines += ["", *(f"seed {result.seed}: {result.case}: {result.violations[0].strip()[:300]}" for result in broken)]
    return "\n".join(lines)


@contextmanager
def one_at_a_time(path: str) -> Iterator[None]:
    """Hold a lock while a case runs, so that other work with hosts comes in between."""
    if not path:
        yield
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="only this case; may be repeated")
    parser.add_argument(
        "--size", type=int, default=FULL_SIZE, help=f"seeds 0 to SIZE - 1 (default: {FULL_SIZE}, each kind once)"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the progress is kept")
    parser.add_argument("--lock", default="", help="a file to lock while a case runs")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up, for the next call")
    parser.add_argument("--again", action="store_true", help="forget what is known of earlier cases")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(options.folder / "progress.jsonl")
    if options.again:
        progress.path.unlink(missing_ok=True)
    if options.table:
        print(table(progress.results()))
        return 0
    known = progress.results()
    # within a time the series has no end: the seeds after the full size have other moments of the same kinds
    drawn = itertools.count() if math.isfinite(options.minutes) else range(options.size)
    seeds = options.seed or (seed for seed in drawn if seed not in known)
    end = time.monotonic() + 60 * options.minutes
    bench = Bench(options.folder / "lab")
    failed = False
    try:
        for seed in seeds:
            if time.monotonic() > end:
                break
            with one_at_a_time(options.lock):
                if not bench.is_ready():
                    bench.prepare()
                print(f"seed {seed}: {draw(seed)}", flush=True)
                result = bench.case(draw(seed))
                progress.add(result)
                print(described(result), flush=True)
                failed = failed or bool(result.violations)
    finally:
        if not options.keep:
            bench.fleet.lab("down")
    print(table(progress.results()))
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
