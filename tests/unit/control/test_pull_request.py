# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius pr` claims what was run on this commit, and nothing else. Evidence is left by pytest and git themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mobius.cli.pr import pr
from mobius.control.pull_request import collect_evidence, fill_template, read_commit
from mobius.errors import MobiusError

CHECKOUT = Path(__file__).resolve().parents[3]
TEMPLATE = (CHECKOUT / ".github/pull_request_template.md").read_text()
ITEMS = ("lint", "tests", "plan", "backup", "release", "rollback", "smoke", "digests", "figures")


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *author, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with one commit on its branch, and the project's own template, conftest and tool of evidence."""
    folder = tmp_path / "checkout"
    (folder / "tests").mkdir(parents=True)
    (folder / "tools").mkdir()
    (folder / ".github").mkdir()
    shutil.copy(CHECKOUT / ".github/pull_request_template.md", folder / ".github")
    shutil.copy(CHECKOUT / "TECH_DEBT.md", folder)
    shutil.copy(CHECKOUT / "tests/conftest.py", folder / "tests")
    (folder / "tools/__init__.py").touch()
    shutil.copy(CHECKOUT / "tools/evidence.py", folder / "tools")
    (folder / "tests/test_it.py").write_text("def test_it(): pass\n")
    (folder / ".gitignore").write_text("test-results/\ndist/\ndemo/\n__pycache__/\n.pytest_cache/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Begin")
    git(folder, "checkout", "--quiet", "-b", "work")
    (folder / "new").touch()
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Add what is new")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MOBIUS_HISTORY_DIR", str(tmp_path / "no history"))
    return folder


def run_tests(folder: Path, *series: str) -> None:
    """What `make test` and `make lint` do, in small: pytest and the tool leave the evidence."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(CHECKOUT)))}
    for name in series:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:schemathesis", "tests"]
        if name == "lint":
            command = [sys.executable, "-m", "tools.evidence", "lint"]
        else:
            command.append(f"--junitxml=test-results/{name}.xml")
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(pr, arguments, standalone_mode=False)


def evidence_of(folder: Path) -> dict[str, str]:
    return collect_evidence(folder, read_commit(folder, "main"), [])


@pytest.mark.slow
def test_what_was_not_run_is_not_ticked_and_says_how_to_run_it(checkout: Path) -> None:
    result = call()
    assert result.exception is None, result.output
    assert f"On commit {git(checkout, 'rev-parse', 'HEAD')}." in result.stdout
    assert "- Add what is new" in result.stdout
    for item in ITEMS:
        assert f"- [ ] {item}: not run on this commit (`m" in result.stdout
    assert "[x]" not in result.stdout
    assert "--draft" in result.stderr


@pytest.mark.slow
def test_tests_count_when_every_series_passed_on_this_very_commit(checkout: Path) -> None:
    run_tests(checkout, "lint", "unit", "with-molecule")
    assert set(evidence_of(checkout)) == {"lint"}, "one series of `make test` is missing"
    run_tests(checkout, "beside-it")
    evidence = evidence_of(checkout)
    assert evidence["tests"] == "unit 1 passed; with-molecule 1 passed; beside-it 1 passed"
    assert "- [x] tests: unit 1 passed" in call().stdout
    (checkout / "another").touch()
    assert evidence_of(checkout) == {}, "what is there now was never tested"
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=Another")
    assert evidence_of(checkout) == {}, "nor was this commit"


@pytest.mark.slow
def test_tests_that_failed_or_ran_in_a_changed_checkout_do_not_count(checkout: Path) -> None:
    run_tests(checkout, "unit", "with-molecule")
    (checkout / "tests/test_it.py").write_text("def test_it(): assert False\n")
    run_tests(checkout, "beside-it")
    report = json.loads((checkout / "test-results/beside-it.evidence.json").read_text())
    assert (report["is_clean"], report["failed"], report["exit_code"]) == (False, 1, 1)
    git(checkout, "checkout", "--quiet", "tests/test_it.py")
    assert "tests" not in evidence_of(checkout)


def test_runs_of_the_history_count_by_their_commit_and_their_end(checkout: Path) -> None:
    commit = read_commit(checkout, "main")

    def run(playbook: str, **changes: Any) -> dict[str, Any]:
        intent = {"commit": changes.pop("commit", commit.digest), "clean": changes.pop("clean", True)}
        facts = {"run": playbook, "playbook": f"playbooks/{playbook}.yml", "outcome": "success", "check": False}
        return {
            **facts,
            "intent": intent,
            "hosts": {"lab1": {}},
            "inventory": "lab",
            "to_release": "2.0.0-1",
            **changes,
        }

    runs = [
        run("backup"), run("release", run="dry", check=True), run("release", outcome="gate_failed"),
        run("rollback", commit="0" * 40), run("rollback", clean=False), run("provision", check=True),
    ]  # fmt: skip
    assert collect_evidence(checkout, commit, runs) == {
        "backup": "run backup on 1 hosts of lab",
        "plan": "run dry on 1 hosts of lab, to 2.0.0-1",
    }


@pytest.mark.parametrize(
    ("name", "content"), [("smoke.json", b"{"), ("unit.evidence.json", b"[]"), ("smoke.json", b"{}")]
)
def test_damaged_evidence_is_none(checkout: Path, name: str, content: bytes) -> None:
    (checkout / "test-results").mkdir()
    (checkout / "test-results" / name).write_bytes(content)
    assert evidence_of(checkout) == {}


def test_every_item_of_the_template_is_one_that_is_looked_for(checkout: Path) -> None:
    commit = read_commit(checkout, "main")
    filled = fill_template(TEMPLATE, commit, dict.fromkeys(ITEMS, "done"))
    assert filled.open_items == ()
    assert filled.body.count("[x]") == len(ITEMS)
    assert filled.body.count("[ ]") == 4, "what only a person can say"


@pytest.mark.slow
def test_it_is_created_as_a_draft_by_gh_with_the_text(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "gh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT/arguments"; cat > "$OUT/body"\n')
    (commands / "gh").chmod(0o755)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    assert call("--create").exception is None
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["pr", "create", "--base", "main", "--title", "Add what is new", "--body-file", "-", "--draft"]
    assert "not run on this commit" in (tmp_path / "body").read_text()


def test_without_gh_or_a_commit_or_a_checkout_one_sentence_says_so(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_git = tmp_path / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(only_git))
    for arguments, outcome in ((("--create",), "missing_dependency"), (("--base", "HEAD"), "invalid_input")):
        failure = call(*arguments).exception
        assert isinstance(failure, MobiusError)
        assert failure.outcome == outcome
    monkeypatch.chdir(tmp_path)
    failure = call().exception
    assert isinstance(failure, MobiusError)
    assert "There is no pull_request_template.md here." in failure.reason


def test_debt_is_printed_as_issues_the_most_urgent_first(checkout: Path) -> None:
    lines = [line for line in call("--debt").stdout.splitlines() if line.startswith("gh issue create")]
    assert len(lines) == (checkout / "TECH_DEBT.md").read_text().count("\n## ")
    assert "--label P1" in lines[0]
    assert "--label P3" in lines[-1]
