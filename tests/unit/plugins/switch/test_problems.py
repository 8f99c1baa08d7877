# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a host: `mobius-host verify` and `status` name it in one line each, with what heals it, and that does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.host import lock, problems
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor

A, B, C, D = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))
STRANGE = "9.9.9-0123456789ab"


@pytest.fixture
def served(machine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host that serves B, with units as the role host writes them."""
    monkeypatch.setattr(problems, "SYSTEMD_DIRS", (machine.root / "etc", machine.root / "run"))
    names = [machine.host.socket_unit, f"{machine.host.service}@.service", machine.host.boot_unit]
    lines = []
    for name in names:
        path = machine.host.units_dir / name
        path.write_text(f"[Unit]\nDescription={name}\n")
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n")
    machine.host.units_digests_path.write_text("".join(lines))
    machine.promote(A)
    machine.promote(B)
    return machine


def found(machine: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of `verify` about the host; `status`, as text and as JSON, and the module name the same."""
    capsys.readouterr()
    verified = machine.command("verify")
    output = capsys.readouterr()
    lines = [line.strip() for line in output.out.partition("host: ")[2].splitlines()[1:]]
    assert verified == 2, "the trees of these tests have no manifest"
    code = machine.command("status")
    shown = [line.removeprefix("problem    ") for line in capsys.readouterr().out.splitlines() if line[:7] == "problem"]
    assert (code, shown) == (2 if lines else 0, lines)
    assert machine.command("status", "--json") == code
    facts = json.loads(capsys.readouterr().out)["problems"]
    assert [f"{item['problem']} {item['heal']}" for item in facts] == lines
    return lines


def remove_folder(machine: Any) -> None:
    shutil.rmtree(machine.host.release_dir(B))


def remove_current(machine: Any) -> None:
    machine.host.current_path.unlink()


def point_current_elsewhere(machine: Any) -> None:
    machine.host.current_path.unlink()
    machine.host.current_path.symlink_to(f"releases/{A}")


def point_current_to_another_folder(machine: Any) -> None:
    machine.host.current_path.unlink()
    machine.host.current_path.symlink_to(f"/srv/{B}")


def put_a_folder_for_current(machine: Any) -> None:
    machine.host.current_path.unlink()
    machine.host.current_path.mkdir()


def let_two_serve(machine: Any) -> None:
    machine.set_slot(A, "ready")


def let_another_one_serve(machine: Any) -> None:
    machine.set_slot(A, "ready")
    machine.set_slot(B, "drain")


def let_none_serve(machine: Any) -> None:
    machine.systemd.stop(machine.host.unit(B))


def start_strange(machine: Any) -> None:
    machine.systemd.start(machine.host.unit(STRANGE), 1.0)


def damage_record(machine: Any) -> None:
    machine.host.activation_path.write_bytes(b"{")


def damage_copy(machine: Any) -> None:
    machine.host.activation_copy_path.write_bytes(b"{")


HEALED_BY_REPAIR: dict[str, tuple[Callable[[Any], None], list[str]]] = {
    "current is missing": (remove_current, [f"current is missing, or is no link; it should point to releases/{B}."]),
    "current points elsewhere": (point_current_elsewhere, [f"current points to {A}, not to releases/{B}."]),
    "current leaves": (point_current_to_another_folder, [f"current points to /srv/{B}, not to releases/{B}."]),
    "current is a folder": (
        put_a_folder_for_current,
        [f"current is missing, or is no link; it should point to releases/{B}."],
    ),
    "two serve": (let_two_serve, [f"{A} serves, and should not: {B} should."]),
    "another one serves": (
        let_another_one_serve,
        [f"{A} serves, and should not: {B} should.", f"{B} does not serve, and should: its instance is standby."],
    ),
    "none serves": (let_none_serve, [f"{B} does not serve, and should: its instance is stopped."]),
    "an unknown release": (
        start_strange,
        [f"any-service@{STRANGE}.service runs, and this host knows no such release."],
    ),
    "a damaged record": (damage_record, ["activation.json is damaged: it is not JSON"]),
    "a damaged copy": (damage_copy, ["The copy of activation.json is damaged or out of date."]),
}


@pytest.mark.slow
def test_a_host_as_it_should_be_has_no_problem(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(served, capsys) == []
    served.promote(C, "canary")
    assert found(served, capsys) == []
    served.promote(C, "provisional")
    assert found(served, capsys) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALED_BY_REPAIR)
def test_each_problem_is_one_line_and_a_repair_heals_it(
    served: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = HEALED_BY_REPAIR[name]
    damage(served)
    lines = found(served, capsys)
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert text in line and "`mobius-host repair`" in line
    assert served.command("repair", "--yes") == 0
    assert found(served, capsys) == [] and served.serving == [B] and not served.is_paused


@pytest.mark.slow
def test_the_folder_of_what_serves_is_gone(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    remove_folder(served)
    (line,) = found(served, capsys)
    assert line.startswith(
        f"{B} serves, and its folder {served.host.release_dir(B)}/tree is gone. Deploy its bundle again"
    )
    assert f"`mobius-host rollback --from {B}`" in line
    assert served.command("rollback", "--from", B) == 0
    (line,) = found(served, capsys)
    assert line.startswith(f"{B} runs, and its folder ") and served.serving == [A]
    assert served.command("repair", "--yes") == 0
    assert found(served, capsys) == [] and served.running == [A]


@pytest.mark.slow
def test_a_missing_copy_is_healed_by_provisioning(
    served: Any, capsys: pytest.CaptureFixture[str], run_bare_module: Callable[..., dict[str, Any]]
) -> None:
    """A host of version 0.1.0, which kept the record once, has a command without `repair`."""
    served.host.activation_copy_path.unlink()
    assert found(served, capsys) == ["The copy of activation.json is missing. Heal it with `mobius provision`."]
    run_bare_module(
        "host_tool",
        command=str(served.host.command),
        lib_dir=str(served.root / "lib"),
        service="any-service",
        config={name: value for name, value in served.config.items() if name not in ("schema", "service", "command")},
    )
    assert found(served, capsys) == []


def test_an_instance_that_is_of_no_release_is_named(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    served.systemd.active["any-service@by-hand.service"] = "active"
    (line,) = found(served, capsys)
    assert line.endswith("runs, and is of no release. Stop it with `systemctl stop any-service@by-hand.service`.")


def change(path: Path) -> None:
    path.write_text(path.read_text() + "[Service]\n")


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def override(path: Path) -> None:
    folder = path.with_name(f"{path.name}.d")
    folder.mkdir()
    (folder / "override.conf").write_text("[Service]\nUser=root\n")


def override_in_run(path: Path) -> None:
    folder = path.parents[1] / "run" / f"{path.name}.d"
    folder.mkdir(parents=True)
    (folder / "override.conf").write_text("[Service]\nUser=root\n")


def replace_in_run(path: Path) -> None:
    folder = path.parents[1] / "run"
    folder.mkdir()
    (folder / path.name).write_text("[Service]\n")


def override_one_instance(path: Path) -> None:
    folder = path.with_name(f"any-service@{B}.service.d")
    folder.mkdir()
    (folder / "50-MemoryMax.conf").write_text("[Service]\nMemoryMax=1G\n")


def replace_one_instance(path: Path) -> None:
    path.with_name(f"any-service@{B}.service").write_text("[Service]\n")


UNIT_CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed": (change, "was changed by hand. Heal it with `mobius provision`."),
    "missing": (Path.unlink, "is missing. Heal it with `mobius provision`."),
    "masked": (replace_by_link, "Heal it with `mobius provision`."),
    "overridden": (override, "override.conf changes any-service@.service by hand. Move what it sets to the variables"),
    "overridden until a reboot": (override_in_run, "override.conf changes any-service@.service by hand. Move"),
    "replaced until a reboot": (replace_in_run, "any-service@.service replaces any-service@.service by hand. Move"),
    "one instance overridden": (override_one_instance, "50-MemoryMax.conf changes any-service@.service by hand. Move"),
    "one instance replaced": (replace_one_instance, f"any-service@{B}.service replaces any-service@.service by hand."),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNIT_CHANGES)
def test_units_that_were_changed_by_hand_are_named(served: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, expected = UNIT_CHANGES[name]
    damage(served.host.units_dir / "any-service@.service")
    (line,) = found(served, capsys)
    assert expected in line


@pytest.mark.parametrize("kind", ["damaged", "folder", "pipe"])
def test_digests_of_units_that_cannot_be_read_are_named(
    served: Any, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = served.host.units_digests_path
    path.unlink()
    if kind == "damaged":
        path.write_bytes(b"\xff\xfe")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    (line,) = found(served, capsys)
    assert "cannot be read" in line and "`mobius provision`" in line


def test_a_host_that_was_provisioned_before_has_no_digests(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    served.host.units_digests_path.unlink()
    assert found(served, capsys) == []


def test_a_command_at_work_is_no_problem_for_status_and_verify_waits_for_it(
    served: Any, capsys: pytest.CaptureFixture[str], set_lock_timeout: Callable[[float], None]
) -> None:
    let_two_serve(served)
    set_lock_timeout(0.2)
    with lock.hold_lock(served.host, Actor("ansible", "r1")):
        assert served.command("status") == 0
        assert "at work    another command" in capsys.readouterr().out
        assert served.command("verify") == 3
        assert "at work" in capsys.readouterr().err
    assert served.command("status") == 2


def test_a_status_that_stands_still_holds_no_rollback_up(
    served: Any, monkeypatch: pytest.MonkeyPatch, set_lock_timeout: Callable[[float], None]
) -> None:
    observe, rolled_back = Executor.observe, []

    def observe_for_long(executor: Executor) -> Any:
        monkeypatch.setattr(Executor, "observe", observe)
        rolled_back.append(served.command("rollback"))
        return observe(executor)

    set_lock_timeout(0.5)
    monkeypatch.setattr(Executor, "observe", observe_for_long)
    assert served.command("status") == 0
    assert rolled_back == [0] and served.serving == [A]


def test_the_module_reports_the_problems(served: Any, run_module: Callable[..., dict[str, Any]]) -> None:
    assert run_module("release_info")["problems"] == []
    let_two_serve(served)
    (problem,) = run_module("release_info", check=True)["problems"]
    assert problem == {"problem": f"{A} serves, and should not: {B} should.", "heal": problems.REPAIR}
