# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies on other hosts and the command that timers run. ssh is a program that runs the command on this machine."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import subprocess
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.backup import console, drill
from ansible_collections.mobius.dhash.plugins.module_utils.backup.copies import (
    CopyTarget,
    list_copies,
    pull_copy,
    push_copies,
    read_copy_times,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import update_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import PACKAGE, tool_sources

from tests.backups import back_up, flip, names, touch_state


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyTarget:
    """A target for copies; `SSH_FAILS` makes the connection break."""
    programs = tmp_path / "programs"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(
        '#!/bin/sh\nif test -n "$SSH_FAILS"; then echo "Connection refused" >&2; exit 255; fi\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return CopyTarget("cellar", "keeper@cellar", str(tmp_path / "cellar"), "/key", "/known")


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, Path]:
    """A key pair of age: the public key, and the file with the private one."""
    identity = tmp_path / "age.key"
    done = subprocess.run(["age-keygen", "-o", identity], capture_output=True, text=True, check=True)
    return done.stderr.split()[-1], identity


def there(target: CopyTarget) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(target.folder, "one").iterdir()}


def test_a_copy_is_the_backup_with_its_digest_and_is_made_once(host, target):
    result = back_up(host, host_name="one")
    assert push_copies(host, target, "one") == [result.backup.id]
    archive = result.backup.path
    sidecar = Path(f"{archive}.sha256")
    assert there(target) == {archive.name: archive.read_bytes(), sidecar.name: sidecar.read_bytes()}
    assert (
        subprocess.run(["sha256sum", "--check", "--strict", sidecar.name], cwd=f"{target.folder}/one").returncode == 0
    )
    assert push_copies(host, target, "one") == []
    assert set(read_copy_times(host)) == {"cellar"}


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_copy_is_pulled_on_another_host_as_the_same_backup(host, target, key, encrypted):
    target = dataclasses.replace(target, recipient=key[0] if encrypted else "")
    result = back_up(host, host_name="one")
    content = result.backup.path.read_bytes()
    push_copies(host, target, "one")
    if encrypted:
        stored = there(target)[f"{result.backup.path.name}.age"]
        assert hashlib.sha256(content).hexdigest() != hashlib.sha256(stored).hexdigest()
        assert content[:4096] not in stored
    for path in host.backup_dir.iterdir():
        path.unlink()
    pulled = pull_copy(host, target, "latest", host_name="one", identity=str(key[1]) if encrypted else None)
    assert pulled.read_bytes() == content
    assert find_backup(host, "latest").sha256 == result.backup.sha256
    assert verify_backups(host) == {result.backup.id: None}


def test_another_hosts_copy_is_separate_from_this_hosts_backup_of_the_same_second(host, target):
    push_copies(host, target, back_up(host, host_name="one").backup.host)
    for path in host.backup_dir.glob("svc-*"):
        path.unlink()
    touch_state(host)
    backup = back_up(host, host_name="two").backup
    content = backup.path.read_bytes()
    pulled = pull_copy(host, target, backup.id, host_name="two", of_host="one")
    assert backup.path.read_bytes() == content
    assert pulled.read_bytes() == Path(target.folder, "one", pulled.name).read_bytes() != content
    assert [item.host for item in list_backups(host)] == ["two"]
    assert [item.host for item in list_backups(host, "one")] == ["one"]
    assert find_backup(host, "latest", "one").path == pulled
    assert find_backup(host, "latest").path == backup.path
    assert verify_backups(host) == {backup.id: None}


def test_a_copy_that_exists_here_is_not_fetched_again_and_another_file_of_its_name_is_kept(host, target):
    backup = back_up(host, host_name="one").backup
    push_copies(host, target, "one")
    assert pull_copy(host, target, backup.id, host_name="one") == backup.path
    flip(backup.path, 3000)
    content = backup.path.read_bytes()
    with pytest.raises(MobiusError, match="has another backup"):
        pull_copy(host, target, backup.id, host_name="one")
    assert backup.path.read_bytes() == content
    verify_backups(host)
    backup.path.rename(host.backup_dir / "examined.tar")
    Path(f"{backup.path}.sha256").unlink()
    pull_copy(host, target, backup.id, host_name="one")
    assert [item.damaged for item in list_backups(host)] == [None], "it was compared with its digest"


def test_a_host_name_that_leads_out_of_the_folder_is_refused(host):
    with pytest.raises(MobiusError, match="cannot be the name of a folder"):
        find_backup(host, "latest", "../elsewhere")


def test_what_a_host_wrote_under_another_name_is_not_pushed_under_its_new_one(host, target):
    back_up(host, host_name="one")
    assert push_copies(host, target, "two") == []
    assert list_copies(host, target, "two") == []


