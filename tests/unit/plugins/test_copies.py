# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies elsewhere and the command that timers run. Only ssh is played, by a program that runs the command here."""

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
from test_backup import back_up, flip, host, names, touch_state

__all__ = ["host"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyTarget:
    """A place for copies; `SSH_FAILS` makes the connection break."""
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


def there(place: CopyTarget) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(place.folder, "one").iterdir()}


def test_a_copy_is_the_backup_with_its_digest_and_is_made_once(host, place):
    result = back_up(host, host_name="one")
    assert push_copies(host, place, "one") == [result.backup.id]
    archive = result.backup.path
    sidecar = Path(f"{archive}.sha256")
    assert there(place) == {archive.name: archive.read_bytes(), sidecar.name: sidecar.read_bytes()}
    assert subprocess.run(["sha256sum", "--check", "--strict", sidecar.name], cwd=f"{place.folder}/one").returncode == 0
    assert push_copies(host, place, "one") == []
    assert set(read_copy_times(host)) == {"cellar"}


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_copy_comes_back_on_another_host_as_the_very_same_backup(host, place, key, encrypted):
    place = dataclasses.replace(place, recipient=key[0] if encrypted else "")
    result = back_up(host, host_name="one")
    content = result.backup.path.read_bytes()
    push_copies(host, place, "one")
    if encrypted:
        stored = there(place)[f"{result.backup.path.name}.age"]
        assert hashlib.sha256(content).hexdigest() != hashlib.sha256(stored).hexdigest()
        assert content[:4096] not in stored
    for path in host.backup_dir.iterdir():
        path.unlink()
    pulled = pull_copy(host, place, "latest", host_name="one", identity=str(key[1]) if encrypted else None)
    assert pulled.read_bytes() == content
    assert find_backup(host, "latest").sha256 == result.backup.sha256
    assert verify_backups(host) == {result.backup.id: None}


def test_another_hosts_copy_lies_apart_from_this_hosts_own_backup_of_the_same_second(host, place):
    push_copies(host, place, back_up(host, host_name="one").backup.host)
    for path in host.backup_dir.glob("svc-*"):
        path.unlink()
    touch_state(host)
    own = back_up(host, host_name="two").backup
    content = own.path.read_bytes()
    pulled = pull_copy(host, place, own.id, host_name="two", of_host="one")
    assert own.path.read_bytes() == content
    assert pulled.read_bytes() == Path(place.folder, "one", pulled.name).read_bytes() != content
    assert [item.host for item in list_backups(host)] == ["two"]
    assert [item.host for item in list_backups(host, "one")] == ["one"]
    assert find_backup(host, "latest", "one").path == pulled
    assert find_backup(host, "latest").path == own.path
    assert verify_backups(host) == {own.id: None}


def test_a_copy_that_is_here_already_is_not_fetched_again_and_another_file_in_its_place_is_kept(host, place):
    own = back_up(host, host_name="one").backup
    push_copies(host, place, "one")
    assert pull_copy(host, place, own.id, host_name="one") == own.path
    flip(own.path, 3000)
    content = own.path.read_bytes()
    with pytest.raises(MobiusError, match="has another backup"):
        pull_copy(host, place, own.id, host_name="one")
    assert own.path.read_bytes() == content


def test_a_name_that_leads_out_of_the_folder_is_no_hosts(host):
    with pytest.raises(MobiusError, match="cannot be the name of a folder"):
        find_backup(host, "latest", "../elsewhere")


def test_what_a_host_wrote_under_another_name_is_not_pushed_under_its_new_one(host, place):
    back_up(host, host_name="one")
    assert push_copies(host, place, "two") == []
    assert list_copies(host, place, "two") == []


def test_an_encrypted_copy_wants_its_key(host, place, key):
    back_up(host, host_name="one")
    sealed = dataclasses.replace(place, recipient=key[0])
    push_copies(host, sealed, "one")
    with pytest.raises(MobiusError, match="is encrypted"):
        pull_copy(host, sealed, "latest", host_name="one")


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_copy_that_was_changed_there_is_refused_and_nothing_comes_of_it(host, place, key, encrypted):
    sealed = dataclasses.replace(place, recipient=key[0] if encrypted else "")
    result = back_up(host, host_name="one")
    push_copies(host, sealed, "one")
    stored = Path(place.folder, "one", result.backup.path.name + (".age" if encrypted else ""))
    flip(stored, 3000)
    for path in host.backup_dir.glob("svc-*"):
        path.unlink()
    before = names(host)
    with pytest.raises(MobiusError):
        pull_copy(host, sealed, "latest", host_name="one", identity=str(key[1]))
    assert names(host) == before


def test_a_backup_that_is_damaged_here_is_not_copied(host, place):
    flip(back_up(host, host_name="one").backup.path, 3000)
    with pytest.raises(MobiusError) as caught:
        push_copies(host, place, "one")
    assert caught.value.outcome == "backup_damaged"
    assert list_copies(host, place, "one") == []
    assert read_copy_times(host) == {}


def test_a_copy_that_was_cut_short_has_no_name_and_is_made_again(host, place):
    result = back_up(host, host_name="one")
    left = Path(place.folder, "one", f".{result.backup.path.name}.part")
    left.parent.mkdir(parents=True)
    left.write_bytes(result.backup.path.read_bytes()[:2000])
    assert list_copies(host, place, "one") == []
    assert push_copies(host, place, "one") == [result.backup.id]
    assert not left.exists()


