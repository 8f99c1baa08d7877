# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads `mobius.yml`. What is wrong is refused in one sentence, with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mobius.control.nearest import did_you_mean
from mobius.control.service_file.keys import FILE_NAME, KEYS, NOT_YET, PORT_MAX, Key, ValueType, find_key
from mobius.errors import MobiusError

FILE_MAX_BYTES = 1 << 20
_SHOWN_MAX_CHARS = 60


@dataclass(frozen=True)
class ServiceFile:
    """A `mobius.yml` that was read: `values` are as they are in the file, checked."""

    path: Path
    values: Mapping[str, Any]

    @property
    def service(self) -> str:
        """The name of the service."""
        return str(self.values["service"])

    @property
    def kind(self) -> str:
        """What it speaks."""
        return str(self.values.get("kind", "http"))


def find_service_file(folder: Path) -> Path | None:
    """The `mobius.yml` of a folder; None without one."""
    path = folder / FILE_NAME
    return path if path.is_file() else None


def read_service_file(path: Path) -> ServiceFile:
    """A `mobius.yml`, checked.

    Raises:
        MobiusError: `invalid_input`, with file and line, for the first thing that is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MobiusError("invalid_input", f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > FILE_MAX_BYTES:
        raise MobiusError("invalid_input", f"{path} has more than {FILE_MAX_BYTES} bytes.")
    return ServiceFile(path, parse_service_file(content, path))


def parse_service_file(content: bytes | str, path: Path) -> dict[str, Any]:
    """The values of a `mobius.yml`.

    Args:
        path: for messages.

    Raises:
        MobiusError: as `read_service_file`.
    """
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise MobiusError("invalid_input", f"{where}: this is not YAML: {problem}.") from None
    if not isinstance(node, yaml.MappingNode):
        raise MobiusError("invalid_input", f"{path}:1: this is no mapping of keys such as `service: shop`.")
    values = _Reader(path).object(node, KEYS, "")
    _require_consistent(values, _lines(node), path)
    return values


class _Reader:
    """Builds values from YAML's nodes, which know their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, node: yaml.Node, problem: str, do_next: str | None = None) -> NoReturn:
        line = node.start_mark.line + 1
        raise MobiusError("invalid_input", f"{self.path}:{line}: {problem}.", do_next=do_next)

    def object(self, node: yaml.MappingNode, keys: Sequence[Key], within: str) -> dict[str, Any]:
        """An object with known keys."""
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = self.name(name_node, values, within)
            key = find_key(keys, name)
            if key is None:
                self._refuse_unknown(name_node, name, keys, within)
            values[name] = self.value(value_node, key.types, f"{within}{name}")
        for key in keys:
            if key.is_required and key.name not in values:
                self.refuse(node, f"{within}{key.name} is missing, such as `{key.name}: {key.example}`")
        return values

    def name(self, node: yaml.Node, values: Mapping[str, Any], within: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(node, f"a key of {within.rstrip('.') or 'the file'} is no name")
        name = str(node.value)
        if name in values:
            self.refuse(node, f"{within}{name} is there twice")
        return name

    def _refuse_unknown(self, node: yaml.Node, name: str, keys: Sequence[Key], within: str) -> NoReturn:
        if not within and name in NOT_YET:
            self.refuse(
                node, f"{name} does nothing yet: {NOT_YET[name]}", do_next=f"Remove {name} from {self.path.name}."
            )
        known = [key.name for key in keys]
        self.refuse(
            node,
            f"there is no key {within}{name}{did_you_mean(name, known)}",
            do_next=f"Known there: {', '.join(known)}.",
        )

    def value(self, node: yaml.Node, types: Sequence[ValueType], what: str) -> Any:
        """A value of one of these types."""
        if isinstance(node, yaml.MappingNode):
            found = next((each for each in types if each.kind == "object"), None)
            return self.refuse_type(node, types, what) if found is None else self._any_object(node, found, what)
        if isinstance(node, yaml.SequenceNode):
            found = next((each for each in types if each.kind == "array"), None)
            if found is None:
                self.refuse_type(node, types, what)
            return [
                self.value(item, found.items, f"{what}[{number}]") for number, item in enumerate(node.value, start=1)
            ]
        value = self._plain(node, what)
        for each in types:
            if _fits(value, each):
                return value
        return self.refuse_type(node, types, what)

    def _any_object(self, node: yaml.MappingNode, found: ValueType, what: str) -> dict[str, Any]:
        if found.keys:
            return self.object(node, found.keys, f"{what}.")
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = self.name(name_node, values, f"{what}.")
            if found.names and not re.fullmatch(found.names, name):
                self.refuse(name_node, f"{what} has the name {name!r}, which does not match {found.names}")
            if found.values:
                values[name] = self.value(value_node, found.values, f"{what}.{name}")
            else:
                values[name] = self._plain(value_node, f"{what}.{name}")
        return values

    def _plain(self, node: yaml.Node, what: str) -> Any:
        """A value of any shape, of YAML's own types."""
        if isinstance(node, yaml.ScalarNode) and node.tag.startswith("!"):
            self.refuse(
                node,
                f"{what} has the tag {node.tag}, and this file holds plain values only",
                do_next="Name a vault-encrypted file as environment_file, or set host_secrets in such group_vars.",
            )
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            self.refuse(node, f"{what} cannot be read: {' '.join(str(error).split())}".rstrip("."))
        finally:
            loader.dispose()

    def refuse_type(self, node: yaml.Node, types: Sequence[ValueType], what: str) -> NoReturn:
        expected = " or ".join(dict.fromkeys(_describe(each) for each in types))
        shown = _show(node)
        self.refuse(node, f"{what} is {shown}, and has to be {expected}")


def _fits(value: Any, expected: ValueType) -> bool:
    is_right: Mapping[str, Callable[[Any], bool]] = {
        "string": lambda each: isinstance(each, str),
        "boolean": lambda each: isinstance(each, bool),
        # to Python, true is a number
        "integer": lambda each: type(each) is int,
        "number": lambda each: type(each) in (int, float),
    }
    if expected.kind not in is_right or not is_right[expected.kind](value):
        return False
    if expected.choices and value not in expected.choices:
        return False
    if expected.pattern and not re.fullmatch(expected.pattern, value):
        return False
    is_low = expected.minimum is not None and value < expected.minimum
    is_high = expected.maximum is not None and value > expected.maximum
    return not is_low and not is_high


def _describe(expected: ValueType) -> str:
    """What a value has to be, for a sentence."""
    if expected.choices:
        return f"one of {', '.join(map(str, expected.choices))}"
    names = {
        "string": "a text",
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "array": "a list",
        "object": "a mapping",
    }
    name = names[expected.kind]
    if expected.pattern:
        return f"{name} that matches {expected.pattern}"
    if expected.minimum is not None and expected.maximum is not None:
        return f"{name} from {expected.minimum:g} to {expected.maximum:g}"
    return name if expected.minimum is None else f"{name} from {expected.minimum:g}"


def _show(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    text = repr(str(node.value)) if node.value else "empty"
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[:_SHOWN_MAX_CHARS]}…"


def _lines(node: yaml.MappingNode) -> dict[str, int]:
    return {str(name.value): name.start_mark.line + 1 for name, _ in node.value}


_NEEDS_CLIENTS = (
    "listen",
    "health",
    "probes",
    "canary_share",
    "gate_signals",
    "watch_signals",
    "front",
    "metrics_path",
)
_NEEDS_HTTP = ("probes",)


def _require_consistent(values: Mapping[str, Any], lines: Mapping[str, int], path: Path) -> None:
    """Require that keys do not contradict each other."""

    def refuse(name: str, problem: str) -> NoReturn:
        raise MobiusError("invalid_input", f"{path}:{lines[name]}: {name} {problem}.")

    kind = values.get("kind", "http")
    forbidden = {"worker": _NEEDS_CLIENTS, "tcp": (*_NEEDS_HTTP, "health"), "http": ()}[kind]
    for name in forbidden:
        if name in values:
            refuse(name, f"has no meaning for the kind {kind}")
    if "health_command" in values and kind != "worker":
        refuse("health_command", "is of a worker; a service with clients has a health path")
    listen = values.get("listen")
    if isinstance(listen, str) and not 1 <= int(listen.rpartition(":")[2]) <= PORT_MAX:
        refuse("listen", f"has the port {listen.rpartition(':')[2]}, and a port is from 1 to {PORT_MAX}")
    if listen is not None and values.get("front", {}).get("redirect_port") and not values["front"].get("certificate"):
        raise MobiusError(
            "invalid_input", f"{path}:{lines['front']}: front.redirect_port needs front.certificate: https needs one."
        )
