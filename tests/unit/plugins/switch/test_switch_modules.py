"""The modules: check mode predicts the real run, refusals are data, and a host with another tool is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import (
    installed_digest,
    launcher,
    tool_digest,
    tool_sources,
)
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
Module = Callable[..., dict[str, Any]]

LIFE = [
    ("instance", {"release": A, "state": "standby"}),
    ("promotion", {"release": A, "state": "canary"}),
    ("promotion", {"release": A, "state": "provisional"}),
    ("promotion", {"release": A, "state": "confirmed"}),
    ("instance", {"release": B, "state": "standby"}),
    ("promotion", {"release": B, "state": "canary"}),
    ("promotion", {"release": B, "state": "reverted", "mark_bad": True, "reason": "slow"}),
    ("mark", {"release": B, "bad": False}),
    ("instance", {"release": B, "state": "standby"}),
    ("promotion", {"release": B, "state": "canary"}),
    ("promotion", {"release": B, "state": "provisional"}),
    ("promotion", {"release": B, "state": "confirmed"}),
    ("mark", {"release": D, "bad": True, "reason": "wrong"}),
    ("instance", {"release": C, "state": "standby"}),
    ("instance", {"release": C, "state": "stopped"}),
    ("rollback", {"reason": "wrong"}),
    ("rollback", {"to": B}),
]


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("changed", "diff", "actions", "note", "confirmed", "token")}


@pytest.mark.slow
def test_check_mode_predicts_every_step_exactly_and_changes_nothing(machine: Any, run_module: Module) -> None:
    for name, arguments in LIFE:
        before = machine.observed().view(), machine.journal()
        predicted = (
            run_module(name, check=True, run="r1", **arguments)
            if name != "instance"
            else run_module(name, check=True, **arguments)
        )
        assert (machine.observed().view(), machine.journal()) == before
        done = run_module(name, run="r1", **arguments) if name != "instance" else run_module(name, **arguments)
        assert comparable(predicted) == comparable(done), (name, arguments)
        assert done["changed"] is True, (name, arguments)
        assert done["diff"]["after"] == machine.observed().view(), (name, arguments)
        requested = {key: arguments[key] for key in ("release", "state", "bad") if key in arguments}
        assert requested.items() <= done.items(), "the history records the request from the result"
        if name != "rollback":
            again = run_module(name, run="r1", **arguments) if name != "instance" else run_module(name, **arguments)
            assert again["changed"] is False and again["diff"]["before"] == again["diff"]["after"], (name, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [False, True])
def test_a_check_run_of_a_whole_release_predicts_what_the_run_then_does(
    machine: Any, run_module: Module, bad: bool
) -> None:
    machine.promote(A)
    run_module("mark", release=B, bad=bad, reason="slow")
    stages = [
        ("instance", {"state": "standby"}),
        ("promotion", {"state": "canary", "retry_bad": bad}),
        *(("promotion", {"state": state}) for state in ("provisional", "renewed", "confirmed")),
    ]
    predicted = [
        comparable(run_module(name, check=True, release=B, assume_staged=True, **parameters))
        for name, parameters in stages
    ]
    assert machine.running == [A]
    assert [comparable(run_module(name, release=B, **parameters)) for name, parameters in stages] == predicted


def test_a_check_run_takes_a_release_as_staged_that_an_earlier_task_predicted(machine: Any, run_module: Module) -> None:
    fresh = "2.0.0-0123456789ab"
    assert run_module("instance", check=True, release=fresh)["mobius_failure"]["outcome"] == "release_missing"
    for name, arguments in LIFE[:4]:
        result = run_module(name, check=True, assume_staged=True, **{**arguments, "release": fresh})
        assert result["changed"] is True, result
    for name, arguments in LIFE[:2]:
        failed = run_module(name, assume_staged=True, **{**arguments, "release": fresh})
        assert failed["mobius_failure"]["outcome"] == "release_missing", "only check mode may assume"


@pytest.mark.slow
def test_a_confirmed_release_is_unchanged_in_every_stage(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    for name, arguments in LIFE[:4]:
        for check in (True, False):
            assert run_module(name, check=check, **arguments)["changed"] is False


def test_an_empty_run_or_reason_counts_as_missing(machine: Any, run_module: Module) -> None:
    run_module("promotion", release=A, state="canary", run="", reason="")
    assert machine.pending.run is None and machine.journal()[-1]["reason"] is None
    run_module("rollback", to="", run="", reason="")
    assert machine.running == []


def test_a_refusal_is_data(machine: Any, run_module: Module) -> None:
    machine.run(plan_mark, A, True, reason="it hashes wrongly")
    result = run_module("promotion", release=A, state="canary")
    assert result["failed"] is True
    assert result["mobius_failure"] == {
        "code": 1,
        "outcome": "release_bad",
        "reason": f"{A} was marked bad on this host: it hashes wrongly.",
        "do_next": result["mobius_failure"]["do_next"],
    }
    assert result["msg"] == result["mobius_failure"]["reason"]


def test_an_instance_that_dies_brings_its_last_lines(machine: Any, run_module: Module) -> None:
    machine.systemd.behaviours[A] = "crashing"
    result = run_module("instance", release=A)
    assert result["mobius_failure"]["outcome"] == "instance_failed"
    assert result["journal"] == [f"any-service@{A}.service says goodbye"]
    assert "says goodbye" in result["msg"]


def test_modules_refuse_a_host_whose_tool_is_another(machine: Any, run_module: Module) -> None:
    command = machine.host.command
    command.write_text(command.read_text().replace(tool_digest(), "0" * 12))
    for name, arguments in (LIFE[0], LIFE[1], LIFE[12]):
        result = run_module(name, **arguments)
        assert result["mobius_failure"]["outcome"] == "host_tool_mismatch"
        assert "provision.yml" in result["mobius_failure"]["do_next"]
    command.unlink()
    assert run_module(*LIFE[0][:1], **LIFE[0][1])["mobius_failure"]["outcome"] == "not_provisioned"
    assert machine.running == []


def test_a_module_that_reads_the_copy_of_a_damaged_record_warns(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    machine.promote(B)
    assert "warnings" not in run_module("mark", release=C, bad=True)
    machine.host.activation_path.write_bytes(b"{")
    done = run_module("rollback")
    assert done["confirmed"] == A and "activation.json is damaged" in str(done["warnings"])


def test_another_version_of_the_tool_does_not_block_a_rollback(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    machine.promote(B)
    command = machine.host.command
    command.write_text(command.read_text().replace(tool_digest(), "0" * 12))
    assert run_module("rollback", reason="slow")["confirmed"] == A
    assert machine.serving == [A]


HEAD = {"chain": "c", "seq": 4, "hash": "h", "run": "r1"}


@pytest.mark.slow
def test_a_host_keeps_the_head_of_the_history_after_a_rollback_that_succeeded_or_failed(
    machine: Any, run_module: Module, tmp_path: Path
) -> None:
    machine.promote(A)
    machine.promote(B)
    place = tmp_path / "witness/heads.jsonl"
    parameters = {"head": HEAD, "witness_dir": str(place.parent)}
    assert run_module("rollback", check=True, **parameters)["witnessed"] is False
    assert not place.parent.exists()
    done = run_module("rollback", **parameters)
    assert (done["witnessed"], done["left"], done["confirmed"]) == (True, B, A)
    refused = run_module("rollback", to="9.9.9-0123456789ab", head={**HEAD, "run": "r2"}, witness_dir=str(place.parent))
    assert (refused["failed"], refused["witnessed"], refused["left"]) == (True, True, A)
    assert [json.loads(line)["run"] for line in place.read_text().splitlines()] == ["r1", "r2"]
    assert "witnessed" not in run_module("rollback", to=B), "it was not requested"


@pytest.mark.slow
def test_a_host_that_cannot_keep_the_head_still_rolls_back(machine: Any, run_module: Module, tmp_path: Path) -> None:
    machine.promote(A)
    machine.promote(B)
    (tmp_path / "witness").write_text("no folder")
    done = run_module("rollback", head=HEAD, witness_dir=str(tmp_path / "witness"))
    assert (done["confirmed"], done["witnessed"]) == (A, False)
    assert "cannot keep the head" in str(done["warnings"])
    assert machine.serving == [A]


# --- release_info -----------------------------------------------------------------------------------------------------


def test_release_info_tells_what_is_kept_and_what_serves(machine: Any, run_module: Module) -> None:
    for release in (A, B):
        machine.promote(release)
    machine.run(plan_mark, D, True, reason="refused")
    (machine.host.release_dir(B) / "release.json").write_text(json.dumps({"version": "1.1.0", "commit": "c" * 40}))
    result = run_module("release_info")
    assert (result["provisioned"], result["tool_digest_ok"], result["changed"]) == (True, True, False)
    assert (result["confirmed"], result["previous"], result["serving"], result["token"]) == (B, A, [B], 2)
    assert result["pending"] is None
    states = {item["release"]: item["state"] for item in result["releases"]}
    assert states == {A: "standby", B: "serving", C: "kept", D: "bad"}
    by_id = {item["release"]: item for item in result["releases"]}
    assert by_id[B]["commit"] == "c" * 40 and by_id[B]["confirmed"] and by_id[A]["version"] == "1.0.0"
    assert (by_id[D]["bad"], by_id[D]["reason"], by_id[D]["activated"]) == (True, "refused", None)
    assert [entry["release"] for entry in result["history"]] == [A, B, D]


def test_release_info_tells_what_is_pending_and_how_long(machine: Any, run_module: Module) -> None:
    machine.promote(A, "canary")
    machine.now += 20
    pending = run_module("release_info")["pending"]
    assert (pending["release"], pending["stage"], pending["remaining"]) == (A, "canary", 40.0)


def test_release_info_reports_an_unprepared_host_without_failing(machine: Any, run_bare_module: Module) -> None:
    result = run_bare_module("release_info", service="other-service")
    assert "failed" not in result
    assert (result["provisioned"], result["tool_digest_ok"], result["releases"]) == (False, False, [])


def test_release_info_reports_another_tool_and_a_missing_one(machine: Any, run_bare_module: Module) -> None:
    assert run_bare_module("release_info")["tool_digest_ok"] is False


@pytest.mark.slow
@pytest.mark.parametrize("deadline", ["0", "-5", "inf", "nan", "86401"])
def test_a_deadline_that_is_none_is_refused_before_anything_serves(
    machine: Any, run_module: Module, deadline: str
) -> None:
    machine.promote(A)
    machine.run(plan_instance, B, "standby")
    for check in (True, False):
        refused = run_module("promotion", check=check, release=B, state="canary", deadline=deadline)
        assert refused["mobius_failure"]["outcome"] == "invalid_input", refused
    assert machine.pending is None and machine.serving == [A]


# --- host_tool --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_installed_command_runs_with_nothing_but_its_own_sources(machine: Any, run_module: Module) -> None:
    machine.promote(A, "canary")
    done = subprocess.run(
        [
            sys.executable,
            "-IS",
            machine.host.command,
            "--config-dir",
            machine.config_dir,
            "role",
            A,
            "--env-file",
            machine.root / "e",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (machine.root / "e").read_text() == (machine.host.run_dir / A / "role.env").read_text()
    assert machine.state_word(A) == "standby", "the promotion is of the played boot"
    assert machine.host.command.stat().st_mode & 0o777 == 0o755
    assert installed_digest(machine.host.command) == tool_digest()


def test_the_command_is_installed_once_and_predicted(machine: Any, run_bare_module: Module) -> None:
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib")}
    predicted = run_bare_module("host_tool", check=True, **where)
    assert predicted["changed"] is True and not machine.host.command.exists()
    done = run_bare_module("host_tool", **where)
    assert (done["changed"], done["diff"], done["previous"]) == (True, predicted["diff"], "")
    for check in (True, False):
        again = run_bare_module("host_tool", check=check, **where)
        assert again["changed"] is False and again["diff"]["before"] == again["diff"]["after"]


def test_a_host_of_an_earlier_version_gets_the_copy_of_its_activation_record(
    machine: Any, run_bare_module: Module
) -> None:
    machine.promote(A)
    copy = machine.host.activation_copy_path
    copy.unlink()
    config = {name: value for name, value in machine.config.items() if name not in ("schema", "service", "command")}
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib"), "service": "any-service"}
    assert run_bare_module("host_tool", check=True, config=config, **where)["changed"] and not copy.exists()
    assert run_bare_module("host_tool", config=config, **where)["changed"]
    assert copy.read_bytes() == machine.host.activation_path.read_bytes()
    copy.write_text("{")
    assert run_bare_module("host_tool", config=config, **where)["changed"] is False
    assert copy.read_text() == "{", "what is damaged is left to the command, which keeps it"


@pytest.mark.parametrize("damage", ["command", "source", "mode"])
def test_a_changed_installation_is_repaired(machine: Any, run_bare_module: Module, damage: str) -> None:
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib")}
    run_bare_module("host_tool", **where)
    (source,) = (machine.root / "lib").rglob("host/transitions/canary.py")
    if damage == "mode":
        machine.host.command.chmod(0o700)
    else:
        (machine.host.command if damage == "command" else source).write_text("#\n")
    assert run_bare_module("host_tool", check=True, **where)["changed"] is True
    assert run_bare_module("host_tool", **where)["changed"] is True
    assert source.read_text() == tool_sources()["host/transitions/canary.py"]
    assert run_bare_module("host_tool", **where)["changed"] is False


def test_a_new_version_removes_nothing_but_versions(machine: Any, run_bare_module: Module) -> None:
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib")}
    other = machine.root / "lib/python3.11/dist-packages"
    for folder in (other, machine.root / "lib" / ("0" * 12)):
        folder.mkdir(parents=True)
    assert run_bare_module("host_tool", **where)["diff"]["before"]["old versions"] == ["0" * 12]
    assert other.is_dir() and not (machine.root / "lib" / ("0" * 12)).exists()


def test_a_new_version_keeps_the_one_before_and_drops_older_ones(machine: Any, run_bare_module: Module) -> None:
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib")}
    for digest in ("0" * 12, "1" * 12):
        (machine.root / "lib" / digest).mkdir(parents=True)
    machine.host.command.parent.mkdir()
    machine.host.command.write_text(launcher(machine.root / "lib", "1" * 12))
    predicted = run_bare_module("host_tool", check=True, **where)
    done = run_bare_module("host_tool", **where)
    assert done["diff"] == predicted["diff"] and done["previous"] == "1" * 12
    names = {path.name for path in (machine.root / "lib").iterdir()}
    assert names == {"1" * 12, tool_digest()}
    assert run_bare_module("host_tool", **where)["changed"] is False


def test_the_description_of_a_service_is_written_and_read_again(machine: Any, run_bare_module: Module) -> None:
    where = {"command": str(machine.host.command), "lib_dir": str(machine.root / "lib"), "service": "other"}
    config = {name: value for name, value in machine.config.items() if name not in ("schema", "service", "command")}
    assert run_bare_module("host_tool", config=config, **where)["changed"] is True
    assert Host.load("other", machine.config_dir).root == machine.host.root
    assert run_bare_module("host_tool", config=config, **where)["changed"] is False
    assert run_bare_module("host_tool", config={**config, "start_timeout": 9}, **where)["changed"] is True
    assert Host.load("other", machine.config_dir).start_timeout == 9
    assert (
        run_bare_module("host_tool", config=config, **{**where, "service": "../x"})["mobius_failure"]["outcome"]
        == "invalid_input"
    )


HEALTHY = {"name": "health", "path": "/health"}


def test_an_instance_is_probed_once_it_answers(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    predicted = run_module("instance", release=B, probes=[HEALTHY], check=True)
    assert (predicted["changed"], predicted["predicted"], predicted["probes"]) == (True, "unknown", 0)
    done = run_module("instance", release=B, probes=[HEALTHY])
    assert (done["changed"], done["probes"]) == (True, 1)
    again = run_module("instance", release=B, probes=[HEALTHY], check=True)
    assert (again["changed"], again["probes"]) == (False, 1)


def test_a_wrong_response_is_a_failure_that_says_what_was_changed(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    wrong = {"name": "nothing", "path": "/nothing", "json": {"a": 1}}
    failed = run_module("instance", release=B, probes=[HEALTHY, wrong])
    assert failed["failed"] and failed["changed"] and failed["mobius_failure"]["outcome"] == "golden_mismatch"
    assert (failed["release"], failed["probes"], failed["mismatch"]["name"]) == (B, 1, "nothing")


def test_no_instance_starts_for_a_probe_that_cannot_be_sent(machine: Any, run_module: Module) -> None:
    machine.promote(A)
    refused = run_module("instance", release=B, probes=[{"name": "x", "path": "nowhere"}])
    assert refused["mobius_failure"]["outcome"] == "invalid_input"
    assert run_module("instance", release=B, check=True)["changed"], "it does not run"
