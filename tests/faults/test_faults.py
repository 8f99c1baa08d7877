# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A seeded handful of the fault series, and what makes the series repeatable. `make soak` runs half an hour of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench, Result, run_here
from tests.faults.cases import DISK_FAULTS, FOLDERS, FULL_SIZE, HOST_FAULTS, OPERATIONS, PHASES, STRATA, draw
from tests.faults.disks import Disk
from tests.faults.series import Progress, table

# short ones, on one host
HANDFUL = (20, 15, 7)


def test_a_seed_always_draws_the_same_case_and_the_full_size_each_kind_once() -> None:
    cases = [draw(seed) for seed in range(FULL_SIZE)]
    assert cases == [draw(seed) for seed in range(FULL_SIZE)]
    kinds = Counter((case.fault, case.folder) for case in cases if case.folder)
    assert {(fault, folder) for fault in DISK_FAULTS for folder in FOLDERS} <= set(kinds) and max(kinds.values()) == 1
    struck = {(case.fault, case.phase or case.operation) for case in cases if case.fault in HOST_FAULTS}
    assert struck == {(fault, moment) for fault in HOST_FAULTS for moment in (*PHASES, *OPERATIONS[1:])}
    assert {case.operation for case in cases if case.fault == "controller killed"} == set(OPERATIONS)
    assert len({str(draw(seed)) for seed in range(0, 10 * FULL_SIZE, FULL_SIZE)}) == 10, "a kind's details differ"
    assert len(STRATA) == FULL_SIZE


def test_a_series_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.jsonl")
    progress.add(Result(0, "a case", violations=["a host serves nothing"]))
    progress.add(Result(1, "another"))
    with progress.path.open("a") as file:
        file.write('{"seed": 2, "case": "one that was being wri')
    assert set(progress.results()) == {0, 1}
    progress.add(Result(0, "a case"))
    assert progress.results()[0].violations == []
    progress.add(Result(2, "a third"))
    assert set(progress.results()) == {0, 1, 2}
    assert "| 3 | 3 |" in table({seed: Result(seed, "") for seed in (0, FULL_SIZE, 2 * FULL_SIZE)})


@pytest.mark.root("only root can mount a disk")
@pytest.mark.parametrize(
    ("fault", "refusal"), [("disk full", "No space"), ("no inodes", "No space"), ("read-only", "Read-only")]
)
def test_a_disk_that_is_struck_refuses_new_files_and_keeps_what_is_on_it(
    tmp_path: Path, fault: str, refusal: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o750)
    (folder / "before").write_text("kept")
    disk = Disk(str(folder), run_here)
    with disk.own(fault):
        disk.strike(fault, slack=0)
        with pytest.raises(OSError, match=refusal):
            (folder / "new").write_bytes(bytes(200_000))
        disk.repair(fault)
        (folder / "after").write_bytes(bytes(200_000))
    assert {"before", "after"} <= {path.name for path in folder.iterdir()}
    assert (folder.stat().st_mode & 0o777, (folder / "before").read_text()) == (0o750, "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("faults"), hosts=1)
    try:
        made.prepare()
        yield made
    finally:
        made.fleet.lab("down")


# seven minutes on two busy processors, so not in `make test` (TECH_DEBT.md)
@pytest.mark.soak
@pytest.mark.lab
@pytest.mark.parametrize("seed", HANDFUL)
def test_a_fault_leaves_hosts_that_serve_and_a_next_release_that_works(bench: Bench, seed: int) -> None:
    result = bench.case(draw(seed))
    assert result.violations == [], result
