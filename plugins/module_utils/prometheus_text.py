# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads Prometheus's text format: the page of metrics of an instance.

Source: "Exposition formats" of prometheus.io (version 0.0.4, and the quoted names of version 1.0.0). What is read here,
`prometheus_client.parser` reads in the same way (`tests/unit/plugins/releases/test_prometheus_text.py`), but for one
thing: that one appends `_total` to the names of counters. It accepts more: what no version of the format allows (three
numbers, two names of a series) is refused here.

One pass over the text; each line is read once, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Series = tuple[str, Mapping[str, str], float]

_BLANKS = " \t\r"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SKIPPED = re.compile(r"[ \t]*")
_NUMBER = r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf(?:inity)?|nan))"
_VALUE_AND_TIMESTAMP = re.compile(rf"[ \t]*({_NUMBER})(?:[ \t]+{_NUMBER})?")
_ESCAPED = re.compile(r'\\([\\n"])')
_RESERVED = "__"  # the beginning of label names that a page must not use
_EXCERPT_CHARS = 80


class UnreadableError(Exception):
    """The metrics of an instance could not be read; the message says why."""


class _LineError(Exception):
    pass


def parse_page(text: str) -> list[Series]:
    """The series of a page: name, labels, value. Comments, types, help and time stamps are not kept.

    Raises:
        UnreadableError: a line that is neither blank, nor a comment, nor a series.
    """
    page: list[Series] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(_BLANKS)
        if not stripped or stripped.startswith("#"):
            continue
        try:
            page.append(_parse_series(stripped))
        except _LineError:
            raise UnreadableError(f"its metrics have line {number}, {line[:_EXCERPT_CHARS]!r}") from None
    return page


def _parse_series(line: str) -> Series:
    match = _NAME.match(line)
    name, position = (match[0], match.end()) if match else (None, 0)
    after = _skip_blanks(line, position)
    labels: dict[str, str] = {}
    if line[after : after + 1] == "{":
        name, position = _parse_labels(line, after + 1, name, labels)
    elif after == position:
        raise _LineError  # no blank between name and value
    value = _VALUE_AND_TIMESTAMP.fullmatch(line, position)
    if not name or value is None:
        raise _LineError
    return name, labels, float(value[1])


def _parse_labels(line: str, position: int, name: str | None, labels: dict[str, str]) -> tuple[str | None, int]:
    """Read labels up to the closing brace into `labels`; a series without a name before them has it first, in quotes.

    Returns:
        the name, and the position behind the brace.
    """
    position = _skip_blanks(line, position)
    is_first, may_follow = True, True
    while line[position : position + 1] != "}":
        if line[position : position + 1] == ",":
            # one comma after each label, and one alone in empty braces
            if may_follow and not (is_first and name is not None):
                raise _LineError
            position, may_follow, is_first = _skip_blanks(line, position + 1), True, False
            continue
        if not may_follow:
            raise _LineError
        quoted, key, position = _parse_label_name(line, position)
        position = _skip_blanks(line, position)
        if line[position : position + 1] == "=":
            value = _QUOTED.match(line, _skip_blanks(line, position + 1))
            if value is None or not key or key in labels or key.startswith(_RESERVED):
                raise _LineError
            labels[key], position = _unescape(value[1]), value.end()
        elif quoted and is_first and name is None:
            name = key
        else:
            raise _LineError
        position, may_follow, is_first = _skip_blanks(line, position), False, False
    return name, position + 1


def _parse_label_name(line: str, position: int) -> tuple[bool, str, int]:
    """Whether the name is in quotes, the name, and the position behind it."""
    if quoted := _QUOTED.match(line, position):
        return True, _unescape(quoted[1]), quoted.end()
    if plain := _LABEL_NAME.match(line, position):
        return False, plain[0], plain.end()
    raise _LineError


def _skip_blanks(line: str, position: int) -> int:
    match = _SKIPPED.match(line, position)
    return match.end() if match else position


def _unescape(text: str) -> str:
    """A value without its escapes; a backslash before any other character stands for itself."""
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text) if "\\" in text else text
