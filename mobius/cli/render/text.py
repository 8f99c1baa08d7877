# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text for a terminal: how wide it is, whether it shows colours, and lines that are wrapped between words."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

MIN_WIDTH = 60
MAX_WIDTH = 120
"""A line that is longer is hard to read, however wide the terminal is."""
UNLIMITED = 100_000

_LABEL_WIDTH = 10
_NAMED_HOSTS = 8  # of a list; of the others the number
_CODES = {"good": "1;32", "bad": "1;31", "warning": "1;33", "label": "2"}


@dataclass(frozen=True)
class TextStyle:
    """How text is shown. Without colours it has the same words."""

    width: int = 80
    colours: bool = False

    @classmethod
    def of(cls, stream: IO[Any], environment: Mapping[str, str] = os.environ) -> TextStyle:
        """The style that a stream can show: NO_COLOR and a stream that is no terminal mean no colours.

        A file or a pipe gets each fact in one line: it may be searched, and is wrapped by whatever shows it.
        """
        is_terminal = _is_terminal(stream)
        columns = shutil.get_terminal_size((MAX_WIDTH, 24)).columns
        width = min(max(columns, MIN_WIDTH), MAX_WIDTH) if is_terminal else UNLIMITED
        plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") in ("dumb", "unknown", "")
        return cls(width, is_terminal and not plain)

    def paint(self, text: str, meaning: str) -> str:
        """The text in the colour of its meaning: good, bad, warning or label."""
        return f"\x1b[{_CODES[meaning]}m{text}\x1b[0m" if self.colours and text else text

    def wrapped(self, text: str, *, indent: int = 0, first: int | None = None) -> list[str]:
        """Lines of at most `width` signs, broken between words only; a word that is longer has a line of its own.

        Args:
            indent: spaces before each line but the first.
            first: signs that precede the first line; by default as many as `indent`.
        """
        lines = textwrap.wrap(
            printable(text),
            width=self.width,
            initial_indent=" " * (indent if first is None else first),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return lines or [""]

    def field(self, label: str, values: Iterable[str]) -> list[str]:
        """A label and its values, one below the other, each wrapped beside the label."""
        lines: list[str] = []
        for value in values:
            for line in self.wrapped(value, indent=2 + _LABEL_WIDTH):
                text = line[2 + _LABEL_WIDTH :]
                named = f"{label:<{_LABEL_WIDTH}}" if not lines else " " * _LABEL_WIDTH
                lines.append(f"  {self.paint(named, 'label') if not lines else named}{text}".rstrip())
        return lines


def printable(text: str) -> str:
    """The text without control characters: a host must not steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def host_list(hosts: Sequence[str], everyone: int | None = None) -> str:
    """`lab1, lab2`; `all 3 hosts` where these are all of `everyone`; the first ones and the number of the others."""
    if everyone is not None and len(hosts) == everyone and everyone > 1:
        return f"all {everyone} hosts" if everyone > 2 else f"both hosts ({', '.join(hosts)})"
    if len(hosts) <= _NAMED_HOSTS + 1:
        return ", ".join(hosts)
    return f"{', '.join(hosts[:_NAMED_HOSTS])} and {len(hosts) - _NAMED_HOSTS} more"


def duration(seconds: float) -> str:
    """`0.4 s`, `41 s`, `2 min 41 s`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for unit, length in units:
        count, whole = divmod(whole, length)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def _is_terminal(stream: IO[Any]) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):  # it is closed, or gone
        return False


def style_of(*, err: bool = False) -> TextStyle:
    """The style of standard output, or of standard error."""
    return TextStyle.of(sys.stderr if err else sys.stdout)
