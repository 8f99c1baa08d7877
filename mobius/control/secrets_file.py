# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A file of secrets on the control node: lines `NAME=value`, as python-dotenv reads them."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from typing import Any

from dotenv.parser import parse_stream

from mobius.errors import MobiusError

NAME_PATTERN = "[A-Z_][A-Z0-9_]*"
_BYTES_MAX = 131_071  # of `NAME=value`: Linux starts no process with a longer one (MAX_ARG_STRLEN, 32 pages of 4 KiB)
_WHERE = "The secrets (host_secrets, host_secrets_file)"
_NO_CHARACTERS = re.compile(r"[\ud800-\udfff]")  # bytes that are not UTF-8, as Ansible reads them
_REFUSED_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # systemd ignores an assignment that has one


def parse_secrets(text: str, path: str) -> dict[str, str]:
    """The values by name. No message has one of them.

    Args:
        path: of the file, for messages.

    Raises:
        MobiusError: invalid_input.
    """
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        where = f"{path}, line {binding.original.line + _blank_lines(binding.original.string)}"
        if binding.error:
            raise MobiusError("invalid_input", f"{where} is not of the form NAME=value. Nothing was changed.")
        if binding.key is None:
            continue
        # what is no name, or has no value, may be a line of a secret that lacks its quotes: it is not shown
        if not re.fullmatch(NAME_PATTERN, binding.key):
            raise MobiusError(
                "invalid_input", f"{where} has a name that does not match {NAME_PATTERN}. Nothing was changed."
            )
        if binding.value is None:
            raise MobiusError("invalid_input", f"{where} has a name without a value. Nothing was changed.")
        if binding.key in values:
            raise MobiusError(
                "invalid_input", f"{where}: {binding.key} is set for the second time. Nothing was changed."
            )
        values[binding.key] = binding.value
    return values


def check_secrets(in_file: Mapping[str, str], values: Any, taken: Collection[str]) -> dict[str, str]:
    """All secrets as text; refuses what a service could not be started with. No message has a value.

    Args:
        values: texts, numbers and booleans by name, which win over those of the file.
        taken: the names that the service's environment has already.

    Raises:
        MobiusError: invalid_input.
    """
    if not isinstance(values, Mapping):
        raise MobiusError("invalid_input", "host_secrets does not have values by name. Nothing was changed.")
    values = {**in_file, **values}
    texts = {str(name): str(value) for name, value in values.items()}
    for (name, value), given in zip(texts.items(), values.values(), strict=True):
        if not isinstance(given, str | int | float):
            problem = f"have {name} with a value that is no text, number or boolean"
        elif not re.fullmatch(NAME_PATTERN, name):
            problem = f"have the name {name!r}, which does not match {NAME_PATTERN}"
        elif name in taken:
            problem = f"have {name}, which the environment of the service has already"
        elif _NO_CHARACTERS.search(value):
            problem = f"have {name} with a value that is not UTF-8"
        elif _REFUSED_CHARACTERS.search(value):
            problem = (
                f"have {name} with a control character; line breaks and tabs are the only ones that a value can have"
            )
        elif len(f"{name}={value}".encode()) > _BYTES_MAX:
            problem = f"have {name} with a value of more than {_BYTES_MAX} bytes, which no process can be started with"
        else:
            continue
        raise MobiusError("invalid_input", f"{_WHERE} {problem}. Nothing was changed.")
    return texts


def _blank_lines(text: str) -> int:
    """How many lines stand before what a binding is: it begins with the blank ones before it."""
    return text[: len(text) - len(text.lstrip())].count("\n")