def test_an_encrypted_copy_needs_its_key(host, target, key):
    back_up(host, host_name="one")
    sealed = dataclasses.replace(target, recipient=key[0])
    push_copies(host, sealed, "one")
    with pytest.raises(MobiusError, match="is encrypted"):
        pull_copy(host, sealed, "latest", host_name="one")


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_copy_that_was_changed_there_is_refused_and_nothing_is_left(host, target, key, encrypted):
    sealed = dataclasses.replace(target, recipient=key[0] if encrypted else "")
    result = back_up(host, host_name="one")
    push_copies(host, sealed, "one")
    stored = Path(target.folder, "one", result.backup.path.name + (".age" if encrypted else ""))
    flip(stored, 3000)
    for path in host.backup_dir.glob("svc-*"):
        path.unlink()
    before = names(host)
    with pytest.raises(MobiusError):
        pull_copy(host, sealed, "latest", host_name="one", identity=str(key[1]))
    assert names(host) == before


def test_a_backup_that_is_damaged_here_is_not_copied(host, target):
    flip(back_up(host, host_name="one").backup.path, 3000)
    with pytest.raises(MobiusError) as caught:
        push_copies(host, target, "one")
    assert caught.value.outcome == "backup_damaged"
    assert list_copies(host, target, "one") == []
    assert read_copy_times(host) == {}


def test_a_copy_that_was_cut_short_has_no_name_and_is_made_again(host, target):
    result = back_up(host, host_name="one")
    left = Path(target.folder, "one", f".{result.backup.path.name}.part")
    left.parent.mkdir(parents=True)
    left.write_bytes(result.backup.path.read_bytes()[:2000])
    assert list_copies(host, target, "one") == []
    assert push_copies(host, target, "one") == [result.backup.id]
    assert not left.exists()


def test_a_copy_target_that_cannot_be_reached_is_named(host, target, monkeypatch):
    back_up(host, host_name="one")
    monkeypatch.setenv("SSH_FAILS", "1")
    with pytest.raises(MobiusError, match=r"cellar .*Connection refused") as caught:
        push_copies(host, target, "one")
    assert caught.value.outcome == "unreachable"


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "relative"},
        {"folder": "/a/$(id)"},
        {"destination": "-oProxyCommand=id"},
        {"recipient": "ssh-rsa"},
        {"port": "x"},
        {"more": 1},
    ],
)
def test_ambiguous_settings_of_a_copy_target_are_refused(target, change):
    with pytest.raises(MobiusError) as caught:
        CopyTarget.parse({**dataclasses.asdict(target), **change})
    assert caught.value.outcome == "invalid_input"


@pytest.mark.parametrize("name", ["", "..", "a/b", "$(id)"])
def test_a_host_whose_name_no_folder_can_have_is_refused(host, target, name):
    back_up(host, host_name="one")
    with pytest.raises(MobiusError):
        push_copies(host, target, name)


# The command


@pytest.mark.slow
def test_the_installed_command_holds_every_file_of_the_package_and_all_that_these_import():
    package = Path(console.__file__).parent
    modules = {f"backup.{path.stem}" for path in package.glob("*.py") if path.stem != "__init__"} | {"backup"}
    assert modules <= set(console.BACKUP_TOOL_MODULES)
    sources = tool_sources(console.BACKUP_TOOL_MODULES)
    assert sources["backup/console.py"] == Path(console.__file__).read_text()
    imported = set()
    for name, text in sources.items():
        package_name = f"{PACKAGE}.{name}".removesuffix(".py").replace("/", ".").rpartition(".")[0]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(PACKAGE)):
                module = resolve_name("." * node.level + (node.module or ""), package_name)
                imported |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    # of what is imported, the modules: the others are names in them
    files = {f"{PACKAGE}.{name}".removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in sources}
    missing = {name for name in imported - files - {PACKAGE} if is_module(name)}
    assert not missing