def test_a_place_that_cannot_be_reached_is_named(host, place, monkeypatch):
    back_up(host, host_name="one")
    monkeypatch.setenv("SSH_FAILS", "1")
    with pytest.raises(MobiusError, match=r"cellar .*Connection refused") as caught:
        push_copies(host, place, "one")
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
def test_settings_that_could_be_taken_for_something_else_are_refused(place, change):
    with pytest.raises(MobiusError) as caught:
        CopyTarget.parse({**dataclasses.asdict(place), **change})
    assert caught.value.outcome == "invalid_input"


@pytest.mark.parametrize("name", ["", "..", "a/b", "$(id)"])
def test_a_host_whose_name_no_folder_can_have_is_refused(host, place, name):
    back_up(host, host_name="one")
    with pytest.raises(MobiusError):
        push_copies(host, place, name)


# The command


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
    # of what is imported, the modules: the rest are names in them
    files = {f"{PACKAGE}.{name}".removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in sources}
    missing = {name for name in imported - files - {PACKAGE} if is_module(name)}
    assert not missing


def is_module(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    folder = Path(console.__file__).parents[1].joinpath(*parent.removeprefix(PACKAGE).split("."))
    return (folder / f"{last}.py").exists() or (folder / last / "__init__.py").exists()


@pytest.fixture
def command(host: Host, tmp_path: Path, place: CopyTarget, capsys: pytest.CaptureFixture[str]) -> Any:
    settings = {
        "name": "one",
        "scope": "full",
        "keep": {"count": 2},
        "subset": "today/7",
        "metrics_dir": str(tmp_path / "metrics"),
        "copies": [dataclasses.asdict(place)],
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


def test_the_command_backs_up_verifies_copies_and_tells_prometheus(host, command, tmp_path):
    code, said, _ = command("create")
    assert (code, said.endswith("-full written.\n")) == (0, True)
    assert command("create")[1].startswith("Nothing changed")
    assert command("verify", "--subset", "1/1")[:2] == (0, "1 backups verified, all whole.\n")
    assert command("push")[0] == 0
    [item] = json.loads(command("list", "--json")[1])
    assert item["host"] == "one"
    found = gauges(tmp_path)
    labels = '{service="svc",scope="full"}'
    newest = find_backup(host, "latest")
    assert found[f"mobius_backup_created_timestamp_seconds{labels}"] == newest.begun.timestamp()
    assert found[f"mobius_backup_verified_timestamp_seconds{labels}"] >= newest.begun.timestamp()
    assert found[f"mobius_backup_bytes{labels}"] == newest.bytes
    assert found['mobius_backup_drill_success_timestamp_seconds{service="svc"}'] == 0
    assert found['mobius_backup_copied_timestamp_seconds{service="svc",place="cellar"}'] > 0


def test_what_a_module_does_renews_the_metrics_too_however_it_ends(host, command, tmp_path):
    settings, told = tmp_path / "mobius-backup", []
    with update_metrics(host, str(settings), told.append, read_only=True):
        pass
    assert list((tmp_path / "metrics").iterdir()) == []
    with (
        pytest.raises(MobiusError, match="damaged"),
        update_metrics(host, str(settings), told.append, read_only=False),
    ):
        raise MobiusError("backup_damaged", "One is damaged.")
    assert gauges(tmp_path)['mobius_backup_count{service="svc",scope="full"}'] == 0
    assert told == []
    (settings / "svc.json").write_text("{")
    with update_metrics(host, str(settings), told.append, read_only=False):
        pass
    assert len(told) == 1 and "were not written" in told[0] and "svc.json is invalid" in told[0]


def test_metrics_that_cannot_be_written_fail_the_command_that_is_there_for_them_only(host, command, tmp_path):
    (tmp_path / "metrics").rmdir()
    (tmp_path / "metrics").write_text("no folder")
    code, said, warned = command("create")
    assert (code, said.endswith("-full written.\n"), "were not written" in warned) == (0, True, True)
    assert command("list")[2] == ""
    assert command("metrics")[0] == 3
    flip(find_backup(host, "latest").path, 3000)
    code, _, said = command("verify", "--subset", "1/1")
    assert (code, "damaged" in said) == (2, True)


def test_the_command_rotates_as_its_settings_say(host, command):
    for number in range(4):
        touch_state(host, number)
        assert command("create")[0] == 0
    assert len(list_backups(host)) == 2


def test_a_damaged_backup_ends_the_command_with_its_code_and_shows_in_the_metrics(host, command, tmp_path):
    command("create")
    flip(find_backup(host, "latest").path, 3000)
    code, _, said = command("verify", "--subset", "1/1")
    assert code == 2
    assert "is damaged" in said or "are damaged" in said
    assert gauges(tmp_path)['mobius_backup_damaged{service="svc",scope="full"}'] == 1


def test_a_drill_that_fails_shows_in_the_metrics(host, command, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        drill.record_drill(host, find_backup(host, "latest"), None, failure=MobiusError("drill_failed", "No."))
        raise MobiusError("drill_failed", "No.")

    command("create")
    monkeypatch.setattr(console, "run_drill", fail)
    assert command("drill")[0] == 2
    found = gauges(tmp_path)
    assert found['mobius_backup_drill_timestamp_seconds{service="svc"}'] > 0
    assert found['mobius_backup_drill_success_timestamp_seconds{service="svc"}'] == 0


def test_a_copy_that_is_not_there_and_settings_that_are_no_json_are_told(command, tmp_path):
    assert command("pull", "latest", "--of-host", "two")[0] == 1
    assert "no copy target 'attic'" in command("pull", "latest", "--from", "attic")[2]
    (tmp_path / "mobius-backup/svc.json").write_text("{")
    code, _, said = command("create")
    assert (code, "is invalid" in said) == (3, True)
