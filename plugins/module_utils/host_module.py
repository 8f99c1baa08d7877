# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stands in for `ansible.module_utils.basic` where a module runs from the folder that the role `host` has installed.

Ansible sends a module with all that it imports, some 350 KB of source, and the host compiles it each time. Installed
code is compiled once. There, this file is `ansible/module_utils/basic.py`, so a module is the same one either way.

It takes arguments that need no more than a plain conversion. With any other, no module begins: the control node then
sends it with Ansible's own code, which reports what is wrong.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

BEGAN: Final = "mobius-module-began"
"""The line before a module's result. Without it, no module has begun, and nothing was done."""

REFUSED_EXIT_CODE: Final = 3
_MODULES: Final = "ansible_collections.mobius.dhash.plugins.modules"
_OPTION_KEYS: Final = {"type", "default", "required", "choices", "elements", "options"}
_BOOLEANS: Final = {"true": True, "yes": True, "false": False, "no": False}
_INTEGER: Final = re.compile(r"-?[0-9]+")

_request: dict[str, Any] = {}


class UnsupportedArgumentError(Exception):
    """Arguments that Ansible's own code has to convert, or to refuse."""


class AnsibleModule:
    """What the modules of this collection use of Ansible's class of this name."""

    def __init__(
        self,
        argument_spec: Mapping[str, Mapping[str, Any]],
        *,
        required_if: Sequence[tuple[str, Any, Sequence[str]]] = (),
        required_by: Mapping[str, Sequence[str]] | None = None,
        supports_check_mode: bool = False,
    ) -> None:
        self.check_mode: bool = _request["check"]
        if self.check_mode and not supports_check_mode:
            raise UnsupportedArgumentError
        self.params = convert_arguments(argument_spec, _request["arguments"])
        needed = [(name, names) for name, value, names in required_if if self.params[name] == value]
        needed += [(name, names) for name, names in (required_by or {}).items() if self.params[name] is not None]
        if any(self.params[name] is None for _, names in needed for name in names):
            raise UnsupportedArgumentError
        self._warnings: list[str] = []
        self._tmpdir: str | None = _request["tmpdir"]
        print(BEGAN, flush=True)

    @property
    def tmpdir(self) -> str:
        """A folder that is removed when the module has ended."""
        if self._tmpdir is None:
            base = os.path.expanduser(os.path.expandvars(_request["remote_tmp"]))
            os.makedirs(base, mode=0o700, exist_ok=True)
            self._tmpdir = tempfile.mkdtemp(prefix=f"ansible-moduletmp-{time.time()}-", dir=base)
            atexit.register(shutil.rmtree, self._tmpdir, ignore_errors=True)
        return self._tmpdir

    def warn(self, warning: str) -> None:
        """Show a warning with the result."""
        if warning not in self._warnings:
            self._warnings.append(warning)

    def exit_json(self, **result: Any) -> NoReturn:
        """Print the result, and end."""
        self._end({"changed": False, **result}, 0)

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        """Print the result of a failure, and end."""
        self._end({**result, "msg": msg, "failed": True}, 1)

    def _end(self, result: dict[str, Any], code: int) -> NoReturn:
        if self._warnings:
            result["warnings"] = [*(result.get("warnings") or ()), *self._warnings]
        print(json.dumps(result))
        sys.exit(code)


def convert_arguments(
    spec: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """The arguments by the specification: each option, with its default where it has no value.

    Raises:
        UnsupportedArgumentError: one is missing, unknown, or no plain value of its type.
    """
    if unknown := arguments.keys() - spec.keys():
        raise UnsupportedArgumentError(f"{where}{', '.join(sorted(unknown))}: unknown")
    return {
        name: _convert_option(f"{where}{name}", option, arguments[name] if name in arguments else option.get("default"))
        for name, option in spec.items()
    }


def _convert_option(name: str, option: Mapping[str, Any], value: Any) -> Any:
    if unknown := option.keys() - _OPTION_KEYS:
        raise UnsupportedArgumentError(f"{name} has the keys {unknown}")
    if value is None:
        if option.get("required") or option.get("default") is not None:
            raise UnsupportedArgumentError(f"{name} has no value")
        return None
    converted = _convert(name, str(option.get("type", "str")), option, value)
    if "choices" in option and converted not in option["choices"]:
        raise UnsupportedArgumentError(f"{name} is none of its choices")
    return converted


def _convert(name: str, kind: str, option: Mapping[str, Any], value: Any) -> Any:
    match kind, value:
        case "raw", _:
            return value
        case "str", str():
            return value
        case "path", str():
            return os.path.expanduser(os.path.expandvars(value))
        case "bool", bool():
            return value
        case "bool", str() if value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        case _, bool():
            pass  # a boolean is no number
        case "str", int():
            return str(value)
        case "int", int():
            return value
        case "int", str() if _INTEGER.fullmatch(value):
            return int(value)
        case "float", int() | float():
            return float(value)
        case "float", str():
            try:
                return float(value)
            except ValueError:
                pass
        case "list", list():
            elements = {"type": option.get("elements", "raw"), "options": option.get("options")}
            return [_convert(f"{name}[]", elements["type"], elements, item) for item in value]
        case "dict", dict():
            options = option.get("options")
            return convert_arguments(options, value, f"{name}.") if options else value
    raise UnsupportedArgumentError(f"{name} is no plain value of the type {kind}")


def main() -> None:
    """Run the module that standard input names: `{module, arguments, check, tmpdir, remote_tmp}`."""
    _request.update(json.load(sys.stdin))
    try:
        importlib.import_module(f"{_MODULES}.{_request['module']}").main()
    except UnsupportedArgumentError as error:
        print(f"Ansible's own code is needed: {error}", file=sys.stderr)
        sys.exit(REFUSED_EXIT_CODE)
    except Exception as error:  # noqa: BLE001 - of a module: as Ansible does, report it
        message = f"The module has crashed: {type(error).__name__}: {error}"
        print(json.dumps({"failed": True, "msg": message, "module_stderr": traceback.format_exc()}))
        sys.exit(1)
