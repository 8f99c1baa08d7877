# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The workflows run all that there is, by pinned actions, with limits. `make lint` compares them with their schema."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobius.errors import TEAMS
from tools.job_summary import REPORT_MAX_BYTES, summarize

CHECKOUT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((CHECKOUT / ".github/workflows").glob("*.yml"))
JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
]
OWN_WAY = re.compile(r"skipif\([^)]*gete?uid")
USES = re.compile(r"uses: (\S+)(.*)")


def job_of(workflow: str, job: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CHECKOUT / ".github/workflows" / workflow).read_text())["jobs"][job]
    return content


def matrix_of(workflow: str, job: str) -> dict[str, list[str]]:
    matrix: dict[str, list[str]] = job_of(workflow, job)["strategy"]["matrix"]
    return matrix


def commands() -> Iterator[str]:
    for path in (*WORKFLOWS, *(CHECKOUT / ".github/actions").rglob("action.yml")):
        yield from re.findall(r"^\s*run: (.+)$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("job", JOBS)
def test_every_step_ends_by_itself(job: dict[str, Any]) -> None:
    limits = [step.get("timeout-minutes") for step in job["steps"]]
    assert all(limit is not None and 3 <= limit <= 15 for limit in limits), limits
    assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_only_read(job: dict[str, Any]) -> None:
    assert job["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_gives_no_rights_of_its_own(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {}


def test_every_action_is_pinned_by_its_digest_and_names_its_version() -> None:
    files = [*WORKFLOWS, *(CHECKOUT / ".github/actions").rglob("action.yml")]
    used = [use for path in files for use in USES.findall(path.read_text())]
    assert len(used) > 10
    for name, comment in used:
        if not name.startswith("$/"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name), name
            assert re.fullmatch(r"  # v\d+(\.\d+)+", comment), (name, comment)
    assert len(set(used)) == len({name for name, _ in used}), "one action, two versions in comments"


def is_soak(path: Path) -> bool:
    """Whether all tests of a file are soak tests: a job without any test fails."""
    return bool(re.search(r"^pytestmark = .*pytest\.mark\.soak", path.read_text(), re.MULTILINE))


def test_every_scenario_and_every_folder_with_hosts_has_a_job() -> None:
    scenarios = {path.parent.name for path in (CHECKOUT / "molecule").glob("*/molecule.yml")} - {"default"}
    assert set(matrix_of("hosts.yml", "molecule")["scenario"]) == scenarios
    folders = {
        f"integration/{path.name}"
        for path in (CHECKOUT / "tests/integration").iterdir()
        if any(not is_soak(file) for file in path.glob("test_*.py"))
    }
    files = {
        f"end_to_end/{path.name}" for path in (CHECKOUT / "tests/end_to_end").glob("test_*.py") if not is_soak(path)
    }
    others = {path.name for path in (CHECKOUT / "tests").iterdir() if list(path.rglob("test_*.py"))}
    others -= {"integration", "end_to_end", "molecule", "unit", "contract"}
    assert set(matrix_of("hosts.yml", "integration")["tests"]) == folders | files | others


def test_what_only_root_may_do_is_marked_in_one_way_and_run_by_root() -> None:
    """`sudo` becomes an ordinary user there, so a command without it is root's."""
    own_ways = [str(path) for path in (CHECKOUT / "tests").rglob("test_*.py") if OWN_WAY.search(path.read_text())]
    assert own_ways == []
    (step,) = [step for step in job_of("ci.yml", "debian")["steps"] if '-m "root' in step.get("run", "")]
    assert "sudo" not in step["run"]
    assert job_of("ci.yml", "debian")["container"] == "debian:12"


def test_every_make_target_that_a_workflow_runs_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    named = {target for command in commands() for target in re.findall(r"\bmake ([a-z-]+)", command)}
    named.discard("python")  # apt-get install … make python3-venv
    assert {"setup", "lint", "test-without-hosts", "demo"} <= named <= targets


@pytest.mark.slow
def test_the_summary_names_failures_and_explains_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 1 == 2, 'the reason'\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path / "test_it.py"]
    subprocess.run([*command, f"--junitxml={tmp_path}/unit.xml"], capture_output=True, check=False, cwd=tmp_path)
    (tmp_path / "killed.xml").write_text("<testsuites><testsuite")
    (tmp_path / "huge.log").write_bytes(bytes(REPORT_MAX_BYTES + 1))
    page = summarize(tmp_path)
    assert "| unit | 1 | 1 | 0 |" in page
    assert re.search(r"- `test_it::test_bad`: .*the reason", page)
    assert all(f"| {int(code)} | " in page and team in page for code, team in TEAMS.items())
    script = [sys.executable, "-m", "tools.job_summary", tmp_path]
    done = subprocess.run(script, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "huge.log has" in done.stdout
    assert not (tmp_path / "huge.log").exists()


def test_a_job_without_any_test_says_so(tmp_path: Path) -> None:
    assert "No test has reported anything." in summarize(tmp_path / "nothing")
