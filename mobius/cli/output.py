# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prints endings and JSON. A terminal or a reader that is gone takes the text with it, never the exit code."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

import click

from mobius.cli.render.block import failure_dict, failure_lines
from mobius.cli.render.text import style_of
from mobius.errors import MobiusError


class ReportedError(MobiusError):
    """A failure after the command has printed its own answer: standard output gets no second object."""


def print_lines(lines: Sequence[str], *, err: bool) -> None:
    """Print the lines of an ending, which have colours only where they are shown."""
    with contextlib.suppress(OSError):
        click.echo(os.linesep.join(lines), err=err, color=True)


def print_json(value: Any) -> None:
    """Print what a program reads."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_failure(error: MobiusError, command: str, seconds: float, *, as_json: bool) -> None:
    """Print why a command was refused or has failed: text to standard error, and JSON to standard output."""
    if as_json and not isinstance(error, ReportedError):
        print_json(failure_dict(error, command, seconds))
    print_lines(failure_lines(error, command, seconds, style_of(err=True)), err=True)
