# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`ansible-doc` renders every page of the collection, and shows the options that the module really has."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py") if path.stem != "__init__")
# answered on the control node: the action of the same name has the arguments
BY_ACTION = {path.stem for path in (CHECKOUT / "plugins/action").glob("*.py")}


class _SpecifiedError(Exception):
    """Raised instead of the module's work, with its argument specification."""


def ansible_doc(kind: str, *arguments: str) -> str:
    """What one run of `ansible-doc` prints; it must print no warning."""
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--playbook-dir", str(CHECKOUT), "--type", kind]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run([*command, *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def pages() -> dict[str, Any]:
    return {
        name.rpartition(".")[2]: page
        for name, page in json.loads(ansible_doc("module", "--json", *full_names(MODULES))).items()
    }


def full_names(names: list[str]) -> list[str]:
    return [f"mobius.dhash.{name}" for name in names]


def cut_texts(page: Any, path: str = "") -> list[str]:
    """The keys without a value in a page: in a flow mapping, what stands after an unquoted comma becomes such a key."""
    if isinstance(page, dict):
        here = [f"{path}.{key}" for key, value in page.items() if value is None and key not in ("default", "examples")]
        return here + [
            cut for key, value in page.items() if key != "sample" for cut in cut_texts(value, f"{path}.{key}")
        ]
    if isinstance(page, list):
        return [cut for number, value in enumerate(page) for cut in cut_texts(value, f"{path}[{number}]")]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_every_text_of_a_module_page_is_whole(pages: dict[str, Any], name: str) -> None:
    page = pages[name]
    assert page["doc"]["short_description"]
    assert page["return"]
    assert cut_texts({key: page[key] for key in ("doc", "return")}) == []
    for attribute, about in page["doc"]["attributes"].items():
        assert set(about) <= {"description", "details", "membership", "platforms", "support", "version_added"}, (
            attribute
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("module", full_names(MODULES)),
        ("callback", full_names(sorted(path.stem for path in (CHECKOUT / "plugins/callback").glob("*.py")))),
        ("role", full_names(sorted(path.name for path in (CHECKOUT / "roles").iterdir()))),
    ],
)
def test_every_page_is_rendered_as_text(kind: str, names: list[str]) -> None:
    text = ansible_doc(kind, *names)
    rendered = re.findall(r"^> [A-Z]+:?[^\w\n]+(mobius\.dhash\.\w+)", text, re.MULTILINE)
    assert sorted(set(rendered)) == names
    assert re.findall(r"^ +(?!default:)\S[^:\n]*: null$", text, re.MULTILINE) == []


def specified_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any] | None:
    """The argument specification that the module gives to Ansible; None when it is run by its action alone."""

    def specified(_self: object, argument_spec: Mapping[str, Any], **_more: object) -> None:
        raise _SpecifiedError(argument_spec)

    monkeypatch.syspath_prepend(str(CHECKOUT / ".ansible/collections"))
    module = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.modules.{name}")
    if not hasattr(module, "main"):
        return None
    monkeypatch.setattr(basic.AnsibleModule, "__init__", specified)
    with pytest.raises(_SpecifiedError) as caught:
        module.main()
    found: Mapping[str, Any] = caught.value.args[0]
    return found


def comparable(options: Mapping[str, Any], within: str) -> dict[str, Any]:
    """Type, default, required, choices and suboptions of each option, in one form for documentation and code."""
    return {
        name: {
            "type": option.get("type", "str"),
            "elements": option.get("elements"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if option.get("choices") else None,
            "within": comparable(option[within], within) if option.get(within) else None,
        }
        for name, option in options.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_documented_options_are_the_ones_in_the_code(
    pages: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = specified_arguments(name, monkeypatch)
    if found is None:
        assert name in BY_ACTION, "somebody has to run it"
        action = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.action.{name}")
        found = action.ActionModule.arguments
    assert comparable(pages[name]["doc"]["options"], "suboptions") == comparable(found, "options")
