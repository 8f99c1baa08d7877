# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `ansible-doc` tells of a module's options is what the module takes."""

from __future__ import annotations

import importlib
import json
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
    """Raised in the place of a module's work, with what it takes."""


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    command = [Path(sys.executable).with_name("ansible-doc"), "--playbook-dir", CHECKOUT, "--type", "module", "--json"]
    done = subprocess.run(
        [*map(str, command), *(f"mobius.dhash.{name}" for name in MODULES)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.rpartition(".")[2]: found["doc"]["options"] for name, found in json.loads(done.stdout).items()}


def taken(name: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any] | None:
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


def told(options: Mapping[str, Any], within: str) -> dict[str, Any]:
    """Type, default, whether it must be given, its choices, and the options within it, in one form for both sides."""
    return {
        name: {
            "type": option.get("type", "str"),
            "elements": option.get("elements"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if option.get("choices") else None,
            "within": told(option[within], within) if option.get(within) else None,
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_option_is_documented_as_it_is_taken(
    documented: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = taken(name, monkeypatch)
    if found is None:
        assert name in BY_ACTION, "somebody has to run it"
        action = importlib.import_module(f"ansible_collections.mobius.dhash.plugins.action.{name}")
        found = action.ActionModule.arguments
    assert told(documented[name], "suboptions") == told(found, "options")
