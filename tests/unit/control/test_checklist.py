# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius checklist`: answers are recorded at once, by whom, and a release may be held to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mobius.control.checklist.boxes import BOXES, DEMANDS, ROLES, STAGES, Box, boxes_of
from mobius.control.checklist.session import (
    CHECK_VALID_SECONDS,
    Answer,
    ChecklistSession,
    counts,
    open_boxes,
    read_answers,
)
from mobius.control.history import verifier
from mobius.control.history.query import read_runs
from mobius.control.history.writer import History
from mobius.control.plan.approvals import Rule
from mobius.control.plan.rule import ChangeRequest, examine
from mobius.manifest import sha256_file
from tools.checklist_page import page

CHECKOUT = Path(__file__).resolve().parents[3]
NOW = datetime.now(UTC)
PEOPLE = [box.name for box in boxes_of("before") if not box.command]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "service-1.0.0.tar.gz"
    path.write_bytes(b"what is released")
    return path


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """An inventory whose one host is this machine, with a history of its own."""
    path = tmp_path / "hosts.yml"
    variables = {"mobius_history_dir": str(tmp_path / "history")}
    hosts = {"here": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    path.write_text(json.dumps({"mobius": {"hosts": hosts, "vars": variables}}))
    return path


def checklist(bundle: Path, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mobius.cli", "checklist", "--bundle", bundle, "-i", inventory, *arguments]
    environment = {**os.environ, "MOBIUS_ACTOR": "ada"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def session(tmp_path: Path, digest: str = "a" * 64, inventory: str = "lab") -> ChecklistSession:
    return ChecklistSession(History(tmp_path / "history"), "ada", "x.tar.gz", digest, inventory, "before")


def box(name: str) -> Box:
    return next(box for box in BOXES if box.name == name)


def test_the_page_is_made_from_the_boxes() -> None:
    assert (CHECKOUT / "DEPLOYMENT_CHECKLIST.md").read_text() == page()


def test_every_box_has_a_name_of_its_own_a_stage_and_somebody_whose_it_is() -> None:
    assert len({box.name for box in BOXES}) == len(BOXES)
    assert {box.stage for box in BOXES} == set(STAGES)
    assert {box.role for box in BOXES} == set(ROLES)
    assert {box.demand for box in BOXES} - {""} == set(DEMANDS)
    assert all(any(box.is_gate for box in boxes_of(stage)) for stage in ("before", "after"))


@pytest.mark.slow
def test_a_person_answers_and_the_history_has_who_and_what(bundle: Path, inventory: Path, tmp_path: Path) -> None:
    arguments = (
        "--no-run-checks",
        "--answer",
        "on-call=yes:Grace and Alan",
        "--answer",
        "users=no:not told",
        "--by",
        "Ada",
    )
    # the check run is a gate, and was not run: what comes after it is not asked
    done = checklist(bundle, inventory, *arguments, "--format", "json")
    assert done.returncode == 1
    assert "why       Open: bundle, history" in done.stderr
    assert "Not recorded: on-call, users; the gate check-run before them is open." in done.stderr
    assert json.loads(done.stdout)["answers"] == {}
    runs = read_runs(tmp_path / "history")
    assert [(run["playbook"], run["outcome"], run["actor"]) for run in runs] == [("checklist", "checklist_open", "ada")]
    chain = verifier.verify_chain(
        (tmp_path / "history" / verifier.FILE_NAME).read_bytes(), verifier.read_head(tmp_path / "history")
    )
    assert chain.problems == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--answer", "bundle=yes"), "'bundle' is no box that a person answers"),
        (("--answer", "nonsense=yes"), "'nonsense' is no box"),
        (("--answer", "go=perhaps"), "'go=perhaps' is no answer"),
    ],
)
def test_a_wrong_answer_is_one_sentence_and_records_nothing(
    bundle: Path, inventory: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = checklist(bundle, inventory, *arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert not (tmp_path / "history").exists()


@pytest.mark.slow
def test_a_bundle_that_is_not_there_is_one_sentence(inventory: Path, tmp_path: Path) -> None:
    done = checklist(tmp_path / "none.tar.gz", inventory)
    assert done.returncode == 1
    assert "none.tar.gz cannot be read: No such file or directory." in done.stderr


def test_answers_are_of_one_bundle_on_one_inventory_and_the_last_one_holds(tmp_path: Path) -> None:
    first = session(tmp_path)
    first.record(box("go"), is_good=True, by="Ada")
    first.record(box("users"), is_good=True, by="Ada")
    first.close("success")
    second = session(tmp_path)
    second.record(box("go"), is_good=False, by="Grace", note="the backups are late")
    second.close("checklist_open")
    runs = read_runs(tmp_path / "history")
    answers = read_answers(runs, "a" * 12, "lab")
    assert {name: (answer.is_good, answer.by, answer.note) for name, answer in answers.items()} == {
        "go": (False, "Grace", "the backups are late"),
        "users": (True, "Ada", ""),
    }
    assert read_answers(runs, "b" * 64, "lab") == {}
    assert read_answers(runs, "a" * 64, "production") == {}


@pytest.mark.slow
def test_a_session_that_dies_keeps_what_was_answered_and_the_next_closes_it(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.unit.control.test_checklist import session, box\n"
        "session(Path(sys.argv[1])).record(box('users'), is_good=True, by='Ada'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=CHECKOUT, check=False)
    assert killed.returncode == -9
    assert read_answers(read_runs(tmp_path / "history"), "a" * 64, "lab")["users"].is_good
    session(tmp_path).close("success")
    assert [run["outcome"] for run in read_runs(tmp_path / "history")] == ["interrupted", "success"]


def test_what_a_command_found_counts_for_two_hours_and_what_a_person_said_for_good() -> None:
    then = NOW - timedelta(seconds=CHECK_VALID_SECONDS + 1)
    old = {name: Answer(name, True, "x", f"{then:%Y-%m-%dT%H:%M:%S.%fZ}", "run") for name in ("hosts", "users")}
    assert not counts(box("hosts"), old["hosts"], NOW)
    assert counts(box("hosts"), old["hosts"], then + timedelta(seconds=60))
    assert counts(box("users"), old["users"], NOW)
    assert [box.name for box in open_boxes([box("hosts"), box("users")], old, NOW)] == ["hosts"]


def status(**changes: Any) -> Mapping[str, Any]:
    """The fields of `mobius status` for a host (`release_info`)."""
    return {
        "confirmed": "1.0.0-aaaaaaaaaaaa",
        "previous": "0.9.0-bbbbbbbbbbbb",
        "serving": ["1.0.0-aaaaaaaaaaaa"],
        **changes,
    }


@pytest.mark.parametrize(
    ("demand", "changes", "reason"),
    [
        ("confirmed", {}, ""),
        ("confirmed", {"confirmed": None}, "serves nothing that is confirmed"),
        ("rollback target", {}, ""),
        ("rollback target", {"previous": None}, "has no release to roll back to"),
        ("bundle", {}, ""),
        ("bundle", {"serving": ["0.9.0-bbbbbbbbbbbb"]}, "serves 0.9.0-bbbbbbbbbbbb"),
        (
            "bundle",
            {"serving": ["0.9.0-bbbbbbbbbbbb", "1.0.0-aaaaaaaaaaaa"]},
            "serves 0.9.0-bbbbbbbbbbbb, 1.0.0-aaaaaaaaaaaa",
        ),
        ("bundle", {"serving": []}, "serves nothing"),
    ],
)
def test_a_demand_says_why_a_host_does_not_meet_it(demand: str, changes: dict[str, Any], reason: str) -> None:
    assert DEMANDS[demand](status(**changes), "a" * 64) == reason


def request(tmp_path: Path, playbook: str = "playbooks/release.yml", **changes: Any) -> ChangeRequest:
    intent = {"playbook": playbook, "inventory": "lab", "bundle_sha256": "a" * 64}
    facts: dict[str, Any] = {
        "rule": Rule.read({"mobius_checklist_required": True}), "plan": None, "intent": intent, "window": "", "break_glass": "",
        "release": "", "extra_variables": frozenset(), "history": tmp_path / "history", "now": datetime.now(UTC),
    }  # fmt: skip
    return ChangeRequest(**{**facts, **changes})


def test_a_release_waits_for_its_checklist_where_the_inventory_says_so(tmp_path: Path) -> None:
    refused = examine(request(tmp_path)).refused
    assert refused is not None
    assert (refused.outcome, int(refused.code)) == ("checklist_open", 1)
    assert "bundle, history, hosts" in refused.reason
    answered = session(tmp_path)
    for one in boxes_of("before"):
        if one.name != "go":
            answered.record(one, is_good=True, by="Ada")
    refused = examine(request(tmp_path)).refused
    assert refused is not None
    assert refused.reason == "Open in the checklist of this bundle: go."
    answered.record(box("go"), is_good=True, by="Ada")
    assert examine(request(tmp_path)).refused is None
    assert (
        examine(request(tmp_path, intent={**request(tmp_path).intent, "bundle_sha256": "b" * 64})).refused is not None
    )
    promote = {**request(tmp_path).intent, "playbook": "playbooks/promote.yml", "bundle_sha256": None}
    assert examine(request(tmp_path, intent=promote, release=f"1.0.0-{'a' * 12}")).refused is None
    assert examine(request(tmp_path, intent=promote, release=f"1.0.0-{'b' * 12}")).refused is not None


def test_only_a_release_waits_and_a_reason_breaks_the_glass(tmp_path: Path) -> None:
    for playbook in ("playbooks/provision.yml", "playbooks/backup.yml"):
        assert examine(request(tmp_path, playbook)).refused is None
    verdict = examine(request(tmp_path, break_glass="everything burns"))
    assert (verdict.refused, [error.outcome for error in verdict.waived]) == (None, ["checklist_open"])
    assert examine(request(tmp_path, rule=Rule.read({}))).refused is None


def test_it_cannot_be_switched_off_for_one_run(tmp_path: Path) -> None:
    refused = examine(request(tmp_path, extra_variables=frozenset({"mobius_checklist_required"}))).refused
    assert refused is not None
    assert refused.outcome == "invalid_input"


@pytest.mark.slow
def test_the_list_shows_who_ticked_what_and_asks_nothing(bundle: Path, inventory: Path, tmp_path: Path) -> None:
    # as the command itself names an inventory that lies outside of the project
    answered = session(tmp_path, sha256_file(bundle), str(inventory))
    answered.record(box("users"), is_good=True, by="Ada", note="by mail")
    answered.close("success")
    done = checklist(bundle, inventory, "--list")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("[")]) == len(boxes_of("before"))
    (ticked,) = [number for number, line in enumerate(lines) if line.startswith("[x]")]
    assert "users: " in lines[ticked]
    assert "yes, Ada, " in lines[ticked + 1]
    assert "by mail" in lines[ticked + 1]
    assert len(read_runs(tmp_path / "history")) == 1
