# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Modules that are installed on a host: the folder, and what a module makes of its arguments there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.mobius.dhash.plugins.module_utils import host_module, installed_modules
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host_module import (
    UnsupportedArgumentError,
    convert_arguments,
)

from mobius.control.modules import MODULES
from mobius.control.run import installed_modules as control

CHECKOUT = Path(__file__).resolve().parents[3]
PLUGINS = CHECKOUT / "plugins"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    archive, lib = tmp_path / "modules.zip", tmp_path / "lib"
    control.write_archive(PLUGINS, archive)
    installed_modules.install(str(archive), control.installed_digest(PLUGINS), str(lib))
    return lib / control.installed_digest(PLUGINS)


def run(folder: Path, module: str, check: bool = False, **arguments: Any) -> tuple[int, str]:
    request = {
        "module": module,
        "arguments": arguments,
        "check": check,
        "tmpdir": None,
        "remote_tmp": str(folder / "t"),
    }
    done = subprocess.run([folder / "run"], input=json.dumps(request), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


# --- the folder


@pytest.mark.slow
def test_what_the_control_node_sends_is_whole_on_the_host(installed: Path) -> None:
    assert installed_modules.is_installed(installed.name, str(installed.parent))
    assert os.access(installed / "run", os.X_OK)
    assert control.LIB_DIR == installed_modules.LIB_DIR
    assert f"{host_module.BEGAN}\n" == control._BEGAN


@pytest.mark.slow
def test_byte_code_changes_nothing_and_any_other_byte_does(installed: Path) -> None:
    run(installed, "witness_info", dir=str(installed.parent))
    assert list(installed.rglob("__pycache__"))
    assert installed_modules.is_installed(installed.name, str(installed.parent))
    with (installed / "run").open("a") as stream:
        stream.write("\n")
    assert not installed_modules.is_installed(installed.name, str(installed.parent))


@pytest.mark.slow
def test_a_version_replaces_every_other_one_and_what_a_kill_has_left(installed: Path, tmp_path: Path) -> None:
    for name in ("0" * 64, ".mobius-tmp-half"):
        (installed.parent / name).mkdir()
    installed_modules.install(str(tmp_path / "modules.zip"), installed.name, str(installed.parent))
    assert [path.name for path in installed.parent.iterdir()] == [installed.name]


@pytest.mark.slow
def test_an_archive_of_another_version_is_not_installed(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(MobiusError, match="are version"):
        installed_modules.install(str(tmp_path / "modules.zip"), "1" * 64, str(installed.parent))
    assert [path.name for path in installed.parent.iterdir()] == [installed.name]


# --- a module


@pytest.mark.slow
def test_an_installed_module_answers_as_one_that_is_sent(installed: Path, tmp_path: Path) -> None:
    code, text = run(installed, "witness_info", dir=str(tmp_path))
    began, _, answer = text.partition("\n")
    assert (code, began) == (0, host_module.BEGAN)
    assert json.loads(answer)["changed"] is False


@pytest.mark.slow
def test_a_failure_of_an_installed_module_is_data(installed: Path, tmp_path: Path) -> None:
    code, text = run(installed, "lease", True, service="none", config_dir=str(tmp_path), run="r")
    answer = json.loads(text.partition("\n")[2])
    assert code == 1 and answer["failed"] and answer["mobius_failure"]["outcome"] == "not_provisioned"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"service": "x", "run": "r", "other": 1}, {"service": "x", "run": ["r"]}])
def test_no_module_begins_with_arguments_that_it_cannot_take(installed: Path, arguments: dict[str, Any]) -> None:
    assert run(installed, "lease", **arguments) == (host_module.REFUSED_EXIT_CODE, "")


@pytest.mark.slow
def test_no_module_begins_in_a_folder_that_lacks_a_file(installed: Path) -> None:
    next(installed.rglob("durable.py")).unlink()
    code, text = run(installed, "lease", service="x", run="r")
    assert code != 0 and host_module.BEGAN not in text


@pytest.mark.slow
@pytest.mark.parametrize("module", [name for name, entry in MODULES.items() if entry.is_installed])
def test_the_stand_in_knows_all_that_a_module_asks_of_it(installed: Path, tmp_path: Path, module: str) -> None:
    arguments = {"dir": str(tmp_path)} if module in ("witness", "witness_info") else {}  # they require none
    code, text = run(installed, module, True, **arguments)
    assert code == host_module.REFUSED_EXIT_CODE or text.startswith(host_module.BEGAN), text


# --- arguments, beside what Ansible makes of them

SPEC: dict[str, Any] = {
    "text": {"type": "str", "default": "x"},
    "word": {"choices": ["a", "b"]},
    "number": {"type": "int"},
    "seconds": {"type": "float", "default": 1.5},
    "flag": {"type": "bool", "default": False},
    "folder": {"type": "path"},
    "anything": {"type": "raw"},
    "names": {"type": "list", "elements": "str", "default": []},
    "items": {"type": "list", "elements": "dict", "options": {"name": {"required": True}, "n": {"type": "int"}}},
    "about": {"type": "dict", "options": {"size": {"type": "int", "required": True}, "more": {"default": "m"}}},
}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"number": None, "folder": None, "about": None, "items": None},
        {"text": "y", "word": "a", "number": 3, "seconds": 2, "flag": True, "folder": "~/x/$HOME"},
        {"text": 7, "number": "-12", "seconds": "2.5", "flag": "yes", "anything": {"a": [1, None]}},
        {"flag": "False", "names": ["a", 1], "seconds": "inf"},
        {"items": [{"name": "a"}, {"name": 5, "n": "6"}], "about": {"size": "4"}},
    ],
)
def test_plain_arguments_become_what_ansible_makes_of_them(arguments: dict[str, Any]) -> None:
    validated = ArgumentSpecValidator(SPEC).validate(arguments)
    assert not validated.error_messages
    assert convert_arguments(SPEC, arguments) == validated.validated_parameters


@pytest.mark.parametrize(
    "arguments",
    [
        {"word": "c"},
        {"number": "x"},
        {"number": True},
        {"number": 1.5},
        {"seconds": "soon"},
        {"flag": 2},
        {"names": "a,b"},
        {"names": [["a"]]},
        {"items": [{"n": 1}]},
        {"items": [{"name": "a", "m": 1}]},
        {"about": {}},
        {"about": "size=3"},
        {"unknown": 1},
        {"text": {"a": 1}},
        {"names": None},
    ],
)
def test_other_arguments_are_left_to_ansible(arguments: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedArgumentError):
        convert_arguments(SPEC, arguments)


def test_what_needs_a_value_is_left_to_ansible_without_one() -> None:
    with pytest.raises(UnsupportedArgumentError):
        convert_arguments({"name": {"required": True}}, {})