def is_module(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    folder = Path(console.__file__).parents[1].joinpath(*parent.removeprefix(PACKAGE).split("."))
    return (folder / f"{last}.py").exists() or (folder / last / "__init__.py").exists()


@pytest.fixture
def command(host: Host, tmp_path: Path, target: CopyTarget, capsys: pytest.CaptureFixture[str]) -> Any:
    settings = {
        "name": "one",
        "scope": "full",
        "keep": {"count": 2},
        "subset": "today/7",
        "metrics_dir": str(tmp_path / "metrics"),
        "copies": [dataclasses.asdict(target)],
    }
    (tmp_path / "metrics").mkdir()
    (tmp_path / "mobius-backup").mkdir()
    (tmp_path / "mobius-backup/svc.json").write_text(json.dumps(settings))
    folders = ["--config-dir", str(tmp_path / "mobius-backup"), "--host-config-dir", str(tmp_path / "mobius-host")]

    def run(*arguments: str) -> tuple[int, str, str]:
        code = console.main([*folders, *arguments])
        return code, *capsys.readouterr()

    return run


def gauges(tmp_path: Path) -> dict[str, float]:
    lines = (tmp_path / "metrics/svc-backup.prom").read_text().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_the_command_backs_up_verifies_copies_and_writes_metrics(host, command, tmp_path):
    code, output, _ = command("create")
    assert (code, output.endswith("-full written.\n")) == (0, True)
    assert command("create")[1].startswith("Nothing changed")
    assert command("verify", "--subset", "1/1")[:2] == (0, "1 backup read in full: what was written.\n")
    assert command("push")[0] == 0
    [item] = json.loads(command("list", "--json")[1])
    assert item["host"] == "one"
    metrics = gauges(tmp_path)
    labels = '{service="svc",scope="full"}'
    newest = find_backup(host, "latest")
    assert metrics[f"mobius_backup_created_timestamp_seconds{labels}"] == newest.begun.timestamp()
    assert metrics[f"mobius_backup_verified_timestamp_seconds{labels}"] >= newest.begun.timestamp()
    assert metrics[f"mobius_backup_bytes{labels}"] == newest.bytes
    assert metrics['mobius_backup_drill_success_timestamp_seconds{service="svc"}'] == 0
    assert metrics['mobius_backup_copied_timestamp_seconds{service="svc",target="cellar"}'] > 0


def test_what_a_module_does_writes_the_metrics_too_however_it_ends(host, command, tmp_path):
    settings, warnings = tmp_path / "mobius-backup", []
    with update_metrics(host, str(settings), warnings.append, read_only=True):
        pass
    assert list((tmp_path / "metrics").iterdir()) == []
    with (
        pytest.raises(MobiusError, match="damaged"),
        update_metrics(host, str(settings), warnings.append, read_only=False),
    ):
        raise MobiusError("backup_damaged", "One is damaged.")
    assert gauges(tmp_path)['mobius_backups{service="svc",scope="full"}'] == 0
    assert warnings == []
    (settings / "svc.json").write_text("{")
    with update_metrics(host, str(settings), warnings.append, read_only=False):
        pass
    assert len(warnings) == 1 and "were not written" in warnings[0] and "svc.json is invalid" in warnings[0]


def test_metrics_that_cannot_be_written_fail_the_command_metrics_only(host, command, tmp_path):
    (tmp_path / "metrics").rmdir()
    (tmp_path / "metrics").write_text("no folder")
    code, output, warned = command("create")
    assert (code, output.endswith("-full written.\n"), "were not written" in warned) == (0, True, True)
    assert command("list")[2] == ""
    assert command("metrics")[0] == 3
    flip(find_backup(host, "latest").path, 3000)
    code, _, output = command("verify", "--subset", "1/1")
    assert (code, "damaged" in output) == (2, True)


@pytest.mark.slow
def test_the_command_rotates_as_its_settings_say(host, command):
    for number in range(4):
        touch_state(host, number)
        assert command("create")[0] == 0
    assert len(list_backups(host)) == 2


def test_a_damaged_backup_ends_the_command_with_its_code_and_shows_in_the_metrics(host, command, tmp_path):
    command("create")
    flip(find_backup(host, "latest").path, 3000)
    code, _, output = command("verify", "--subset", "1/1")
    assert code == 2
    assert "is damaged" in output or "are damaged" in output
    assert gauges(tmp_path)['mobius_backup_damaged{service="svc",scope="full"}'] == 1


def test_a_drill_that_fails_shows_in_the_metrics(host, command, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        drill.record_drill(host, find_backup(host, "latest"), None, failure=MobiusError("drill_failed", "No."))
        raise MobiusError("drill_failed", "No.")

    command("create")
    monkeypatch.setattr(console, "run_drill", fail)
    assert command("drill")[0] == 2
    metrics = gauges(tmp_path)
    assert metrics['mobius_backup_drill_timestamp_seconds{service="svc"}'] > 0
    assert metrics['mobius_backup_drill_success_timestamp_seconds{service="svc"}'] == 0


def test_a_missing_copy_and_settings_that_are_no_json_are_reported(command, tmp_path):
    assert command("pull", "latest", "--of-host", "two")[0] == 1
    assert "no copy target 'attic'" in command("pull", "latest", "--from", "attic")[2]
    (tmp_path / "mobius-backup/svc.json").write_text("{")
    code, _, output = command("create")
    assert (code, "is invalid" in output) == (3, True)
